"""Decides what is let in: trusted hosts and origins, the page's own addresses, and events that the page can send."""

from __future__ import annotations

import json
import re
import secrets
import time
from contextlib import ExitStack
from typing import Any

from starlette.datastructures import Headers, QueryParams
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prmagic.app.events import SESSION, WrongEvent, read_event
from prmagic.app.uploads import Uploads, next_message
from prmagic.app.visitors import ForeignSession, Visitors
from prmagic.serve.hosts import READ, Hosts, Refused, check_address

# What a browser may load: this server's files and what is in the page itself. Gradio's templates need eval.
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval'; connect-src 'self'; font-src 'self' data:; "
    "object-src 'none'; frame-ancestors 'self'; base-uri 'self'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
}
BROWSER = "prmagic-browser"  # the cookie that tells browsers apart
API = "/gradio_api"
JOIN, UPLOAD, ANSWERS, HEARTBEAT = f"{API}/queue/join", f"{API}/upload", f"{API}/queue/data", f"{API}/heartbeat/"
# What the page in a browser asks for. Gradio has many more addresses, among them one that serves files.
PAGE = re.compile(
    r"/|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/(assets|static|svelte)/.+|/visitors/.+"
    rf"|{API}/(theme\.css|startup-events|upload_progress|queue/data|heartbeat/[^/]+)"
)
WRITTEN = frozenset({JOIN, UPLOAD})
MAX_EVENT = 2 << 20  # bytes
EVENT_TIME = 60.0  # seconds in which an event must be here
MAX_QUEUED = 20  # events of one tab that wait for others


class Gate:
    """Everything that comes in passes it; not Starlette's own kind of middleware, which holds up endless streams."""

    def __init__(self, app: ASGIApp, page: Any, visitors: Visitors, uploads: Uploads, hosts: Hosts):
        self.app, self.page, self.visitors, self.uploads, self.hosts = app, page, visitors, uploads, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # the page opens no web sockets
        browser = _cookie(Headers(scope=scope))
        scope["browser"] = browser
        given = "" if browser or scope["path"] != "/" else secrets.token_urlsafe(24)
        send = _with_headers(send, given)
        try:
            self._check_address(scope)
            with ExitStack() as stack:
                receive = await self._admit(scope, receive, browser, stack)
                await self.app(scope, receive, send)
        except Refused as refused:
            await PlainTextResponse(refused.reason, refused.status)(scope, receive, send)

    def _check_address(self, scope: Scope) -> None:
        headers, path, method = Headers(scope=scope), scope["path"], scope["method"]
        # Gradio takes the second one for the page's own name: a proxy sends it.
        forwarded = [one.strip() for line in headers.getlist("x-forwarded-host") for one in line.split(",")]
        check_address(scope, headers, self.hosts, [headers.get("host", ""), *forwarded])
        allowed = PAGE.fullmatch(path) if method in READ else method == "POST" and path in WRITTEN
        if not allowed:
            raise Refused(404, "There is nothing here.")

    async def _admit(self, scope: Scope, receive: Receive, browser: str, stack: ExitStack) -> Receive:
        """Check what belongs to a session; what the page's application shall read."""
        path = scope["path"]
        if path == JOIN:
            return await self._event(receive, browser)
        if path == ANSWERS:
            session = QueryParams(scope["query_string"]).get("session_hash", "")
        elif path.startswith(HEARTBEAT):
            session = path.removeprefix(HEARTBEAT)
        else:
            return receive
        self._enter(session, browser)
        if path == ANSWERS and session not in self.page._queue.pending_messages_per_session:
            raise Refused(404, "Nothing was asked in this session.")
        stack.enter_context(self.visitors.connected(session))
        return receive

    def _enter(self, session: str, browser: str) -> None:
        if not SESSION.fullmatch(session):
            raise Refused(400, "The session's name is not one.")
        try:
            self.visitors.enter(session, browser)
        except ForeignSession:
            raise Refused(403, "This session began in another browser.") from None
        except ValueError as error:
            raise Refused(503, str(error).capitalize() + ".") from None

    async def _event(self, receive: Receive, browser: str) -> Receive:
        try:
            event = read_event(json.loads(await _body(receive), parse_constant=_no_constant), self.page)
        except WrongEvent as error:
            raise Refused(422, str(error)) from None
        except (ValueError, RecursionError):
            raise Refused(400, "An event must be JSON.") from None
        self._enter(event.session, browser)
        queues = self.page._queue.event_queue_per_concurrency_id.values()
        if sum(one.session_hash == event.session for queue in queues for one in queue.queue) >= MAX_QUEUED:
            raise Refused(429, "Too much at once: wait for the answers.")
        if not self.uploads.belong(event.uploads, browser):
            raise Refused(422, "A file must be uploaded first, by the same visitor.")
        content = json.dumps(event.body).encode()
        messages: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]

        async def checked() -> Message:
            return messages.pop() if messages else await receive()

        return checked


async def _body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    size, until = 0, time.monotonic() + EVENT_TIME
    while True:
        try:
            message = await next_message(receive, until)
        except TimeoutError:
            raise Refused(408, "The event comes too slowly.") from None
        if message["type"] != "http.request":
            raise Refused(400, "The connection ended too early.")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_EVENT:
            raise Refused(413, "The event is too large.")
        if not message.get("more_body"):
            return b"".join(parts)


def _no_constant(name: str) -> Any:
    raise WrongEvent("Numbers must be finite.")


def _with_headers(send: Send, browser: str) -> Send:
    """Adds headers to the response; browser: the cookie's new value, if it needs one."""
    own = [(name.encode(), text.encode()) for name, text in HEADERS.items()]
    if browser:
        # Lax, as a link from elsewhere must not make the same browser a stranger.
        own.append((b"set-cookie", f"{BROWSER}={browser}; Path=/; HttpOnly; SameSite=Lax".encode()))

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *own]
        await send(message)

    return sending


def _cookie(headers: Headers) -> str:
    """The browser's, or empty."""
    found = cookie_parser(headers.get("cookie", "")).get(BROWSER, "")
    return found if SESSION.fullmatch(found) else ""

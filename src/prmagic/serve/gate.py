"""Decides what is let in, before anything of it is parsed: hosts, origins, the token, sizes."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prmagic.serve.hosts import Hosts, Refused, check_address

HELD = 512 << 20  # bytes of all requests that are being answered
PATIENCE = 60.0  # seconds in which a request's body must arrive
OPEN = ("/health", "/docs", "/docs-files", "/openapi.json")  # without a token: none tells anything of the user's


@dataclass(frozen=True)
class Rules:
    """What the gate checks.

    Args:
        hosts: The names that the server answers to.
        token: That requests must show; None: no request needs one.
        max_upload: Bytes of the largest request.
        open: Addresses that need no token, with all below them.
    """

    hosts: Hosts
    token: str | None
    max_upload: int
    open: tuple[str, ...] = OPEN


class Gate:
    """Everything that comes in passes it."""

    def __init__(self, app: ASGIApp, rules: Rules, count: Callable[[str, int, float], None]):
        self.app, self.rules, self.count = app, rules, count
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        begin, status = time.monotonic(), 500
        held = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-content-type-options", b"nosniff")]
            await send(message)

        try:
            self._check(scope)
            body = await asyncio.wait_for(self._body(scope, receive), PATIENCE)
            held = len(body)
            self._held += held
            await self.app(scope, _with_body(body, receive), sending)
        except asyncio.TimeoutError:
            await _refuse(Refused(408, "The request took too long to arrive."), scope, receive, sending)
        except Refused as refused:
            await _refuse(refused, scope, receive, sending)
        finally:
            self._held -= held
            self.count(getattr(scope.get("route"), "path", "other"), status, time.monotonic() - begin)

    def _check(self, scope: Scope) -> None:
        headers, path = Headers(scope=scope), scope["path"]
        check_address(scope, headers, self.rules.hosts, [headers.get("host", "")])
        public = any(path == known or path.startswith(f"{known}/") for known in self.rules.open)
        if self.rules.token is not None and not public and not _shows(headers, self.rules.token):
            raise Refused(401, "A token is needed: Authorization: Bearer TOKEN.", {"WWW-Authenticate": "Bearer"})

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        limit = self.rules.max_upload
        too_large = Refused(413, f"A request may have {limit >> 20} MB: send fewer or smaller photos at once.")
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced[:20]) > limit:
            raise too_large
        parts: list[bytes] = []
        size = 0
        try:
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise Refused(400, "The connection ended too early.")
                part = message.get("body", b"")
                size += len(part)
                self._held += len(part)
                if size > limit:
                    raise too_large
                if self._held > max(HELD, 2 * limit):
                    raise Refused(503, "Too much is being answered already.", {"Retry-After": "5"})
                parts.append(part)
                if not message.get("more_body"):
                    return b"".join(parts)
        finally:
            self._held -= size


def _with_body(body: bytes, receive: Receive) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def reading() -> Message:
        return messages.pop() if messages else await receive()

    return reading


def _shows(headers: Headers, token: str) -> bool:
    """Whether a request has the token: as a bearer, as the password of basic authentication, or as X-AnyLabeling."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    shown = headers.get("token", "")
    if scheme.lower() == "bearer":
        shown = value.strip()
    elif scheme.lower() == "basic":
        try:
            shown = base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
        except (binascii.Error, ValueError):
            return False
    return hmac.compare_digest(shown.encode(), token.encode())


async def _refuse(refused: Refused, scope: Scope, receive: Receive, send: Send) -> None:
    await JSONResponse({"detail": refused.reason}, refused.status, refused.headers)(scope, receive, send)

"""A client of the page without a browser, as an attacker has it."""

from __future__ import annotations

import http.client
import json
import secrets
import socket
import threading
import urllib.parse
from typing import Any

PATIENCE = 120


class Answer:
    """Of a request."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes):
        self.status, self.headers, self.body = status, headers, body

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One visit. browser: the cookie, which real browsers get with the page; without it, none is sent."""

    def __init__(self, url: str, browser: str = ""):
        parts = urllib.parse.urlsplit(url)
        self.host, self.port, self.browser = parts.hostname, parts.port, browser
        self.session = secrets.token_hex(6)
        self.config = self.get("/config").json()
        self.by_id = {block["id"]: block for block in self.config["components"]}
        self.by_name = {block["props"].get("elem_id"): block["id"] for block in self.config["components"]}

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)
        sent = {"Cookie": f"prmagic-browser={self.browser}"} if self.browser else {}
        connection.request(method, path, body, {**sent, **(headers or {})})
        response = connection.getresponse()
        answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        connection.close()
        return answer

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, headers=headers)

    def raw(self, target: bytes) -> int:
        """The status of a GET whose address is just these bytes."""
        with socket.create_connection((self.host, self.port), timeout=PATIENCE) as connection:
            host = f"{self.host}:{self.port}".encode()
            connection.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
            received = b""
            while b"\r\n" not in received and (more := connection.recv(4096)):
                received += more
        return int(received.split()[1])

    def upload(self, *files: tuple[str, bytes], **headers: str) -> Answer:
        head = b"--frontier\r\nContent-Disposition: form-data; name=files; filename="
        parts = b"".join(head + name.encode() + b"\r\n\r\n" + content + b"\r\n" for name, content in files)
        kind = {"Content-Type": "multipart/form-data; boundary=frontier"}
        return self.request("POST", "/gradio_api/upload", parts + b"--frontier--\r\n", {**kind, **headers})

    def file(self, name: str, content: bytes) -> dict[str, Any]:
        """An uploaded file, as the page describes it."""
        (key,) = self.upload((name, content)).json()
        return described(key, name)

    def events(self) -> list[dict[str, Any]]:
        """All events that a browser sends to the server."""
        return [event for event in self.config["dependencies"] if event["backend_fn"]]

    def event(self, name: str, kind: str) -> dict[str, Any]:
        target = [self.by_name[name], kind]
        return next(event for event in self.events() if target in [list(one) for one in event["targets"]])

    def values(self, event: dict[str, Any]) -> list[Any]:
        """What the inputs hold when the page is opened."""
        return [self.by_id[number]["props"].get("value") for number in event["inputs"]]

    def join(self, body: Any, **headers: str) -> Answer:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        kind = {"Content-Type": "application/json"}
        return self.request("POST", "/gradio_api/queue/join", content, {**kind, **headers})

    def send(self, event: dict[str, Any], values: list[Any], data: Any = None, **more: Any) -> str:
        """All that the server says to an event, as text; the status first if it is refused."""
        body = {
            "data": values, "fn_index": event["id"], "session_hash": self.session, "event_data": data,
            "trigger_id": event["targets"][0][0],
        }  # fmt: skip
        joined = self.join({**body, **more})
        if joined.status != 200:
            return f"{joined.status} {joined.text}"
        return self.answer(joined.json()["event_id"])

    def do(self, name: str, kind: str, values: list[Any] | None = None, data: Any = None) -> str:
        event = self.event(name, kind)
        return self.send(event, self.values(event) if values is None else values, data)

    def answer(self, number: str) -> str:
        """What the stream of answers says to an event, until it is done."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)
        cookie = {"Cookie": f"prmagic-browser={self.browser}"} if self.browser else {}
        connection.request("GET", f"/gradio_api/queue/data?session_hash={self.session}", headers=cookie)
        response = connection.getresponse()
        said = ""
        try:
            while line := response.readline():
                said += line.decode()
                message = json.loads(line[5:]) if line.startswith(b"data:") else {}
                ends = message.get("msg") in ("process_completed", "unexpected_error", "server_stopped")
                if ends and message.get("event_id") in (None, number):
                    return said
            return said
        finally:
            connection.close()

    def stay(self) -> threading.Event:
        """Hold the connection that an open tab holds, until the event is set."""
        left = threading.Event()
        connection = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)
        connection.request("GET", f"/gradio_api/heartbeat/{self.session}")
        response = connection.getresponse()
        response.readline()

        def wait() -> None:
            left.wait(PATIENCE)
            connection.sock and connection.sock.close()
            response.close()

        threading.Thread(target=wait, daemon=True).start()
        return left


def described(path: str, name: str = "x.jpg") -> dict[str, Any]:
    """A file as Gradio's page describes it, whatever its path."""
    return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}

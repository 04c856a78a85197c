"""Where a server listens, and the names that it answers to."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping
from typing import Any

LOOPBACK = ("localhost", "127.0.0.1", "::1")
EVERYWHERE = ("0.0.0.0", "::")
MAX_ADDRESS = 4096  # bytes
READ = ("GET", "HEAD")
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::\d{1,5})?", re.IGNORECASE)


class Refused(Exception):
    """What is not let in. The reason never repeats what was sent."""

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None):
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, headers


class Hosts:
    """The host names that the server answers to. Any name would let foreign pages reach it (DNS rebinding).

    Args:
        listens_on: The address of the server. If it is all of the machine's, any IP address is trusted: only a name can
            be made to lead somewhere else.
        names: Further names.
    """

    def __init__(self, listens_on: str, names: Iterable[str] = ()):
        self.names = {name.lower().strip("[]") for name in (*LOOPBACK, listens_on, *names)} - set(EVERYWHERE)
        self.any_address = listens_on in EVERYWHERE

    def trusts(self, host: str) -> bool:
        """Whether the value of a Host header is one of the server's."""
        name = _name_of(host)
        return name is not None and (name in self.names or (self.any_address and _is_address(name)))

    def is_own(self, origin: str, host: str) -> bool:
        """Whether an Origin header names the server itself; host: of the same request."""
        scheme, _, place = origin.partition("://")
        name = _name_of(place)
        known = place.lower() == host.lower() or name in self.names - set(LOOPBACK)
        return scheme in ("http", "https") and name is not None and known


def check_address(scope: Mapping[str, Any], headers: Mapping[str, str], hosts: Hosts, named: Iterable[str]) -> None:
    """Refuse long and odd addresses, names that are not the server's, and what other pages ask for.

    Args:
        scope: The request's, of ASGI.
        headers: The request's.
        hosts: The names that the server answers to.
        named: The names under which the request asks for it.

    Raises:
        Refused: With the status for the answer.
    """
    host, origin = headers.get("host", ""), headers.get("origin")
    if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_ADDRESS:
        raise Refused(414, "The address is too long.")
    if not scope["path"].isprintable() or "\\" in scope["path"]:
        raise Refused(400, "The address holds characters that no address here has.")
    if not all(map(hosts.trusts, named)):
        raise Refused(400, "Nothing is served under this name: add it with --host-name when starting the server.")
    if origin is not None and not hosts.is_own(origin, host):
        raise Refused(403, "Another page asked for this.")
    if headers.get("sec-fetch-site") == "cross-site" and scope["method"] not in READ:
        raise Refused(403, "Another page asked for this.")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 is any that is free.

    Raises:
        OSError: It is in use, or not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise OSError(
            f"cannot listen on {host}, port {port} ({error.strerror}): choose another --port, or 0 for any that is free"
        ) from None


def url_of(host: str, socket: socket.socket) -> str:
    """The address of what listens there, for a browser."""
    return f"http://{f'[{host}]' if ':' in host else host}:{socket.getsockname()[1]}/"


def _name_of(host: str) -> str | None:
    """The name in "name:port"; None if it is something else."""
    found = HOST.fullmatch(host)
    return found[1].lower().strip("[]") if found else None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True

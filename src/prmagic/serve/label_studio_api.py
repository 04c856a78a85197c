"""Reads from Label Studio: projects, annotated tasks, and the photos, through its own access."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import httpx

from prmagic.serve.cache import Budget, Cache
from prmagic.serve.errors import NotAllowed, RequestError, Unfit

CLOUD = ("s3://", "gs://", "azure-blob://", "s3s://", "azure_spi://")
FILES = ("/data/", "/storage-data/")  # where Label Studio serves uploads and local files
TASKS = 100  # the newest annotated ones are looked at
FRESH = 240.0  # seconds that an access token is used; it lives for five minutes
PHOTOS = Budget(each=128 << 20, total=128 << 20)  # bytes of files that were fetched
REDIRECTS = 3


@dataclass(frozen=True)
class Access:
    """Where Label Studio is, and what opens it.

    Args:
        url: As this server reaches it.
        key: A personal access token, or a legacy token.
        hosts: Further hosts that photos may come from.
    """

    url: str
    key: str
    hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("http", "https") or not urlsplit(self.url).netloc:
            raise ValueError(f"{self.url!r} is no address of Label Studio: it begins with http:// or https://")
        if not self.key:
            raise ValueError("Label Studio's token is missing: set LABEL_STUDIO_API_KEY to a personal access token")


class LabelStudio:
    """One Label Studio.

    Args:
        access: How to reach it.
        limit: Bytes of the largest photo.
    """

    def __init__(self, access: Access, limit: int):
        self.access, self.limit = access, limit
        self.base = access.url.rstrip("/") + "/"
        self._client = httpx.AsyncClient(timeout=httpx.Timeout(30.0, connect=5.0))
        self._photos: Cache[bytes] = Cache(len, PHOTOS)
        self._token, self._token_made = "", 0.0

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def config(self, project: int) -> str:
        """A project's labelling interface."""
        return str((await self._json(f"api/projects/{project}/"))["label_config"])

    async def annotated_tasks(self, project: int) -> list[Mapping[str, Any]]:
        """The tasks that were annotated last, the newest first."""
        annotated = {"filter": "filter:tasks:total_annotations", "operator": "greater", "type": "Number", "value": 0}
        query = {"filters": {"conjunction": "and", "items": [annotated]}, "ordering": ["-tasks:updated_at"]}
        parameters = {
            "project": str(project), "fields": "all", "page": "1", "page_size": str(TASKS), "query": json.dumps(query),
        }  # fmt: skip
        found: list[Mapping[str, Any]] = (await self._json("api/tasks", parameters)).get("tasks", [])
        return found

    async def photo(self, address: str, task: int) -> bytes:
        """The file that a task names.

        Raises:
            RequestError: It cannot be had.
        """
        if address.startswith("data:"):
            return base64.b64decode(address.partition(",")[2])
        url, key = self._place(address, task), (address, task)
        kept = self._photos.peek(key)
        if kept is None:
            kept = await self._fetched(url)
            self._photos.get(key, lambda: kept)
        return kept

    def _place(self, address: str, task: int) -> str:
        """Where to fetch it; only from Label Studio itself, and from the hosts that were named at the start."""
        if address.startswith(CLOUD):
            name = base64.urlsafe_b64encode(address.encode()).decode()
            return urljoin(self.base, f"tasks/{int(task)}/resolve/?fileuri={name}")
        if address.startswith(("upload/", "/upload/")):
            address = "/data/" + address.lstrip("/")
        url = urljoin(self.base, self._below(address))
        parts, own = urlsplit(url), urlsplit(self.base)
        if (parts.scheme, parts.netloc) == (own.scheme, own.netloc):
            path = unquote(parts.path.removeprefix(own.path.rstrip("/")))
            if path.startswith(FILES) and ".." not in path.split("/"):
                return url
            raise NotAllowed("the task's photo is no file of Label Studio")
        if parts.scheme in ("http", "https") and parts.hostname in self.access.hosts:
            return url
        raise NotAllowed("the task's photo is on another host: name it with --photo-host when starting the server")

    def _below(self, address: str) -> str:
        """A path from Label Studio's root, below its address."""
        own = urlsplit(self.base).path
        if not address.startswith("/") or address.startswith("//") or (own != "/" and address.startswith(own)):
            return address
        return address.lstrip("/")

    async def _fetched(self, url: str) -> bytes:
        for _ in range(REDIRECTS + 1):
            own = urlsplit(url).netloc == urlsplit(self.base).netloc
            headers = await self._headers() if own else {}
            try:
                async with self._client.stream("GET", url, headers=headers, follow_redirects=False) as answer:
                    if answer.is_redirect and own:  # to the storage, by an address that Label Studio has signed
                        url = urljoin(url, answer.headers["location"])
                        continue
                    if answer.status_code != 200:
                        raise RequestError(f"the task's photo cannot be fetched: the answer was {answer.status_code}")
                    return await _bounded(answer, self.limit)
            except httpx.HTTPError as error:
                raise RequestError(f"the task's photo cannot be fetched: {type(error).__name__}") from None
        raise RequestError("the task's photo cannot be fetched: too many redirects")

    async def _json(self, path: str, parameters: Mapping[str, str] | None = None) -> Any:
        try:
            url = urljoin(self.base, path)
            async with self._client.stream("GET", url, headers=await self._headers(), params=parameters) as answer:
                if answer.status_code in (401, 403):
                    raise Unfit("Label Studio does not take the token in LABEL_STUDIO_API_KEY")
                if answer.status_code != 200:
                    raise Unfit(f"Label Studio answered {answer.status_code}")
                return json.loads(await _bounded(answer, 4 * self.limit))
        except (httpx.HTTPError, ValueError) as error:
            raise Unfit(f"Label Studio cannot be read: {type(error).__name__}") from None

    async def _headers(self) -> dict[str, str]:
        """A personal access token is exchanged for one that lives for minutes; a legacy token is used as it is."""
        if self.access.key.count(".") != 2:
            return {"Authorization": f"Token {self.access.key}"}
        if not self._token or time.monotonic() - self._token_made > FRESH:
            answer = await self._client.post(urljoin(self.base, "api/token/refresh"), json={"refresh": self.access.key})
            if answer.status_code != 200:
                raise Unfit("Label Studio does not take the token in LABEL_STUDIO_API_KEY")
            self._token, self._token_made = str(answer.json()["access"]), time.monotonic()
        return {"Authorization": f"Bearer {self._token}"}


async def _bounded(answer: httpx.Response, limit: int) -> bytes:
    content = bytearray()
    async for part in answer.aiter_bytes():
        content += part
        if len(content) > limit:
            raise RequestError(f"the file has more than {limit >> 20} MB")
    return bytes(content)

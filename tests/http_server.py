"""The HTTP server in this process, and what the tests send to it: a red rectangle on grey."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from starlette.testclient import TestClient

from prmagic.serve.server import Address, Limits, Plan, application

PLACE = (slice(20, 60), slice(30, 80))
OUTLINE = [30, 20, 80, 20, 80, 60, 30, 60]
MODELS = {"framework": "persam-f"}


def scene(place: tuple[slice, slice] = PLACE, size: tuple[int, int] = (90, 120)) -> np.ndarray:
    """(H, W, 3) uint8."""
    picture = np.random.default_rng(0).integers(60, 80, (*size, 3), dtype=np.uint8)
    picture[place] = (200, 40, 40)
    return picture


def marked(place: tuple[slice, slice] = PLACE, size: tuple[int, int] = (90, 120)) -> np.ndarray:
    """(H, W) bool."""
    mask = np.zeros(size, bool)
    mask[place] = True
    return mask


def file_of(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels).save(file, kind)
        return file.getvalue()


def sent(pixels: np.ndarray | bytes) -> dict[str, str]:
    """As a request holds it."""
    content = pixels if isinstance(pixels, bytes) else file_of(pixels)
    return {"data": base64.b64encode(content).decode()}


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


class Client(TestClient):
    """Sends requests."""

    def learn(self, label: str = "red", **support: Any) -> dict[str, Any]:
        asked = {"photo": sent(scene()), **(support or {"mask": sent(marked())})}
        answer = self.post("/v1/references", json={"label": label, "supports": [asked]})
        assert answer.status_code == 201, answer.text
        return answer.json()

    def find(self, *references: str, photos: list[Any] | None = None, **more: Any) -> list[dict[str, Any]]:
        asked = {"photos": photos or [sent(scene())], "references": references, **more}
        answer = self.post("/v1/segment", json=asked)
        assert answer.status_code == 200, answer.text
        return answer.json()["photos"]

    def refused(self, path: str, body: Any, status: int = 422) -> str:
        """What the server says to something that it cannot do."""
        answer = self.post(path, json=body)
        assert answer.status_code == status, answer.text
        return answer.json()["detail"]


@contextmanager
def started(store: Path, root: Path | None = None, limits: Limits | None = None, **address: Any) -> Iterator[Client]:
    plan = Plan(MODELS, store, Address(**address), limits or Limits(max_upload=4 << 20), root)
    with Client(application(plan), base_url="http://127.0.0.1:8000") as client:
        yield client

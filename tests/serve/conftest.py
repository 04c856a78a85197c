"""One server on the embedded model for all tests of a file, and the pictures that they send."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from http_server import Client, started


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the server's --root is."""
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[Client]:
    with started(tmp_path_factory.mktemp("store"), root=root) as client:
        yield client


@pytest.fixture(scope="session")
def red(client: Client) -> str:
    """The id of a reference."""
    return client.learn()["id"]

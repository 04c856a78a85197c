"""An empty folder to work in, and data in it; one thread, on which the last bits of results depend."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from handmade_runs import run_folder
from miniatures import own_data


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty folder, the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def own(work):
    """Own data in the folder `data`."""
    return own_data(work / "data")


@pytest.fixture
def make(tmp_path):
    """Makes the folder of a run; see `run_folder`."""
    return partial(run_folder, tmp_path)

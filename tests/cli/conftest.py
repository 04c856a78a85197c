"""Folders to work in. Tests that only read a finished run share one."""

from __future__ import annotations

import os
import shutil
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from command_line import CAT, DOG, FAST, GOLDEN, coco_labels, save, segment

from prmagic.backbones import adapters


@pytest.fixture(scope="package", autouse=True)
def models_are_read_once():
    """A SAM that a command has read serves the next command with the same file: a copy, which may be put elsewhere."""
    read = adapters.load_pretrained
    known = {}

    def once(kind, classes, sam):
        key = Path(sam).resolve()
        if key not in known:
            known[key] = read(kind, classes, sam)
        return deepcopy(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapters, "load_pretrained", once)
        yield


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A support, its mask, and three photos, one of them in a sub-folder."""
    folder = tmp_path_factory.mktemp("photos")
    query = GOLDEN["query_rgb"]
    save(GOLDEN["support_rgb"], folder / "cat.png")
    save(GOLDEN["support_mask"].astype(np.uint8) * 255, folder / "cat_mask.png")
    save(query, folder / "photos" / "a.png")
    save(query[:80], folder / "photos" / "b.jpg")
    save(query[:, ::-1], folder / "photos" / "sub" / "c.png")
    return folder


@pytest.fixture
def work(photos, tmp_path, monkeypatch):
    """A copy of the photos; the current folder."""
    shutil.copytree(photos, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def finished(photos, folder, *args, **options):
    """A copy of the photos, with a run in `found`."""
    shutil.copytree(photos, folder, dirs_exist_ok=True)
    before = os.getcwd()  # noqa: PTH109 (monkeypatch is for one test only)
    os.chdir(folder)
    try:
        segment(*args, **options)
    finally:
        os.chdir(before)
    return folder


@pytest.fixture(scope="session")
def finished_run(photos, tmp_path_factory):
    return finished(photos, tmp_path_factory.mktemp("finished"), "photos", *FAST)


@pytest.fixture(scope="session")
def finished_labels(photos, tmp_path_factory):
    return finished(photos, tmp_path_factory.mktemp("labels"), "photos", *FAST, *CAT, *DOG, support=None)


@pytest.fixture
def found(finished_run, tmp_path, monkeypatch):
    """As `work`, with a finished run of all photos in `found`, of one label."""
    shutil.copytree(finished_run, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def both(finished_labels, tmp_path, monkeypatch):
    """As `found`, of the labels cat and dog."""
    shutil.copytree(finished_labels, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def labels(work):
    """COCO annotations of two photos with a cat, one of them also with a dog."""
    mask = GOLDEN["support_mask"].astype(bool)
    save(GOLDEN["support_rgb"], work / "dog.png")
    masks = {("cat.png", "cat"): mask, ("dog.png", "cat"): mask[::-1], ("dog.png", "dog"): ~mask}
    return coco_labels(work / "labels.json", masks)


@pytest.fixture
def matcher(encoder_folder):
    """The options for it, on a tiny encoder; with few and simple prompts."""
    few = ("--set", "centers=2", "--set", "subset_sizes=1,2", "--set", "random_subsets=1")
    return ("--framework", "matcher", "--encoder", encoder_folder, *few)

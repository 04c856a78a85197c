"""`prmagic demo` on the tiny models. tests/test_demo_sheets.py has what the embedded ones find."""

import re

import numpy as np
import pytest
from command_line import GOLDEN, SAM, flat, picture, run

import prmagic.loading
from prmagic.demo import Case, Sheet


@pytest.fixture
def small_demo(monkeypatch, encoder_folder):
    """Two pictures on the tiny models: a sheet, and steps."""
    photos = GOLDEN["support_rgb"], GOLDEN["support_mask"], GOLDEN["query_rgb"]
    cases = [Case(name, "blobs", f"The {name} blob.", *photos, GOLDEN["query_mask"]) for name in ("first", "second")]
    small = [
        Sheet("blobs", "A blob, marked.", "persam-f", tuple(cases)),
        Sheet("failed", "Where it fails.", "matcher", tuple(cases), steps=True),
    ]
    monkeypatch.setattr("prmagic.demo.sheets", lambda: small)
    load, loaded = prmagic.loading.load, []

    def tiny(framework, **options):
        loaded.append(framework)
        options |= {"steps": 1}
        if framework == "matcher":
            options |= {"encoder": encoder_folder, "centers": 2, "random_subsets": 1}
        return load(framework, sam=SAM, **options)

    monkeypatch.setattr(prmagic.loading, "load", tiny)
    return loaded


@pytest.mark.parametrize("only", [None, "persam"])
def test_demo(tmp_path, small_demo, only):
    done = run("demo", "--out", tmp_path / "new", *([] if only is None else ["--framework", only]))
    assert done.exit_code == 0, done.output
    assert sorted(small_demo) == (["matcher", "persam-f"] if only is None else [only])
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["1_blobs.jpg", "2_failed.jpg"]
    sheet, steps = (picture(tmp_path / "new" / name) for name in ("1_blobs.jpg", "2_failed.jpg"))
    assert steps.shape[0] == 2 * sheet.shape[0]  # a row for each case
    assert np.array_equal(steps[: sheet.shape[0]][:20, -5:], sheet[:20, -5:])
    said = flat(done.output)
    for name, framework, title in (
        ("1_blobs.jpg", only or "persam-f", "A blob, marked."),
        ("2_failed.jpg", only or "matcher", "Where it fails."),
    ):
        assert re.search(rf"{name} +{framework} +[0-2] of 2 +\d\.\d\d +\d+\.\d +{title}", said)
    assert any(str(tmp_path / "new") in line for line in done.output.splitlines())  # whole: it is for copying


def test_demo_of_an_unknown_framework(tmp_path):
    done = run("demo", "--framework", "machter", "--out", tmp_path / "new")
    assert done.exit_code == 2
    assert "nknown framework 'machter': did you mean 'matcher'" in flat(done.output)
    assert not (tmp_path / "new").exists()

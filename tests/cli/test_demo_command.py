"""`prmagic demo` on the tiny models. On the embedded ones it runs in test_embedded.py."""

import re

import pytest
from command_line import GOLDEN, SAM, flat, picture, run

import prmagic.loading
from prmagic.demo import Case


@pytest.fixture
def small_demo(monkeypatch, encoder_folder):
    """Two cases on the tiny models, one without truth."""
    photos = GOLDEN["support_rgb"], GOLDEN["support_mask"], GOLDEN["query_rgb"]
    small = [
        Case("blob", "blobs", "A blob and another one.", *photos, GOLDEN["query_mask"]),
        Case("riddle", "riddles", "Who knows?", *photos, None),
    ]
    monkeypatch.setattr("prmagic.demo.cases", lambda: small)
    load = prmagic.loading.load

    def tiny(framework, **options):
        options |= {"steps": 1}
        if framework == "matcher":
            options |= {"encoder": encoder_folder, "centers": 2, "random_subsets": 1}
        return load(framework, sam=SAM, **options)

    monkeypatch.setattr(prmagic.loading, "load", tiny)


@pytest.mark.parametrize("only", [None, "persam"])
def test_demo(tmp_path, small_demo, only):
    done = run("demo", "--out", tmp_path / "new", *([] if only is None else ["--framework", only]))
    assert done.exit_code == 0, done.output
    used = ["persam-f", "matcher"] if only is None else [only]
    names = [f"{case}{name}" for case in ("blob", "riddle") for name in [
        ".png", *(f"_{framework}{end}" for framework in used for end in (".png", "_overlay.jpg"))
    ]]  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(names)
    for framework in used:
        assert picture(tmp_path / "new" / f"blob_{framework}_overlay.jpg").shape == GOLDEN["query_rgb"].shape
        assert picture(tmp_path / "new" / f"blob_{framework}.png").shape[1] > 1000
    known, unknown = (picture(tmp_path / "new" / f"{case}.png") for case in ("blob", "riddle"))
    assert (known.shape == unknown.shape) == (only is None)  # a row each: the truth stands below the support
    said = flat(done.output)
    assert "blob: A blob and another one." in said and "riddle: Who knows?" in said
    spoken = {"persam": "PerSAM", "persam-f": "PerSAM-F", "matcher": "Matcher"}
    iou = r"IoU \d\.\d\d \(baseline \d\.\d\d, best of 2 \d\.\d\d\)"
    for name in (spoken[framework] for framework in used):
        assert len(re.findall(rf"{name} t = \d chosen: {iou}; \d+\.\d s", said)) == 1
        assert len(re.findall(rf"{name} t = \d chosen; \d+\.\d s", said)) == 1
    assert any(str(tmp_path / "new") in line for line in done.output.splitlines())  # whole: it is for copying


def test_demo_of_an_unknown_framework(tmp_path):
    done = run("demo", "--framework", "machter", "--out", tmp_path / "new")
    assert done.exit_code == 2
    assert "nknown framework 'machter': did you mean 'matcher'" in flat(done.output)
    assert not (tmp_path / "new").exists()

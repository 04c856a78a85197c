"""`prmagic segment` with Matcher, on a tiny encoder."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import (
    CAT,
    DOG,
    FAST,
    SAM,
    check_results,
    contents,
    flat,
    lines,
    picture,
    records,
    segment,
)
from pycocotools import mask as coco_mask
from safetensors.torch import load_file, save_file

from prmagic.backbones.sam import Sam
from prmagic.io.finding import file_sha256
from prmagic.types import Prompts


def rebuilt(photo, parts):
    """The union of the masks that the record of a candidate says how to make."""
    sam = Sam.load(SAM)
    (embedding,) = sam.encode([picture(photo)])
    masks = []
    for part in parts:
        prompts = Prompts(np.array(part["points"], np.float32), np.array(part["labels"]), part["box"])
        logits = sam.decode(embedding, [prompts], multimask=part["channel"] is not None).logits
        masks.append((embedding.frame.upscale(logits[0, part["channel"] or 0], embedding.frame.photo) > 0).numpy())
    return np.any(masks, axis=0)


@pytest.mark.parametrize(
    "chosen",
    [
        (),
        ("--preset", "official", "--set", "dense_grid=6"),
        ("--preset", "official", "--set", "dense_grid=0", "--set", "box=true"),
    ],
)
def test_matcher_and_how_to_make_its_masks_again(work, encoder_folder, chosen):
    """By default its single mask; on request a box beside the points."""
    segment("photos/a.png", "--framework", "matcher", "--encoder", encoder_folder, *chosen, "--steps", 1)
    assert sorted(contents(kinds=("masks", "overlays", "candidates"))) == [
        "candidates/a.png", "masks/a.png", "overlays/a.jpg",
    ]  # fmt: skip
    check_results()
    for candidate in lines()[0]["candidates"]:
        mask = coco_mask.decode(candidate["rle"]).astype(bool)
        assert candidate["parts"]
        assert all((part["box"] is not None) == ("box=true" in chosen) for part in candidate["parts"])
        again = rebuilt("photos/a.png", candidate["parts"])
        assert (again != mask).mean() < 1e-3  # decoded one by one, logits near 0 may change their sign


def test_matchers_run_names_both_models(work, encoder_folder, matcher):
    segment("photos/a.png", *FAST, *matcher, "--set", "encoder_size=32", "--dtype", "bfloat16")
    written = json.loads(Path("found/run.json").read_text())
    assert written["model"] == f"{SAM} + {encoder_folder}"
    files = {"sam": Path(SAM, "model.safetensors"), "encoder": Path(encoder_folder, "model.safetensors")}
    assert written["weights"] == {kind: {file.name: file_sha256(file)} for kind, file in files.items()}
    assert written["settings"]["framework"] == "matcher"
    own = written["settings"]["settings"]
    assert own | {"encoder_input": [32, 32], "centers": 2} == own
    assert written["settings"]["dtype"] == "bfloat16"
    check_results()


def test_matcher_with_two_labels_several_supports_and_saved_references(work, matcher):
    two = ("--support", "photos/sub/c.png", "cat_mask.png")
    said = segment("photos", *two, *CAT, *DOG, *FAST, *matcher, "--save-reference", "kept.ref", support=None)
    assert "Saved the reference of cat to kept-cat.ref" in said and "Saved the reference of dog to kept-dog.ref" in said
    assert "3 photo(s) segmented" in said
    check_results(labels=2)
    before = contents(kinds=("",))

    by_reference = ("--reference", "kept-cat.ref", "--reference", "kept-dog.ref")
    segment("photos", *by_reference, *FAST, *matcher, support=None, out="loaded")
    assert contents("loaded", kinds=("",)) == before
    segment("photos/sub/c.png", *CAT, *FAST, *matcher, support=None, out="of one")
    assert records("of one")[0] not in records()

    Path("found/results.jsonl").write_bytes(b"".join(before["results.jsonl"].splitlines(keepends=True)[:-1]))
    assert "2 of 3 photos are done already" in segment("photos", *two, *CAT, *DOG, *FAST, *matcher, support=None)
    assert contents(kinds=("",)) == before

    small = ("--set", "encoder_size=32")
    fits_not = segment("photos", *by_reference, *FAST, *matcher, *small, support=None, out="x", code=2)
    assert "made with settings" in fits_not and not Path("x").exists()


def test_matchers_results_are_not_mixed_with_others(work, encoder_folder, matcher):
    other = shutil.copytree(encoder_folder, work / "other_encoder")
    weights = load_file(other / "model.safetensors")
    name = min(weights)
    save_file({**weights, name: weights[name] + 1}, other / "model.safetensors", {"format": "pt"})
    segment("photos/a.png", *FAST, *matcher)
    before = contents(kinds=("",))
    for change, told in (
        ((*matcher, "--encoder", other), f'model was "{SAM} + {encoder_folder}", now it is "{SAM} + {other}".'),
        ((*matcher, "--set", "encoder_size=32"), "settings.settings.encoder_size was null, now it is 32"),
        ((), 'settings.framework was "matcher", now it is "persam-f".'),
    ):
        said = segment("photos", *FAST, *change, code=2)
        assert flat(f"found holds results of another run: {told}") in said
        assert "Choose another --out" in said
    assert contents(kinds=("",)) == before


def test_an_encoder_size_that_is_no_multiple_of_the_patch(work, matcher):
    said = segment("photos", *matcher, "--set", "encoder_size=60", code=2)
    assert "must be a multiple of its patch, 8 pixels; got 60 × 60" in said

"""One annotation per thing: twelve touching discs through every format, read back by its loader."""

import dataclasses
import io
import json

import numpy as np
import pytest
from made import RUN, SHA, instance, segmentation
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from test_formats import unpacked

from prmagic.io.formats import FORMATS, Labelled, exported
from prmagic.io.run_reader import labelled, read_run
from prmagic.io.runs import RunFolder

HEIGHT, WIDTH, RADIUS = 90, 120, 15
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]
DISCS = [
    (ROWS - y) ** 2 + (COLUMNS - x) ** 2 < RADIUS**2
    for y in range(RADIUS, HEIGHT, 2 * RADIUS)
    for x in range(RADIUS, WIDTH, 2 * RADIUS)
]
SCORES = [0.9 - number / 100 for number in range(12)]
SEVERAL = COLUMNS % 40 < 20  # three stripes: one thing in parts, as behind bars


def result(masks, name="coins.jpg", label="coin"):
    things = tuple(instance(mask, score) for mask, score in zip(masks, SCORES, strict=False))
    whole = segmentation(name, label, np.zeros((2, HEIGHT, WIDTH), bool))
    return dataclasses.replace(whole, image=np.zeros((HEIGHT, WIDTH, 3), np.uint8), instances=things)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """As `prmagic segment --instances` writes it: a photo of twelve things, one of one, and one of none."""
    folder = tmp_path_factory.mktemp("run") / "found"
    writing = RunFolder(folder, {**RUN, "references": {"coin": "1"}})
    for each in (result(DISCS), result([SEVERAL], "fence.jpg"), result([], "none.jpg")):
        writing.add(each, SHA)
    return folder


def files(run, to, **options):
    labels, _, photos = read_run(run)
    return dict(exported(photos, labels, to, **options))


def iou(first, second):
    return (first & second).sum() / (first | second).sum()


def filled(corners):
    """As Ultralytics fills an outline: its corners are cut down to pixels."""
    picture = Image.new("1", (WIDTH, HEIGHT))
    ImageDraw.Draw(picture).polygon([tuple(map(int, corner)) for corner in corners], fill=1, outline=1)
    return np.array(picture)


def test_a_run_gives_back_its_instances(run):
    first, second, third = (photo.instances["coin"] for photo in read_run(run)[2])
    assert len(first) == 12 and len(second) == 1 and list(third) == []
    for number, (thing, disc) in enumerate(zip(first, DISCS, strict=True)):
        assert (thing.score, thing.predicted_iou, thing.step) == (SCORES[number], 0.5, 1)
        np.testing.assert_array_equal(thing.mask, disc)
        rows, columns = np.nonzero(disc)
        assert thing.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_results_in_memory_are_exported_alike(run):
    photos = labelled([result(DISCS), result([SEVERAL], "fence.jpg"), result([], "none.jpg")])
    assert dict(exported(photos, ["coin"], "coco")) == files(run, "coco")


@pytest.mark.parametrize("polygons", [False, True])
def test_coco_has_twelve_annotations(run, tmp_path, capsys, polygons):
    (content,) = files(run, "coco", polygons=polygons).values()
    (tmp_path / "coco.json").write_bytes(content)
    data = COCO(tmp_path / "coco.json")
    capsys.readouterr()  # pycocotools prints
    found = data.loadAnns(data.getAnnIds(imgIds=[1]))
    assert len(found) == 12 and len(data.anns) == 13 and len(data.imgs) == 3
    for annotation, disc, score in zip(found, DISCS, SCORES, strict=True):
        back = data.annToMask(annotation).astype(bool)
        assert iou(back, disc) >= 0.99 if polygons else (back == disc).all()
        assert annotation["score"] == score and annotation["area"] == disc.sum()
    (parts,) = data.loadAnns(data.getAnnIds(imgIds=[2]))
    assert iou(data.annToMask(parts).astype(bool), SEVERAL) >= 0.99
    assert len(data.loadRes(found).anns) == 12  # as results, which need the scores
    capsys.readouterr()


def test_yolo_has_a_line_for_each(run):
    """Its format: the class and the outline's corners, as shares of the photo's sides."""
    written = files(run, "yolo-seg")
    assert written["labels/none.txt"] == b""
    lines = [line.split() for line in written["labels/coins.txt"].decode().splitlines()]
    assert len(lines) == 12 and {line[0] for line in lines} == {"0"}
    for line, disc in zip(lines, DISCS, strict=True):
        corners = np.array(line[1:], np.float32).reshape(-1, 2)
        assert ((corners >= 0) & (corners <= 1)).all()
        assert iou(filled(corners * (WIDTH, HEIGHT)), disc) >= 0.99
    (line,) = written["labels/fence.txt"].decode().splitlines()
    drawn = filled(np.array(line.split()[1:], np.float32).reshape(-1, 2) * (WIDTH, HEIGHT))
    assert drawn[SEVERAL].mean() > 0.99 and (drawn & ~SEVERAL).sum() <= 2 * 20  # two lines between three stripes


@pytest.mark.parametrize("polygons", [False, True])
def test_label_studio_has_a_region_for_each(run, polygons):
    tasks = json.loads(files(run, "label-studio", polygons=polygons)["tasks.json"])
    coins, fence, none = (task["predictions"][0]["result"] for task in tasks)
    assert [region["score"] for region in coins] == SCORES and none == [] and len(fence) == 1
    assert len({region["id"] for region in coins}) == 12
    for region, disc in zip(coins, DISCS, strict=True):
        if polygons:
            corners = np.array(region["value"]["points"]) / 100 * (WIDTH, HEIGHT)
            (code,) = coco_mask.frPyObjects([corners.ravel().tolist()], HEIGHT, WIDTH)
            assert iou(coco_mask.decode(code).astype(bool), disc) >= 0.99
        else:
            alpha = unpacked(region["value"]["rle"]).reshape(HEIGHT, WIDTH, 4)[..., 3]
            np.testing.assert_array_equal(alpha > 0, disc)


def pixels(content):
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.mode == "P"
        return np.asarray(picture)


def test_masks_have_objects_beside_classes(run):
    written = files(run, "masks")
    np.testing.assert_array_equal(pixels(written["SegmentationClass/coins.png"]), np.any(DISCS, axis=0))
    objects = sum(number * disc for number, disc in enumerate(DISCS, start=1))
    np.testing.assert_array_equal(pixels(written["SegmentationObject/coins.png"]), objects)
    assert not pixels(written["SegmentationObject/none.png"]).any()
    without = dict(exported([Labelled("a.jpg", {"coin": DISCS[0]})], ["coin"], "masks"))
    assert not any(name.startswith("SegmentationObject") for name in without)


def test_at_most_255_objects_in_a_mask():
    masks = np.eye(256, dtype=bool).reshape(256, 16, 16)
    photo = Labelled("a.jpg", {"dot": masks.any(0)}, instances={"dot": [*map(instance, masks)]})
    with pytest.raises(ValueError, match=r"a.jpg has 256 instances, and an 8-bit mask can tell 255 apart"):
        dict(exported([photo], ["dot"], "masks"))


def test_specks_are_judged_thing_by_thing():
    """A thing of 20 pixels stays beside a large one, whose own speck of 30 goes."""
    large = ROWS < 80
    large &= COLUMNS < 100
    large_with_speck = large | ((ROWS >= 84) & (COLUMNS >= 115))  # 6 × 5 pixels, 30 of 8030
    small = (ROWS >= 84) & (ROWS < 88) & (COLUMNS < 5)
    dot = (ROWS == 40) & (COLUMNS == 110)
    masks = [large_with_speck, small, dot]
    photo = Labelled("a.jpg", {"x": np.any(masks, axis=0)}, instances={"x": [*map(instance, masks)]})
    with pytest.warns(UserWarning, match=r"16 pixels or 0.1 % of the object, 1 pixels in 1 photo"):
        assert dict(exported([photo], ["x"], "yolo-seg"))["labels/a.txt"].count(b"\n") == 2
    with pytest.warns(UserWarning, match="less than 31 pixels, 51 pixels in 1 photo"):
        (content,) = dict(exported([photo], ["x"], "coco", min_area=31)).values()
    (annotation,) = json.loads(content)["annotations"]
    np.testing.assert_array_equal(coco_mask.decode(annotation["segmentation"]), large)


@pytest.mark.parametrize("to", [name for name, kind in FORMATS.items() if not kind.video])
def test_two_labels_with_things_and_one_without(to):
    """In the order of the labels; a label whose things were not told apart is one object."""
    whole, left = DISCS[0] | DISCS[5], [instance(DISCS[7], 0.5), instance(DISCS[6], 0.4)]
    photo = Labelled("a.jpg", {"cat": whole, "dog": DISCS[7] | DISCS[6]}, instances={"dog": left})
    written = dict(exported([photo], ["cat", "dog"], to))
    if to == "coco":
        (content,) = written.values()
        there = [(each["category_id"], each.get("score")) for each in json.loads(content)["annotations"]]
        assert there == [(1, None), (2, 0.5), (2, 0.4)]
    elif to == "yolo-seg":
        lines = written["labels/a.txt"].decode().splitlines()
        assert [line[0] for line in lines] == ["0", "0", "1", "1"]  # the parts of a whole mask are objects
    elif to == "label-studio":
        regions = json.loads(written["tasks.json"])[0]["predictions"][0]["result"]
        assert [region.get("score") for region in regions] == [None, 0.5, 0.4]
    else:
        objects = pixels(written["SegmentationObject/a.png"])
        assert [set(objects[mask].tolist()) for mask in (whole, DISCS[7], DISCS[6])] == [{1}, {2}, {3}]


@pytest.mark.parametrize(
    "change",
    [
        {"mask": {"size": [2, 2], "counts": "4"}}, {"mask": None}, {"box": [1, 2, 3]}, {"score": "high"},
        {"predicted_iou": []}, {"step": None},
    ],
)  # fmt: skip
def test_a_damaged_instance_ends_in_one_message(run, tmp_path, change):
    (tmp_path / "run.json").write_bytes((run / "run.json").read_bytes())
    line = json.loads((run / "results.jsonl").read_text().splitlines()[0])
    line["instances"][3] |= change
    (tmp_path / "results.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(ValueError, match=r"line 1 of .* is damaged"):
        read_run(tmp_path)

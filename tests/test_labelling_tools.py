"""What `prmagic export` writes, read back by pycocotools and by a few lines for each other format."""

import builtins
import io
import json
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from test_export import RUN, SHA, segmentation

from prmagic.export import (
    FORMATS,
    Labelled,
    Options,
    RunFolder,
    brush,
    coco,
    exported,
    file_sha256,
    find_photos,
    labelled,
    read_run,
    record,
)
from prmagic.viz import overlay

LABELS = ["cat", "traffic light"]
ROWS, COLUMNS = np.mgrid[:40, :60]
RING = (np.hypot(ROWS - 20, COLUMNS - 20) < 15) & (np.hypot(ROWS - 20, COLUMNS - 20) >= 6)
PIXEL = (ROWS == 3) & (COLUMNS == 50)
PHOTOS = [
    Labelled("a.jpg", {"cat": RING | PIXEL, "traffic light": PIXEL}),
    Labelled("sub dir/ü%20 ☃.png", {"cat": np.zeros((40, 60), bool), "traffic light": np.ones((40, 60), bool)}),
    Labelled("none.jpg", {"cat": np.zeros((40, 60), bool)}),
]


def files(to, photos=PHOTOS, labels=LABELS, **options):
    return dict(exported(photos, labels, to, **options))


def loaded(content, tmp_path, capsys):
    (tmp_path / "coco.json").write_bytes(content)
    data = COCO(tmp_path / "coco.json")
    capsys.readouterr()  # pycocotools prints
    return data


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("polygons", [False, True])
def test_coco(tmp_path, capsys, polygons):
    ((name, content),) = files("coco", polygons=polygons).items()
    assert name == "annotations/instances_default.json"
    data = loaded(content, tmp_path, capsys)
    assert data.cats == {
        1: {"id": 1, "name": "cat", "supercategory": ""},
        2: {"id": 2, "name": "traffic light", "supercategory": ""},
    }
    assert [data.imgs[i]["file_name"] for i in (1, 2, 3)] == [photo.name for photo in PHOTOS]
    assert all((image["height"], image["width"]) == (40, 60) for image in data.imgs.values())
    there = [(data.anns[i]["image_id"], data.anns[i]["category_id"]) for i in (1, 2, 3)]
    assert there == [(1, 1), (1, 2), (2, 2)] and len(data.anns) == 3
    for annotation, mask in zip(data.anns.values(), (RING | PIXEL, PIXEL, np.ones((40, 60), bool)), strict=True):
        back = data.annToMask(annotation).astype(bool)
        assert iou(back, mask) >= 0.99 if polygons else (back == mask).all()
        assert isinstance(annotation["segmentation"], list) == polygons
        rows, columns = np.nonzero(mask)
        width, height = np.ptp(columns) + 1, np.ptp(rows) + 1
        assert annotation["bbox"] == [columns.min(), rows.min(), width, height]
        assert annotation["area"] == mask.sum() and annotation["iscrowd"] == 0


def test_coco_polygons_without_tolerance_are_exact(tmp_path, capsys):
    (content,) = files("coco", polygons=True, tolerance=0).values()
    data = loaded(content, tmp_path, capsys)
    np.testing.assert_array_equal(data.annToMask(data.anns[1]), RING | PIXEL)
    assert len(data.anns[1]["segmentation"]) == 2  # the ring with its hole, and the pixel


def test_yolo():
    written = files("yolo-seg")
    assert written["data.yaml"].decode() == ('train: images\nval: images\nnames:\n  0: "cat"\n  1: "traffic light"\n')
    assert set(written) == {"data.yaml", "labels/a.txt", "labels/sub dir/ü%20 ☃.txt", "labels/none.txt"}
    assert written["labels/none.txt"] == b""
    lines = [line.split() for line in written["labels/a.txt"].decode().splitlines()]
    assert [line[0] for line in lines] == ["0", "0", "1"]
    for line, mask in zip(lines, (PIXEL, RING, PIXEL), strict=True):
        corners = np.array(line[1:], np.float32).reshape(-1, 2) * np.float32([60, 40])
        assert ((corners > 0) & (corners < (60, 40))).all() and len(corners) >= 3
        for indices in (np.floor(corners), np.round(corners)):
            assert mask[tuple(indices.astype(int).T[::-1])].all()
    (line,) = written["labels/sub dir/ü%20 ☃.txt"].decode().splitlines()
    corners = np.float32(line.split()[1:]).reshape(-1, 2) * np.float32([60, 40])
    assert np.floor(corners).min(axis=0).tolist() == [0, 0] and np.floor(corners).max(axis=0).tolist() == [59, 39]


@pytest.mark.parametrize("name", ["yes", "1", 'say "no"', "a: b", "#x"])
def test_yolo_names_are_text_in_yaml(name):
    """JSON's strings are YAML's."""
    mask = np.ones((4, 4), bool)
    written = files("yolo-seg", [Labelled("a.jpg", {name: mask})], [name])
    assert json.loads(written["data.yaml"].decode().splitlines()[3].removeprefix("  0: ")) == name


def unpacked(code):
    """thi.ng/rle-pack's decoder, bit by bit."""
    bits = "".join(f"{byte:08b}" for byte in code)

    def read(size):
        nonlocal bits
        number, bits = int(bits[:size], 2), bits[size:]
        return number

    total, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    out = []
    while len(out) < total:
        repeated, length = read(1), read(sizes[read(2)]) + 1
        out += [read(word)] * length if repeated else [read(word) for _ in range(length)]
    assert len(out) == total
    return np.array(out)


@pytest.mark.parametrize(
    "mask",
    [RING, ~RING, PIXEL, np.zeros((1, 1), bool), np.ones((1, 5), bool), np.ones((200, 300), bool), ROWS % 2 == 0],
)
def test_brush_comes_back(mask):
    rgba = unpacked(brush(mask)).reshape(*mask.shape, 4)
    np.testing.assert_array_equal(rgba, np.repeat(mask[..., None] * 255, 4, axis=2))


@pytest.mark.parametrize("polygons", [False, True])
def test_label_studio(polygons):
    labels = ["cat", '<b> & "c"']
    photos = [Labelled(photo.name, dict(zip(labels, photo.masks.values(), strict=False))) for photo in PHOTOS]
    written = files("label-studio", photos, labels, polygons=polygons)
    kind = "PolygonLabels" if polygons else "BrushLabels"
    choices = ElementTree.fromstring(written["interface.xml"].decode()).find(kind)
    assert [choice.get("value") for choice in choices] == labels
    assert choices.get("name") == "label" and choices.get("toName") == "image"
    tasks = json.loads(written["tasks.json"])
    addresses = [task["data"]["image"] for task in tasks]
    assert addresses[0] == "/data/local-files/?d=a.jpg"
    assert unquote(addresses[1]) == "/data/local-files/?d=sub dir/ü%20 ☃.png" and " " not in addresses[1]
    results = [task["predictions"][0]["result"] for task in tasks]
    assert [len(result) for result in results] == ([3, 1, 0] if polygons else [2, 1, 0])
    masks = {label: np.zeros((40, 60), bool) for label in labels}
    for result in results[0]:
        assert (result["original_width"], result["original_height"]) == (60, 40)
        assert (result["from_name"], result["to_name"], result["type"]) == ("label", "image", kind.lower())
        value = result["value"]
        if polygons:
            corners = np.array(value["points"]) / 100 * (60, 40)
            mask = coco_mask.decode(coco_mask.frPyObjects([corners.ravel().tolist()], 40, 60)[0])
        else:
            mask = unpacked(value["rle"]).reshape(40, 60, 4)[..., 3]
        masks[value[kind.lower()][0]] |= mask > 0
    assert iou(masks["cat"], RING | PIXEL) >= 0.99 if polygons else (masks["cat"] == RING | PIXEL).all()
    np.testing.assert_array_equal(masks['<b> & "c"'], PIXEL)
    assert len({result["id"] for result in results[0]}) == len(results[0])


def test_label_studio_finds_photos_elsewhere():
    tasks = json.loads(files("label-studio", image_url="https://x.org/p/")["tasks.json"])
    assert tasks[0]["data"]["image"] == "https://x.org/p/a.jpg"


def test_masks():
    written = files("masks")
    assert written["labelmap.txt"].decode() == (
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:128,0,0::\ntraffic light:0,128,0::\n"
    )
    assert written["ImageSets/Segmentation/default.txt"].decode() == "a\nsub dir/ü%20 ☃\nnone\n"
    with Image.open(io.BytesIO(written["SegmentationClass/a.png"])) as picture:
        assert picture.mode == "P"
        expected = np.where(PIXEL, 2, RING * 1)  # the smaller one on top
        np.testing.assert_array_equal(np.asarray(picture), expected)
        colours = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0]])
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), colours[expected])
    with Image.open(io.BytesIO(written["SegmentationClass/none.png"])) as picture:
        assert not np.asarray(picture).any()


@pytest.mark.parametrize("label", ["background", "a:b", "#a", "a\nb"])
def test_labels_that_a_label_map_cannot_hold(label):
    with pytest.raises(ValueError, match="cannot be used in labelmap"):
        files("masks", [Labelled("a.jpg", {label: RING})], [label])


def test_at_most_255_labels_in_a_mask():
    with pytest.raises(ValueError, match="256 labels are more than the 255"):
        files("masks", [], [str(number) for number in range(256)])
    assert len({*files("masks", [], [str(number) for number in range(255)])["labelmap.txt"].splitlines()}) == 257


@pytest.mark.parametrize("to", FORMATS)
def test_the_same_bytes_again(to):
    assert files(to) == files(to)


@pytest.mark.parametrize(
    "to, options, told",
    [
        ("cocoa", {}, "did you mean 'coco'"),
        ("masks", {"polygons": True}, "always pixels"),
        ("yolo-seg", {"polygons": True}, "always polygons"),
        ("coco", {"tolerance": 1}, "ask for these too"),
        ("masks", {"tolerance": 1}, "a tolerance is for polygons"),
        ("coco", {"image_url": "x"}, "for label-studio"),
        ("coco", {"polygons": True, "tolerance": -1}, "distance in pixels"),
        ("coco", {"labels": ["cat"]}, "masks of traffic light, which are not among the labels"),
        ("coco", {"labels": ["cat", "cat"]}, "twice"),
    ],
)
def test_what_makes_no_sense_is_told(to, options, told):
    with pytest.raises(ValueError, match=told):
        files(to, **options)


@pytest.mark.parametrize("name", ["../a.jpg", "/a.jpg", "x/../../a.jpg", "C:\\a.jpg", "..\\a.jpg", ""])
def test_names_stay_in_the_folder(name):
    with pytest.raises(ValueError, match="cannot be the name of a photo"):
        files("masks", [Labelled(name, {"cat": RING})])


def test_two_photos_of_one_name():
    with pytest.raises(ValueError, match="two photos are called a"):
        files("yolo-seg", [Labelled("a.jpg", {"cat": RING}), Labelled("a.png", {"cat": RING})])


def test_masks_of_a_photo_have_one_size():
    with pytest.raises(ValueError, match="all of the photo's size"):
        Labelled("a.jpg", {"cat": RING, "dog": RING[:3]})


# From a run


def run_folder(tmp_path, *results):
    run = RunFolder(tmp_path / "found", {**RUN, "references": {"cat": "1", "dog": "2"}})
    for result in results:
        run.append(record(result, SHA))
    return tmp_path / "found"


def test_a_run_is_what_its_results_are(tmp_path):
    results = [segmentation("b.jpg"), segmentation("b.jpg", "dog", chosen=0), segmentation("a.jpg")]
    labels, hashes, photos = read_run(run_folder(tmp_path, *results))
    assert labels == ["cat", "dog"] and hashes == {"a.jpg": SHA, "b.jpg": SHA}
    from_disk, in_memory = list(photos), list(labelled(results))
    assert [photo.name for photo in from_disk] == ["a.jpg", "b.jpg"]
    assert [photo.name for photo in in_memory] == ["b.jpg", "a.jpg"]
    assert files("coco", from_disk, labels) == files("coco", reversed(in_memory), labels)
    np.testing.assert_array_equal(from_disk[1].masks["dog"], results[1].mask)


def test_a_line_cut_short_is_left_out_and_told(tmp_path):
    folder = run_folder(tmp_path, segmentation("a.jpg"), segmentation("b.jpg"))
    (folder / "results.jsonl").write_bytes((folder / "results.jsonl").read_bytes()[:-9])
    with pytest.warns(UserWarning, match="last line .* is cut short"):
        assert list(read_run(folder)[1]) == ["a.jpg"]


def test_a_damaged_run(tmp_path):
    folder = run_folder(tmp_path, segmentation("a.jpg"))
    (folder / "results.jsonl").write_bytes(b"{}\n")
    with pytest.raises(ValueError, match=r"line 1 of .* is damaged"):
        read_run(folder)
    (folder / "results.jsonl").unlink()
    with pytest.raises(ValueError, match="holds no results yet"):
        read_run(folder)
    (folder / "run.json").write_text('{"benchmark": "coco"}')
    with pytest.raises(ValueError, match="is no folder that `prmagic segment` wrote: name"):
        read_run(folder)
    with pytest.raises(ValueError, match="there is no such folder"):
        read_run(tmp_path / "nowhere")


def test_photos_are_found_by_content(tmp_path):
    for number, name in enumerate(("x.png", "deep/y.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (3, 3), number).save(tmp_path / name)
    hashes = {"one.png": file_sha256(tmp_path / "deep" / "y.png")}
    assert find_photos(hashes, tmp_path) == {"one.png": tmp_path / "deep" / "y.png"}
    with pytest.raises(ValueError, match=r"1 of 2 photos are not in .*: other.png"):
        find_photos({**hashes, "other.png": SHA}, tmp_path)


# Methods of a result


def test_to_coco():
    result = segmentation()
    assert result.to_coco() == coco(labelled([result]), ["cat"], Options())
    (annotation,) = json.loads(json.dumps(result.to_coco()))["annotations"]
    np.testing.assert_array_equal(coco_mask.decode(annotation["segmentation"]), result.mask)
    assert isinstance(result.to_coco(polygons=True)["annotations"][0]["segmentation"], list)
    nothing = segmentation(masks=np.zeros((2, 2, 3), bool))
    assert nothing.to_coco()["annotations"] == [] and len(nothing.to_coco()["images"]) == 1


def test_to_pil_and_overlay():
    result = segmentation()
    assert result.to_pil().mode == "L"
    np.testing.assert_array_equal(np.asarray(result.to_pil()), result.mask * 255)
    np.testing.assert_array_equal(np.asarray(result.overlay()), np.asarray(overlay(result.image, result.mask)))


def test_to_supervision():
    made = segmentation(predicted_iou=0.75).to_supervision(class_id=3)
    assert made.xyxy.tolist() == [[1, 0, 2, 1]] and made.mask.shape == (1, 2, 3)
    assert made.class_id.tolist() == [3] and made.confidence.tolist() == [0.75]
    assert made.data["class_name"].tolist() == ["cat"]
    assert segmentation(predicted_iou=float("nan")).to_supervision().confidence is None
    assert segmentation(masks=np.zeros((2, 2, 3), bool)).to_supervision().is_empty()


def test_to_supervision_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "supervision":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'prmagic\[supervision\]'"):
        segmentation().to_supervision()

"""What `prmagic export` writes, read back by pycocotools and by a few lines for each other format."""

import io
import json
import os
import warnings
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from prmagic.io.formats import FORMATS, Labelled, exported, photo_names
from prmagic.io.formats.label_studio import brush

LABELS = ["cat", "traffic light"]
ROWS, COLUMNS = np.mgrid[:40, :60]
RING = (np.hypot(ROWS - 20, COLUMNS - 20) < 15) & (np.hypot(ROWS - 20, COLUMNS - 20) >= 6)
PIXEL = (ROWS == 3) & (COLUMNS == 50)
PHOTOS = [
    Labelled("a.jpg", {"cat": RING | PIXEL, "traffic light": PIXEL}),
    Labelled("sub dir/ü%20 ☃.png", {"cat": np.zeros((40, 60), bool), "traffic light": np.ones((40, 60), bool)}),
    Labelled("none.jpg", {"cat": np.zeros((40, 60), bool)}),
]


def files(to, photos=PHOTOS, labels=LABELS, min_area=0, **options):
    """With every speck, unless told otherwise."""
    return dict(exported(photos, labels, to, min_area=min_area, **options))


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
    assert addresses[0] == "/data/local-files/?d=images/a.jpg"
    assert unquote(addresses[1]) == "/data/local-files/?d=images/sub dir/ü%20 ☃.png" and " " not in addresses[1]
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


@pytest.mark.parametrize("to", [name for name, kind in FORMATS.items() if not kind.video])
def test_two_photos_of_one_stem(to):
    names = ["a.jpg", "a.png", "A.jpg", "sub/a.jpg", "a_png.gif"]
    photos = [Labelled(name, {"cat": RING}) for name in names]
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        written = files(to, photos)
    renamed = photo_names(names, to)
    if to in ("coco", "label-studio"):
        assert renamed == {name: name for name in names} and not notes
        return
    assert renamed == {
        "a.jpg": "a.jpg", "a.png": "a_png.png", "A.jpg": "A_jpg.jpg", "sub/a.jpg": "sub/a.jpg",
        "a_png.gif": "a_png_gif.gif",
    }  # fmt: skip
    folder, suffix = ("labels", ".txt") if to == "yolo-seg" else ("SegmentationClass", ".png")
    for name in renamed.values():
        assert f"{folder}/{name[:-4]}{suffix}" in written
    told = [str(note.message) for note in notes if "here it is called" in str(note.message)]
    assert [text.split(": here it is called ")[1] for text in told] == [
        "a_png.png", "A_jpg.jpg", "a_png_gif.gif"
    ]  # fmt: skip


def test_a_photo_stands_there_once():
    with pytest.raises(ValueError, match=r"two photos are called a.jpg"):
        files("coco", [Labelled("a.jpg", {"cat": RING})] * 2)


@pytest.mark.skipif(os.name == "nt", reason="no such names there")
@pytest.mark.filterwarnings("ignore:.* has a name that this format")
@pytest.mark.parametrize("name", ["12:30.jpg", "a:b.jpg", "back\\slash.jpg", "new\nline.jpg", "..jpg", "no suffix"])
def test_odd_names_are_exported(name):
    for to in FORMATS:
        assert files(to, [Labelled(name, {"cat": RING})])


@pytest.mark.skipif(os.name == "nt", reason="no such names there")
@pytest.mark.filterwarnings("ignore:.* has a name that this format")
@pytest.mark.parametrize("to", ["yolo-seg", "masks"])
def test_a_folder_named_like_a_file_and_a_line_end(to, tmp_path):
    names = ["dir.jpg", "dir.png/a.jpg", "dir.txt/a.jpg", "dir.TXT/b.jpg", "new\nline.jpg"]
    written = files(to, [Labelled(name, {"cat": RING}) for name in names])
    for name, content in written.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert list(photo_names(names, to).values()) == [
        "dir.jpg", "dir.png_/a.jpg", "dir.txt_/a.jpg", "dir.TXT_/b.jpg", "new_line.jpg"
    ]  # fmt: skip
    if to == "masks":
        listed = written["ImageSets/Segmentation/default.txt"].decode().splitlines()
        assert listed == ["dir", "dir.png_/a", "dir.txt_/a", "dir.TXT_/b", "new_line"]


# Specks

SPECKLED = RING.copy()
for row, column in ((1, 1), (1, 40), (38, 45), (30, 55), (20, 20)):
    SPECKLED[row, column] = True


def test_specks_are_no_objects():
    photos = [Labelled("a.jpg", {"cat": SPECKLED}), Labelled("b.jpg", {"cat": PIXEL})]
    told = r"specks of less than 16 pixels or 0.1 % of the object, 6 pixels in 2 photo\(s\); in 1 of them nothing"
    with pytest.warns(UserWarning, match=told):
        written = files("yolo-seg", photos, min_area=None)
    assert written["labels/a.txt"].count(b"\n") == 1 and written["labels/b.txt"] == b""
    with pytest.warns(UserWarning, match=told):
        tasks = json.loads(files("label-studio", photos, min_area=None, polygons=True)["tasks.json"])
    assert [len(task["predictions"][0]["result"]) for task in tasks] == [1, 0]


@pytest.mark.parametrize("to", ["coco", "masks", "label-studio"])
def test_exact_pixels_keep_specks(to):
    photos = [Labelled("a.jpg", {"cat": SPECKLED}), Labelled("b.jpg", {"cat": PIXEL})]
    assert files(to, photos, min_area=None) == files(to, photos)


def test_specks_of_a_large_object_are_larger():
    mask = np.zeros((400, 400), bool)
    mask[:200] = True
    mask[300:305, 300:310] = True  # 50 of 80050 pixels, less than 0.1 %
    with pytest.warns(UserWarning, match=r"50 pixels in 1 photo\(s\)\. --min-area 0"):
        written = files("yolo-seg", [Labelled("a.jpg", {"cat": mask})], min_area=None)
    assert written["labels/a.txt"].count(b"\n") == 1


def test_the_smallest_area_may_be_chosen(tmp_path, capsys):
    with pytest.warns(UserWarning, match="left out specks of less than 2 pixels, 5 pixels in 1 photo"):
        (content,) = files("coco", [Labelled("a.jpg", {"cat": SPECKLED})], min_area=2).values()
    data = loaded(content, tmp_path, capsys)
    np.testing.assert_array_equal(data.annToMask(data.anns[1]), RING)
    assert files("yolo-seg", [Labelled("a.jpg", {"cat": SPECKLED})])["labels/a.txt"].count(b"\n") == 6
    with pytest.raises(ValueError, match="smallest area is -1"):
        files("coco", min_area=-1)


@pytest.mark.parametrize("tolerance", [None, 0, 5])
def test_no_polygon_is_degenerate(tolerance):
    """Of lines, single pixels and dots, too: three distinct corners and an area, as written."""
    rng = np.random.default_rng(0)
    dots, noise = (ROWS % 3 == 0) & (COLUMNS % 4 == 0), rng.random((40, 60)) < 0.3
    masks = [PIXEL, ROWS == 3, COLUMNS == 59, ROWS == COLUMNS, dots, noise]
    photos = [Labelled(f"{number}.jpg", {"cat": mask}) for number, mask in enumerate(masks)]
    yolo = files("yolo-seg", photos, tolerance=tolerance)
    tasks = json.loads(files("label-studio", photos, polygons=True, tolerance=tolerance)["tasks.json"])
    data = json.loads(files("coco", photos, polygons=True, tolerance=tolerance)["annotations/instances_default.json"])
    lines = [line for name, text in yolo.items() if name.startswith("labels/") for line in text.decode().splitlines()]
    found = [np.array(line.split()[1:], float).reshape(-1, 2) for line in lines]
    found += [np.array(result["value"]["points"]) for task in tasks for result in task["predictions"][0]["result"]]
    found += [np.array(flat).reshape(-1, 2) for entry in data["annotations"] for flat in entry["segmentation"]]
    assert len(found) > 500
    for polygon in found:
        x, y = polygon.T
        assert len(np.unique(polygon, axis=0)) > 2
        assert abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) > 0


# Addresses


def test_label_studio_can_serve_the_addresses(tmp_path):
    """By its rules: below the document root, in the storage's folder, and the storage is not the root itself."""
    names = ["q.png", "sub dir/ü%20 #1?&+.jpg"]
    tasks = json.loads(files("label-studio", [Labelled(name, {"cat": RING}) for name in names])["tasks.json"])
    root, storage = tmp_path, tmp_path / FORMATS["label-studio"].photos
    assert storage != root and storage.is_relative_to(root)
    for name, task in zip(names, tasks, strict=True):
        address = urlsplit(task["data"]["image"])
        assert address.path == "/data/local-files/" and not address.fragment
        (path,) = parse_qs(address.query, strict_parsing=True)["d"]
        assert root / path == storage / name


def test_masks_of_a_photo_have_one_size():
    with pytest.raises(ValueError, match="all of the photo's size"):
        Labelled("a.jpg", {"cat": RING, "dog": RING[:3]})

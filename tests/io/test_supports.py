import json

import numpy as np
import pytest
from PIL import Image

from prmagic.io.formats import rle
from prmagic.io.images import load_image
from prmagic.io.supports import MANY, supports_from_coco, supports_from_folder

SQUARE = np.zeros((20, 30), bool)
SQUARE[2:8, 3:12] = True
LINE = np.zeros((20, 30), bool)
LINE[:, 20] = True


def picture(path, pixels=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((20, 30, 3), 90, np.uint8) if pixels is None else pixels
    Image.fromarray(pixels).save(path, **options)
    return path


def annotation(image, category, segmentation, **more):
    return {"image_id": image, "category_id": category, "segmentation": segmentation, **more}


@pytest.fixture
def data(tmp_path):
    """COCO's layout, to be changed and written by `save`: photos 7, 3, 5 in this order; cat (1), dog (2), bird (9)."""
    for name in ("a.png", "b.png", "sub/c.png"):
        picture(tmp_path / name)
    names = {7: "a.png", 3: "b.png", 5: "sub/c.png"}
    counts = np.diff(np.flatnonzero(np.diff(LINE.ravel("F"), prepend=~LINE[0, 0], append=~LINE[-1, -1])))
    return {
        "images": [{"id": i, "file_name": name, "width": 30, "height": 20} for i, name in names.items()],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 9, "name": "bird"}],
        "annotations": [
            annotation(5, 1, rle(LINE)),
            annotation(7, 1, [[3, 2, 12, 2, 12, 8, 3, 8]], iscrowd=0),
            annotation(7, 1, {"size": [20, 30], "counts": counts.tolist()}),
            annotation(7, 2, [[0, 0, 5, 0, 5, 5]]),
            annotation(3, 9, []),
            {"image_id": 3, "category_id": 9},
        ],
    }  # fmt: skip


@pytest.fixture
def save(tmp_path, data):
    def write():
        (tmp_path / "labels.json").write_text(json.dumps(data))
        return tmp_path / "labels.json"

    return write


def test_annotations_of_a_photo_are_united(data, save):
    first, second = supports_from_coco(save(), "cat")
    np.testing.assert_array_equal(first.mask, SQUARE | LINE)
    np.testing.assert_array_equal(second.mask, LINE)
    assert first.image.shape == (20, 30, 3)


def test_crowds_beside_objects_are_left_out_and_told(data, save):
    data["annotations"].append(annotation(3, 1, rle(~LINE), iscrowd=1))
    with pytest.warns(UserWarning, match=r'labels.json: left out 1 crowd\(s\) of .cat. \("iscrowd": 1\)'):
        assert len(supports_from_coco(save(), "cat")) == 2


def test_where_all_are_crowds_they_are_the_object(data, save):
    """As CVAT writes what was painted with its brush."""
    data["annotations"] = [annotation(7, 1, rle(LINE), iscrowd=1), annotation(3, 1, rle(SQUARE), iscrowd=1)]
    with pytest.warns(UserWarning, match=r"all 2 mask\(s\) of 'cat' are marked as crowds, .* taken as the object"):
        first, second = supports_from_coco(save(), "cat")
    np.testing.assert_array_equal(first.mask, LINE)
    np.testing.assert_array_equal(second.mask, SQUARE)


CORNERS = [3, 2, 12, 2, 12, 8, 3, 8]
PAIRS = [[3, 2], [12, 2], [12, 8], [3, 8]]


@pytest.mark.parametrize("shape", [CORNERS, PAIRS, [PAIRS], [CORNERS, [10, 10, 30, 10]], [[], CORNERS]])
def test_polygons_as_found_in_the_wild(data, save, shape):
    data["annotations"] = [annotation(7, 1, shape)]
    (only,) = supports_from_coco(save(), "cat")
    np.testing.assert_array_equal(only.mask, SQUARE)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_of_windows_tools(tmp_path, data, save, encoding):
    data["images"][2]["file_name"] = "sub\\c.png"
    file = save()
    file.write_text(json.dumps(data), encoding=encoding)
    assert len(supports_from_coco(file, "cat")) == 2


@pytest.mark.parametrize("of", ["image", "category"])
def test_ids_of_two_kinds(data, save, of):
    for entry in data["annotations"]:
        entry[f"{of}_id"] = str(entry[f"{of}_id"])
    plural = "images" if of == "image" else "categories"
    with pytest.raises(
        ValueError, match=rf"names {of} '\d', which is not among the {plural} \(ids are numbers there\)"
    ):
        supports_from_coco(save(), "cat")
    for entry in data[plural]:
        entry["id"] = str(entry["id"])
    assert len(supports_from_coco(save(), "cat")) == 2


def test_the_first_photos_in_the_files_order(tmp_path, data, save):
    data["images"].reverse()
    picture(tmp_path / "sub" / "c.png", np.full((20, 30, 3), 17, np.uint8))
    (only,) = supports_from_coco(save(), "cat", limit=1)
    assert only.image[0, 0, 0] == 17


def test_photos_elsewhere(tmp_path, data, save):
    picture(tmp_path / "photos" / "a.png", np.full((20, 30, 3), 17, np.uint8))
    (only,) = supports_from_coco(save(), "dog", images=tmp_path / "photos")
    assert only.image[0, 0, 0] == 17


def test_two_categories_of_one_name(data, save):
    data["categories"][1]["name"] = "cat"
    first, _ = supports_from_coco(save(), "cat")
    assert first.mask[0, 3] and first.mask[5, 5] and not first.mask[15, 5]


def test_without_sizes_the_photos_count(data, save):
    for entry in data["images"]:
        del entry["width"], entry["height"]
    first, _ = supports_from_coco(save(), "cat")
    np.testing.assert_array_equal(first.mask, SQUARE | LINE)


def test_a_turned_photo_whose_file_says_other_sizes(tmp_path, data, save):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "a.png", exif=exif)
    with pytest.raises(ValueError, match=r"a.png has 20 × 30 pixels when it is upright, but labels.json says 30 × 20"):
        supports_from_coco(save(), "cat")


@pytest.mark.parametrize(
    "category, told",
    [
        ("dgo", "has no category 'dgo': did you mean 'dog'.* it has bird, cat, dog"),
        ("Cat", "did you mean 'cat'"),
        ("", "say which category of .*: it has bird, cat, dog"),
        ("bird", r"has 2 annotation\(s\) of 'bird', all of them without a mask"),
    ],
)
def test_no_such_category(save, category, told):
    with pytest.raises(ValueError, match=told):
        supports_from_coco(save(), category)


def test_of_a_thousand_categories_some_are_listed(data, save):
    data["categories"] += [{"id": 100 + i, "name": f"thing {i:04}"} for i in range(1000)]
    with pytest.raises(ValueError, match="and 973 more") as caught:
        supports_from_coco(save(), "thing")
    assert len(str(caught.value)) < 1000


def test_missing_photos(tmp_path, data, save):
    (tmp_path / "a.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 2 photos of 'cat' are not there, such as .*a.png: .*--support-images"):
        supports_from_coco(save(), "cat")
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere"):
        supports_from_coco(save(), "cat", images=tmp_path / "nowhere")


def test_a_mask_that_covers_nothing(data, save):
    data["annotations"] = [annotation(7, 1, [[1, 1, 1, 1, 1, 1]])]
    with pytest.raises(ValueError, match=r"masks of 'cat' in .*a.png cover no pixel"):
        supports_from_coco(save(), "cat")


def test_a_mask_of_another_size(data, save):
    data["annotations"] = [annotation(7, 1, rle(LINE[:5]))]
    with pytest.raises(
        ValueError, match=r"'cat' in a.png cannot be used: it is for a photo of 30 × 5 pixels, not of 30 × 20"
    ):
        supports_from_coco(save(), "cat")


def test_a_broken_mask(data, save):
    data["annotations"] = [annotation(7, 1, {"size": [20, 30]})]
    with pytest.raises(ValueError, match=r"an annotation of 'cat' in a.png cannot be used: a run-length code needs"):
        supports_from_coco(save(), "cat")


@pytest.mark.parametrize(
    "content, told",
    [
        ("", "is not a JSON file"),
        ("\xff", "is not a JSON file"),
        ("[]", "not a file of COCO's annotations"),
        ('{"images": []}', "it has no 'categories'"),
        ('{"categories": [], "images": [], "annotations": []}', "it has none at all"),
        (
            '{"categories": [{"id": 1, "name": "cat"}], "images": [{}], "annotations": []}',
            "one of its images has no 'id'",
        ),
        ('{"categories": [{"id": 1, "name": "cat"}], "images": [], "annotations": []}', "none: nothing to learn"),
        (
            '{"categories": [{"id": 1, "name": "cat"}], "images": [], '
            '"annotations": [{"image_id": 4, "category_id": 1, "segmentation": [[0]]}]}',
            "names image 4, which is not among the images",
        ),
        (
            '{"categories": [{"id": 1, "name": "cat"}], "images": [{"id": 4}], '
            '"annotations": [{"image_id": 4, "category_id": 1, "segmentation": [[0]]}]}',
            "one of its images has no 'file_name'",
        ),
    ],
)
def test_other_files(tmp_path, content, told):
    (tmp_path / "x.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=told):
        supports_from_coco(tmp_path / "x.json", "cat")


def test_many_photos_are_asked_for(data, save):
    data["images"] += [{"id": 100 + i, "file_name": "a.png"} for i in range(MANY)]
    data["annotations"] += [annotation(100 + i, 2, rle(LINE)) for i in range(MANY)]
    with pytest.raises(ValueError, match=f"has 'dog' in {MANY + 1} photos: say from how many .* --limit"):
        supports_from_coco(save(), "dog")
    assert len(supports_from_coco(save(), "dog", limit=3)) == 3


# Folders


def pairs(folder, **options):
    found = supports_from_folder(folder, **options)
    return [tuple(file.relative_to(folder).as_posix() for file in (each.image, each.mask)) for each in found]


@pytest.mark.parametrize(
    "files, expected",
    [
        (["images/a.jpg", "masks/a.png"], [("images/a.jpg", "masks/a.png")]),
        (["images/a.png", "masks/a_mask.png"], [("images/a.png", "masks/a_mask.png")]),
        (["b.jpg", "b.png", "a.png", "a_mask.png"], [("a.png", "a_mask.png"), ("b.jpg", "b.png")]),
        (["a.JPG", "a_mask.PNG"], [("a.JPG", "a_mask.PNG")]),
        (["gas_mask.jpg", "gas_mask.png"], [("gas_mask.jpg", "gas_mask.png")]),
        (["a.b.webp", "a.b.png", ".a.png", "notes.txt"], [("a.b.webp", "a.b.png")]),
    ],
)
def test_pairs(tmp_path, files, expected):
    for name in files:
        if name.endswith(".txt"):
            (tmp_path / name).touch()
        else:
            picture(tmp_path / name)
    assert pairs(tmp_path) == expected


def test_the_first_pairs_and_a_label(tmp_path):
    for name in ("c.jpg", "c.png", "a.jpg", "a.png"):
        picture(tmp_path / name)
    assert pairs(tmp_path, limit=1) == [("a.jpg", "a.png")]
    assert [each.mask_value for each in supports_from_folder(tmp_path, mask_value=3)] == [3, 3]


def test_what_has_no_partner_is_left_out_and_told(tmp_path):
    for name in ("images/a.jpg", "images/b.jpg", "masks/a.png", "masks/c.png"):
        picture(tmp_path / name)
    with pytest.warns(UserWarning, match=r"left out, as they have no partner: b.jpg, c.png"):
        assert pairs(tmp_path) == [("images/a.jpg", "masks/a.png")]


@pytest.mark.parametrize(
    "files, told",
    [
        (["images/a.jpg"], "has images/ but no masks/"),
        (["masks/a.png"], "has masks/ but no images/"),
        (["a.jpg", "b.png"], "has no photo with a mask of the same name"),
        (["cat/images/a.jpg", "cat/masks/a.png"], "its folder cat has an images/: name that one"),
        (["a.jpg", "a.png", "a_mask.png"], r"not clear which is the photo and which its mask: .*a.jpg.*a.png.*_mask"),
        (["a.jpg", "a.webp", "a.png"], "not clear"),
        (["images/a.jpg", "images/a.png", "masks/a.png"], "not clear"),
        (["images/a.jpg", "masks/a.png", "masks/a_mask.png"], "not clear"),
    ],
)
def test_folders_without_clear_pairs(tmp_path, files, told):
    for name in files:
        picture(tmp_path / name)
    with pytest.raises(ValueError, match=told):
        supports_from_folder(tmp_path)


def test_no_folder(tmp_path):
    with pytest.raises(ValueError, match="is no folder"):
        supports_from_folder(tmp_path / "nowhere")


def test_photos_are_read_upright(tmp_path, data, save):
    exif = Image.Exif()
    exif[0x0112] = 3
    pixels = np.arange(600, dtype=np.uint8).reshape(20, 30)
    picture(tmp_path / "a.png", np.stack([pixels] * 3, axis=2), exif=exif)
    first, _ = supports_from_coco(save(), "cat")
    np.testing.assert_array_equal(first.image, load_image(tmp_path / "a.png"))

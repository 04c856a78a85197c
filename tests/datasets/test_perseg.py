"""PerSeg on pictures of a few pixels."""

from __future__ import annotations

import pytest
from annotated import corner, picture

from prmagic.datasets.base import DatasetError, Item
from prmagic.datasets.perseg import PerSeg


@pytest.fixture
def perseg(tmp_path):
    root = tmp_path / "100" / "data"  # a path with 00 elsewhere
    for name, stems in {"shoe_00": ["00", "01", "100"], "dog": ["01", "00"]}.items():
        for stem in stems:
            picture(root / f"Images/{name}/{stem}.jpg")
            picture(root / f"Annotations/{name}/{stem}.png", [[(128, 0, 0), (0, 0, 0), (0, 0, 9), (1, 0, 0)] * 2] * 6)
    return root


@pytest.mark.parametrize("seed", [0, 1])
def test_photo_00_is_the_reference_of_all_others(perseg, seed):
    episodes = PerSeg(perseg).episodes(0, 1, seed)
    assert [(e.class_id, e.category, e.query.image, [item.image for item in e.supports]) for e in episodes] == [
        (0, "dog", "Images/dog/01.jpg", ["Images/dog/00.jpg"]),
        (1, "shoe_00", "Images/shoe_00/01.jpg", ["Images/shoe_00/00.jpg"]),
        (1, "shoe_00", "Images/shoe_00/100.jpg", ["Images/shoe_00/00.jpg"]),
    ]


def test_perseg_has_one_shot(perseg):
    assert PerSeg(perseg).classes(0, 1) == ["dog", "shoe_00"]
    for ask in (PerSeg(perseg).classes, lambda fold, shots: PerSeg(perseg).episodes(fold, shots, 0)):
        with pytest.raises(DatasetError, match="one reference per object, photo 00: 5 shots"):
            ask(0, 5)


def test_coloured_masks_count_where_grey_is_above_0(perseg):
    mask = PerSeg(perseg).photo(Item("Images/dog/01.jpg"), "dog").mask
    assert mask[0].tolist() == [True, False, True, False] * 2  # (1, 0, 0) is grey 0
    picture(perseg / "Annotations/dog/01.png", corner(height=7))
    with pytest.raises(DatasetError, match=r"\(7, 8\)"):
        PerSeg(perseg).photo(Item("Images/dog/01.jpg"), "dog")


def test_check_of_perseg(perseg):
    inventory = PerSeg(perseg).check()
    assert not inventory.missing
    assert (inventory.classes, inventory.episodes) == ({0: 2}, {0: 3})
    assert inventory.notes == ["2 objects, the published set has 40"]
    picture(perseg / "Images/lone/00.jpg")
    picture(perseg / "Annotations/lone/00.png", corner())
    assert PerSeg(perseg).check().notes[0] == "lone has a reference, but no photo to segment"

    (perseg / "Annotations/dog/01.png").unlink()
    (perseg / "Images/shoe_00/00.jpg").unlink()
    missing = PerSeg(perseg).check().missing
    assert str(perseg / "Annotations/dog/01.png") in missing[0]
    assert str(perseg / "Images/shoe_00/00.jpg") in missing[1]
    with pytest.raises(DatasetError, match=r"shoe_00/00\.jpg is missing"):
        PerSeg(perseg).episodes(0, 1, 0)


def test_perseg_without_images(tmp_path):
    assert str(tmp_path / "Images") in PerSeg(tmp_path).check().missing[0]
    with pytest.raises(DatasetError, match="holds no photos"):
        PerSeg(tmp_path).episodes(0, 1, 0)


def test_nobody_published_episodes_of_perseg(perseg):
    dataset = PerSeg(perseg)
    assert not dataset.published
    with pytest.raises(DatasetError, match="nobody published"):
        dataset.episodes(0, 1, 0, "paper")
    with pytest.raises(DatasetError, match="no fold 1"):
        dataset.episodes(1, 1, 0)

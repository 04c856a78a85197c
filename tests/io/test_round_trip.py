"""Every format of `prmagic export`, read back by the tools' own loaders, where they are installed."""

import pytest
import round_trip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ious(tmp_path_factory):
    out = tmp_path_factory.mktemp("round_trip")
    round_trip.write(None, out, 0)
    return {(folder, title): found for folder, title, found in round_trip.overlaps(out)}


def test_what_holds_pixels_comes_back_exactly(ious, capsys):
    capsys.readouterr()  # pycocotools prints
    exact = {key: found for key, found in ious.items() if key[0] in ("coco", "label-studio", "masks")}
    assert ("coco", "pycocotools") in exact and ("coco", "supervision") in exact
    for key, found in exact.items():
        assert set(found.values()) == {1.0}, key


def test_outlines_without_tolerance_come_back_exactly(ious):
    exact = {key: found for key, found in ious.items() if key[0].endswith("tolerance-0")}
    assert ("coco-polygons-tolerance-0", "pycocotools") in exact and ("yolo-seg-tolerance-0", "supervision") in exact
    for key, found in exact.items():
        assert set(found.values()) == {1.0}, key


def test_outlines_leave_99_percent(ious):
    for key in (("coco-polygons", "pycocotools"), ("yolo-seg", "supervision")):
        assert min(ious[key].values()) >= 0.99, key

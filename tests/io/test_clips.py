"""Videos as streams of frames."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prmagic.io.clips import Clip, ClipError, numbered_frames, write_clip

av = pytest.importorskip("av")


def grey(level, size=(48, 64)):
    return np.full((*size, 3), level, np.uint8)


def clip(path, levels=(20, 60, 100, 140, 180), step=0.1, size=(48, 64)):
    write_clip(path, ((index * step, grey(level, size)) for index, level in enumerate(levels)))
    return path


def levels(several):
    return [round(float(still.image.mean()) / 20) * 20 for still in several]


def turned(path, matrix):
    """The same file with another display matrix of its track."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 44
    content[at : at + 36] = b"".join((value & 0xFFFFFFFF).to_bytes(4, "big") for value in matrix)
    path.write_bytes(content)


def with_sound_only(path):
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_frames_come_in_order_with_their_times(tmp_path):
    found = list(Clip(clip(tmp_path / "a.mp4")).stills())
    assert levels(found) == [20, 60, 100, 140, 180]
    assert [still.name for still in found] == [f"a/{index:06d}" for index in range(5)]
    assert [still.seconds for still in found] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4], abs=1e-3)
    assert found[0].image.shape == (48, 64, 3) and found[0].image.dtype == np.uint8


@pytest.mark.parametrize(
    "options, kept",
    [
        ({"every": 2}, [0, 2, 4]),
        ({"start": 0.15}, [2, 3, 4]),
        ({"end": 0.2}, [0, 1]),
        ({"every": 2, "start": 0.1, "end": 0.4}, [2]),
    ],
)
def test_part_of_a_clip(tmp_path, options, kept):
    part = Clip(clip(tmp_path / "a.mp4"), **options)
    assert [int(still.name[-6:]) for still in part.stills()] == kept


def test_frames_of_uneven_times_keep_them(tmp_path):
    times = [0.0, 0.1, 0.5, 0.55]
    write_clip(tmp_path / "a.mp4", ((seconds, grey(100)) for seconds in times))
    assert [still.seconds for still in Clip(tmp_path / "a.mp4").stills()] == pytest.approx(times, abs=1e-3)


def test_only_what_is_asked_for_is_decoded(tmp_path):
    several = Clip(clip(tmp_path / "a.mp4")).stills()
    assert levels([next(several)]) == [20]
    several.close()


def test_a_rotated_clip_comes_upright(tmp_path):
    left = np.zeros((48, 64, 3), np.uint8)
    left[:, :32] = 200
    write_clip(tmp_path / "a.mp4", [(0.0, left)])
    turned(tmp_path / "a.mp4", [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30])  # 90 degrees clockwise
    (still,) = Clip(tmp_path / "a.mp4").stills()
    assert still.image.shape == (64, 48, 3)
    assert still.image[:28].mean() > 190 and still.image[36:].mean() < 10


def test_a_written_clip_plays_in_browsers(tmp_path):
    clip(tmp_path / "a.mp4", size=(47, 63))
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.width, context.height) == (64, 48)
    content = (tmp_path / "a.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


def test_a_folder_of_frames_is_read_by_number(tmp_path):
    for number, level in ((10, 60), (9, 20), (11, 100)):
        Image.fromarray(grey(level)).save(tmp_path / f"f{number}.png")
    (tmp_path / "notes.txt").write_text("no frame")
    assert [file.name for file in numbered_frames(tmp_path)] == ["f9.png", "f10.png", "f11.png"]
    found = list(Clip(tmp_path).stills())
    assert levels(found) == [20, 60, 100]
    assert found[1].name == f"{tmp_path.name}/f10.png"


@pytest.mark.parametrize("names, told", [((), "no frames"), (("a.png",), "no number"), (("a1.png", "b1.png"), "same")])
def test_folders_that_are_no_video(tmp_path, names, told):
    for name in names:
        Image.fromarray(grey(20)).save(tmp_path / name)
    with pytest.raises(ClipError, match=told):
        list(Clip(tmp_path).stills())


def test_about_how_many_frames_there_are(tmp_path):
    clip(tmp_path / "a.mp4")
    assert Clip(tmp_path / "a.mp4").count() == 5
    assert Clip(tmp_path / "a.mp4", every=2).count() == 3


@pytest.mark.parametrize("content", [b"", b"no video at all" * 100])
def test_what_is_no_video(tmp_path, content):
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(ClipError, match=r"a\.mp4 cannot be read as a video"):
        list(Clip(tmp_path / "a.mp4").stills())


def test_a_clip_that_was_cut_off(tmp_path):
    content = clip(tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(content[: content.index(b"mdat") + 40])
    with pytest.raises(ClipError, match=r"damaged|cut off"):
        list(Clip(tmp_path / "a.mp4").stills())


def test_sound_alone(tmp_path):
    with_sound_only(tmp_path / "a.mp4")
    with pytest.raises(ClipError, match="has sound, but no picture"):
        list(Clip(tmp_path / "a.mp4").stills())


def test_nothing_between_start_and_end(tmp_path):
    with pytest.raises(ClipError, match="no frame from 9 s"):
        list(Clip(clip(tmp_path / "a.mp4"), start=9).stills())
    with pytest.raises(ClipError, match="--start"):
        Clip(Path("a.mp4"), start=2, end=1)


def test_too_large_frames_are_refused(tmp_path):
    with pytest.raises(ValueError, match="the limit is 100"):
        list(Clip(clip(tmp_path / "a.mp4"), max_pixels=100).stills())

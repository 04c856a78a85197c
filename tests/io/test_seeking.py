"""Parts of clips: the frames are those of decoding from the beginning, whatever the codec, and less is decoded."""

from fractions import Fraction

import numpy as np
import pytest

from prmagic.io import clips, seeking
from prmagic.io.clips import Clip

av = pytest.importorskip("av")
EVEN = [number / 25 for number in range(60)]
UNEVEN = np.cumsum(np.random.default_rng(0).choice([0.02, 0.04, 0.11], 60)).tolist()
KINDS = {
    "no b-frames": ("mp4", "libx264", {"g": "12", "bf": "0", "sc_threshold": "0"}, EVEN),
    "b-frames": ("mp4", "libx264", {"g": "12", "bf": "3", "b_strategy": "0"}, EVEN),
    "pyramid, odd groups": ("mkv", "libx264", {"x264-params": "keyint=7:bframes=5:b-pyramid=normal:b-adapt=0"}, EVEN),
    "open groups": ("mp4", "libx264", {"x264-params": "keyint=10:open-gop=1:bframes=3:b-adapt=0"}, EVEN),
    "open groups in a stream": ("ts", "libx264", {"x264-params": "keyint=10:open-gop=1:bframes=3:b-adapt=0"}, EVEN),
    "refreshed bit by bit": ("ts", "libx264", {"x264-params": "keyint=12:intra-refresh=1:bframes=0"}, EVEN),
    "one key frame": ("mp4", "libx264", {"g": "1000", "sc_threshold": "0"}, EVEN),
    "uneven times": ("mp4", "libx264", {"g": "9", "bf": "2", "b_strategy": "0"}, UNEVEN),
    "uneven times in mkv": ("mkv", "libx264", {"g": "9", "bf": "2", "b_strategy": "0"}, UNEVEN),
    "hevc": ("mp4", "libx265", {"x265-params": "keyint=10:bframes=4:log-level=none"}, EVEN),
    "vp9": ("webm", "libvpx-vp9", {"g": "11", "deadline": "realtime", "cpu-used": "8"}, EVEN),
    "mpeg-2": ("mpg", "mpeg2video", {"g": "8", "bf": "2"}, EVEN),
    "mpeg-4 in avi": ("avi", "mpeg4", {"g": "8", "bf": "2"}, EVEN),
    "only key frames": ("mov", "mjpeg", {}, EVEN),
}  # fmt: skip


def write(path, codec, options, times):
    """A bar that moves over noise."""
    noise = np.random.default_rng(1).integers(0, 60, (48, 64, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=dict(options))
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        fine = path.suffix in (".mp4", ".mkv", ".ts")
        base = Fraction(1, 90_000) if fine else Fraction(1, 25)
        stream.codec_context.time_base = base
        for number, seconds in enumerate(times):
            image = noise.copy()
            image[:, number : number + 4] = 250
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(seconds / base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module", params=KINDS)
def written(request, tmp_path_factory):
    ending, *rest = KINDS[request.param]
    try:
        path = write(tmp_path_factory.mktemp("clips") / f"a.{ending}", *rest)
    except av.FFmpegError as error:  # this PyAV was built without the encoder
        pytest.skip(str(error))
    return path, list(Clip(path).stills())


@pytest.mark.parametrize(
    "part",
    [
        {"start": 0.9},
        {"start": 1.3, "end": 1.7},
        {"start": 0.37, "every": 3},
        {"every": 17},
        {"every": 25, "start": 0.5},
        {"start": 2.2},
    ],
    ids=str,
)
def test_a_part_is_that_of_the_whole(written, part):
    path, whole = written
    every, start, end = part.get("every", 1), part.get("start", 0), part.get("end", 1e9)
    expected = [still for index, still in enumerate(whole) if index % every == 0 and start <= still.seconds < end]
    found = list(Clip(path, **part).stills())
    assert [still.name for still in found] == [still.name for still in expected]
    assert [still.seconds for still in found] == [still.seconds for still in expected]
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one.image, other.image)


class Counting:
    """A container that counts jumps and decoded frames."""

    def __init__(self, container):
        self.container, self.jumps, self.frames = container, 0, 0

    def seek(self, *args, **options):
        self.jumps += 1
        self.container.seek(*args, **options)

    def decode(self, stream):
        for frame in self.container.decode(stream):
            self.frames += 1
            yield frame


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
@pytest.mark.parametrize("wanted, jumps, frames", [((55, 56), 1, 7), ((2, 31, 58), 2, 3 + 2 + 9), ((5, 9, 10), 0, 11)])
def test_no_more_is_decoded_than_from_the_key_frame_on(tmp_path, ending, wanted, jumps, frames):
    path = write(tmp_path / f"a.{ending}", "libx264", {"g": "10", "bf": "2", "sc_threshold": "0"}, EVEN)
    with av.open(str(path)) as container:
        table = seeking.Timetable.read(container, container.streams.video[0], None)
    with av.open(str(path)) as container:
        counting = Counting(container)
        found = list(seeking.decoded(counting, container.streams.video[0], table, wanted))
    assert [frame.pts for frame in found] == [table.times[index] for index in wanted]
    assert counting.jumps == jumps
    assert counting.frames == frames


def test_a_file_that_does_not_tell_is_decoded_from_its_beginning(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mp4", "libx264", {"g": "10"}, EVEN)
    whole = list(Clip(path).stills())

    def ends_elsewhere(container, stream, timetable, wanted):
        yield from list(seeking.decoded(container, stream, timetable, wanted[:2]))
        raise seeking.NotSeekable

    monkeypatch.setattr(clips, "decoded", ends_elsewhere)
    found = list(Clip(path, start=1.2, every=2).stills())
    assert [still.name for still in found] == [still.name for still in whole[30::2]]
    assert all(np.array_equal(one.image, other.image) for one, other in zip(found, whole[30::2], strict=True))


def test_the_timetable_tells_frames_and_key_frames(tmp_path):
    path = write(tmp_path / "a.mp4", "libx264", {"g": "10", "bf": "2", "sc_threshold": "0"}, EVEN)
    with av.open(str(path)) as container:
        table = seeking.Timetable.read(container, container.streams.video[0], None)
    assert len(table.times) == 60 and list(table.times) == sorted(table.times)
    assert [table.times.index(key) for key in table.keys] == [0, 10, 20, 30, 40, 50]
    assert table.key_before(table.times[29]) == 2 and table.key_before(table.times[30]) == 3

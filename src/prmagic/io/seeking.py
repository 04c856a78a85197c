"""Which frames a video holds, read from its packets without decoding any, so that a part of it can be jumped to.

A frame's place is its rank by the time at which it is shown. A jump goes to the last key frame before; what is decoded
from there on is compared with the packets' times. Where a file does not tell enough, it is decoded from its beginning.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any


class NotSeekable(Exception):
    """The packets do not tell which frames there are, or a jump ended elsewhere."""


@dataclass(frozen=True)
class Timetable:
    """When the frames of a stream are shown, in order, and those of them where decoding can begin, the key frames:
    times in ticks of the stream."""

    times: Sequence[int]
    keys: Sequence[int]

    @classmethod
    def read(cls, container: Any, stream: Any, seconds: float | None) -> Timetable:
        """Go through a stream's packets: all, or those of its first seconds.

        Raises:
            NotSeekable: One has no time, two have the same, or the first frame is no key frame.
        """
        times: list[int] = []
        keys: list[int] = []
        for packet in container.demux(stream):
            if packet.size == 0 or packet.is_discard:
                continue
            if packet.pts is None or packet.is_corrupt:
                raise NotSeekable
            late = times and seconds is not None and packet.dts is not None  # Matroska does not tell all of dts
            if late and (packet.dts - times[0]) * stream.time_base > seconds:
                break  # a frame is not shown before it is decoded
            times.append(packet.pts)
            if packet.is_keyframe:
                keys.append(packet.pts)
        times.sort()
        keys.sort()
        if not keys or keys[0] != times[0] or len(set(times)) < len(times):
            raise NotSeekable
        return cls(times, keys)

    def key_before(self, time: int) -> int:
        """The index of the last key frame that is shown at this time or earlier."""
        return bisect_right(self.keys, time) - 1


def decoded(container: Any, stream: Any, timetable: Timetable, wanted: Sequence[int]) -> Iterator[Any]:
    """The frames with these indices, in order, by as few jumps and as little decoding as there can be.

    Raises:
        NotSeekable: What was decoded is not what the timetable says.
    """
    times, frames, at = timetable.times, None, -1  # at: the index of the frame that came last
    for index in wanted:
        key = timetable.key_before(times[index])
        start = bisect_left(times, timetable.keys[key])
        if frames is None or start > at + 1:
            if frames is not None or key > 0:
                container.seek(timetable.keys[key], stream=stream, backward=True, any_frame=False)
            frames, at = container.decode(stream), start - 1
        for frame in frames:
            if frame.pts is None:
                raise NotSeekable
            if at == start - 1 and frame.pts < times[start]:
                continue  # from before the key frame, without what it needs
            at += 1
            if at > index or frame.pts != times[at]:
                raise NotSeekable
            if at == index:
                yield frame
                break
        else:
            raise NotSeekable

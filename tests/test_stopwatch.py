"""Where the time goes, with a clock that the test turns."""

from __future__ import annotations

import pytest

from prmagic.stopwatch import Stopwatch


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

        def turn(self, seconds):
            self.now += seconds

    turned = Clock()
    monkeypatch.setattr("prmagic.stopwatch.time.perf_counter", lambda: turned.now)
    return turned


def test_seconds_add_up_by_stage(clock):
    stopwatch = Stopwatch()
    for seconds in (1, 2):
        with stopwatch("a"):
            clock.turn(seconds)
        clock.turn(50)  # belongs to no stage
    with stopwatch("b"):
        clock.turn(4)
    assert dict(stopwatch.seconds) == {"a": 3, "b": 4}


def test_an_inner_stage_stops_the_clock_of_the_outer(clock):
    stopwatch = Stopwatch()
    with stopwatch("outer"):
        clock.turn(1)
        with stopwatch("inner"):
            clock.turn(10)
            with stopwatch("innermost"):
                clock.turn(100)
            clock.turn(20)
        clock.turn(2)
    clock.turn(1000)
    assert dict(stopwatch.seconds) == {"outer": 3, "inner": 30, "innermost": 100}


def test_a_stage_inside_itself_is_not_counted_twice(clock):
    stopwatch = Stopwatch()
    with stopwatch("a"):
        clock.turn(1)
        with stopwatch("a"):
            clock.turn(2)
        clock.turn(4)
    assert dict(stopwatch.seconds) == {"a": 7}


def test_an_error_ends_its_stages_and_no_others(clock):
    stopwatch = Stopwatch()
    with stopwatch("outer"):
        with pytest.raises(RuntimeError), stopwatch("a"), stopwatch("b"):
            clock.turn(1)
            raise RuntimeError
        clock.turn(5)
    assert dict(stopwatch.seconds) == {"outer": 5, "a": 0, "b": 1}
    with stopwatch("a"):
        clock.turn(3)
    assert stopwatch.seconds["a"] == 3

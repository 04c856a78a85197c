"""Making the next thing while the last one is being used."""

from __future__ import annotations

import threading

import pytest
import torch

from prmagic.ahead import ahead, behind


def test_the_same_items_in_order_from_another_thread():
    makers = []

    def items():
        for number in range(5):
            makers.append((threading.current_thread(), torch.get_num_threads()))
            yield number

    assert list(ahead(items())) == [0, 1, 2, 3, 4]
    assert {thread for thread, _ in makers} != {threading.current_thread()}
    assert {threads for _, threads in makers} == {torch.get_num_threads()}


def test_one_item_is_made_while_the_one_before_is_used():
    made = [threading.Event() for _ in range(4)]

    def items():
        for event in made:
            event.set()
            yield event

    coming = ahead(items())
    next(coming)
    assert made[1].wait(10)
    assert not made[2].is_set()
    coming.close()


def test_an_error_arrives_where_its_item_would():
    def items():
        yield 1
        raise ValueError("no second")

    coming = ahead(items())
    assert next(coming) == 1
    with pytest.raises(ValueError, match="no second"):
        next(coming)


def test_work_is_done_in_order_while_the_next_item_is_made():
    made, done = [], []

    def items():
        for number in range(4):
            made.append(number)
            yield number

    def work(number):
        done.append((number, threading.current_thread(), torch.get_num_threads()))
        return -number

    pairs = [(item, given.result(), len(made)) for item, given in behind(items(), work)]
    assert [pair[:2] for pair in pairs] == [(0, 0), (1, -1), (2, -2), (3, -3)]
    assert [count for *_, count in pairs] == [2, 3, 4, 4]  # the next one was there before the first was asked for
    assert [number for number, *_ in done] == [0, 1, 2, 3]
    assert {thread for _, thread, _ in done} != {threading.current_thread()}
    assert {threads for *_, threads in done} == {torch.get_num_threads()}


def test_what_has_begun_is_finished_where_the_next_item_fails():
    done = []

    def items():
        yield 0
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(behind(items(), done.append))
    assert done == [0]


def test_an_error_of_the_work_comes_with_its_item_and_ends_nothing_else():
    def work(number):
        if number == 1:
            raise OSError("full")
        return number

    found = list(behind(range(3), work))
    assert [given.exception() is None for _, given in found] == [True, False, True]

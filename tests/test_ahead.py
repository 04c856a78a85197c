"""Making the next thing while the last one is being used."""

from __future__ import annotations

import threading

import pytest
import torch

from prmagic.ahead import ahead


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

"""Photos of a few pixels, and very long ones, in every framework: a mask of the photo's size, and prompts inside it."""

from __future__ import annotations

import numpy as np
import pytest
from common import photo, region

import prmagic
from prmagic.frameworks.registry import framework_names, variant

SIZES = [(1, 1), (2, 1), (3, 3), (8, 8), (1, 4000), (900, 2)]


@pytest.fixture(scope="module", params=framework_names())
def segmenter(request, sam, encoder):
    given = {"encoder": encoder} if variant(request.param, "default").framework.uses_encoder else {}
    return prmagic.load(request.param, sam=sam, steps=1, **given)


@pytest.fixture(scope="module")
def reference(segmenter):
    return segmenter.encode_support(prmagic.Support(photo(60, 80), region(slice(10, 40), slice(20, 60), (60, 80))))


def check(result, size):
    assert result.mask.shape == size
    for candidate in result.candidates:
        for prompts in (candidate.prompts, *(part.prompts for part in candidate.parts)):
            assert (prompts.points >= 0).all() and (prompts.points < (size[1], size[0])).all()
            if prompts.box is not None:
                x0, y0, x1, y1 = prompts.box
                assert 0 <= x0 <= x1 < size[1] and 0 <= y0 <= y1 < size[0]


@pytest.mark.parametrize("size", SIZES)
def test_a_query_of_an_odd_size(segmenter, reference, size):
    check(segmenter.segment(photo(*size, seed=1), reference, instances=True), size)


@pytest.mark.filterwarnings("ignore:mask .* covers its whole image")
@pytest.mark.parametrize("size", [(1, 1), (3, 3), (1, 900)])
def test_a_support_of_an_odd_size(segmenter, size):
    mask = np.ones(size, bool)
    learnt = segmenter.encode_support(prmagic.Support(photo(*size, seed=2), mask))
    assert segmenter.segment(photo(60, 80), learnt).mask.shape == (60, 80)


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (3, 4000), (4000, 2)])
def test_an_odd_size_in_tiles(sam, size):
    segmenter = prmagic.load(sam=sam, steps=1, tiles=3)
    support = prmagic.Support(photo(60, 80), region(slice(10, 40), slice(20, 60), (60, 80)))
    check(segmenter.segment(photo(*size, seed=1), segmenter.encode_support(support)), size)

"""Agreement with the published code on the same weights. Chosen indices, points, boxes and masks must be the same;
numbers may differ by 1e-4 where a stage starts from the recorded input, and by more only where stages are chained."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from parity import full_comparisons, mini_comparisons
from parity_matcher import matcher_comparisons

FULL = Path(os.environ.get("PRMAGIC_GOLDEN", "golden-full"))


def test_mini_set(sam, mini):
    comparisons = list(mini_comparisons(sam, mini))
    assert len(comparisons) > 30
    for comparison in comparisons:
        assert comparison.difference <= comparison.tolerance, comparison.name


@pytest.mark.slow
@pytest.mark.skipif(not FULL.is_dir(), reason="PRMAGIC_GOLDEN names no folder with the larger set of recorded arrays")
@pytest.mark.parametrize(("compared", "least"), [(full_comparisons, 100), (matcher_comparisons, 90)])
def test_full_set(compared, least):
    comparisons = list(compared(FULL))
    assert len(comparisons) > least
    for comparison in comparisons:
        assert comparison.difference <= comparison.tolerance, comparison.name

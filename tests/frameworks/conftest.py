"""Two marked photos of one thing."""

from __future__ import annotations

import numpy as np
import pytest

from prmagic.reference import Example


@pytest.fixture
def example(mini: dict[str, np.ndarray]) -> Example:
    return Example(mini["support_rgb"], mini["support_mask"])


@pytest.fixture
def other(mini: dict[str, np.ndarray]) -> Example:
    return Example(mini["query_rgb"], mini["query_mask"])

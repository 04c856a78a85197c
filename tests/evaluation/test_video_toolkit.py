"""J, F and their statistics agree with DAVIS's own toolkit on given masks.

The numbers were computed once with davis2017-evaluation (davis2017/metrics.py and utils.py, with OpenCV and
scikit-image) on the masks that are drawn here. The toolkit of DAVIS 2016 gives the same."""

import numpy as np
import pytest

from prmagic.evaluation.video import boundary_f, over_frames, region_j

MASKS = [  # size, what became of the mask, J, F
    ((480, 854), "the same", 1.0, 1.0),
    ((480, 854), "1 down", 0.9859826927574648, 1.0),
    ((480, 854), "3 down, 5 left", 0.9444618308665816, 0.9988709070380127),
    ((480, 854), "12 right", 0.9221169227054599, 0.7516073753262625),
    ((480, 854), "half", 0.40872726130751896, 0.682598607888631),
    ((480, 854), "to the frame's edges", 0.9898197869149291, 0.8042456406368461),
    ((480, 854), "inverse", 0.0, 1.0),
    ((480, 854), "empty", 0.0, 0.0),
    ((480, 854), "full", 0.3107216042154567, 0.0),
    ((180, 320), "the same", 1.0, 1.0),
    ((180, 320), "1 down", 0.9629915188897455, 1.0),
    ((180, 320), "3 down, 5 left", 0.8588787483702738, 0.5880846078118717),
    ((180, 320), "12 right", 0.8053993820594642, 0.4023232099312792),
    ((180, 320), "half", 0.4086522275838851, 0.6856435643564356),
    ((180, 320), "to the frame's edges", 0.9731884453666794, 0.8043831168831168),
    ((180, 320), "inverse", 0.0, 1.0),
    ((180, 320), "empty", 0.0, 0.0),
    ((180, 320), "full", 0.30940972222222224, 0.0),
    ((97, 131), "the same", 1.0, 1.0),
    ((97, 131), "1 down", 0.9328303723533706, 1.0),
    ((97, 131), "3 down, 5 left", 0.7276484663911247, 0.35601830471472357),
    ((97, 131), "12 right", 0.5849131909798443, 0.24106072506303994),
    ((97, 131), "half", 0.4205489801057668, 0.6891891891891891),
    ((97, 131), "to the frame's edges", 0.9470546148342476, 0.8064806480648065),
    ((97, 131), "inverse", 0.0, 1.0),
    ((97, 131), "empty", 0.0, 0.0),
    ((97, 131), "full", 0.31250491854883133, 0.0),
]
STATISTICS = [  # frames, mean, recall, decay
    (1, 0.0, 0.0, 0.0),
    (2, 0.183, 0.0, -0.366),
    (3, 0.36633333333333334, 0.3333333333333333, -0.55),
    (4, 0.2995, 0.25, -0.23299999999999998),
    (7, 0.38471428571428573, 0.2857142857142857, -0.14866666666666667),
    (10, 0.4485, 0.4, -0.23100000000000004),
    (23, 0.46443478260869553, 0.43478260869565216, -0.09211904761904766),
    (78, 0.4885641025641026, 0.47435897435897434, 0.0022999999999999132),
]


def drawn(size):
    """An ellipse with a hole and a bar."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    y, x = rows / size[0], columns / size[1]
    mask = ((x - 0.45) / 0.3) ** 2 + ((y - 0.5) / 0.35) ** 2 < 1
    mask &= ((x - 0.5) / 0.1) ** 2 + ((y - 0.4) / 0.1) ** 2 > 1
    return mask | ((x > 0.7) & (y > 0.55) & (y < 0.6))


def changed(mask, how):
    part, edge = mask.copy(), mask.copy()
    part[:, : mask.shape[1] // 2] = False
    edge[-1] = edge[:, -1] = True
    return {
        "the same": mask, "1 down": np.roll(mask, 1, 0), "3 down, 5 left": np.roll(mask, (3, -5), (0, 1)),
        "12 right": np.roll(mask, 12, 1), "half": part, "to the frame's edges": edge, "inverse": ~mask,
        "empty": np.zeros_like(mask), "full": np.ones_like(mask),
    }[how]  # fmt: skip


@pytest.mark.parametrize("size, how, j, f", MASKS)
def test_j_and_f(size, how, j, f):
    truth = drawn(size)
    found = changed(truth, how)
    assert region_j(found, truth) == pytest.approx(j, abs=1e-12)
    assert boundary_f(found, truth) == pytest.approx(f, abs=1e-12)


@pytest.mark.parametrize("frames, mean, recall, decay", STATISTICS)
def test_mean_recall_and_decay(frames, mean, recall, decay):
    values = [float(value) for value in np.round((np.arange(frames) * 37 % 101) / 101, 3)]
    found = over_frames(values)
    assert (found.mean, found.recall, found.decay) == pytest.approx((mean, recall, decay), abs=1e-12)

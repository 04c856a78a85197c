"""Results made by hand, for tests of what is written from them."""

import numpy as np
import torch

from prmagic.result import Segmentation
from prmagic.types import Candidate, Instance, Prompts

SHA = 64 * "a"
RUN = {"settings": {"flow": {"steps": 1, "eta": 0.001}, "seed": 7}, "references": {"cat": "abc"}}


def candidate(mask, step=0, box=(1.0, 0.0, 2.0, 1.0), predicted_iou=0.5):
    prompts = Prompts(np.array([[2.0, 1.0], [0.5, 0.25]], np.float32), np.array([1, 0]), box)
    return Candidate(mask, prompts, predicted_iou, torch.zeros(4, 4), 0, mask, step=step)


def segmentation(query="a.jpg", label="cat", masks=None, scores=(0.25, 0.5), chosen=1, **details):
    if masks is None:
        masks = np.zeros((2, 2, 3), bool)
        masks[0, 1, 2] = masks[1, :, 1:] = True
    candidates = tuple(candidate(mask, step, **details) for step, mask in enumerate(masks))
    return Segmentation(query, label, 7, np.zeros((2, 3, 3), np.uint8), candidates, scores, chosen)


def instance(mask, score=0.5, predicted_iou=0.5, step=1):
    rows, columns = np.nonzero(mask)
    box = (float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))
    return Instance(mask, box, score, predicted_iou, step)

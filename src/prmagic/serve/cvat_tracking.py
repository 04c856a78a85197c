"""A tracking function for CVAT: a mask or polygon of one frame, found in other frames. Needs the extra `cvat`.

cvat-cli function create-native prmagic --function-module prmagic.serve.cvat_tracking
"""

from __future__ import annotations

from typing import Any

import cvat_sdk.auto_annotation as cvataa
from cvat_sdk.masks import decode_mask, encode_mask
from PIL import Image

from prmagic.frameworks.base import Query
from prmagic.io.images import load_image
from prmagic.io.shapes import decode
from prmagic.reference import Example, Reference
from prmagic.segmenter import DEFAULT_LABEL, Encoded, Segmenter
from prmagic.serve.cvat import largest_polygon, segmenter_with
from prmagic.types import BoolArray


def create(**models: Any) -> Tracker:
    """What cvat-cli calls, with its `-p NAME=TYPE:VALUE`.

    Args:
        **models: framework, sam, encoder, preset, device and min_score as for `prmagic.load`; and what `--set` takes.

    Returns:
        A tracking function of cvat-sdk.

    Raises:
        ValueError: For a name or value that is not known.
    """
    return Tracker(segmenter_with(models))


class Tracker:
    """A tracking function of cvat-sdk. Every frame is compared with the first one, so that errors do not add up.

    Args:
        segmenter: Finds the shape again.
    """

    spec = cvataa.TrackingFunctionSpec(supported_shape_types=["mask", "polygon"])

    def __init__(self, segmenter: Segmenter):
        self.segmenter = segmenter

    def preprocess_image(self, context: cvataa.TrackingFunctionContext, image: Image.Image) -> Query:
        """Encode a frame, once for all shapes on it."""
        (encoded,) = self.segmenter.encode([load_image(image, self.segmenter.max_pixels)])
        return encoded.query

    def init_tracking_state(
        self, context: cvataa.TrackingFunctionShapeContext, pp_image: Query, shape: cvataa.TrackableShape
    ) -> Reference:
        """The shape on its frame becomes a reference.

        Raises:
            ValueError: The shape covers no pixel of the frame.
        """
        mask = _drawn(shape, pp_image.image.shape[:2])
        if not mask.any():
            raise ValueError(f"the {shape.type} covers no pixel of its frame: draw it anew")
        return self.segmenter.encode_examples([Example(pp_image.image, mask)])

    def track(
        self, context: cvataa.TrackingFunctionShapeContext, pp_image: Query, state: Reference
    ) -> cvataa.TrackableShape | None:
        """Find the shape in another frame; None if it is not there. Of several outlines it is the largest."""
        result = self.segmenter.segment_encoded("", DEFAULT_LABEL, Encoded(pp_image, {}, {}), state)
        if not result.found:
            return None
        kind = context.original_shape_type
        points = encode_mask(result.mask) if kind == "mask" else largest_polygon(result.mask)
        return cvataa.TrackableShape(type=kind, points=points) if points else None


def _drawn(shape: cvataa.TrackableShape, size: tuple[int, int]) -> BoolArray:
    if shape.type == "polygon":
        return decode([shape.points], size)
    mask: BoolArray = decode_mask(shape.points, image_height=size[0], image_width=size[1])
    return mask

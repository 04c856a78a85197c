"""A detector for CVAT's serverless functions: what the references beside this file show, found in one frame."""

import base64
import binascii
import json
import os
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from prmagic.frameworks.maps import edges
from prmagic.io.images import ImageError
from prmagic.serve.cvat import create, largest_polygon
from prmagic.types import BoolArray

REFERENCES = Path(__file__).parent


def init_context(context: Any) -> None:
    """Load the models, once for each worker."""
    context.user_data.detector = create(str(REFERENCES), **json.loads(os.environ.get("PRMAGIC", "{}")))
    context.logger.info(f"prmagic looks for {', '.join(context.user_data.detector.labels)}")


def handler(context: Any, event: Any) -> Any:
    """Answer with a mask, its outline, a label and a score for each thing."""
    try:
        photo = Image.open(BytesIO(base64.b64decode(event.body["image"], validate=True)))
        least = float(event.body.get("threshold", -1))
        things = context.user_data.detector.find(photo)
        found = [_found(*thing) for thing in things if thing[2] >= least]
    except (ImageError, OSError, KeyError, TypeError, ValueError, binascii.Error) as error:
        return _response(context, {"error": f"this frame cannot be used: {error}"}, 400)
    return _response(context, found, 200)


def _found(label: str, mask: BoolArray, score: float) -> dict[str, Any]:
    found = {"confidence": f"{score:.4f}", "label": label, "type": "mask", "mask": _pixels(mask)}
    outline = largest_polygon(mask)
    return {**found, "points": outline} if outline else found  # CVAT takes it where polygons are wanted


def _pixels(mask: BoolArray) -> list[int]:
    """The 0s and 1s within the mask's box, row by row, and the box's first and last pixels."""
    x0, y0, x1, y1 = (int(edge) for edge in edges(mask))
    return [*mask[y0:y1, x0:x1].ravel().astype(int).tolist(), x0, y0, x1 - 1, y1 - 1]


def _response(context: Any, body: Any, status: int) -> Any:
    return context.Response(body=json.dumps(body), headers={}, content_type="application/json", status_code=status)

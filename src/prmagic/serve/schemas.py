"""What requests and answers hold. Everything is bounded before it is looked at."""

from __future__ import annotations

import base64
import binascii
import math
from enum import Enum
from types import NoneType
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

MOST_PHOTOS = 64
MOST_SUPPORTS = 50
MOST_REFERENCES = 16
MOST_POLYGONS = 1000
MOST_CORNERS = 20_000  # numbers of one polygon

EXAMPLE_PHOTO: dict[str, Any] = {"data": "iVBORw0KGgoAAAANSUhEUgAA…"}
EXAMPLE_SUPPORT: dict[str, Any] = {"photo": EXAMPLE_PHOTO, "polygons": [[12.5, 30, 80, 30, 80, 95.5, 12.5, 95.5]]}


def _decoded(value: Any) -> bytes:
    """The bytes of base64, also of a data URL."""
    if not isinstance(value, str):
        raise ValueError("must be base64")
    if value.startswith("data:"):
        value = value.partition(",")[2]
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("must be base64") from None


def _plain(value: Any) -> Any:
    """A setting's value, whose type its setting knows."""
    parts = value if isinstance(value, list) else [value]
    for part in parts:
        if isinstance(part, float) and not math.isfinite(part):
            raise ValueError("must be finite")
        if not isinstance(part, (bool, int, float, str, NoneType)) or len(parts) > 64 or len(str(part)) > 200:
            raise ValueError("must be a number, a name, true, false, null, or a list of numbers")
    return value


def _printable(label: str) -> str:
    if not label.isprintable():
        raise ValueError("must not hold line breaks or other control characters")
    return label


Base64 = Annotated[bytes, BeforeValidator(_decoded, json_schema_input_type=str)]
Number = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
Label = Annotated[str, Field(max_length=200), AfterValidator(_printable)]
ReferenceId = Annotated[str, Field(max_length=64)]
Value = Annotated[Any, BeforeValidator(_plain, json_schema_input_type=bool | int | float | str | list[float] | None)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PhotoInput(_Request):
    """A photo or a mask: the file's bytes, or a file below the server's --root."""

    data: Base64 | None = Field(None, description="The file, as base64.")
    path: str | None = Field(None, max_length=4096, description="A file below --root, with / between folders.")

    @model_validator(mode="after")
    def _one(self) -> PhotoInput:
        if (self.data is None) == (self.path is None):
            raise ValueError("give either data or path")
        return self


class Rle(_Request):
    """COCO's run-length code."""

    size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = Field(description="Height and width.")
    counts: str | list[int] = Field(description="Compressed, or a list of the runs' lengths.")


class SupportInput(_Request):
    """A photo and where the thing is in it: a mask, polygons, a run-length code or a box."""

    photo: PhotoInput
    mask: PhotoInput | None = Field(None, description="A picture of the photo's size; nonzero is the object.")
    mask_value: int | None = Field(None, description="The mask is a label map, and this value is the object.")
    polygons: list[Annotated[list[Number], Field(max_length=MOST_CORNERS)]] | None = Field(
        None, max_length=MOST_POLYGONS, description="Outlines x, y, x, y, …, in pixels of the upright photo."
    )
    rle: Rle | None = None
    box: tuple[Number, Number, Number, Number] | None = Field(
        None, description="x0, y0, x1, y1 in pixels. SAM makes a mask of it."
    )

    @model_validator(mode="after")
    def _one(self) -> SupportInput:
        if sum(given is not None for given in (self.mask, self.polygons, self.rle, self.box)) != 1:
            raise ValueError("give one of mask, polygons, rle and box")
        if self.mask_value is not None and self.mask is None:
            raise ValueError("mask_value is for a mask")
        return self


class ReferenceRequest(_Request):
    """Examples of one thing."""

    model_config = ConfigDict(json_schema_extra={"example": {"label": "cat", "supports": [EXAMPLE_SUPPORT]}})

    label: Label = Field("", description="What they show.")
    supports: list[SupportInput] = Field(min_length=1, max_length=MOST_SUPPORTS)


class Output(str, Enum):
    """How masks come out."""

    rle = "rle"
    polygons = "polygons"
    png = "png"


class SegmentRequest(_Request):
    """Photos, and what to find in them."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"photos": [EXAMPLE_PHOTO], "references": ["9f86d081884c7d65"], "output": "polygons"}
        }
    )

    photos: list[PhotoInput] = Field(min_length=1, max_length=MOST_PHOTOS)
    references: list[ReferenceId] = Field(
        default=[], max_length=MOST_REFERENCES, description="Ids from /v1/references."
    )
    supports: list[SupportInput] = Field(
        [], max_length=MOST_SUPPORTS, description="Examples of one thing, instead of references. They are not kept."
    )
    label: Label = Field("", description="What the supports show.")
    output: Output = Field(Output.rle, description="How masks come: COCO's run-length code, outlines, or a PNG.")
    instances: bool = Field(False, description="Also one mask per thing.")
    candidates: bool = Field(False, description="Also every candidate that the result was chosen from.")
    overlaps: bool = Field(False, description="A pixel may belong to several references.")
    settings: dict[Annotated[str, Field(max_length=64)], Value] = Field(
        {}, max_length=64, description="By the names of --set; also selector, min_score and seed."
    )

    @model_validator(mode="after")
    def _one(self) -> SegmentRequest:
        if bool(self.references) == bool(self.supports):
            raise ValueError("give either references or supports")
        if len(set(self.references)) < len(self.references):
            raise ValueError("a reference is named twice")
        if self.label and not self.supports:
            raise ValueError("label is for supports: references have theirs")
        return self


Mask = Rle | list[list[float]] | str


class ReferenceAnswer(BaseModel):
    """A reference that is kept."""

    id: str
    label: str
    supports: int
    fits: bool = Field(description="Whether the model of this server made it.")
    notes: list[str] = Field(default=[], description="What was decided or left out on reading the files.")


class ReferenceList(BaseModel):
    """All references."""

    references: list[ReferenceAnswer]


class CandidateAnswer(BaseModel):
    """One of the answers that the result was chosen from."""

    step: int = Field(description="At which step SAM gave it; further masks of a step come last.")
    channel: int = Field(description="Which of SAM's masks it is.")
    score: float | None
    predicted_iou: float | None
    area: int
    mask: Mask


class InstanceAnswer(BaseModel):
    """One thing."""

    box: tuple[int, int, int, int] | None = Field(description="As that of the whole mask.")
    score: float | None
    predicted_iou: float | None
    area: int
    mask: Mask


class MaskAnswer(BaseModel):
    """What a reference shows, in one photo."""

    reference: str | None = Field(description="Its id; null for supports of the request.")
    label: str
    found: bool
    score: float | None = Field(description="How alike the mask's content is to the examples, -1 to 1.")
    predicted_iou: float | None
    area: int = Field(description="Pixels.")
    box: tuple[int, int, int, int] | None = Field(description="x0, y0, x1, y1 in pixels, without x1 and y1.")
    mask: Mask
    chosen: int = Field(description="Which of the candidates it is; the first ones are those of the steps.")
    candidates: list[CandidateAnswer] | None = None
    instances: list[InstanceAnswer] | None = None


class PhotoAnswer(BaseModel):
    """What was found in one photo."""

    width: int
    height: int
    masks: list[MaskAnswer]
    notes: list[str] = Field(default=[], description="What was decided on reading the photo.")


class SegmentAnswer(BaseModel):
    """One entry per photo, in the request's order."""

    photos: list[PhotoAnswer]


class SettingAnswer(BaseModel):
    """What a request may set."""

    name: str
    default: Any
    help: str
    choices: list[str]


class ModelAnswer(BaseModel):
    """The model in memory."""

    framework: str
    preset: str
    sam: str
    encoder: str | None
    device: str
    dtype: str
    runtime: str
    max_pixels: int
    settings: list[SettingAnswer]


class ModelList(BaseModel):
    """The model in memory, and the references in the words of X-AnyLabeling."""

    models: list[ModelAnswer]
    data: dict[str, dict[str, Any]]


class Problem(BaseModel):
    """What went wrong."""

    detail: str

"""What `prmagic segment` learns from: --support, --support-coco, --support-dir and --reference, by --label."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from prmagic.cli.options import Command
from prmagic.names import check_label

if TYPE_CHECKING:
    from prmagic import Support

Given = tuple[str, tuple[str, ...]]  # an option's name without its dashes, and its values

ORDER = "prmagic.order"
COLLECTIONS = ("support-coco", "support-dir")
COLLECTION_OPTIONS = ("category", "support-images", "limit")
DEFAULT_LABEL = "object"
_TWO_FILES = "--support takes two files: --support PHOTO MASK"


class SegmentCommand(Command):
    """Remembers in which order --support, …, and --label came: a label names the supports before it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[ORDER] = list(_ordered(args))
        return super().parse_args(ctx, _flattened(args))


def _ordered(args: Sequence[str]) -> Iterator[Given]:
    lengths = {"--support": 2, **{f"--{name}": 1 for name in ("reference", "label", *COLLECTIONS, *COLLECTION_OPTIONS)}}
    position = 0
    while position < len(args) and args[position] != "--":
        name, equals, value = args[position].partition("=")
        position += 1
        if name in lengths:
            values = (value,) if equals else tuple(args[position : position + lengths[name]])
            position += 0 if equals else lengths[name]
            yield name.removeprefix("--"), values


def _flattened(args: Sequence[str]) -> list[str]:
    """`--support A B` → `--support A --support B`: Typer knows no option of several values that may be repeated."""
    flat = list(args)
    end = flat.index("--") if "--" in flat else len(flat)
    if any(arg.startswith("--support=") for arg in flat[:end]):
        raise typer.BadParameter(_TWO_FILES)
    for position in reversed([i for i, arg in enumerate(flat[:end]) if arg == "--support"]):
        if len(flat[position:end]) < 3 or any(value.startswith("--") for value in flat[position + 1 : position + 3]):
            raise typer.BadParameter(_TWO_FILES)
        flat.insert(position + 2, "--support")
        end += 1
    return flat


@dataclass
class Collection:
    """Many supports at once: kind support-coco or support-dir, and what was said about it."""

    kind: str
    path: str
    options: dict[str, str] = field(default_factory=dict)

    def supports(self, mask_value: int | None, max_pixels: int) -> list[Support]:
        from prmagic.io.supports import supports_from_coco, supports_from_folder

        limit = self._limit()
        if self.kind == "support-dir":
            return supports_from_folder(Path(self.path), limit, mask_value)
        images = Path(self.options["support-images"]) if "support-images" in self.options else None
        return supports_from_coco(Path(self.path), self.options.get("category", ""), limit, images, max_pixels)

    def _limit(self) -> int | None:
        if "limit" not in self.options:
            return None
        limit = int(self.options["limit"])
        if limit < 1:
            raise ValueError(f"--limit must be at least 1; got {limit}")
        return limit


@dataclass
class Source:
    """What one label is learnt from: supports (photo, mask) and collections of them, or a saved reference."""

    supports: list[tuple[str, str]] = field(default_factory=list)
    collections: list[Collection] = field(default_factory=list)
    reference: str | None = None

    @property
    def has_supports(self) -> bool:
        return bool(self.supports or self.collections)

    @property
    def has_mask_files(self) -> bool:
        """Whether a --mask-value has a meaning."""
        return bool(self.supports) or any(many.kind == "support-dir" for many in self.collections)

    def all_supports(self, mask_value: int | None, max_pixels: int) -> list[Support]:
        """Read from the collections, those given one by one first."""
        from prmagic import Support

        supports = [Support(image, mask, mask_value) for image, mask in self.supports]
        return supports + [each for many in self.collections for each in many.supports(mask_value, max_pixels)]


def sources_by_label(given: Iterable[Given], label_of: Callable[[str], str]) -> dict[str, Source]:
    """Group supports and references by the --label that follows them (or precedes them, if the first is a label).

    Without one, what comes from a COCO file is called by its category, and a reference by the label saved in it.

    Args:
        given: The options in their order.
        label_of: Reads the label that a reference file remembers; "" if it has none.

    Raises:
        ValueError: Something has no label, a label has nothing to name, or it cannot be used.
    """
    items = list(given)
    if items and items[0][0] == "label":
        items = _labels_last(items)
    sources: dict[str, Source] = {}
    pending = Source()
    for kind, values in items:
        if kind == "support":
            pending.supports.append((values[0], values[1]))
        elif kind in COLLECTIONS:
            pending.collections.append(Collection(kind, values[0]))
        elif kind in COLLECTION_OPTIONS:
            _describe(pending.collections, kind, values[0])
        elif kind == "reference":
            if pending.reference is not None:
                sources = _with_reference(sources, pending.reference, label_of)
            pending.reference = values[0]
        else:
            sources = _with_label(sources, values[0], pending)
            pending = Source()
    if pending.reference is not None:
        alone = DEFAULT_LABEL if not sources and not pending.has_supports else ""
        sources = _with_reference(sources, pending.reference, label_of, alone)
    if pending.has_supports:
        sources = _with_rest(sources, replace(pending, reference=None))
    if not sources:
        raise ValueError("say what to look for: --support PHOTO MASK, --support-coco, --support-dir, or --reference")
    return sources


def _with_reference(
    sources: dict[str, Source], file: str, label_of: Callable[[str], str], otherwise: str = ""
) -> dict[str, Source]:
    """Called by the label saved in it; else by its file."""
    return _with_label(sources, label_of(file) or otherwise or Path(file).stem, Source(reference=file))


def _with_rest(sources: dict[str, Source], rest: Source) -> dict[str, Source]:
    """Supports without a --label behind them."""
    categories = list(
        dict.fromkeys(many.options["category"] for many in rest.collections if "category" in many.options)
    )
    if not rest.supports and all("category" in many.options for many in rest.collections):
        for category in categories:
            same = [many for many in rest.collections if many.options["category"] == category]
            sources = _with_label(sources, category, Source(collections=same))
        return sources
    if len(categories) > 1:
        raise ValueError(f"put a --label behind each label's supports: {', '.join(categories)} are several")
    if any(source.has_supports for source in sources.values()):
        raise ValueError("the supports after the last --label have none: put a --label behind each label's supports")
    return _with_label(sources, next(iter(categories), DEFAULT_LABEL), rest)


def _describe(collections: list[Collection], option: str, value: str) -> None:
    """Tell the last collection; ValueError if the option is not for it."""
    suited = COLLECTIONS if option == "limit" else COLLECTIONS[:1]
    if not collections or collections[-1].kind not in suited:
        raise ValueError(f"put --{option} behind the {' or '.join(f'--{kind}' for kind in suited)} that it is for")
    if option in collections[-1].options:
        raise ValueError(
            f"--{option} is given twice; for another {option}, give --{collections[-1].kind} again before it"
        )
    collections[-1].options[option] = value


def _labels_last(items: list[Given]) -> list[Given]:
    """`label a a label b b` → `a a label b b label`."""
    moved: list[Given] = []
    label = items[0]
    for item in items[1:]:
        if item[0] == "label":
            moved.append(label)
            label = item
        else:
            moved.append(item)
    return [*moved, label]


def _with_label(sources: dict[str, Source], label: str, source: Source) -> dict[str, Source]:
    if not source.has_supports and source.reference is None:
        raise ValueError(f"--label {label} has nothing to name: put its --support or --reference before it")
    if source.has_supports and source.reference is not None:
        raise ValueError(f"label {label!r} has both supports and a saved reference; a reference cannot be extended")
    if label.casefold() in map(str.casefold, sources):  # "Cat" and "cat" are one folder on many systems
        raise ValueError(f"label {label!r} is given twice: put all its supports before one --label, or choose another")
    try:
        check_label(label)
    except ValueError as error:
        raise ValueError(f"{error} with --label") from None
    return {**sources, label: source}

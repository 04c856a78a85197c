"""Pictures of any kind, opened and checked: the size before any pixel is decoded, with messages for people."""

# The tests in os.path, unlike Path's, answer False for names that no file can have.
# ruff: noqa: PTH110, PTH112, PTH114

from __future__ import annotations

import difflib
import io
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from prmagic.caught import caught_warnings

if TYPE_CHECKING:
    from torch import Tensor

Array: TypeAlias = NDArray[Any]

MAX_PIXELS = 64_000_000

# What undoes each EXIF orientation. PIL's exif_transpose also rewrites the EXIF block, which fails on odd tags.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# PostScript would run as a program, and PIL decodes an icon on opening, before anyone can check its size.
_REFUSED_FORMATS = {"EPS", "ICO"}
_LOSSY = {"JPEG", "MPO", "AVIF", "HEIF"}  # WebP may be exact, too
_pil_limit_lock = threading.Lock()


_STARTS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"8BPS": "Photoshop",
}
HEIF = "pip install 'prmagic[heif]'"
ADVICE = {"HEIC": HEIF, "AVIF": "pip install 'pillow>=11.3'", "JPEG XL": "save it as PNG or JPEG"}


class ImageError(ValueError):
    """An image or mask that cannot be used; the message tells which one, why, and what to do."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """A picture in memory, upright.

    Attributes:
        picture: As PIL decodes it.
        lossy: Whether its format changes values.
        white: The value of white, where the file tells one that is not its type's highest.
        deep: Whether the file has 16 bits where `picture` has 8, the high ones.
        low: The low ones then, of colours or of grey, without transparency.
    """

    picture: Image.Image
    lossy: bool = False
    white: int | None = None
    deep: bool = False
    low: Image.Image | None = None

    @property
    def whole(self) -> Array | None:
        """(H, W, 1 or 3) with all 16 bits; None if `low` is."""
        if self.low is None:
            return None
        bands = len(self.low.getbands())
        high = np.asarray(self.picture, np.uint16)[..., :bands]
        found: Array = high * np.uint16(256) + np.asarray(self.low, np.uint16).reshape(high.shape)
        return found


def describe(image: object) -> str:
    """Name an image briefly for messages: its file name, or what kind of object it is."""
    if isinstance(image, (str, os.PathLike)):
        return Path(image).name or str(image)
    if isinstance(image, bytes):
        return f"{len(image)} bytes"
    if isinstance(image, Image.Image):
        return f"a PIL image of {by(*image.size)}"
    if is_array(image):
        return f"{'an array' if isinstance(image, np.ndarray) else 'a tensor'} of shape {tuple(image.shape)}"
    return f"an object of type {type(image).__name__}"


def is_array(image: object) -> TypeGuard[Array | Tensor]:
    """Whether it is an array or a tensor, without importing torch: who has a tensor has imported it."""
    torch = sys.modules.get("torch")
    return isinstance(image, np.ndarray) or (torch is not None and isinstance(image, torch.Tensor))


def decode(image: object, max_pixels: int, exact: bool = False) -> Decoded:
    """Open a picture and decode its first frame, upright; its size is checked before any pixel is decoded.

    Args:
        image: A path, bytes or a PIL image.
        max_pixels: More are refused.
        exact: Read all 16 bits of a file that has them; otherwise only where the high ones are dark.

    Raises:
        ImageError: It cannot be read, or has more than `max_pixels`.
    """
    name = describe(image)
    if isinstance(image, (str, os.PathLike)):
        name = str(image)  # the full path, as a folder of folders may hold the same file name twice
        _check_file(Path(image))
    elif not isinstance(image, (bytes, Image.Image)):
        raise ImageError(f"cannot read {name}: pass a path, bytes, a PIL image, a NumPy array or a torch tensor")
    elif image == b"":
        raise ImageError("the image data is empty (0 bytes)")
    try:
        with _named_warnings(name):
            if isinstance(image, Image.Image):
                return _loaded(image, name, max_pixels)
            with _opened(image) as opened:
                raw = _raw_modes(opened)
                decoded = _loaded(opened, name, max_pixels)
                lossy = decoded.lossy or (opened.format == "WEBP" and _webp_is_lossy(image))
                deep = any(";16" in each for each in raw) and not is_deep(opened)
                low = _low_bytes(image, decoded.picture, max_pixels, exact) if deep else None
                return replace(decoded, lossy=lossy, deep=deep, low=low)
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{name} {_unknown(image)}") from None
    except OSError as error:
        why = error.strerror and error.errno is not None  # the system's, such as a missing right
        told = f": {error.strerror}" if why else f", it may be damaged or cut short: {error}"
        raise ImageError(f"{name} cannot be read{told}") from error
    except Exception as error:  # on broken data PIL's decoders raise nearly anything, from OSError to SyntaxError
        raise ImageError(f"{name} cannot be read, it may be damaged or cut short: {error}") from error


def _opened(image: str | os.PathLike[str] | bytes) -> Image.Image:
    with _pil_limit(None):  # our own check follows, with a message that tells the size
        Image.init()  # fills Image.ID
        _add_heif()
        formats = [known for known in Image.ID if known not in _REFUSED_FORMATS]
        return Image.open(io.BytesIO(image) if isinstance(image, bytes) else image, formats=formats)


def _loaded(picture: Image.Image, name: str, max_pixels: int) -> Decoded:
    check_size(*picture.size, name, max_pixels)
    white = _told_white(picture)
    with _pil_limit(max_pixels):  # for what only now comes up: TIFF tiles, the image within an icon
        picture.load()
    return Decoded(_upright(picture, picture), picture.format in _LOSSY, white)


def _upright(picture: Image.Image, of: Image.Image) -> Image.Image:
    turn = _TURNS.get(of.getexif().get(ExifTags.Base.Orientation, 1))
    return picture if turn is None else picture.transpose(turn)


def _told_white(picture: Image.Image) -> int | None:
    """The value of white that a TIFF's tags tell, where it is not its type's highest."""
    tags = getattr(picture, "tag_v2", None)
    if tags is None:
        return None
    bits, kind, highest = (_largest(tags.get(tag)) for tag in (258, 339, 281))  # BitsPerSample, SampleFormat, Max…
    if bits is None or not 8 < bits <= 16:
        return None
    if kind == 2:  # signed
        return int(2 ** (bits - 1)) - 1
    if bits < 16:
        return int(2**bits) - 1
    return highest if highest is not None and 255 < highest < 65535 else None


def _largest(value: object) -> int | None:
    values = value if isinstance(value, tuple) else (value,)
    return max((entry for entry in values if isinstance(entry, int)), default=None)


def _raw_modes(picture: Image.Image) -> list[str]:
    """How the file stores pixels, such as RGB;16B; of each of its tiles."""
    args = [getattr(tile, "args", None) for tile in getattr(picture, "tile", [])]
    raw = [each[0] if isinstance(each, tuple) and each else each for each in args]
    return [each for each in raw if isinstance(each, str)]


def _low_bytes(
    source: str | os.PathLike[str] | bytes, high: Image.Image, limit: int, exact: bool
) -> Image.Image | None:
    """Of pixels with 16 bits, whose high bytes are all that PIL gives: the low bytes.

    None if the high ones are not dark, unless `exact`, and of kinds that cannot be taken apart.
    """
    if not exact and np.asarray(high)[..., :3].max() >= 64:  # more than 14 bits
        return None
    with _opened(source) as opened:
        tiles: list[Any] = getattr(opened, "tile", [])
        raw = _raw_modes(opened)
        if len(raw) != len(tiles) or not all(_LOW.fullmatch(each) for each in raw):
            return None
        for i, tile in enumerate(tiles):
            args = _swapped(raw[i])
            tiles[i] = tile._replace(args=args if isinstance(tile.args, str) else (args, *tile.args[1:]))
        with _pil_limit(limit):
            opened.load()
        low = _upright(opened, opened)
        return low.getchannel(1) if raw[0].startswith("LA") else low.convert("RGB")


_LOW = re.compile(r"(RGB|RGBA|RGBX);16[LBN]|LA;16B")


def _swapped(raw: str) -> str:
    """The other order of bytes, by which the decoder takes the low ones for the high."""
    if raw.startswith("LA"):
        return "RGBA"  # of the same four bytes, which are grey and alpha, each high and low
    own = "L" if sys.byteorder == "little" else "B"
    return raw[:-1] + ("B" if raw[-1].replace("N", own) == "L" else "L")


def _webp_is_lossy(source: str | os.PathLike[str] | bytes) -> bool:
    """By the chunk that holds the pixels: "VP8L" is exact."""
    with io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            if head[:4] in (b"VP8 ", b"VP8L"):
                return head[:4] == b"VP8 "
            size = int.from_bytes(head[4:], "little")
            file.seek(size + size % 2, io.SEEK_CUR)
    return False


def _add_heif() -> None:
    """Let PIL open HEIC and HEIF, if the package is there."""
    if "HEIF" not in Image.OPEN:
        with suppress(ImportError):
            from pillow_heif import register_heif_opener

            register_heif_opener()


def _unknown(image: object) -> str:
    """What to do with a file that PIL does not know, by its first bytes."""
    try:
        head = image if isinstance(image, bytes) else _head(Path(str(image)))
    except OSError:
        head = b""
    kind = kind_of(head)
    if kind in ADVICE and not (kind == "HEIC" and "HEIF" in Image.OPEN):
        return f"is {kind}: {ADVICE[kind]}"
    if kind is not None:
        return f"looks like {kind}, but cannot be read: it may be damaged or cut short"
    return "is not an image of a kind that can be read: save it as PNG or JPEG"


def _head(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(32)


def kind_of(head: bytes) -> str | None:
    """The kind of picture that begins with these bytes, None for other files."""
    if head[4:8] == b"ftyp":
        brands = {head[8:12], *(head[i : i + 4] for i in range(16, len(head) - 3, 4))}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        return "HEIC" if brands & {b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"} else None
    if head[:4] == b"RIFF":
        return "WebP" if head[8:12] == b"WEBP" else None
    return next((kind for start, kind in _STARTS.items() if head.startswith(start)), None)


def file_kind(file: Path) -> str | None:
    """The same for a file; None if it cannot be read."""
    try:
        return kind_of(_head(file))
    except OSError:
        return None


@contextmanager
def _named_warnings(name: str) -> Iterator[None]:
    """Give PIL's warnings the file's name, which they lack."""
    with caught_warnings() as caught:
        yield
    for each in caught:
        told = str(each.message).strip()
        known = told.startswith(name) or Path(each.filename).parent.name not in ("PIL", "pillow_heif")
        warnings.warn(told if known else f"{name}: {told}", each.category, stacklevel=5)


@contextmanager
def _pil_limit(max_pixels: int | None) -> Iterator[None]:
    """Put our pixel limit in place of PIL's, which is global: hence the lock, and back to the old value at once."""
    with _pil_limit_lock:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _check_file(path: Path) -> None:
    if os.path.isdir(path):
        raise ImageError(f"{path} is a folder: name one image file in it")
    if not os.path.exists(path):
        raise ImageError(f"{path} does not exist{nearest(path)}")
    if not path.is_file():
        raise ImageError(f"{path} is a pipe or device: save the image to a file first")
    if path.stat().st_size == 0:
        raise ImageError(f"{path} is empty (0 bytes)")


def check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if width * height == 0:
        raise ImageError(f"{name} has no pixels")
    if width * height > max_pixels:
        raise ImageError(
            f"{name} is {by(width, height)} = {width * height:,} pixels, the limit is {max_pixels:,}: "
            "make it smaller, or raise the limit with max_pixels= or --max-pixels"
        )


def nearest(path: Path) -> str:
    """Guess which existing file was meant, as the end of an error message."""
    if os.path.islink(path):
        return ": it is a link to a file that is not there"
    if not os.path.isdir(path.parent):
        return f": there is no folder {path.parent}"
    try:  # a link to nowhere is in its folder, but no help
        stems = {entry.stem.lower(): entry for entry in sorted(path.parent.iterdir()) if entry.is_file()}
    except OSError:
        return ""
    close = difflib.get_close_matches(path.stem.lower(), stems, n=1, cutoff=0.6)
    return f": did you mean {stems[close[0]]}?" if close else ""


def channels_last(image: Array | Tensor, name: str, max_pixels: int, leading: tuple[int, ...]) -> Array:
    """View an array or tensor as (H, W, C); `leading` are the channel counts allowed on the first axis."""
    pixels = _as_array(image, name)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    elif pixels.ndim == 3:
        allowed = {0: leading, 2: (1, 3, 4)}
        order = (0, 2) if not isinstance(image, np.ndarray) else (2, 0)
        axis = next((axis for axis in order if pixels.shape[axis] in allowed[axis]), None)
        pixels = pixels if axis is None else np.moveaxis(pixels, axis, 2)
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
        counts = " or ".join(str(count) for count in leading)
        raise ImageError(f"{name}: expected (H, W), (H, W, 1 or 3 or 4) or ({counts}, H, W); select one of a batch")
    check_size(pixels.shape[1], pixels.shape[0], name, max_pixels)
    return pixels


def _as_array(image: Array | Tensor, name: str) -> Array:
    if isinstance(image, np.ndarray):
        return np.asarray(image)
    try:
        tensor = image.detach().cpu()
        # NumPy has no bfloat16 and no 8-bit floats
        return (tensor.float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor).numpy()
    except (RuntimeError, TypeError) as error:
        raise ImageError(f"{name} cannot become an array, pass a plain dense tensor: {error}") from error


def is_deep(picture: Image.Image) -> bool:
    return picture.mode in ("I", "F") or picture.mode.startswith("I;16")


def to_rgb(picture: Image.Image) -> Array:
    if picture.mode in ("RGBa", "La"):  # colours multiplied by alpha, which only this undoes
        picture = picture.convert(picture.mode.upper())
    if picture.mode == "P" and "transparency" in picture.info:  # PIL advises this way, with a warning
        picture = picture.convert("RGBA")
    return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))


def by(width: int, height: int) -> str:
    return f"{width} \u00d7 {height}"

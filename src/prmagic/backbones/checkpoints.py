"""Where weights come from: the package itself, a local folder, or the Hugging Face hub and its cache."""

from __future__ import annotations

import difflib
import hashlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from transformers import AutoConfig, PretrainedConfig
from transformers.utils import logging as transformers_logging

from prmagic.backbones.config_sizes import check_config
from prmagic.backbones.errors import CheckpointError as CheckpointError
from prmagic.backbones.hub import MAIN, HubModel
from prmagic.backbones.original import PUBLISHED, read_original
from prmagic.io.finding import file_sha256
from prmagic.names import hint

EMBEDDED = "embedded"
EMBEDDED_FOLDER = Path(__file__).parent / "embedded"
FILE_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors", ".ckpt")  # of names that mean a file, and no model on the hub


@dataclass(frozen=True)
class Cost:
    """What something takes: seconds, and the most GB that the process ever held, weights and libraries included."""

    seconds: float
    memory: float


@dataclass(frozen=True)
class KnownModel:
    """A checkpoint that is known to work.

    parameters: millions, of the part that is used here. input_size: pixels. download: megabytes, of the whole file.
    encode, query: of one photo and of one refined query (research/speed/models.py); None where it was not measured.
    gated: its page on the hub asks for consent first."""

    name: str
    parameters: float
    input_size: int
    download: int
    licence: str
    remark: str
    encode: Cost | None = None
    query: Cost | None = None
    gated: bool = False


KNOWN_SAMS = (
    KnownModel(EMBEDDED, 4.7, 256, 0, "Apache-2.0", "in the package; for a laptop's CPU",
               encode=Cost(0.11, 0.6), query=Cost(0.51, 0.6)),
    KnownModel("facebook/sam-vit-base", 93.7, 1024, 375, "Apache-2.0", "the fastest of the published three",
               encode=Cost(8.4, 2.8), query=Cost(8.8, 2.8)),
    KnownModel("facebook/sam-vit-large", 312.3, 1024, 1250, "Apache-2.0", "",
               encode=Cost(25, 4.2), query=Cost(26, 4.2)),
    KnownModel("facebook/sam-vit-huge", 641.1, 1024, 2564, "Apache-2.0", "what the paper's tables were made with",
               encode=Cost(44, 5.6), query=Cost(43, 5.6)),
    KnownModel("syscv-community/sam-hq-vit-base", 94.8, 1024, 379, "Apache-2.0", "SAM-HQ, finer outlines",
               encode=Cost(9.1, 2.9), query=Cost(11, 2.9)),
    KnownModel("syscv-community/sam-hq-vit-large", 313.7, 1024, 1255, "Apache-2.0", "SAM-HQ",
               encode=Cost(32, 4.3), query=Cost(29, 4.4)),
    KnownModel("syscv-community/sam-hq-vit-huge", 642.7, 1024, 2571, "Apache-2.0", "SAM-HQ",
               encode=Cost(45, 5.8), query=Cost(46, 5.8)),
    KnownModel("facebook/sam2.1-hiera-tiny", 31.4, 1024, 156, "Apache-2.0", "",
               encode=Cost(2.3, 1.4), query=Cost(3.1, 1.4)),
    KnownModel("facebook/sam2.1-hiera-small", 38.5, 1024, 184, "Apache-2.0", "",
               encode=Cost(2.8, 1.4), query=Cost(3.7, 1.5)),
    KnownModel("facebook/sam2.1-hiera-base-plus", 73.3, 1024, 323, "Apache-2.0", "",
               encode=Cost(4.7, 1.5), query=Cost(5.2, 1.7)),
    KnownModel("facebook/sam2.1-hiera-large", 216.9, 1024, 898, "Apache-2.0", "",
               encode=Cost(12, 2.1), query=Cost(13, 2.1)),
    KnownModel("yonigozlan/EdgeTAM-hf", 9.1, 1024, 57, "Apache-2.0", "needs the package timm"),
    KnownModel("facebook/sam3", 458.3, 1008, 3440, "SAM License", "its tracker", gated=True,
               encode=Cost(32, 3.0), query=Cost(33, 3.0)),
)  # fmt: skip
KNOWN_ENCODERS = (
    KnownModel(EMBEDDED, 3.8, 256, 0, "Apache-2.0", "in the package; for a laptop's CPU",
               encode=Cost(0.14, 0.6), query=Cost(1.8, 0.7)),
    KnownModel("facebook/dinov2-small", 22.1, 518, 88, "Apache-2.0", "the fastest of the published",
               encode=Cost(0.55, 0.7), query=Cost(13, 3.0)),
    KnownModel("facebook/dinov2-base", 86.6, 518, 346, "Apache-2.0", "",
               encode=Cost(1.9, 1.0), query=Cost(16, 3.3)),
    KnownModel("facebook/dinov2-large", 304.4, 518, 1217, "Apache-2.0", "what the paper's tables were made with",
               encode=Cost(5.8, 1.9), query=Cost(19, 4.2)),
    KnownModel("facebook/dinov2-giant", 1136.5, 518, 4546, "Apache-2.0", "",
               encode=Cost(19, 5.3), query=Cost(35, 7.3)),
    KnownModel("facebook/dinov2-with-registers-small", 22.1, 518, 88, "Apache-2.0", "",
               encode=Cost(0.63, 0.7), query=Cost(15, 3.0)),
    KnownModel("facebook/dinov2-with-registers-base", 86.6, 518, 346, "Apache-2.0", "",
               encode=Cost(1.9, 1.0), query=Cost(16, 3.2)),
    KnownModel("facebook/dinov2-with-registers-large", 304.4, 518, 1217, "Apache-2.0", "",
               encode=Cost(5.8, 1.9), query=Cost(19, 4.2)),
    KnownModel("facebook/dinov3-vits16-pretrain-lvd1689m", 21.6, 592, 86, "DINOv3 License", "", gated=True,
               encode=Cost(0.65, 0.7), query=Cost(15, 3.0)),
    KnownModel("facebook/dinov3-vitb16-pretrain-lvd1689m", 85.7, 592, 343, "DINOv3 License", "", gated=True,
               encode=Cost(2, 1.0), query=Cost(15, 3.2)),
    KnownModel("facebook/dinov3-vitl16-pretrain-lvd1689m", 303.1, 592, 1213, "DINOv3 License", "", gated=True,
               encode=Cost(5.5, 1.9), query=Cost(19, 4.2)),
)  # fmt: skip
# Published files that hold more than what is needed here, a whole video model, and what part of them that is.
PART_OF = {"sam2_video": "sam2", "edgetam_video": "edgetam", "sam3_video": "sam3_tracker"}
KNOWN = {"sam": KNOWN_SAMS, "encoder": KNOWN_ENCODERS}
# Where the costs were measured, and which SAM was beside the encoders (beside the embedded one, the embedded).
MEASURED_ON = "2 cores of an AMD EPYC, float32, with random weights of the published sizes"
BESIDE_ENCODERS = "facebook/sam-vit-base"


def load_pretrained(kind: str, model_classes: Sequence[Any], name: str | Path) -> Any:
    """A transformers model in float32 from "embedded", a local folder in Hugging Face format, a hub id, or a file.

    kind: "sam" or "encoder"; the checkpoint's model type decides which of the classes it becomes. A hub id may have a
    revision behind an @: a branch, a tag or a commit. A file is one in its authors' own layout (`original.py`).
    Raises CheckpointError."""
    place = _place(kind, str(name))
    if isinstance(place, Path) and place.is_file():
        return _finite(_from_original(kind, model_classes, place), name)
    try:
        try:  # the cache first: a model that lies there should not wait for a connection
            model, info = _read(kind, model_classes, place, local_files_only=True)
        except OSError:
            if isinstance(place, Path) or constants.HF_HUB_OFFLINE:
                raise
            model, info = _read(kind, model_classes, place, local_files_only=False)
    except CheckpointError:
        raise
    except ImportError as error:
        if "timm" not in str(error):
            raise
        raise CheckpointError(
            f"cannot load {name}: its image encoder comes from the package timm. Run: pip install 'prmagic[edgetam]'"
        ) from error
    except Exception as error:  # transformers, safetensors and the hub each raise their own kinds
        if code := _code(str(error)):
            raise CheckpointError(f"cannot load {name}: {code}") from error
        if isinstance(place, HubModel):
            known = {model.name: model for model in KNOWN[kind]}
            if place.repository not in known:
                advice = f"Or check the name: {_known(kind, place.repository)}"
            else:
                advice = place.how_to_ask if known[place.repository].gated else ""
            raise CheckpointError(place.why_not(error, advice)) from error
        if "ignore_mismatched_sizes" in str(error):
            raise CheckpointError(
                f"cannot load {name}: its weights have other shapes than its config.json asks for. They do not belong "
                "together: copy or download the folder again."
            ) from error
        reason = _one_line(error)
        raise CheckpointError(
            f"cannot load {name}: {reason}. Its files are incomplete or damaged: copy or download the folder again."
        ) from error
    lacking = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if lacking:
        raise CheckpointError(
            f"{name} does not hold all the weights that its config.json asks for ({len(lacking)} are missing or of "
            f"another shape, first {lacking[0]}): copy or download it again."
        )
    return _finite(model, name)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(". ") or type(error).__name__


def _finite(model: Any, name: str | Path) -> Any:
    """The model; CheckpointError if a weight of it is NaN or infinite."""
    for key, weight in model.named_parameters():
        if not torch.isfinite(weight.sum()):  # a NaN or infinity among the weights is one in their sum
            raise CheckpointError(f"{name} is damaged: {key} has values that are no finite numbers.")
    return model


def _code(error: str) -> str | None:
    """What to tell of a model that would run code of its own; None if this error is about something else."""
    if "custom code" in error:
        return "it comes with code of its own, which is never run. Take a model that transformers knows."
    if "Weights only load failed" in error:
        return (
            "its file with the weights holds more than weights, and reading all of it could run any code. "
            "Take one with model.safetensors."
        )
    return None


def fingerprint(model: Any) -> str:
    """Tells models apart: names, shapes and the first values of all weights, independent of file format and device."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        values = weight.flatten()[:64].detach().float().cpu().numpy()
        digest.update(f"{name}{tuple(weight.shape)}".encode() + values.astype("<f4").tobytes())
    return digest.hexdigest()[:16]


def checksums(kind: str, name: str | Path) -> dict[str, str]:
    """SHA-256 of the files with the weights that `load_pretrained` read under this name, by file name."""
    place = _place(kind, str(name))
    path = place.folder if isinstance(place, HubModel) else place
    if path is None:
        return {}
    files = [path] if path.is_file() else []
    for pattern in ("model.safetensors", "model-*.safetensors", "pytorch_model*.bin"):  # as transformers prefers them
        files = files or sorted(path.glob(pattern))
    return {file.name: file_sha256(file) for file in files}


def _place(kind: str, name: str) -> Path | HubModel:
    """Where the model lies, or may lie on the hub; CheckpointError for a name that cannot be either."""
    if not name:
        raise CheckpointError(f"the name of the {_SPOKEN[kind]} is empty: {_known(kind, '')}")
    path = EMBEDDED_FOLDER / kind if name == EMBEDDED else Path(name).expanduser()
    if path.is_dir() and not (path / "config.json").is_file():
        raise CheckpointError(f"{path} has no config.json: it is not a model folder in Hugging Face format.")
    if path.exists():
        return path
    if path.suffix in FILE_SUFFIXES:
        raise CheckpointError(_no_file(kind, path))
    repository, at, revision = name.partition("@")
    if name.startswith((".", "/", "~")) or repository.count("/") != 1:
        raise CheckpointError(f"no {_SPOKEN[kind]} is called {name!r}: {_misplaced(kind, name) or _known(kind, name)}")
    if at and not revision:
        raise CheckpointError(f"{name} names no revision: write such as {repository}@main, or no @.")
    if any(repository == known.name for known in KNOWN[_OTHER[kind]]):
        raise CheckpointError(f"{repository} is no {_SPOKEN[kind]}: {_misplaced(kind, repository)}")
    return HubModel(repository, revision or MAIN)


def _from_original(kind: str, model_classes: Sequence[Any], file: Path) -> Any:
    original = read_original(file)
    if original.kind != kind:
        raise CheckpointError(
            f"{file} is a checkpoint of {original.title}, which is no {_SPOKEN[kind]}: give it as "
            f"{_SPOKEN[original.kind]} (--{original.kind})."
        )
    by_type = {model_class.config_class.model_type: model_class for model_class in model_classes}
    if original.model_type not in by_type:
        needed = " or ".join(repr(known) for known in by_type)
        raise CheckpointError(
            f"{file} is a checkpoint of {original.title}; as {_SPOKEN[kind]}, {needed} is needed here."
        )
    return original.convert(by_type[original.model_type])


def _read(
    kind: str, model_classes: Sequence[Any], place: Path | HubModel, local_files_only: bool
) -> tuple[Any, dict[str, Any]]:
    origin, revision = (place.repository, place.revision) if isinstance(place, HubModel) else (str(place), MAIN)
    said, _ = PretrainedConfig.get_config_dict(origin, revision=revision, local_files_only=local_files_only)
    check_config(said, origin, place if isinstance(place, Path) else None)
    found = AutoConfig.from_pretrained(
        origin, revision=revision, local_files_only=local_files_only, trust_remote_code=False
    )
    by_type = {model_class.config_class.model_type: model_class for model_class in model_classes}
    wanted = PART_OF.get(found.model_type, found.model_type)
    if wanted not in by_type:
        needed = " or ".join(repr(known) for known in by_type)
        raise CheckpointError(f"{origin} is a {found.model_type!r} model; as {_SPOKEN[kind]}, {needed} is needed here.")
    with _quietly():
        model, info = by_type[wanted].from_pretrained(
            origin,
            revision=revision,
            dtype=torch.float32,
            output_loading_info=True,
            local_files_only=local_files_only,
            trust_remote_code=False,
        )
    return model, info


@contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' warnings and its progress bar, which is for the tensors of a file, not for a download."""
    shown, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # it warns of each file of which only a part is read
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if shown:
            transformers_logging.enable_progress_bar()


_SPOKEN = {"sam": "SAM", "encoder": "encoder"}
_ARTICLE = {"sam": "a", "encoder": "an"}
_OTHER = {"sam": "encoder", "encoder": "sam"}


def _known(kind: str, name: str) -> str:
    return hint(name, [model.name for model in KNOWN[kind]])


def _no_file(kind: str, path: Path) -> str:
    beside = [other.name for other in path.parent.glob("*") if other.is_file()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=1)
    meant = f"did you mean {path.parent / near[0]}?" if near else _misplaced(kind, path.name)
    return f"there is no file {path}" + (f": {meant}" if meant else ".")


def _misplaced(kind: str, name: str) -> str:
    """What to say if the name is rather one of the other kind; nothing otherwise."""
    names = {each: [*(model.name for model in KNOWN[each]), *PUBLISHED[each]] for each in KNOWN}
    near = difflib.get_close_matches(name, [*names["sam"], *names["encoder"]], n=1)
    if not near or near[0] in names[kind]:
        return ""
    other = _OTHER[kind]
    return f"{near[0]} is the name of {_ARTICLE[other]} {_SPOKEN[other]}, to be given as such (--{other})."

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
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from safetensors import SafetensorError
from transformers import AutoConfig
from transformers.utils import logging as transformers_logging

from prmagic.backbones.errors import CheckpointError as CheckpointError
from prmagic.backbones.original import PUBLISHED, read_original
from prmagic.names import hint

EMBEDDED = "embedded"
EMBEDDED_FOLDER = Path(__file__).parent / "embedded"
FILE_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors", ".ckpt")  # of names that mean a file, and no model on the hub


@dataclass(frozen=True)
class KnownModel:
    """A checkpoint that is known to work: `parameters` in millions, `input_size` in pixels, `download` in megabytes."""

    name: str
    parameters: float
    input_size: int
    download: int
    licence: str
    remark: str


KNOWN_SAMS = (
    KnownModel(EMBEDDED, 4.7, 256, 0, "non-commercial research", "in the package; small, for a laptop's CPU"),
    KnownModel("facebook/sam-vit-base", 93.7, 1024, 375, "Apache-2.0", "the fastest of the published three"),
    KnownModel("facebook/sam-vit-large", 312.3, 1024, 1250, "Apache-2.0", ""),
    KnownModel("facebook/sam-vit-huge", 641.1, 1024, 2564, "Apache-2.0", "what the paper's tables were made with"),
)
KNOWN_ENCODERS = (
    KnownModel(EMBEDDED, 3.8, 256, 0, "non-commercial research", "in the package; small, for a laptop's CPU"),
    KnownModel("facebook/dinov2-small", 22.1, 518, 88, "Apache-2.0", "the fastest of the published"),
    KnownModel("facebook/dinov2-base", 86.6, 518, 346, "Apache-2.0", ""),
    KnownModel("facebook/dinov2-large", 304.4, 518, 1217, "Apache-2.0", "what the paper's tables were made with"),
)
KNOWN = {"sam": KNOWN_SAMS, "encoder": KNOWN_ENCODERS}


def load_pretrained(kind: str, model_classes: Sequence[Any], name: str | Path) -> Any:
    """A transformers model in float32 from "embedded", a local folder in Hugging Face format, a hub id, or a file.

    kind: "sam" or "encoder"; the checkpoint's model type decides which of the classes it becomes. A hub id may have a
    revision behind an @: a branch, a tag or a commit. A file is one in its authors' own layout (`original.py`).
    Raises CheckpointError."""
    place = _place(kind, str(name))
    if isinstance(place, Path) and place.is_file():
        return _from_original(kind, model_classes, place)
    try:
        try:  # the cache first: a model that lies there should not wait for a connection
            model, info = _read(kind, model_classes, place, local_files_only=True)
        except OSError:
            if isinstance(place, Path) or constants.HF_HUB_OFFLINE:
                raise
            model, info = _read(kind, model_classes, place, local_files_only=False)
    except CheckpointError:
        raise
    except Exception as error:  # transformers, safetensors and the hub each raise their own kinds
        if isinstance(place, HubModel):
            raise CheckpointError(_not_from_the_hub(kind, place, error)) from error
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(
            f"cannot load {name}: {reason} Its files are incomplete or damaged: copy or download the folder again."
        ) from error
    lacking = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if lacking:
        raise CheckpointError(
            f"{name} does not hold all the weights that its config.json asks for ({len(lacking)} are missing or of "
            f"another shape, first {lacking[0]}): copy or download it again."
        )
    return model


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
    if isinstance(place, HubModel):
        config = try_to_load_from_cache(place.repository, "config.json", revision=place.revision)
        if not isinstance(config, str):
            return {}
        place = Path(config).parent
    files = [place] if place.is_file() else []
    for pattern in ("model.safetensors", "model-*.safetensors", "pytorch_model*.bin"):  # as transformers prefers them
        files = files or sorted(place.glob(pattern))
    return {file.name: _sha256(file) for file in files}


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True)
class HubModel:
    """A model on the Hugging Face hub, in one of its revisions."""

    repository: str
    revision: str = "main"

    def __str__(self) -> str:
        return self.repository if self.revision == "main" else f"{self.repository}@{self.revision}"

    @property
    def download(self) -> str:
        """The command that fetches it into the cache."""
        revision = "" if self.revision == "main" else f" --revision {self.revision}"
        return f"hf download {self.repository}{revision}"


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
        raise CheckpointError(f"no {_SPOKEN[kind]} is called {name!r}: {_known(kind, name)}{_misplaced(kind, name)}")
    if at and not revision:
        raise CheckpointError(f"{name} names no revision: write such as {repository}@main, or no @.")
    if any(repository == known.name for known in KNOWN[_OTHER[kind]]):
        raise CheckpointError(f"{repository} is no {_SPOKEN[kind]}.{_misplaced(kind, repository)}")
    return HubModel(repository, revision or "main")


def _from_original(kind: str, model_classes: Sequence[Any], file: Path) -> Any:
    original = read_original(file)
    if original.kind != kind:
        raise CheckpointError(
            f"{file} is a {original.title} checkpoint, which is no {_SPOKEN[kind]}: give it as --{original.kind}."
        )
    by_type = {model_class.config_class.model_type: model_class for model_class in model_classes}
    if original.model_type not in by_type:
        needed = " or ".join(repr(known) for known in by_type)
        raise CheckpointError(f"{file} is a {original.title} checkpoint; as {_SPOKEN[kind]}, {needed} is needed here.")
    return original.convert(by_type[original.model_type])


def _read(
    kind: str, model_classes: Sequence[Any], place: Path | HubModel, local_files_only: bool
) -> tuple[Any, dict[str, Any]]:
    origin, revision = (place.repository, place.revision) if isinstance(place, HubModel) else (str(place), "main")
    found = AutoConfig.from_pretrained(origin, revision=revision, local_files_only=local_files_only)
    by_type = {model_class.config_class.model_type: model_class for model_class in model_classes}
    if found.model_type not in by_type:
        needed = " or ".join(repr(known) for known in by_type)
        raise CheckpointError(f"{origin} is a {found.model_type!r} model; as {_SPOKEN[kind]}, {needed} is needed here.")
    with _quietly():
        model, info = by_type[found.model_type].from_pretrained(
            origin, revision=revision, dtype=torch.float32, output_loading_info=True, local_files_only=local_files_only
        )
    return model, info


def _not_from_the_hub(kind: str, model: HubModel, error: Exception) -> str:
    """Why it could not be had, and what to do. transformers' own error hides the hub's among its causes."""
    page = f"{constants.ENDPOINT}/{model.repository}"
    reason = str(error).strip().split("\n")[0]
    refusals = [cause for cause in _causes(error) if isinstance(cause, HfHubHTTPError)]
    statuses = {getattr(refusal.response, "status_code", None) for refusal in refusals}
    check = "" if model.repository in {known.name for known in KNOWN[kind]} else f" {_known(kind, model.repository)}"
    if any(isinstance(refusal, GatedRepoError) for refusal in refusals):
        return (
            f"{model} is gated: its owners want to be asked first. Ask for access at {page}, and when you have it, log "
            "in on this machine with `hf auth login` and run this again."
        )
    if any(isinstance(refusal, RevisionNotFoundError) for refusal in refusals):
        return f"{model.repository} has no revision {model.revision!r}: {page} lists its branches, tags and commits."
    if any(isinstance(refusal, RepositoryNotFoundError) for refusal in refusals) or statuses & {401, 403}:
        return (
            f"the hub has no model {model.repository}, or does not show it to you. Check the name.{check} If it is a "
            f"private one, log in with `hf auth login`, as somebody who may see {page}."
        )
    if any(isinstance(cause, SafetensorError) for cause in _causes(error)):
        return (
            f"cannot load {model}: {reason} Its files are damaged: `{model.download} --force-download` replaces them."
        )
    if constants.HF_HUB_OFFLINE:
        return (
            f"{model} is not in the local cache, at least not all of it, and HF_HUB_OFFLINE is set, so that nothing is "
            f"downloaded. Unset it; or run `{model.download}` first; or pass a local folder.{check}"
        )
    return (
        f"cannot load {model}: {reason} It is not in the local cache and could not be downloaded. Check the "
        f"connection; or run `{model.download}` where there is one; or pass a local folder.{check}"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' warnings and its progress bar, which is for the tensors of a file, not for a download."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
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
    meant = f": did you mean {path.parent / near[0]}?" if near else "."
    return f"there is no file {path}{meant}{_misplaced(kind, path.name)}"


def _misplaced(kind: str, name: str) -> str:
    """A sentence, if the name is rather one of the other kind."""
    names = {each: [*(model.name for model in KNOWN[each]), *PUBLISHED[each]] for each in KNOWN}
    near = difflib.get_close_matches(name, [*names["sam"], *names["encoder"]], n=1)
    if not near or near[0] in names[kind]:
        return ""
    other = _OTHER[kind]
    return f" {near[0]} is the name of {_ARTICLE[other]} {_SPOKEN[other]}, which is given as --{other}."

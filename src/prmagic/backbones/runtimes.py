"""Where image encoders run: on PyTorch, or on OpenVINO, which is faster on a CPU. All else stays on PyTorch.

An encoder is converted once for its weights, input size and precision, compared with PyTorch on a fixed picture, and
kept in the user's cache folder. The environment variable PRMAGIC_CACHE names another folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from PIL import Image
from torch import Tensor

from prmagic._version import __version__
from prmagic.backbones.errors import CheckpointError
from prmagic.io.finding import file_sha256
from prmagic.names import installed
from prmagic.types import ByteArray

AUTO, TORCH, OPENVINO = "auto", "torch", "openvino"
MIXED = "mixed"  # dtype: bfloat16 for SAM, float32 for the encoder whose tokens are compared
RUNTIMES = {name: name for name in (AUTO, TORCH, OPENVINO)}
PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}  # OpenVINO's names
LEAST_COSINE = {torch.float32: 0.99999, torch.bfloat16: 0.99}  # of each output, to PyTorch in float32
SMALL = 15_000_000  # parameters of an encoder for which `auto` converts nothing
MODEL, WEIGHTS, ENTRY = "encoder.xml", "encoder.bin", "entry.json"
INSTEAD = "take the runtime torch (--runtime torch)"

Run = Callable[[Tensor], tuple[Tensor, ...]]


class Encoder(Protocol):
    """What is asked of a `Promptable` or `Dino`."""

    name: str
    model: Any
    device: torch.device
    dtype: torch.dtype
    runtime: str
    run: Run
    fingerprint: str

    @property
    def network(self) -> torch.nn.Module:
        """The part of the model that nothing but `outputs` needs."""

    def outputs(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Inputs (N, 3, h, w) float32 → all that the encoder gives, each (N, …) float32, on PyTorch."""

    def preprocess(self, image: ByteArray) -> Tensor:
        """(H, W, 3) uint8 → (3, h, w) float32, the model's input."""


def place(encoders: Sequence[Encoder], runtime: str, dtypes: Sequence[torch.dtype]) -> None:
    """Let encoders that were loaded on PyTorch in float32 run elsewhere, or in another precision.

    Args:
        encoders: Of one framework, on one device.
        runtime: "torch"; "openvino"; "auto": OpenVINO if it is installed, the device is a CPU, and an encoder is large
            enough to gain.
        dtypes: One for each.

    Raises:
        ValueError: The runtime is not installed, or does not have the device or the dtype.
        CheckpointError: An encoder cannot be converted, or its results differ too much from PyTorch's.
    """
    if not encoders:
        return
    device = encoders[0].device
    if runtime == OPENVINO or (runtime == AUTO and _pays(encoders, dtypes)):
        _check(device, dtypes)
        try:
            _check_bfloat16(dtypes)
            runs = [converted(encoder, dtype) for encoder, dtype in zip(encoders, dtypes, strict=True)]
        except CheckpointError as error:
            if runtime == OPENVINO:
                raise CheckpointError(f"{error}: {INSTEAD}") from error
            warnings.warn(f"{error}: torch runs the image encoders", UserWarning, stacklevel=4)
        else:
            for encoder, run, dtype in zip(encoders, runs, dtypes, strict=True):
                encoder.run, encoder.runtime, encoder.dtype = run, OPENVINO, dtype
                encoder.network.to("meta")  # its memory is free
            return
    for encoder, dtype in zip(encoders, dtypes, strict=True):
        encoder.network.to(dtype)
        encoder.dtype = dtype


def fastest_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU or CPU that multiplies matrices in it (NVIDIA since Ampere, Intel's AMX); else float32."""
    if device.type == "cuda":
        has_it = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        has_it = device.type == "cpu" and getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    return torch.bfloat16 if has_it else torch.float32


def _pays(encoders: Sequence[Encoder], dtypes: Sequence[torch.dtype]) -> bool:
    largest = max(sum(weight.numel() for weight in encoder.network.parameters()) for encoder in encoders)
    on_cpu = encoders[0].device.type == "cpu"
    return on_cpu and largest >= SMALL and set(dtypes) <= PRECISIONS.keys() and installed(OPENVINO)


def _check(device: torch.device, dtypes: Sequence[torch.dtype]) -> None:
    if not installed(OPENVINO):
        raise ValueError("the runtime openvino is not installed: pip install 'prmagic[openvino]'")
    if device.type != "cpu":
        raise ValueError(f"the runtime openvino is for CPUs, not for {device}: take the device cpu, or {INSTEAD}")
    if missing := [dtype for dtype in dtypes if dtype not in PRECISIONS]:
        raise ValueError(f"the runtime openvino has no {_name(missing[0])}: take float32 or bfloat16, or {INSTEAD}")


def _check_bfloat16(dtypes: Sequence[torch.dtype]) -> None:
    if torch.bfloat16 in dtypes and "BF16" not in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise CheckpointError("OpenVINO has no bfloat16 on this CPU")


def _core() -> Any:
    try:
        import openvino

        return _only_core(openvino.Core)
    except (ImportError, RuntimeError) as error:
        raise CheckpointError(f"OpenVINO cannot be started ({_short(error)})") from error


@cache
def _only_core(kind: Callable[[], Any]) -> Any:
    """One for the life of the process. Where two are made and freed, the next Ctrl-C is a segmentation fault."""
    return kind()


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def converted(encoder: Encoder, dtype: torch.dtype) -> Run:
    """What runs the encoder on OpenVINO; from the cache, or put there."""
    picture = encoder.preprocess(test_picture())[None]
    folder = cache_folder() / f"openvino-{encoder.fingerprint}-{_key(encoder, picture, dtype)}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_suffix(".lock")):
            problem = _problem(folder)
            if problem is not None:
                warnings.warn(
                    f"{encoder.name} is {problem}converted for OpenVINO, once, which can take a minute; it is kept in "
                    f"{folder}", UserWarning, stacklevel=5,
                )  # fmt: skip
                _convert(encoder, picture, dtype, folder)
    except OSError as error:
        told = f"{error.filename or folder}: {error.strerror or error}"
        raise CheckpointError(
            f"{encoder.name} cannot be kept as converted for OpenVINO ({told}); PRMAGIC_CACHE can name another folder"
        ) from error
    return OnOpenVino(folder / MODEL, dtype)


def cache_folder() -> Path:
    """Where converted encoders are kept. It can be deleted at any time."""
    if chosen := os.environ.get("PRMAGIC_CACHE"):
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("prmagic", appauthor=False)


def test_picture() -> ByteArray:
    """(480, 640, 3): coarse blotches under fine noise."""
    source = np.random.default_rng(0)
    coarse = Image.fromarray(source.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((640, 480))
    return np.clip(np.asarray(coarse) + source.integers(-30, 31, (480, 640, 3)), 0, 255).astype(np.uint8)


def _key(encoder: Encoder, picture: Tensor, dtype: torch.dtype) -> str:
    """Of all that decides what a conversion gives. The fingerprint reads a part of each weight; this reads all."""
    versions = [__version__, *(version(name) for name in ("openvino", "torch", "transformers"))]
    config = encoder.model.config.to_dict()
    config.pop("_name_or_path", None)
    cpu = _core().get_property("CPU", "FULL_DEVICE_NAME")
    decides = [versions, config, type(encoder.model).__name__, list(picture.shape), _name(dtype), cpu]
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode())
    for name, weight in sorted(encoder.model.state_dict().items()):
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(weight.detach().float().contiguous().numpy())
    return digest.hexdigest()[:16]


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Wait for a process that makes the same; without a lock where there are none."""
    lock = FileLock(file)
    try:
        lock.acquire()
    except (OSError, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _problem(folder: Path) -> str | None:
    """None if it is all there; else what to say before "converted"."""
    if not folder.exists():
        return ""
    try:
        kept = json.loads((folder / ENTRY).read_text())["sha256"]
        whole = all(kept[name] == file_sha256(folder / name) for name in (MODEL, WEIGHTS))
    except (OSError, ValueError, LookupError, TypeError):
        whole = False
    return None if whole else "damaged in the cache, and again "


def _convert(encoder: Encoder, picture: Tensor, dtype: torch.dtype, folder: Path) -> None:
    """Write all of the folder or nothing; CheckpointError if the results differ too much."""
    started = time.perf_counter()
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
    unfinished.mkdir()
    try:
        expected = _export(encoder, picture, dtype, unfinished / MODEL)
        found = OnOpenVino(unfinished / MODEL, dtype)(picture)
        cosine = least_cosine(found, expected)
        if not cosine >= LEAST_COSINE[dtype]:
            raise CheckpointError(
                f"{encoder.name} gives other features on OpenVINO in {_name(dtype)}: cosine {cosine:.6f}, and "
                f"{LEAST_COSINE[dtype]} is needed"
            )
        entry = {
            "model": encoder.name, "dtype": _name(dtype), "cosine": cosine,
            "seconds": round(time.perf_counter() - started, 1),
            "sha256": {name: file_sha256(unfinished / name) for name in (MODEL, WEIGHTS)},
        }  # fmt: skip
        (unfinished / ENTRY).write_text(json.dumps(entry, indent=2) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def least_cosine(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Of each output with its own, taken as vectors."""
    pairs = zip(found, expected, strict=True)
    return min(F.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0).item() for a, b in pairs)


class Traced(torch.nn.Module):
    """`outputs` as a module; keeps what it gave."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.model = encoder.model
        self.outputs = encoder.outputs
        self.gave: tuple[Tensor, ...] = ()

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        gave = self.outputs(pixels)
        self.gave = tuple(each.detach().clone() for each in gave)
        return gave


@torch.no_grad()
def _export(encoder: Encoder, picture: Tensor, dtype: torch.dtype, file: Path) -> tuple[Tensor, ...]:
    """Write OpenVINO's file, and give PyTorch's outputs of the picture.

    By OpenVINO's front end itself: `openvino.convert_model` would report the conversion to its makers."""
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    module = Traced(encoder).eval()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of conditions on shapes, which are fixed here
            traced = torch.jit.trace(module, picture, check_trace=False)
            decoder = TorchScriptPythonDecoder(traced)  # the front end does not keep it alive
            frontend = FrontEndManager().load_by_framework("pytorch")
            converted = frontend.convert(frontend.load(decoder))
            converted.reshape(list(picture.shape))
        openvino.save_model(converted, file, compress_to_fp16=dtype != torch.float32)
    except Exception as error:  # torch and OpenVINO each raise their own kinds
        raise CheckpointError(f"{encoder.name} cannot be converted for OpenVINO ({_short(error)})") from error
    return module.gave


class OnOpenVino:
    """Runs a converted encoder, on as many threads as torch has when this is made."""

    def __init__(self, file: Path, dtype: torch.dtype):
        settings = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[dtype], "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False,
        }  # fmt: skip
        try:
            self.compiled = _core().compile_model(file, "CPU", settings)
        except RuntimeError as error:
            raise CheckpointError(f"OpenVINO cannot run {file} ({_short(error)})") from error
        self._request = self.compiled.create_infer_request()
        self._one_at_a_time = threading.Lock()

    def __call__(self, pixels: Tensor) -> tuple[Tensor, ...]:
        with self._one_at_a_time:
            found = self._request.infer([pixels.numpy()])
            return tuple(torch.from_numpy(array.copy()) for array in found.values())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

"""The numbers of a config.json, checked before a model is built from them: one with ten million layers never ends."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from prmagic.backbones.errors import CheckpointError

# The largest values, by a word of the key; far above those of every published model. The first that fits counts.
LARGEST = {
    "layers": 1000, "depth": 1000, "depths": 1000, "blocks": 1000, "num": 4096, "image": 8192, "patch": 8192,
    "size": 65536, "sizes": 65536, "dim": 65536, "heads": 65536, "channels": 65536, "stride": 65536, "outputs": 65536,
}  # fmt: skip
REPEATED = ("layers", "depth", "depths", "blocks")  # each of these has weights of its own
NEVER_ZERO = ("image_size", "patch_size", "hidden_size", "num_attention_heads", "num_channels", "num_hidden_layers")


def check_config(config: Mapping[str, Any], name: str, folder: Path | None = None) -> None:
    """Refuse absurd sizes.

    Args:
        config: The content of a config.json.
        name: The model's, for messages.
        folder: Where the weights lie, if they are there already.

    Raises:
        CheckpointError: A size is negative, zero, too large, or no whole number, or a number is not finite; or there
            are more layers than tensors in the file with the weights.
    """
    tensors = None if folder is None else _tensors(folder / "model.safetensors")
    for key, value in _entries(config):
        told = f"{name} is damaged: its config.json says {key} = {str(value)[:40]}"
        if isinstance(value, float) and not math.isfinite(value):
            raise CheckpointError(f"{told}, which is no finite number.")
        last = key.rpartition(".")[2]
        words = last.split("_")
        word = next((word for word in LARGEST if word in words and (word != "num" or words[0] == word)), None)
        if word is None or value is None or isinstance(value, bool):
            continue
        if not isinstance(value, (int, float)) or value != int(value):
            if isinstance(value, str) and not {"size", "dim", "layers", "heads", "channels", "num"} & set(words):
                continue
            raise CheckpointError(f"{told}; a whole number is needed there.")
        if not 0 <= value <= LARGEST[word] or (value == 0 and last in NEVER_ZERO):
            raise CheckpointError(f"{told}; {int(last in NEVER_ZERO)} to {LARGEST[word]:,} is possible there.")
        if tensors is not None and word in REPEATED and value > tensors:
            raise CheckpointError(
                f"{told}, but its model.safetensors holds {tensors} tensors: they do not belong together."
            )


def _entries(content: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(key, value) of all that is no list or object; the key with those above it, such as vision_config.image_size."""
    if isinstance(content, Mapping):
        for name, value in content.items():
            yield from _entries(value, f"{key}.{name}" if key else str(name))
    elif isinstance(content, (list, tuple)):
        for value in content:
            yield from _entries(value, key)
    else:
        yield key, content


def _tensors(file: Path) -> int | None:
    """How many a file holds; None if there is none that can be read, which loading it tells."""
    try:
        with safe_open(file, framework="pt") as opened:
            return len(opened.keys())
    except (SafetensorError, OSError):
        return None

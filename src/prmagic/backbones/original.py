"""Checkpoints as their authors published them: segment-anything's, SAM-HQ's and DINOv2's own files.

A file is told by what it holds, not by what it is called. Sizes are read off the shapes of its weights, so that a model
of any size will do. Names are translated from transformers' to the file's, for every weight that the model asks for: so
whatever is missing, misshapen or left over is known by the name that it has in the file.
"""

from __future__ import annotations

import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from prmagic.backbones.errors import CheckpointError

# The names under which the files are published, for suggestions alone.
PUBLISHED = {
    "sam": (
        "sam_vit_b_01ec64.pth", "sam_vit_l_0b3195.pth", "sam_vit_h_4b8939.pth",
        "sam_hq_vit_b.pth", "sam_hq_vit_l.pth", "sam_hq_vit_h.pth",
    ),
    "encoder": tuple(f"dinov2_vit{size}14{reg}_pretrain.pth" for reg in ("", "_reg4") for size in "sblg"),
}  # fmt: skip

# Two sizes that no shape tells. All of SAM's decoders have so many heads, all of DINOv2's heads so many channels.
SAM_DECODER_HEADS = 8
DINOV2_HEAD_CHANNELS = 64

Renames = tuple[tuple[str, str], ...]

# Patterns in transformers' names and what they become in the original, one after the other.
_SAM_NAMES: Renames = (
    (r"^(shared_image_embedding|prompt_encoder\.shared_embedding)\.positional_embedding",
     "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
    (r"^prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
    (r"mask_embed\.conv1", "mask_downscaling.0"),
    (r"mask_embed\.layer_norm1", "mask_downscaling.1"),
    (r"mask_embed\.conv2", "mask_downscaling.3"),
    (r"mask_embed\.layer_norm2", "mask_downscaling.4"),
    (r"mask_embed\.conv3", "mask_downscaling.6"),
    (r"^vision_encoder\.layers", "image_encoder.blocks"),
    (r"^vision_encoder", "image_encoder"),
    (r"patch_embed\.projection", "patch_embed.proj"),
    (r"neck\.conv1", "neck.0"),
    (r"neck\.layer_norm1", "neck.1"),
    (r"neck\.conv2", "neck.2"),
    (r"neck\.layer_norm2", "neck.3"),
    (r"upscale_conv1", "output_upscaling.0"),
    (r"upscale_layer_norm", "output_upscaling.1"),
    (r"upscale_conv2", "output_upscaling.3"),
    # Three linear layers in a row, here and in the next two lines; the transformer's own layers are no such row.
    (r"(mlps\.\d+|prediction_head|mask_mlp)\.layers\.0", r"\1.layers.1"),
    (r"(mlps\.\d+|prediction_head|mask_mlp)\.proj_in", r"\1.layers.0"),
    (r"(mlps\.\d+|prediction_head|mask_mlp)\.proj_out", r"\1.layers.2"),
    (r"\.layer_norm", ".norm"),
)  # fmt: skip
_SAM_HQ_NAMES: Renames = (
    *_SAM_NAMES,
    (r"hq_token", "hf_token"),
    (r"hq_mask_mlp", "hf_mlp"),
    (r"compress_vit_conv1", "compress_vit_feat.0"),
    (r"compress_vit_norm", "compress_vit_feat.1"),
    (r"compress_vit_conv2", "compress_vit_feat.3"),
    (r"mask_decoder\.encoder_conv1", "mask_decoder.embedding_encoder.0"),
    (r"mask_decoder\.encoder_norm", "mask_decoder.embedding_encoder.1"),
    (r"mask_decoder\.encoder_conv2", "mask_decoder.embedding_encoder.3"),
    (r"mask_decoder\.mask_conv1", "mask_decoder.embedding_maskfeature.0"),
    (r"mask_decoder\.mask_norm", "mask_decoder.embedding_maskfeature.1"),
    (r"mask_decoder\.mask_conv2", "mask_decoder.embedding_maskfeature.3"),
)
# [1/3] is the second third, by rows: queries, keys and values are one matrix in the original, and so are SwiGLU's gate
# and input. Where a line has two names, the first is that of earlier releases of transformers.
_DINOV2_NAMES: Renames = (
    (r"^embeddings\.position_embeddings", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    (r"^embeddings\.", ""),
    (r"^encoder\.layer\.", "blocks."),
    (r"attention\.(attention\.query|q_proj)", "attn.qkv[0/3]"),
    (r"attention\.(attention\.key|k_proj)", "attn.qkv[1/3]"),
    (r"attention\.(attention\.value|v_proj)", "attn.qkv[2/3]"),
    (r"attention\.(output\.dense|o_proj)", "attn.proj"),
    (r"mlp\.weights_in", "mlp.w12"),
    (r"mlp\.gate_proj", "mlp.w12[0/2]"),
    (r"mlp\.up_proj", "mlp.w12[1/2]"),
    (r"mlp\.(weights_out|down_proj)", "mlp.w3"),
    (r"layer_scale(\d)\.lambda1", r"ls\1.gamma"),
    (r"^layernorm", "norm"),
)

# What else a file may turn out to be.
_OTHERS: Renames = (
    (r"^image_encoder\.patch_embed\.seq\.",
     "is a SAM with a TinyViT for an encoder (MobileSAM's, or SAM-HQ's vit_tiny), which cannot be run here: "
     "take one of vit_b, vit_l or vit_h"),
    (r"^image_encoder\.trunk\.|^sam_mask_decoder\.",
     "is an original file of SAM 2 or of a relative, which is not converted: take the model in Hugging Face format"),
    (r"^(detector|tracker)\.",
     "is an original file of SAM 3, which is not converted: take the model in Hugging Face format"),
    (r"^(rope_embed\.periods|storage_tokens)$",
     "is an original file of DINOv3, which is not converted: take the model in Hugging Face format"),
    (r"^vision_encoder\.|embeddings\.(patch_embeddings|position_embeddings)",
     "holds the weights of a model in Hugging Face format: name the folder in which they lie, with their config.json"),
    (r"^mask_decoder\.", "holds only a part of a SAM, perhaps what was trained of it: the whole model is needed"),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Original:
    """Weights in one of the published layouts: what `read_original` found in a file."""

    file: Path
    layout: _Layout
    weights: Mapping[str, Tensor]

    @property
    def title(self) -> str:
        """The model's name, for people."""
        return self.layout.title

    @property
    def kind(self) -> str:
        """What it can serve as, "sam" or "encoder"."""
        return self.layout.kind

    @property
    def model_type(self) -> str:
        """The kind of model, as transformers calls it."""
        return self.layout.model_type

    def convert(self, model_class: Any) -> Any:
        """A model of this class, which is that of `model_type`, in float32 with these weights.

        Raises CheckpointError for weights that are missing, left over or of another shape than the others'."""
        try:
            sizes = self.layout.sizes(self)
            with torch.device("meta"):  # the weights come from the file; none need be made up before
                model = model_class(model_class.config_class(**sizes))
        except CheckpointError:
            raise
        except Exception as error:  # of transformers' checks, each of its own kind
            reason = str(error).strip().split("\n")[0]
            raise CheckpointError(
                f"{self.file} has the weights of {self.title}, but their shapes make no model of it ({reason})."
            ) from error
        places = {name: _place(name, self.layout.names) for name in model.state_dict()}
        self._check({name: tuple(empty.shape) for name, empty in model.state_dict().items()}, places)
        # Copied, because the file may be memory-mapped, and where its bytes lie can change the last bit of a result.
        parts = {name: self.weights[source].chunk(of)[part] for name, (source, part, of) in places.items()}
        model.load_state_dict({n: part.to(torch.float32, copy=True) for n, part in parts.items()}, assign=True)
        model.tie_weights()
        return model.eval()

    def _check(self, shapes: Mapping[str, tuple[int, ...]], places: Mapping[str, tuple[str, int, int]]) -> None:
        needed = {
            source: (shapes[name][0] * of, *shapes[name][1:]) for name, (source, _, of) in places.items()
        }  # fmt: skip
        missing = [name for name in needed if name not in self.weights]
        extra = sorted(self.weights.keys() - needed.keys())
        wrong = [name for name in needed if name in self.weights and tuple(self.weights[name].shape) != needed[name]]
        if missing:
            raise CheckpointError(
                f"{self.file} is a checkpoint of {self.title} that lacks {_listed(missing)}: download it again."
            )
        if wrong:
            first = wrong[0]
            raise CheckpointError(
                f"{self.file} is a checkpoint of {self.title} whose weights do not go together: {first} has the shape "
                f"{tuple(self.weights[first].shape)}, by the others it should have {needed[first]}. It may be of a "
                "modified model, which cannot be run here."
            )
        if extra:
            raise CheckpointError(
                f"{self.file} holds more than a checkpoint of {self.title}: {_listed(extra)}. It is of a modified "
                "model, which cannot be run here."
            )

    def shape(self, name: str, axes: int) -> tuple[int, ...]:
        """Of a weight with so many axes; CheckpointError if it is missing or has others."""
        if name not in self.weights:
            raise CheckpointError(f"{self.file} is a checkpoint of {self.title} that lacks {name}: download it again.")
        shape = tuple(self.weights[name].shape)
        if len(shape) != axes:
            raise CheckpointError(
                f"{self.file} is a checkpoint of {self.title}, but {name} has the shape {shape}, not {axes} axes: it "
                "is of a modified model, which cannot be run here."
            )
        return shape

    def count(self, name: str) -> int:
        """How many different numbers stand behind this part of a name."""
        numbers = (re.match(rf"{re.escape(name)}\.(\d+)\.", weight) for weight in self.weights)
        return len({number[1] for number in numbers if number})


@dataclass(frozen=True)
class _Layout:
    title: str
    kind: str
    model_type: str
    marks: tuple[str, ...]  # names by which a file is told
    names: Renames
    sizes: Callable[[Original], dict[str, Any]]  # the configuration's arguments


def read_original(file: Path) -> Original:
    """A checkpoint in one of the published layouts, from a file of torch or of safetensors; no code in it is run.

    The weights may lie under "model", "state_dict" or "teacher", as training leaves them. Raises CheckpointError for a
    file that is damaged, holds more than weights, or holds another model, and says which if it knows."""
    weights = _plain_names(_state_dict(_content(file), file))
    for layout in _LAYOUTS:
        if all(mark in weights for mark in layout.marks):
            return Original(file, layout, weights)
    for pattern, other in _OTHERS:
        if any(re.search(pattern, name) for name in weights):
            raise CheckpointError(f"{file} {other}.")
    first = ", ".join(sorted(weights)[:3])
    raise CheckpointError(
        f"{file} holds weights ({first}, …), but of no model that is known here: SAM, SAM-HQ and DINOv2 can be read "
        "from their original files."
    )


def _content(file: Path) -> Any:
    """Weights only: torch's reader for them knows tensors and plain values, and refuses whatever could run code."""
    try:
        with file.open("rb") as opened:
            header = opened.read(9)
        if header[8:] == b"{":  # safetensors: the length of a JSON header, and the header
            return load_file(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Mapped, where the format allows it, so that no more memory is needed than for the model.
            return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code is None:
            raise CheckpointError(f"{file} {_DAMAGED}") from error
        raise CheckpointError(
            f"{file} holds more than weights: reading all of it would run {code[1]}, which could do anything. If you "
            "trust it, load it with the code that it comes from, and save its state_dict() alone."
        ) from error
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # what else a reader says of bytes that are no checkpoint depends on the bytes
        raise CheckpointError(f"{file} {_DAMAGED}") from error


_DAMAGED = "is no checkpoint, or it is damaged or cut short: download it again, and compare its size."


def _state_dict(content: Any, file: Path) -> dict[str, Tensor]:
    if isinstance(content, Mapping) and not any(isinstance(value, Tensor) for value in content.values()):
        inside = (content.get(name) for name in ("model", "state_dict", "teacher"))
        content = next((value for value in inside if isinstance(value, Mapping)), content)
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{file} holds no weights: a dictionary of them by name is needed, a state_dict.")
    for name, value in content.items():
        dense = isinstance(value, Tensor) and value.layout == torch.strided
        if not (isinstance(name, str) and dense and value.is_floating_point()):
            raise CheckpointError(
                f"{file} holds something else among its weights, {name}: save the model's state_dict() alone."
            )
    return dict(content)


def _plain_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what is only of use in training, and is in no published file."""

    def without(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        everywhere = all(name.startswith(prefix) for name in weights)
        return {name.removeprefix(prefix): value for name, value in weights.items()} if everywhere else weights

    weights = without("module.", weights)  # torch's data parallelism
    # DINOv2's teacher is a backbone with heads; its blocks come in chunks, in which they keep their numbers.
    heads = ("dino_head.", "ibot_head.")
    weights = without("backbone.", {name: value for name, value in weights.items() if not name.startswith(heads)})
    weights = {re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name): value for name, value in weights.items()}
    # SAM's statistics of pixels, which are the same everywhere, and kept by some.
    return {name: value for name, value in weights.items() if name not in ("pixel_mean", "pixel_std")}


def _place(name: str, renames: Renames) -> tuple[str, int, int]:
    """A weight's name in transformers → the original's, and which part of how many of that weight it is."""
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    part = re.search(r"\[(\d)/(\d)\]", name)
    return (name.replace(part[0], ""), int(part[1]), int(part[2])) if part else (name, 0, 1)


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _sam_sizes(original: Original) -> dict[str, Any]:
    encoder, decoder = "image_encoder", "mask_decoder"
    width, _, patch, _ = original.shape(f"{encoder}.patch_embed.proj.weight", 4)
    head_channels = original.shape(f"{encoder}.blocks.0.attn.rel_pos_h", 2)[1]
    grid = original.shape(f"{encoder}.pos_embed", 4)[1]
    # A block's relative positions reach from one end of its window to the other: 2 · side - 1 of them.
    blocks = range(original.count(f"{encoder}.blocks"))
    sides = [(original.shape(f"{encoder}.blocks.{i}.attn.rel_pos_h", 2)[0] + 1) // 2 for i in blocks]
    channels, mask_channels = original.shape("prompt_encoder.mask_downscaling.6.weight", 4)[:2]
    attention = original.shape(f"{decoder}.transformer.final_attn_token_to_image.q_proj.weight", 2)
    return {
        "vision_config": {
            "hidden_size": width,
            "output_channels": original.shape(f"{encoder}.neck.0.weight", 4)[0],
            "num_hidden_layers": len(sides),
            "num_attention_heads": width // head_channels,
            "image_size": grid * patch,
            "patch_size": patch,
            "mlp_dim": original.shape(f"{encoder}.blocks.0.mlp.lin1.weight", 2)[0],
            "window_size": next((side for side in sides if side != grid), grid),
            "global_attn_indexes": [i for i, side in enumerate(sides) if side == grid],
            "num_pos_feats": channels // 2,  # a sine and a cosine of each
        },
        "prompt_encoder_config": {
            "hidden_size": channels,
            "image_size": grid * patch,
            "patch_size": patch,
            "mask_input_channels": mask_channels,
        },
        "mask_decoder_config": {
            "hidden_size": channels,
            "mlp_dim": original.shape(f"{decoder}.transformer.layers.0.mlp.lin1.weight", 2)[0],
            "num_hidden_layers": original.count(f"{decoder}.transformer.layers"),
            "num_attention_heads": SAM_DECODER_HEADS,
            "attention_downsample_rate": attention[1] // attention[0],
            "num_multimask_outputs": original.shape(f"{decoder}.mask_tokens.weight", 2)[0] - 1,
            "iou_head_hidden_dim": original.shape(f"{decoder}.iou_prediction_head.layers.0.weight", 2)[0],
            "layer_norm_eps": 1e-5,  # the published decoder's, which is torch's default
        },
    }


def _sam_hq_sizes(original: Original) -> dict[str, Any]:
    sizes = _sam_sizes(original)
    sizes["mask_decoder_config"]["vit_dim"] = sizes["vision_config"]["hidden_size"]
    return sizes


def _dinov2_sizes(original: Original) -> dict[str, Any]:
    width, _, patch, _ = original.shape("patch_embed.proj.weight", 4)
    if not width or width % DINOV2_HEAD_CHANNELS:
        raise CheckpointError(
            f"{original.file} is like a DINOv2, but {width} channels wide: all that were published are a multiple of "
            f"{DINOV2_HEAD_CHANNELS} wide, the channels of one head."
        )
    gated = "blocks.0.mlp.w3.weight" in original.weights
    inner = original.shape("blocks.0.mlp.w3.weight" if gated else "blocks.0.mlp.fc2.weight", 2)[1]
    sizes = {
        "hidden_size": width,
        "num_hidden_layers": original.count("blocks"),
        "num_attention_heads": width // DINOV2_HEAD_CHANNELS,
        # SwiGLU has two thirds of the channels, because it has three matrices instead of two.
        "mlp_ratio": round(inner / width * (1.5 if gated else 1)),
        "use_swiglu_ffn": gated,
        "image_size": math.isqrt(original.shape("pos_embed", 3)[1] - 1) * patch,
        "patch_size": patch,
    }
    if "register_tokens" in original.weights:
        sizes["num_register_tokens"] = original.shape("register_tokens", 3)[1]
    return sizes


_LAYOUTS = (
    _Layout(
        "SAM-HQ", "sam", "sam_hq",
        ("image_encoder.patch_embed.proj.weight", "mask_decoder.mask_tokens.weight", "mask_decoder.hf_token.weight"),
        _SAM_HQ_NAMES, _sam_hq_sizes,
    ),
    _Layout(
        "SAM", "sam", "sam",
        ("image_encoder.patch_embed.proj.weight", "mask_decoder.mask_tokens.weight"),
        _SAM_NAMES, _sam_sizes,
    ),
    _Layout(
        "DINOv2 with registers", "encoder", "dinov2_with_registers",
        ("patch_embed.proj.weight", "pos_embed", "blocks.0.ls1.gamma", "register_tokens"),
        _DINOV2_NAMES, _dinov2_sizes,
    ),
    _Layout(
        "DINOv2", "encoder", "dinov2",
        ("patch_embed.proj.weight", "pos_embed", "blocks.0.ls1.gamma"),
        _DINOV2_NAMES, _dinov2_sizes,
    ),
)  # fmt: skip

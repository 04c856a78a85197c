"""SAM's mask decoder for many prompt sets on one photo: transformers' `SamMaskDecoder` in a cheaper order.

A photo has thousands of positions and a prompt set has about ten tokens. An attention's projections of the image are
therefore multiplied into the tokens' side first, (X W) q = X (W q), so that no image is projected; nothing is repeated
for each prompt set before it differs; masks that are not wanted are not made. Results agree up to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear


def decode_masks(
    decoder: Any, features: Tensor, position: Tensor, sparse: Tensor, dense: Tensor, *, multimask_output: bool,
    attention_similarity: Tensor | None = None, target_embedding: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """N prompt sets of one shape, on one embedding for all or on one each.

    Args:
        decoder: transformers' `SamMaskDecoder`.
        features: (1 or N, C, h, w).
        position: (1, C, h, w).
        sparse: (N, 1, n, C), the prompts' tokens.
        dense: (1 or N, C, h, w), added to the features.
        multimask_output: M = 3 masks, or the single one.
        attention_similarity: (1, 1, 1, h · w), added to the logits of the tokens' attention to the image.
        target_embedding: (1, 1, 1, C), added to the tokens.

    Returns:
        Logits (N, 1, M, 4h, 4w) and predicted IoU (N, 1, M).
    """
    image = _rows(features + dense)
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([own.expand(len(sparse), -1, -1), sparse[:, 0]], 1)
    target = None if target_embedding is None else target_embedding[0]
    tokens, image = _two_way(decoder.transformer, tokens, image, _rows(position), attention_similarity, target)
    wanted = range(1, decoder.num_mask_tokens) if multimask_output else range(1)
    hyper = torch.stack([decoder.output_hypernetworks_mlps[i](tokens[:, 1 + i]) for i in wanted], 1)
    iou = decoder.iou_prediction_head(tokens[:, 0])[:, wanted.start : wanted.stop]
    return _masks(decoder, image, hyper, (features.shape[2], features.shape[3]))[:, None], iou[:, None]


def _two_way(
    transformer: Any, tokens: Tensor, image: Tensor, position: Tensor, similarity: Tensor | None, target: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`SamTwoWayTransformer`: tokens (N, t, C) and image (1 or N, P, C) → the same, N each."""
    if target is not None:
        tokens = tokens + target  # transformers adds the first one in place, and so to the tokens' position, too
    token_position = tokens
    for index, layer in enumerate(transformer.layers):
        if target is not None and index:
            tokens = tokens + target
        if layer.skip_first_layer_pe:
            tokens = layer.layer_norm1(_among(layer.self_attn, tokens, tokens))
        else:
            tokens = layer.layer_norm1(tokens + _among(layer.self_attn, tokens + token_position, tokens))
        placed = image + position
        read = _of_image(layer.cross_attn_token_to_image, tokens + token_position, placed, image, similarity)
        tokens = layer.layer_norm2(tokens + read)
        tokens = layer.layer_norm3(tokens + layer.mlp(tokens))
        attention = layer.cross_attn_image_to_token
        image = layer.layer_norm4(_of_tokens(attention, image, placed, tokens + token_position, tokens))
    read = _of_image(transformer.final_attn_token_to_image, tokens + token_position, image + position, image)
    return transformer.layer_norm_final_attn(tokens + read), image


def _among(attention: Any, placed: Tensor, tokens: Tensor) -> Tensor:
    """Of the tokens to each other, (N, t, C)."""
    found: Tensor = attention(query=placed[:, None], key=placed[:, None], value=tokens[:, None])[0]
    return found[:, 0]


def _of_image(
    attention: Any, asking: Tensor, placed: Tensor, image: Tensor, similarity: Tensor | None = None
) -> Tensor:
    """What tokens (N, t, C) read of the image (1 or N, P, C); placed: with its position.

    The keys' bias adds the same to all logits of a token, and so nothing to their soft-max."""
    heads = attention.num_attention_heads
    queries = attention.q_proj(asking).unflatten(-1, (heads, -1)) * attention.scaling
    queries = torch.einsum("nthd,hdc->nhtc", queries, attention.k_proj.weight.unflatten(0, (heads, -1)))
    logits = _times(queries.flatten(1, 2), placed.mT)
    weights = (logits if similarity is None else logits + similarity[0]).softmax(-1)
    read = _times(weights, image).unflatten(1, (heads, -1))
    values = torch.einsum("nhtc,hdc->nthd", read, attention.v_proj.weight.unflatten(0, (heads, -1))).flatten(2)
    found: Tensor = attention.out_proj(values + attention.v_proj.bias)
    return found


def _of_tokens(attention: Any, image: Tensor, placed: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The image (1 or N, P, C) with what it reads of the tokens (N, t, C) added: (N, P, C)."""
    heads = attention.num_attention_heads
    keys = attention.k_proj(keys).unflatten(-1, (heads, -1)) * attention.scaling
    queries = torch.einsum("nthd,hdc->nhtc", keys, attention.q_proj.weight.unflatten(0, (heads, -1)))
    bias = torch.einsum("nthd,hd->nht", keys, attention.q_proj.bias.unflatten(0, (heads, -1)))
    logits = _times(queries.flatten(1, 2), placed.mT) + bias.flatten(1)[..., None]
    weights = logits.unflatten(1, (heads, -1)).softmax(2).flatten(1, 2)
    given = attention.v_proj(values).unflatten(-1, (heads, -1))
    given = torch.einsum("nthd,chd->nhtc", given, attention.out_proj.weight.unflatten(1, (heads, -1)))
    given = given.flatten(1, 2) + attention.out_proj.bias / heads  # the weights of each head sum to 1
    return torch.baddbmm(image.expand(len(given), -1, -1), weights.mT, given)


def _masks(decoder: Any, image: Tensor, hyper: Tensor, grid: tuple[int, int]) -> Tensor:
    """Image (N, P, C), enlarged four times, and weights (N, M, C / 8) of its channels → logits (N, M, 4h, 4w).

    A transposed convolution whose kernel is as large as its stride gives each position a block of its own, so that it
    is a product of matrices, and pixels need not be put in order before the end."""
    first, second = decoder.upscale_conv1, decoder.upscale_conv2
    blocks = linear(image, _blocks(first), first.bias.repeat(4)).unflatten(-1, (4, -1))
    norm = decoder.upscale_layer_norm
    blocks = torch.layer_norm(blocks, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    blocks = decoder.activation(blocks)
    blocks = decoder.activation(linear(blocks, _blocks(second), second.bias.repeat(4)))
    logits = hyper @ blocks.flatten(1, 2).unflatten(-1, (4, -1)).flatten(1, 2).mT
    height, width = grid
    placed: Tensor = logits.view(*logits.shape[:2], height, width, 2, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5, 7)
    return placed.reshape(*logits.shape[:2], 4 * height, 4 * width)


def _blocks(convolution: Any) -> Tensor:
    """Weights (in, out, 2, 2) → (4 · out, in), block by block."""
    weight: Tensor = convolution.weight
    return weight.permute(2, 3, 1, 0).flatten(0, 2)


def _rows(maps: Tensor) -> Tensor:
    """(N, C, h, w) → (N, h · w, C)."""
    return maps.flatten(2).mT.contiguous()


def _times(left: Tensor, right: Tensor) -> Tensor:
    """(N, a, b) @ (1 or N, b, c); one matrix for all is one product."""
    return left @ (right[0] if len(right) == 1 else right)

"""Attention for training on a CPU."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor


def attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, **_: Any,
) -> Tensor:  # fmt: skip
    """What `scaled_dot_product_attention` computes, as two products and a soft-max; neither dropout nor causality."""
    if dropout_p or is_causal:
        raise ValueError("attention.py knows neither dropout nor causal attention; use PyTorch's own")
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-1, -2)
    return (scores if attn_mask is None else scores + attn_mask).softmax(-1) @ value


def use_plain_attention() -> None:
    """PyTorch 2.13's fused kernel for CPUs is slower than its parts in bfloat16, its backward pass six times for
    windows of 64 tokens; without it, a step of either model takes half as long."""
    F.scaled_dot_product_attention = attention

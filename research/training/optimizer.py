"""What both models are trained with: Muon for the matrices, AdamW for all else, in the precision the processor has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import _muon

MUON_RATE = 2.0  # of the learning rate; with it Muon's steps have the size of AdamW's


def precision(device: torch.device) -> torch.autocast:
    """bfloat16 where the device computes in it. On other processors PyTorch emulates it, and a step takes fifteen times
    as long as in float32."""
    native = device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=native)


class Optimizer:
    """Muon (arXiv 2502.16982) for the weights of linear layers; AdamW for embeddings, convolutions, norms, biases."""

    def __init__(self, model: nn.Module, undecayed: Iterable[nn.Parameter] = ()):
        _muon._zeropower_via_newtonschulz = _orthogonalised
        matrices = [
            each.weight for each in model.modules() if isinstance(each, nn.Linear) and min(each.weight.shape) > 8
        ]
        rest = [each for each in model.parameters() if all(each is not matrix for matrix in matrices)]
        self._muon = torch.optim.Muon(matrices, momentum=0.95, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
        groups = [
            {"params": [each for each in rest if each.ndim > 1], "weight_decay": 0.05},
            {"params": [*(each for each in rest if each.ndim <= 1), *undecayed], "weight_decay": 0.0},
        ]
        self._adamw = torch.optim.AdamW(groups, betas=(0.9, 0.98))

    def step(self, rate: float) -> None:
        """One step at that learning rate; the gradients are gone afterwards."""
        for optimizer, share in ((self._muon, MUON_RATE), (self._adamw, 1.0)):
            for group in optimizer.param_groups:
                group["lr"] = rate * share
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self._muon.state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._muon.load_state_dict(state["muon"])
        self._adamw.load_state_dict(state["adamw"])


def _orthogonalised(gradient: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """PyTorch's own Newton-Schulz iteration for Muon, in the gradient's precision instead of always in bfloat16."""
    a, b, c = coefficients
    tall = gradient.shape[0] > gradient.shape[1]
    x = gradient.T if tall else gradient
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x

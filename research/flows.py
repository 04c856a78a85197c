"""What the studies compare: flows that the package does not have, and the settings of each study."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from prmagic import Flow
from prmagic.names import lookup


class Drift(Flow):
    """Eq. (1) without its noise."""

    def step(self, shift: Tensor, gradient: Tensor | None, rng: torch.Generator, z0: Tensor) -> Tensor:
        """G_t → G_{t+1}."""
        return shift if gradient is None else shift + self._drift(gradient, z0)


class Resample(Flow):
    """Nothing moves, so that candidates differ only in what a framework draws at random."""

    @property
    def needs_gradient(self) -> bool:
        """Never."""
        return False

    def step(self, shift: Tensor, gradient: Tensor | None, rng: torch.Generator, z0: Tensor) -> Tensor:
        """G_t → G_{t+1} = G_t."""
        return shift


def _as(kind: type[Flow], base: Flow) -> Flow:
    values = vars(base) | ({"rho": None} if kind is Resample else {})
    return kind(**values)


def _flows(base: Flow) -> dict[str, Flow]:
    return {
        "none": base.changed(mode="none"),
        "resample": _as(Resample, base),
        "spread": base.changed(mode="spread"),
        "noise": base.changed(mode="noise"),
        "drift": _as(Drift, base),
        "full": base,
    }


def _steps(base: Flow) -> dict[str, Flow]:
    flows = _flows(base)
    return {
        f"{name}, T = {steps}": replace(flows[name], steps=steps)
        for steps in (5, 10, 20) for name in ("resample", "noise", "full")
    }  # fmt: skip


def _eta(base: Flow) -> dict[str, Flow]:
    sizes = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    return {f"{mode}, η = {eta:g}": base.changed(eta=eta, mode=mode) for eta in sizes for mode in ("full", "noise")}


def _rho(base: Flow) -> dict[str, Flow]:
    relative = {f"full, ρ = {rho:g}": replace(base, rho=rho) for rho in (0.01, 0.03, 0.1, 0.3)}
    return {"noise": base.changed(mode="noise"), "full, the paper's step": replace(base, rho=None), **relative}


def _objective(base: Flow) -> dict[str, Flow]:
    lengths = {"the paper's step": None, "ρ = 0.03": 0.03, "ρ = 0.1": 0.1}
    return {
        f"{objective}, {name}": replace(base, objective=objective, rho=rho)
        for name, rho in lengths.items() for objective in ("sum", "foreground")
    }  # fmt: skip


def _refinements(base: Flow) -> dict[str, Flow]:
    noise = {f"noise, η = {eta:g}": base.changed(mode="noise", eta=eta) for eta in (0.01, 0.05, 0.2, 1.0, 4.0)}
    return {"spread": base.changed(mode="spread"), "full": base, **noise}


def _spread(base: Flow) -> dict[str, Flow]:
    return {"none": base.changed(mode="none"), "spread": base.changed(mode="spread")}


STUDIES: dict[str, Callable[[Flow], dict[str, Flow]]] = {
    "flows": _flows, "steps": _steps, "eta": _eta, "rho": _rho, "objective": _objective,
    "refinements": _refinements, "spread": _spread,
}  # fmt: skip


def settings(study: str, base: Flow) -> dict[str, Flow]:
    """The flows that a study compares, by what tells them apart.

    Args:
        study: A name in `STUDIES`.
        base: The flow with a gradient from which they differ. `spread`, the default, stands for `full`.

    Raises:
        ValueError: For a study that does not exist, or a base without gradient.
    """
    base = base.changed(mode="full") if base.mode == "spread" else base
    if not base.needs_gradient:
        raise ValueError("a study starts from a flow with a gradient: leave flow out of --set")
    return lookup("study", study, STUDIES)(base)


def described(flow: Flow) -> dict[str, object]:
    """For run.json: the kind of flow and its fields."""
    return {"kind": type(flow).__name__, **vars(flow)}

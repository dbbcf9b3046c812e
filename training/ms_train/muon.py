"""Muon: momentum whose matrices are orthogonalised before each update (Jordan et al., 2024), else AdamW."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ms_train.precision import compute_dtype

# Quintic Newton-Schulz coefficients of Muon: fast to about 1, not exact.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5


def orthogonalised(matrix: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrix to `matrix` [rows, columns], roughly, by Newton-Schulz in `compute_dtype`."""
    x = matrix.to(compute_dtype(matrix.device))
    flip = x.shape[0] > x.shape[1]
    x = x.T if flip else x
    x = x / (x.norm() + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return (x.T if flip else x).to(matrix.dtype)


def matrix_groups(
    named: Iterable[tuple[str, nn.Parameter]], weight_decay: float, plain: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Parameter groups: matrices and kernels for Muon; vectors, and names that hold a word of `plain`, for AdamW."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in named:
        wide = parameter.ndim >= 2 and min(parameter.shape[0], parameter[0].numel()) >= 16
        (others if not wide or any(word in name for word in plain) else matrices).append(parameter)
    groups = [
        {"params": matrices, "muon": True, "weight_decay": weight_decay},
        {"params": others, "muon": False, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


class Muon(torch.optim.Optimizer):
    """Updates groups of `matrix_groups`; the learning rate is on AdamW's scale for both kinds."""

    def __init__(self, groups: list[dict[str, Any]], lr: float, *, momentum: float = 0.95, beta: float = 0.95) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "beta": beta, "muon": False, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update; `closure` is not used."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                update = self._matrix_update if group["muon"] else self._vector_update
                parameter.sub_(update(parameter, group), alpha=group["lr"])

    def _matrix_update(self, parameter: nn.Parameter, group: dict[str, Any]) -> Tensor:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"]
        momentum.lerp_(parameter.grad, 1 - group["momentum"])
        blended = parameter.grad.lerp(momentum, group["momentum"]).flatten(1)
        scale = 0.2 * max(blended.shape) ** 0.5  # the mean size of an AdamW update
        return orthogonalised(blended).view_as(parameter) * scale

    def _vector_update(self, parameter: nn.Parameter, group: dict[str, Any]) -> Tensor:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["mean"] = torch.zeros_like(parameter)
            state["square"] = torch.zeros_like(parameter)
        state["step"] += 1
        step, beta = float(state["step"]), group["beta"]
        state["mean"].lerp_(parameter.grad, 0.1)
        state["square"].lerp_(parameter.grad.square(), 1 - beta)
        size = (state["square"] / (1 - beta**step)).sqrt() + 1e-8
        mean: Tensor = state["mean"] / (1 - 0.9**step)
        return mean / size

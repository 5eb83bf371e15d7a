"""Muon (Jordan et al. 2024): the optimiser whose every step has directions of one size."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

# Of the authors' code: the quintic that brings singular values near 1 fastest, and how often it is applied.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
# Makes a step's root mean square that of AdamW's, so that its learning rates serve (Liu et al. 2025).
_LIKE_ADAMW = 0.2


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, brought near the closest matrix with orthonormal rows (or columns).

    Kernels of convolutions count as matrices of outputs × all the rest. `torch.optim.Muon` takes matrices
    only, and multiplies in bfloat16, which a processor that lacks it computes many times slower than float32.
    """

    def __init__(
        self, weights: Iterable[nn.Parameter], lr: float, *, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        """Takes weights of two or more axes, AdamW's learning rate, and decay as AdamW's."""
        super().__init__(weights, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step along the gradients that there are."""
        assert closure is None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(weight)
                moving: Tensor = state["momentum"]
                moving.lerp_(weight.grad, 1 - group["momentum"])
                update = weight.grad.lerp(moving, group["momentum"]).flatten(1)
                size = _LIKE_ADAMW * max(update.shape) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.sub_(group["lr"] * size * orthonormal(update).reshape(weight.shape))


def orthonormal(matrix: Tensor) -> Tensor:
    """A float (m, n) matrix with its singular values brought to between about 0.7 and 1.2 (Newton-Schulz)."""
    wide: Tensor = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + torch.finfo(wide.dtype).tiny)
    linear, cubic, quintic = _QUINTIC
    for _ in range(_ITERATIONS):
        square = wide @ wide.T
        wide = linear * wide + (cubic * square + quintic * square @ square) @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T

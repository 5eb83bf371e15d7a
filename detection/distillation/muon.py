"""Muon (Jordan et al. 2024): an optimiser whose steps have the same size in all directions."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

# From the authors' code: the coefficients of the quintic that brings singular values near 1 fastest, and the
# number of iterations.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
# Gives steps the root mean square of AdamW's steps, so that AdamW's learning rates fit (Liu et al. 2025).
_LIKE_ADAMW = 0.2


class Muon(torch.optim.Optimizer):
    """An optimiser whose step is Nesterov momentum, made nearly orthonormal by rows (or columns).

    A kernel of a convolution counts as a matrix: outputs × all other axes. `torch.optim.Muon` takes matrices
    only, and multiplies in bfloat16; processors without bfloat16 compute that many times slower than float32.

    Example:
        >>> weight = nn.Parameter(torch.eye(2))
        >>> optimiser = Muon([weight], lr=0.1)
        >>> weight.sum().backward()
        >>> optimiser.step()
        >>> bool((weight < torch.eye(2)).all())
        True
    """

    def __init__(
        self, weights: Iterable[nn.Parameter], lr: float, *, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        """Takes the weights to train.

        Args:
            weights: parameters with two or more axes.
            lr: learning rate, of the same size as for AdamW.
            momentum: the part of the moving average of gradients that a step keeps.
            weight_decay: weight decay, as in AdamW.
        """
        super().__init__(weights, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Makes a step; weights without a gradient stay unchanged."""
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
    """Brings the singular values of a float (m, n) matrix to between about 0.7 and 1.2 (Newton-Schulz).

    Example:
        >>> torch.linalg.svdvals(orthonormal(torch.diag(torch.tensor([3.0, 1.0])))) > 0.6
        tensor([True, True])
    """
    wide: Tensor = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + torch.finfo(wide.dtype).tiny)
    linear, cubic, quintic = _QUINTIC
    for _ in range(_ITERATIONS):
        square = wide @ wide.T
        wide = linear * wide + (cubic * square + quintic * square @ square) @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T

"""Standardisation of a teacher's channels."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from sppnet.common.arrays import FloatArray


class Standard(nn.Module):
    """Brings the channels of a teacher's maps to mean 0 and variance 1.

    Attributes:
        mean, deviation: float32 (C,), mean and standard deviation; 0 and 1 before `fit`.

    Example:
        >>> standard = Standard(2)
        >>> maps = np.array([[[1, 5], [3, 5]]], np.float32)
        >>> standard.fit([maps])
        >>> standard(torch.tensor([3.0, 5.0]))
        tensor([0.9950, 0.0000])
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int) -> None:
        """Takes the number of channels, C."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))

    def fit(self, maps: Sequence[FloatArray], alike: bool = False) -> None:
        """Computes mean and deviation from maps.

        Args:
            maps: at least one map, each float32 (h, w, C).
            alike: whether all channels get one deviation, from their mean variance. Without this, a class
                that is rare in maps of labels would have more weight than all other classes.
        """
        cells = np.concatenate([values.reshape(-1, values.shape[2]) for values in maps])
        variance = cells.var(axis=0)
        deviation = np.sqrt(np.full_like(variance, variance.mean()) if alike else variance)
        # A channel that is nearly constant must not be magnified.
        deviation += 0.01 * deviation.mean() + np.finfo(np.float32).tiny
        self.mean.copy_(torch.from_numpy(cells.mean(axis=0)))
        self.deviation.copy_(torch.from_numpy(deviation))

    def forward(self, values: Tensor) -> Tensor:
        """Standardises float (..., C) to the same shape."""
        return (values - self.mean) / self.deviation

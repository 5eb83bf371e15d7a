"""Joins the feature levels of a network to one map: by aligned upsampling, equal norms, optional PCA."""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sppnet.detection.backbones.file_names import keep_file_names
from sppnet.detection.backbones.geometry import Geometry


class FeatureLevels(nn.Module):
    """Weights each feature level by a constant, concatenates them, and optionally projects on principal axes.

    Without fitting every weight is 1. The constants are buffers and thus part of the ``state_dict``; there
    ``weights`` is called ``scales``, as in files of models.

    Args:
        level_channels: number of channels of each feature level.
        components: number of principal components that the map is reduced to; ``None``: no reduction.

    Attributes:
        weights: float32 (levels,), the weight of each feature level.
        pca_mean, pca_components: float32 (C,) and (components, C), or ``None`` without PCA.
        level_channels: number of channels of each feature level; together C.
        components: as in Args.
        channels: number of channels of the output.

    Raises:
        ValueError: ``components`` is greater than C, or less than 1.

    Example:
        >>> import torch
        >>> feature_levels = FeatureLevels((2, 3))
        >>> feature_levels([torch.zeros(1, 2, 4, 6), torch.ones(1, 3, 4, 6)]).shape
        torch.Size([1, 5, 4, 6])
    """

    weights: Tensor
    pca_mean: Tensor | None
    pca_components: Tensor | None

    def __init__(self, level_channels: Sequence[int], components: int | None = None) -> None:
        super().__init__()
        self.level_channels, self.components = tuple(level_channels), components
        total = sum(level_channels)
        if components is not None and not 1 <= components <= total:
            raise ValueError(f"{components} principal components of {total} channels; take 1 to {total}")
        self.channels = components or total
        self.register_buffer("weights", torch.ones(len(self.level_channels)))
        self.register_buffer("pca_mean", None if components is None else torch.zeros(total))
        self.register_buffer("pca_components", None if components is None else torch.eye(components, total))
        keep_file_names(self, {"weights": "scales"})

    def channel_weights(self) -> Tensor:
        """Returns the weight of every input channel: float32 (C,)."""
        return self.weights.repeat_interleave(torch.tensor(self.level_channels))

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Joins feature levels of one size, each (N, C_l, h, w), to one map (N, channels, h, w)."""
        if self.pca_mean is None or self.pca_components is None:
            weighted = [level * weight for level, weight in zip(levels, self.weights, strict=True)]
            return torch.cat(weighted, dim=1)
        weight = self.pca_components * self.channel_weights()
        bias = -self.pca_components @ self.pca_mean
        return F.conv2d(torch.cat(list(levels), dim=1), weight[:, :, None, None], bias)


def fit_feature_levels(maps: Iterable[Sequence[Tensor]], components: int | None = None) -> FeatureLevels:
    """Learns the constants of `FeatureLevels` from training maps, in one pass over them.

    Each feature level gets the weight that makes the mean L2 norm of its cells 1. The principal axes are
    computed from the weighted, concatenated cells. Maps are read one at a time and never kept.

    Args:
        maps: the feature levels of each training image, each float (C_l, h, w), all of one size
            (`Network.level_maps`).
        components: number of principal components to keep; ``None``: no reduction.

    Returns:
        the fitted constants, for `Network.set_feature_levels`.

    Raises:
        ValueError: there are no maps, a map is not finite, or there are fewer channels than ``components``.

    Example:
        >>> import torch
        >>> fitted = fit_feature_levels([[torch.full((4, 5, 5), 3.0), torch.full((1, 5, 5), 2.0)]])
        >>> [round(float(weight), 4) for weight in fitted.weights]
        [0.1667, 0.5]
    """
    channels: tuple[int, ...] = ()
    cells = 0
    norms = sums = products = torch.zeros(0)
    for levels in maps:
        flat = [level.flatten(1).double() for level in levels]
        if not channels:
            channels = tuple(len(level) for level in flat)
            norms = torch.zeros(len(flat), dtype=torch.float64)
            sums = torch.zeros(sum(channels), dtype=torch.float64)
            products = torch.zeros(sum(channels), sum(channels), dtype=torch.float64)
        cells += flat[0].shape[1]
        norms += torch.stack([level.norm(dim=0).sum() for level in flat])
        if components is not None:
            joined = torch.cat(flat)
            sums += joined.sum(dim=1)
            products += joined @ joined.T
    if cells == 0:
        raise ValueError("no training maps to fit the feature levels on")
    if not norms.isfinite().all():
        raise ValueError("a training map has values that are not finite")
    fitted = FeatureLevels(channels, components)
    # A feature level that is zero everywhere stays zero under any weight.
    fitted.weights.copy_(torch.where(norms > 0, cells / norms, 1.0))
    if fitted.pca_mean is not None and fitted.pca_components is not None and components is not None:
        weights = fitted.channel_weights().double()
        mean = sums / cells * weights
        covariance = products / cells * torch.outer(weights, weights) - torch.outer(mean, mean)
        axes = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :components].T
        # The sign of an axis is arbitrary. It is fixed so that the same maps give the same model everywhere.
        largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
        fitted.pca_mean.copy_(mean)
        fitted.pca_components.copy_(axes * largest.sign())
    return fitted


def align(level: Tensor, geometry: Geometry, target: Geometry, size: tuple[int, int]) -> Tensor:
    """Interpolates a map bilinearly at the cells of a finer map, by the pixel centres of the cells.

    `F.interpolate` assumes cells that tile the image from its corner. Under TensorFlow-style "same" padding
    they do not: cell i of stride 32 lies on cell 2i + 1 of stride 16, half a fine cell away from the position
    that `F.interpolate` assumes.

    Args:
        level: float (N, C, h, w), the map.
        geometry: the geometry of the map.
        target: the geometry of the result.
        size: (height, width) of the result, in cells.

    Returns:
        float (N, C, *size); a cell outside the centres of the map takes the value of the nearest cell.
    """
    same = geometry.stride == target.stride and geometry.offset == target.offset
    if same and level.shape[2] >= size[0] and level.shape[3] >= size[1]:
        return level[:, :, : size[0], : size[1]]
    for axis, cells in zip((2, 3), size, strict=True):
        last = level.shape[axis] - 1
        pixels = target.offset + target.stride * torch.arange(cells)
        position = ((pixels - geometry.offset) / geometry.stride).clamp(0, last)
        below = position.floor().long()
        shape = [1, 1, 1, 1]
        shape[axis] = cells
        fraction = (position - below).to(level.dtype).view(shape)
        above = (below + 1).clamp(max=last)
        level = torch.lerp(level.index_select(axis, below), level.index_select(axis, above), fraction)
    return level

"""Bringing the taps of a network to one map: aligned upsampling, equal weight per tap, optional PCA."""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sppnet.detection.backbones.geometry import Geometry


class FeatureLevels(nn.Module):
    """Scales each tap of a concatenated map by a constant, then optionally projects it on principal axes.

    Without fitting every scale is 1. The constants are buffers, so the ``state_dict`` covers them.

    Attributes:
        scales: float32 (taps,).
        pca_mean, pca_components: float32 (C,) and (components, C), or ``None`` without PCA.
        channels: of the output.
    """

    scales: Tensor
    pca_mean: Tensor | None
    pca_components: Tensor | None

    def __init__(self, level_channels: Sequence[int], components: int | None = None) -> None:
        super().__init__()
        self.level_channels, self.components = tuple(level_channels), components
        total = sum(level_channels)
        if components is not None and not 1 <= components <= total:
            raise ValueError(f"{components} principal components of {total} channels; take 1 to {total}")
        self.channels = components or total
        self.register_buffer("scales", torch.ones(len(self.level_channels)))
        self.register_buffer("pca_mean", None if components is None else torch.zeros(total))
        self.register_buffer("pca_components", None if components is None else torch.eye(components, total))

    def channel_scales(self) -> Tensor:
        """The scale of every input channel: float32 (C,)."""
        return self.scales.repeat_interleave(torch.tensor(self.level_channels))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Taps of one size, each (N, C_t, h, w), to one map (N, channels, h, w)."""
        if self.pca_mean is None or self.pca_components is None:
            return torch.cat([one * scale for one, scale in zip(maps, self.scales, strict=True)], dim=1)
        weight = self.pca_components * self.channel_scales()
        bias = -self.pca_components @ self.pca_mean
        return F.conv2d(torch.cat(list(maps), dim=1), weight[:, :, None, None], bias)


def fit_feature_levels(maps: Iterable[Sequence[Tensor]], components: int | None = None) -> FeatureLevels:
    """Learns the constants of `FeatureLevels` from training maps, in one pass over them.

    Each tap is scaled so that the L2 norm of its cells is 1 on average; the principal axes are those of the
    scaled, concatenated cells. Maps are seen one at a time and never kept.

    Args:
        maps: for each training image its feature levels, each float (C_l, h, w), all of one size
            (`Network.level_maps`).
        components: principal components to keep; ``None`` for all channels as they are.

    Returns:
        the fitted normalisation, for `Network.set_feature_levels`.

    Raises:
        ValueError: there are no maps, a map is not finite, or there are fewer channels than ``components``.
    """
    channels: tuple[int, ...] = ()
    cells = 0
    norms = sums = products = torch.zeros(0)
    for feature_levels in maps:
        flat = [level.flatten(1).double() for level in feature_levels]
        if not channels:
            channels = tuple(len(one) for one in flat)
            norms = torch.zeros(len(flat), dtype=torch.float64)
            sums = torch.zeros(sum(channels), dtype=torch.float64)
            products = torch.zeros(sum(channels), sum(channels), dtype=torch.float64)
        cells += flat[0].shape[1]
        norms += torch.stack([one.norm(dim=0).sum() for one in flat])
        if components is not None:
            whole = torch.cat(flat)
            sums += whole.sum(dim=1)
            products += whole @ whole.T
    if cells == 0:
        raise ValueError("no training maps to fit the taps on")
    if not norms.isfinite().all():
        raise ValueError("a training map has values that are not finite")
    fitted = FeatureLevels(channels, components)
    # A tap that is zero everywhere stays so under any scale.
    fitted.scales.copy_(torch.where(norms > 0, cells / norms, 1.0))
    if fitted.pca_mean is not None and fitted.pca_components is not None and components is not None:
        scales = fitted.channel_scales().double()
        mean = sums / cells * scales
        covariance = products / cells * torch.outer(scales, scales) - torch.outer(mean, mean)
        axes = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :components].T
        # An axis' sign is arbitrary; fixed, so that the same maps give the same model everywhere.
        largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
        fitted.pca_mean.copy_(mean)
        fitted.pca_components.copy_(axes * largest.sign())
    return fitted


def align(one_map: Tensor, geometry: Geometry, target: Geometry, size: tuple[int, int]) -> Tensor:
    """Interpolates a map bilinearly at the cells of a finer one, by the pixels that both are centred on.

    `F.interpolate` assumes cells that tile the image from its corner. Under TensorFlow-style "same" padding
    they do not: cell i of stride 32 lies on cell 2i + 1 of stride 16, half a fine cell away from that.

    Args:
        one_map: float (N, C, h, w).
        geometry: its geometry.
        target: the geometry to bring it to.
        size: cells (height, width) wanted.

    Returns:
        float (N, C, *size); cells outside the coarse centres take the nearest one's value.
    """
    same = geometry.stride == target.stride and geometry.offset == target.offset
    if same and one_map.shape[2] >= size[0] and one_map.shape[3] >= size[1]:
        return one_map[:, :, : size[0], : size[1]]
    for axis, cells in zip((2, 3), size, strict=True):
        last = one_map.shape[axis] - 1
        pixels = target.offset + target.stride * torch.arange(cells)
        position = ((pixels - geometry.offset) / geometry.stride).clamp(0, last)
        below = position.floor().long()
        shape = [1, 1, 1, 1]
        shape[axis] = cells
        weight = (position - below).to(one_map.dtype).view(shape)
        above = (below + 1).clamp(max=last)
        one_map = torch.lerp(one_map.index_select(axis, below), one_map.index_select(axis, above), weight)
    return one_map

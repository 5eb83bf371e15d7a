"""The spatial pyramid as a torch module with a gradient."""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_pool

from sppnet.detection.features.pooling import PAPER_LEVELS, num_bins


class SpatialPyramidPooling(nn.Module):
    """Max-pools feature maps, or windows of one, over a spatial pyramid (SPP-net §2.2).

    Bins, values and order equal `spatial_pyramid_pool`, which is faster for many windows but has no gradient.
    Bin i of n over w cells covers cells ``floor(i w / n)`` to ``ceil((i + 1) w / n)`` (exclusive), in both
    directions. A vector is ordered level by level, bins row by row, channels within a bin. The gradient of a
    bin goes to the cell of its maximum.

    The module has no weights. It runs on any device on which torch and torchvision can pool, and in any
    floating-point type.

    Args:
        levels: bins per side of each pyramid level (SPP-net §4.1: 6, 3, 2, 1).

    Attributes:
        levels: as in Args.

    Raises:
        ValueError: there is no level, or a level is below 1.

    Example:
        >>> import torch
        >>> pyramid = SpatialPyramidPooling(levels=(2, 1))
        >>> feature_map = torch.arange(16.0).reshape(1, 1, 4, 4)
        >>> pyramid(feature_map)
        tensor([[ 5.,  7., 13., 15., 15.]])
        >>> pyramid(feature_map, windows=torch.tensor([[0, 0, 4, 4], [1, 1, 4, 3]]))
        tensor([[ 5.,  7., 13., 15., 15.],
                [ 6.,  7., 10., 11., 11.]])
        >>> SpatialPyramidPooling()(torch.rand(8, 256, 10, 13)).shape
        torch.Size([8, 12800])
    """

    def __init__(self, levels: Sequence[int] = PAPER_LEVELS) -> None:
        super().__init__()
        self.levels = tuple(levels)
        if not self.levels or min(self.levels) < 1:
            raise ValueError(f"levels {self.levels}: give at least one, each at least 1")

    def length(self, channels: int) -> int:
        """Computes the length of the vector of a map or a window with this number of channels."""
        return num_bins(self.levels) * channels

    def forward(self, feature_map: Tensor, windows: Tensor | None = None) -> Tensor:
        """Pools whole feature maps, or windows of one.

        Args:
            feature_map: float (N, C, H, W) or (C, H, W); with ``windows`` a single map of finite values,
                (C, H, W) or (1, C, H, W).
            windows: int (K, 4), cells x0 y0 x1 y1, right and bottom exclusive, inside the map, at least one
                cell each. ``None``: the whole map of each image is pooled.

        Returns:
            float (N, bins * C), or (K, bins * C) with ``windows``.

        Raises:
            ValueError: the map or the windows have another shape or type, or a window lies outside the map
                or has no cell.
        """
        maps = feature_map[None] if feature_map.ndim == 3 else feature_map
        if maps.ndim != 4 or not maps.is_floating_point():
            raise ValueError(
                f"the feature map is {feature_map.dtype} {tuple(feature_map.shape)}; give float (N, C, H, W) "
                "or (C, H, W)"
            )
        if windows is not None:
            return self._pool_windows(maps, windows)
        levels = [F.adaptive_max_pool2d(maps, level) for level in self.levels]
        # (N, C, rows, columns) to rows, columns, channels.
        return torch.cat([level.permute(0, 2, 3, 1).flatten(1) for level in levels], dim=1)

    def extra_repr(self) -> str:
        """Returns the levels as text, for ``print``."""
        return f"levels={self.levels}"

    def _pool_windows(self, maps: Tensor, windows: Tensor) -> Tensor:
        _check_windows(maps, windows)
        bins = torch.cat([_bins(windows.long(), level) for level in self.levels], dim=1).flatten(0, 1)
        # Half precision cannot hold large coordinates exactly; float32 does not change a maximum.
        values = maps if maps.dtype == torch.float64 else maps.float()
        # roi_pool takes (image index, first cell, last cell). Each bin is passed as a RoI of its own, because
        # roi_pool divides a RoI in floating point: at 7, 11, 13 and more bins per side it adds a cell to the
        # bins of windows of some sizes.
        rois = torch.cat([torch.zeros_like(bins[:, :1]), bins[:, :2], bins[:, 2:] - 1], dim=1)
        pooled = cast(Tensor, roi_pool(values, rois.to(values.dtype), 1, spatial_scale=1.0))
        return pooled.reshape(len(windows), self.length(maps.shape[1])).to(maps.dtype)


def _check_windows(maps: Tensor, windows: Tensor) -> None:
    if len(maps) != 1:
        raise ValueError(f"windows are of one feature map; there are {len(maps)}")
    if windows.ndim != 2 or windows.shape[1] != 4 or windows.is_floating_point() or windows.is_complex():
        raise ValueError(f"the windows are {windows.dtype} {tuple(windows.shape)}; give int (K, 4), in cells")
    height, width = maps.shape[2:]
    outside = (windows[:, :2] < 0).any() | (windows[:, 2] > width).any() | (windows[:, 3] > height).any()
    if bool(outside | (windows[:, 2:] <= windows[:, :2]).any()):
        raise ValueError(f"each window must have a cell and lie inside the {width} x {height} map")


def _bins(windows: Tensor, level: int) -> Tensor:
    """Computes the bins of a level, row by row: int64 (K, level², 4), cells x0 y0 x1 y1 as in windows."""
    index = torch.arange(level, device=windows.device)
    corner, sides = windows[:, None, :2], (windows[:, 2:] - windows[:, :2])[:, None]
    first = corner + index[:, None] * sides // level
    # The ceiling is computed from the floor of the negative.
    end = corner - (-(index[:, None] + 1) * sides).div(level, rounding_mode="floor")
    rows, columns = index.repeat_interleave(level), index.repeat(level)
    limits = (first[:, columns, 0], first[:, rows, 1], end[:, columns, 0], end[:, rows, 1])
    return torch.stack(limits, dim=2)

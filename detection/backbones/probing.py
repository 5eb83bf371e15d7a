"""Measures the geometry of any convolutional network from the gradients of single cells."""

import copy
from typing import cast

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from torch import Tensor, nn

from sppnet.detection.backbones.geometry import Geometry
from sppnet.detection.backbones.zf5 import WithinChannelLRN

# The value of the probe's pixels. It is so small that gates (squeeze-and-excitation) and saturating
# activations act as constants on it, but far enough from float64's underflow that products of hundreds of
# averaging weights stay representable.
_PROBE_LEVEL = 1e-60
# Gradients below this fraction of the largest one are traces of such gates, not of the receptive field.
_PROBE_FLOOR = 1e-40
_PROBE_CELLS = (0, 1, 3)
_PROBE_WIDTHS = (1024, 2048, 4096, 8192)


def probe(network: nn.Module) -> list[Geometry]:
    """Measures the geometry of each of a network's maps from the gradients of single cells.

    The probe runs on a copy of the network. There, convolutions and maximum pooling are replaced with
    averages, and normalisation with the identity. So the gradient of a cell with respect to the pixels is
    positive exactly on its receptive field, and symmetric about its centre. The image is wide and low because
    x and y are equal; the probed cells lie far from its left and right border.

    Args:
        network: takes (N, 3, H, W) and returns one map (N, C, h, w) or a list of maps; it must accept sides
            that are multiples of 64.

    Returns:
        the geometry of each map.

    Raises:
        ValueError: the cells cannot be located because the network is not convolutional (attention).

    Example:
        >>> from torch import nn
        >>> probe(nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.MaxPool2d(2)))
        [Geometry(stride=4, offset=1.0, receptive_field=5)]
    """
    averaging = _averaging_copy(network)
    for width in _PROBE_WIDTHS:
        image = torch.full((1, 3, 64, width), _PROBE_LEVEL, dtype=torch.float64, requires_grad=True)
        output = averaging(image)
        maps = [output] if isinstance(output, Tensor) else list(output)
        measured = [_measure(image, feature_map) for feature_map in maps]
        if all(measured):
            return cast(list[Geometry], measured)
    raise ValueError("the cells of its maps cannot be located on the image, as under attention")


def _measure(image: Tensor, feature_map: Tensor) -> Geometry | None:
    """Measures one map; ``None`` if a receptive field reaches the border or the centres are not on a line."""
    row, middle = feature_map.shape[2] // 2, feature_map.shape[3] // 2
    pixels = torch.arange(image.shape[3], dtype=torch.float64)
    centres, extents = [], []
    for step in _PROBE_CELLS:
        cell = feature_map[0, :, row, middle + step].sum()
        (gradient,) = torch.autograd.grad(cell, image, retain_graph=True)
        columns = gradient.abs().sum(dim=(0, 1, 2))
        columns = columns / columns.max()
        seen = torch.nonzero(columns > _PROBE_FLOOR).flatten()
        if len(seen) == 0 or seen[0] == 0 or seen[-1] == len(pixels) - 1:
            return None
        centres.append(float((columns * pixels).sum() / columns.sum()))
        extents.append(int(seen[-1] - seen[0]) + 1)
    stride = round(centres[1] - centres[0])
    line = [centres[0] + stride * step for step in _PROBE_CELLS]
    if stride < 1 or max(abs(a - b) for a, b in zip(centres, line, strict=True)) > 1e-3:
        return None
    # Centres are multiples of half a pixel, except for rounding errors.
    return Geometry(stride, round(2 * (centres[0] - stride * middle)) / 2, max(extents))


class _AveragingConvolution(nn.Module):
    """A convolution with equal weights that sum to 1; it is computed once and shared by all channels."""

    def __init__(self, original: nn.Conv2d) -> None:
        super().__init__()
        same = isinstance(original, Conv2dSame) or getattr(original, "same_pad", False)
        self.single = (Conv2dSame if same else nn.Conv2d)(
            1,
            1,
            cast(tuple[int, int], original.kernel_size),
            cast(tuple[int, int], original.stride),
            cast(tuple[int, int], original.padding),
            cast(tuple[int, int], original.dilation),
            bias=False,
            dtype=torch.float64,
        )
        nn.init.constant_(self.single.weight, 1 / self.single.weight.numel())
        self.single.requires_grad_(False)
        self.out_channels = original.out_channels

    def forward(self, x: Tensor) -> Tensor:
        average: Tensor = self.single(x.mean(dim=1, keepdim=True))
        return average.repeat(1, self.out_channels, 1, 1)


def _averaging_copy(network: nn.Module) -> nn.Module:
    """Makes a float64 copy of a network in which every cell is a positive average of its pixels."""
    averaging = copy.deepcopy(network).double().eval().requires_grad_(False)
    # The substitutes do not replace gains of residual branches (which may start at 0) and linear layers.
    for parameter in averaging.parameters():
        parameter.fill_(1)
    for part in averaging.modules():
        if isinstance(part, nn.Linear):
            part.weight.fill_(1 / part.in_features)
            if part.bias is not None:
                part.bias.zero_()
    for name, part in list(averaging.named_modules()):
        substitute = _averaging_substitute(part)
        if substitute is not None:
            averaging.set_submodule(name, substitute)
    return averaging


def _averaging_substitute(part: nn.Module) -> nn.Module | None:
    match part:
        case nn.Conv2d():
            return _AveragingConvolution(part)
        case BatchNormAct2d():
            return part.act
        case nn.BatchNorm2d() | nn.LayerNorm() | nn.GroupNorm() | nn.LocalResponseNorm() | WithinChannelLRN():
            return nn.Identity()
        case MaxPool2dSame():
            return cast(nn.Module, AvgPool2dSame(part.kernel_size, part.stride))
        case nn.MaxPool2d():
            return nn.AvgPool2d(part.kernel_size, part.stride, part.padding, part.ceil_mode)
        case _:
            return None

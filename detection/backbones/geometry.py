"""Where the cells of a feature map lie on the image: stride, centre of cell 0, receptive field.

Two ways to the same answer: the usual recurrence over a plain chain of layers, and a numeric gradient probe
for any convolutional network.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from torch import Tensor, nn

from sppnet.detection.backbones.zf5 import WithinChannelLRN

# Small enough that gates (squeeze-and-excitation) and saturating activations act as constants on it, and far
# from float64's underflow: products of hundreds of averaging weights stay representable.
_PROBE_LEVEL = 1e-60
# Gradients below this fraction of the largest are not the receptive field's edge but traces of such gates.
_PROBE_FLOOR = 1e-40
_PROBE_CELLS = (0, 1, 3)
_PROBE_WIDTHS = (1024, 2048, 4096, 8192)


@dataclass(frozen=True)
class Geometry:
    """How the cells of a map lie on the image that it was computed from, alike in x and y.

    Attributes:
        stride: pixels from one cell to the next.
        offset: the pixel that cell 0 is centred on, 0-based (pixel 0 covers [0, 1), its centre is 0.0 here).
        receptive_field: pixels in x (and in y) that a cell sees; windows of a normalisation layer (LRN) are
            not counted, as in the paper (139 for ZF-5).
    """

    stride: int
    offset: float
    receptive_field: int

    def centre(self, cell: float) -> float:
        """The pixel, 0-based, that the cell is centred on."""
        return self.offset + self.stride * cell


@dataclass(frozen=True)
class Layer:
    """A convolution or pooling layer as geometry sees it: pixels of its input, the same in x and y."""

    kernel: int
    stride: int
    padding: int
    ceil_mode: bool = False

    def output_size(self, size: int) -> int:
        """Cells that come from ``size`` cells of input, as torch and Caffe count them; below 1 for none."""
        span = size + 2 * self.padding - self.kernel
        if span < 0 and not self.ceil_mode:
            return 0
        cells = (-(-span // self.stride) if self.ceil_mode else span // self.stride) + 1
        # The last pooling window must start inside the input or its left padding.
        if self.ceil_mode and (cells - 1) * self.stride >= size + self.padding:
            cells -= 1
        return cells


def layers_of(module: nn.Module) -> list[Layer]:
    """The convolution and pooling layers of a chain of ``nn.Sequential``, first to last."""
    layers = []
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            (kernel,), (stride,) = set(part.kernel_size), set(part.stride)
            (padding,), (dilation,) = set(cast(tuple[int, int], part.padding)), set(part.dilation)
            layers.append(Layer(dilation * (kernel - 1) + 1, stride, padding))
        elif isinstance(part, nn.MaxPool2d):
            kernel, stride, padding = (
                cast(int, one) for one in (part.kernel_size, part.stride, part.padding)
            )
            layers.append(Layer(kernel, stride, padding, part.ceil_mode))
    return layers


def geometry_of(layers: Sequence[Layer]) -> Geometry:
    """The geometry of a chain of layers, by the usual recurrence."""
    stride, offset, receptive_field = 1, 0.0, 1
    for layer in layers:
        offset += ((layer.kernel - 1) / 2 - layer.padding) * stride
        receptive_field += (layer.kernel - 1) * stride
        stride *= layer.stride
    return Geometry(stride, offset, receptive_field)


def output_size(layers: Sequence[Layer], size: int) -> int:
    """Cells along one side of the map of an image of ``size`` pixels; 0 where the image is too small."""
    for layer in layers:
        size = layer.output_size(size)
        if size < 1:
            return 0
    return size


def minimum_size(layers: Sequence[Layer]) -> int:
    """The smallest side, in pixels, of an image whose map has a cell."""
    size = 1
    while output_size(layers, size) < 1:
        size += 1
    return size


def probe(network: nn.Module) -> list[Geometry]:
    """Measures the geometry of each of a network's maps from the gradients of single cells.

    The probe runs on a copy whose convolutions average (equal positive weights), whose maximum pooling
    averages too, and whose normalisation passes through: then the gradient of a cell with respect to the
    pixels is positive on exactly its receptive field and symmetric about its centre. The image is wide and
    low, as x and y are alike; the cells probed lie far from its left and right border.

    Args:
        network: takes (N, 3, H, W) and returns one map (N, C, h, w) or a list of them; sides that are
            multiples of 64 must suit it.

    Returns:
        the geometry of each map.

    Raises:
        ValueError: the cells cannot be located: the network is not convolutional (attention).
    """
    plain = _averaging_copy(network)
    for width in _PROBE_WIDTHS:
        image = torch.full((1, 3, 64, width), _PROBE_LEVEL, dtype=torch.float64, requires_grad=True)
        output = plain(image)
        maps = [output] if isinstance(output, Tensor) else list(output)
        measured = [_measure(image, one) for one in maps]
        if all(measured):
            return cast(list[Geometry], measured)
    raise ValueError("no cell of its maps has a place of its own on the image, as under attention")


def _measure(image: Tensor, one_map: Tensor) -> Geometry | None:
    """The geometry of one map; ``None`` if a receptive field reaches the image's border or finds no line."""
    row, middle = one_map.shape[2] // 2, one_map.shape[3] // 2
    pixels = torch.arange(image.shape[3], dtype=torch.float64)
    centres, extents = [], []
    for step in _PROBE_CELLS:
        cell = one_map[0, :, row, middle + step].sum()
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
    # Centres are multiples of half a pixel; what is beyond is rounding.
    return Geometry(stride, round(2 * (centres[0] - stride * middle)) / 2, max(extents))


class _AveragingConvolution(nn.Module):
    """A convolution whose weights are all equal and sum to 1; computed once, then shared by the channels."""

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
    """A float64 copy of a network in which every cell is a positive average of the pixels it sees."""
    plain = copy.deepcopy(network).double().eval().requires_grad_(False)
    # What the substitutes below leave: gains of residual branches (which may start at 0) and linear layers.
    for parameter in plain.parameters():
        parameter.fill_(1)
    for part in plain.modules():
        if isinstance(part, nn.Linear):
            part.weight.fill_(1 / part.in_features)
            if part.bias is not None:
                part.bias.zero_()
    for name, part in list(plain.named_modules()):
        substitute = _averaging_substitute(part)
        if substitute is not None:
            plain.set_submodule(name, substitute)
    return plain


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

"""The geometry of a feature map's cells on the image: stride, centre of cell 0, receptive field.

This module computes it from layers, in plain numbers without torch. `probe` measures it for any network.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Geometry:
    """The position of a feature map's cells on the resized image, equal in x and y.

    Attributes:
        stride: pixels from one cell to the next.
        offset: the pixel that cell 0 is centred on, 0-based (pixel 0 covers [0, 1); its centre is 0.0 here).
        receptive_field: pixels in x (and in y) that a cell depends on. Local response normalisation (LRN) is
            not counted, as in the paper (139 for ZF-5).

    Example:
        >>> zf5 = Geometry(stride=16, offset=20.0, receptive_field=139)
        >>> zf5.centre(3)
        68.0
    """

    stride: int
    offset: float
    receptive_field: int

    def centre(self, cell: float) -> float:
        """Returns the pixel, 0-based, that a cell is centred on."""
        return self.offset + self.stride * cell


@dataclass(frozen=True)
class Layer:
    """A convolution or pooling layer; sizes are in cells of its input and equal in x and y."""

    kernel: int
    stride: int
    padding: int
    ceil_mode: bool = False

    def output_size(self, size: int) -> int:
        """Computes the cells of output for ``size`` cells of input, as torch and Caffe do; below 1: none."""
        span = size + 2 * self.padding - self.kernel
        if span < 0 and not self.ceil_mode:
            return 0
        cells = (-(-span // self.stride) if self.ceil_mode else span // self.stride) + 1
        # The last position of the pooling kernel must start inside the input or its left padding.
        if self.ceil_mode and (cells - 1) * self.stride >= size + self.padding:
            cells -= 1
        return cells


def geometry_of(layers: Sequence[Layer]) -> Geometry:
    """Derives the geometry of a chain of layers by the usual recurrence.

    Example:
        >>> geometry_of([Layer(3, 2, 1), Layer(2, 2, 0)])
        Geometry(stride=4, offset=1.0, receptive_field=5)
    """
    stride, offset, receptive_field = 1, 0.0, 1
    for layer in layers:
        offset += ((layer.kernel - 1) / 2 - layer.padding) * stride
        receptive_field += (layer.kernel - 1) * stride
        stride *= layer.stride
    return Geometry(stride, offset, receptive_field)


def output_size(layers: Sequence[Layer], size: int) -> int:
    """Computes the cells along a side of the map of an image of ``size`` pixels; 0 if it is too small."""
    for layer in layers:
        size = layer.output_size(size)
        if size < 1:
            return 0
    return size


def minimum_size(layers: Sequence[Layer]) -> int:
    """Computes the smallest side, in pixels, of an image whose map has at least one cell."""
    size = 1
    while output_size(layers, size) < 1:
        size += 1
    return size

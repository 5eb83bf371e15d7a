"""The feature map of an image at one scale."""

from dataclasses import dataclass

from sppnet.common.arrays import FloatArray


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """The network's last map of an image at one scale.

    Attributes:
        values: float32 (h, w, C), channels last.
        factor: resize factors in x and y from the image to the network's input.
    """

    values: FloatArray
    factor: tuple[float, float]

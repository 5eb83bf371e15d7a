"""Networks that are one chain of layers with one map; their geometry follows from the layers."""

from typing import Any, cast

from torch import nn

from sppnet.detection.backbones.base import Network
from sppnet.detection.backbones.feature_levels import FeatureLevels
from sppnet.detection.backbones.geometry import Layer, geometry_of, minimum_size, output_size
from sppnet.detection.backbones.normalisation import Normalisation


class SequentialNetwork(Network):
    """A network whose layers are one chain with one feature level; its weights start random (He et al.).

    Args:
        name: the network's name in `build_network`.
        layers: the chain of layers.
        normalise: turns pixels into the network's input.
        pca: number of principal components that the map is reduced to; ``None``: no reduction.
    """

    def __init__(
        self, name: str, layers: nn.Sequential, normalise: Normalisation, pca: int | None = None
    ) -> None:
        self.layer_geometries = layers_of(layers)
        convolutions = [part for part in layers.modules() if isinstance(part, nn.Conv2d)]
        channels = convolutions[-1].out_channels
        super().__init__(
            name, layers, normalise, [geometry_of(self.layer_geometries)], FeatureLevels((channels,), pca)
        )
        self.minimum = minimum_size(self.layer_geometries)
        for part in convolutions:
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)

    def cells(self, height: int, width: int) -> tuple[int, int]:
        """See `Network.cells`."""
        rows, columns = (
            output_size(self.layer_geometries, max(side, self.minimum)) for side in (height, width)
        )
        return rows, columns

    def config(self) -> dict[str, Any]:
        """See `Network.config`."""
        return {"name": self.name, "pca": self.feature_levels.components}


def layers_of(module: nn.Module) -> list[Layer]:
    """Lists the convolution and pooling layers of a chain of ``nn.Sequential``, first to last."""
    layers = []
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            (kernel,), (stride,) = set(part.kernel_size), set(part.stride)
            (padding,), (dilation,) = set(cast(tuple[int, int], part.padding)), set(part.dilation)
            layers.append(Layer(dilation * (kernel - 1) + 1, stride, padding))
        elif isinstance(part, nn.MaxPool2d):
            kernel, stride, padding = (
                cast(int, value) for value in (part.kernel_size, part.stride, part.padding)
            )
            layers.append(Layer(kernel, stride, padding, part.ceil_mode))
    return layers

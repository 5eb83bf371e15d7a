"""The base class of all backbones: an image goes in, one feature map comes out."""

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sppnet.common.arrays import Image
from sppnet.common.cores import limit_torch_threads
from sppnet.detection.backbones.feature_levels import FeatureLevels, align
from sppnet.detection.backbones.file_names import keep_file_names
from sppnet.detection.backbones.geometry import Geometry
from sppnet.detection.backbones.normalisation import Normalisation

# Here, because whatever computes with torch imports this module.
limit_torch_threads()


class Network(nn.Module, ABC):
    """A convolutional network up to its last feature map.

    Attributes:
        name: the network's name in `build_network`.
        layers: the layers, under the key names of their usual weight files.
        feature_levels: joins the feature levels of the layers to one map.
        normalise: turns pixels into the network's input.
        level_geometries: the geometry of each feature level.
        geometry: the geometry of the joined map: the stride and offset of the finest feature level, and the
            largest receptive field.
        multiple: images are padded to sides that are multiples of this, in pixels.
        minimum: images are padded to sides of at least this many pixels.

    Example:
        >>> import numpy as np
        >>> from sppnet.detection.backbones import build_network
        >>> network = build_network("zf5", "random")
        >>> network.geometry
        Geometry(stride=16, offset=20.0, receptive_field=139)
        >>> network.feature_map(np.zeros((64, 96, 3), np.uint8)).shape
        torch.Size([256, 3, 5])
        >>> network.cells(64, 96)
        (3, 5)
    """

    def __init__(
        self,
        name: str,
        layers: nn.Module,
        normalise: Normalisation,
        level_geometries: list[Geometry],
        feature_levels: FeatureLevels,
    ) -> None:
        super().__init__()
        self.name = name
        self.layers = layers
        self.normalise = normalise
        self.level_geometries = tuple(level_geometries)
        self.feature_levels = feature_levels
        finest = min(level_geometries, key=lambda level: level.stride)
        widest = max(level.receptive_field for level in level_geometries)
        self.geometry = Geometry(finest.stride, finest.offset, widest)
        self.multiple = self.minimum = 1
        keep_file_names(self, {"layers.": "body.", "feature_levels.": "taps."})

    @property
    def channels(self) -> int:
        """Number of channels of the map."""
        return self.feature_levels.channels

    @abstractmethod
    def cells(self, height: int, width: int) -> tuple[int, int]:
        """Returns the size (h, w) of the map of an image of ``height`` × ``width`` pixels; runs no layers."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Returns JSON values that `network_from_config` needs beside the ``state_dict`` to rebuild this."""

    def set_feature_levels(self, feature_levels: FeatureLevels) -> None:
        """Replaces the constants that join the feature levels with fitted constants.

        Args:
            feature_levels: the constants, from `fit_feature_levels`.

        Raises:
            ValueError: the constants were fitted on feature levels with other channels.
        """
        if feature_levels.level_channels != self.feature_levels.level_channels:
            raise ValueError(
                f"feature levels with channels {feature_levels.level_channels}, expected "
                f"{self.feature_levels.level_channels}"
            )
        self.feature_levels = feature_levels

    def pad(self, images: Tensor) -> Tensor:
        """Pads normalised images (N, 3, H, W) at the bottom and right to sides that the network can take.

        The padding is zeros, as in the layers, so the cells of the image keep their positions.
        """
        height, width = (
            max(self.minimum, -(-side // self.multiple) * self.multiple) for side in images.shape[2:]
        )
        padded = F.pad(images, (0, width - images.shape[3], 0, height - images.shape[2]))
        # oneDNN's convolutions are faster in this memory order, twice as fast in bfloat16. The copy is always
        # made: torch reads the order from the strides, and the strides of a batch of one (H, W, C) image are
        # ambiguous.
        return padded.clone(memory_format=torch.channels_last)

    def aligned(self, images: Tensor, bfloat16: bool = False) -> list[Tensor]:
        """Computes the feature levels of normalised images (N, 3, H, W), each (N, C_l, h, w), aligned."""
        size = self.cells(*images.shape[2:])
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            output = self.layers(self.pad(images))
        levels = [output] if isinstance(output, Tensor) else list(output)
        return [
            align(level.float(), geometry, self.geometry, size)
            for level, geometry in zip(levels, self.level_geometries, strict=True)
        ]

    def forward(self, images: Tensor, bfloat16: bool = False) -> Tensor:
        """Computes the feature maps of normalised images.

        Args:
            images: float (N, 3, H, W), of any size.
            bfloat16: whether the convolutions are computed in bfloat16; the feature levels are joined in
                float32 either way.

        Returns:
            float32 (N, channels, h, w), with (h, w) = ``cells(H, W)``.
        """
        joined: Tensor = self.feature_levels(self.aligned(images, bfloat16))
        return joined

    @torch.inference_mode()
    def feature_map(self, image: Image, bfloat16: bool = False) -> Tensor:
        """Computes the feature map of one image.

        Args:
            image: uint8 (H, W, 3), RGB, already resized to its scale; any size from 1 × 1.
            bfloat16: as in `forward`.

        Returns:
            float32 (channels, h, w), contiguous, with (h, w) = ``cells(H, W)`` and ``geometry``.
        """
        joined: Tensor = self(self.normalise(image), bfloat16)
        return joined[0].contiguous()

    @torch.inference_mode()
    def level_maps(self, image: Image) -> list[Tensor]:
        """Computes an image's feature levels before they are joined, each float32 (C_l, h, w)."""
        return [level[0] for level in self.aligned(self.normalise(image))]

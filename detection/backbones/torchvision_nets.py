"""The convolution layers of torchvision's AlexNet and VGG-16, up to the last convolution and its ReLU."""

from collections import OrderedDict

import torch
import torchvision
from torch import Tensor, nn

from sppnet.common.errors import InputError


def alexnet_layers() -> nn.Sequential:
    """Makes conv1 to relu5 of torchvision's AlexNet, under its key names ``features.N``, uninitialised."""
    # On the meta device the fully connected layers (nine tenths of the weights) take no memory.
    with torch.device("meta"):
        features = torchvision.models.alexnet(weights=None).features
    return _before_last_pool(features)


def vgg16_layers() -> nn.Sequential:
    """Makes conv1_1 to relu5_3 of torchvision's VGG-16, under its key names ``features.N``, uninitialised."""
    with torch.device("meta"):
        features = torchvision.models.vgg16(weights=None, init_weights=False).features
    return _before_last_pool(features)


def _before_last_pool(features: nn.Sequential) -> nn.Sequential:
    return nn.Sequential(OrderedDict(features=features[:-1])).to_empty(device="cpu")


def torchvision_weights(name: str) -> dict[str, Tensor]:
    """Downloads torchvision's ImageNet weights (IMAGENET1K_V1) of ``alexnet`` or ``vgg16``.

    Raises:
        InputError: the weights cannot be downloaded; the message gives their address.
    """
    best = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    try:
        state: dict[str, Tensor] = best.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{name}: torchvision's weights cannot be downloaded ({error}); fetch {best.url} yourself and "
            "pass the file, or a safetensors file of its convolution layers"
        ) from error
    return state

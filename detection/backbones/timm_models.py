"""Creates timm's networks by name: their layers, preprocessing, weights and geometry."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import timm
from torch import nn

from sppnet.common.errors import InputError
from sppnet.detection.backbones.geometry import Geometry
from sppnet.detection.backbones.normalisation import EFFICIENTNET_LITE, IMAGENET, Normalisation
from sppnet.detection.backbones.packaged import PACKAGES, packaged_weights, timm_names
from sppnet.detection.backbones.probing import probe
from sppnet.detection.backbones.weights import RANDOM, load_exactly, read_weights

# This project's names for networks that have another name in timm.
TIMM_NAMES = {"efficientnet_lite0": "tf_efficientnet_lite0", "efficientnet_lite2": "tf_efficientnet_lite2"}
DEFAULT_STRIDES = (16, 32)
# The position of the cells of trained networks: stride to the pixel of cell 0. TensorFlow's "same" padding
# puts the centres of receptive fields at 1, 3, 7, 15, 31, but training has moved the response of a cell back
# towards the middle of its tile. At these offsets (to half a pixel) the maps of VOC2007 images and of their
# mirror images agree best; tests/detection/backbones/test_timm_nets.py measures them for the default network.
TRAINED_OFFSETS: dict[str, dict[int, float]] = {
    "efficientnet_lite0": {4: 2.5, 8: 3.0, 16: 9.0, 32: 17.0},
    "efficientnet_lite2": {4: 2.5, 8: 3.5, 16: 9.5, 32: 24.5},
}


def timm_name(name: str) -> str:
    """Returns timm's name of a network.

    Raises:
        InputError: timm has no network of that name; the message gives the nearest names.
    """
    known = TIMM_NAMES.get(name, name)
    if not timm.is_model(known.split(".")[0]):
        near = timm.list_models(f"*{name}*")[:5]
        hint = f"did you mean {', '.join(near)}?" if near else "see timm.list_models()"
        raise InputError(f"unknown network {name!r}: not zf5, alexnet, vgg16 or one of timm's; {hint}")
    return known


def timm_layers(name: str, strides: Sequence[int] | None, pretrained: bool = False) -> nn.Module:
    """Creates a timm network that returns the maps of the given strides, finest first.

    Args:
        name: this project's or timm's name.
        strides: strides of the feature levels; ``None``: 16 and 32 if the network has them, else the coarsest
            stride.
        pretrained: whether the network gets timm's weights, which may be downloaded, or random weights.

    Raises:
        InputError: timm has no such network or cannot return its maps, or the network has no map of a stride.
    """
    known = timm_name(name)
    try:
        layers = timm.create_model(known, features_only=True)
        available = [int(stride) for stride in layers.feature_info.reduction()]  # type: ignore[operator,union-attr]
        default = [stride for stride in DEFAULT_STRIDES if stride in available] or available[-1:]
        wanted = list(strides or default)
        missing = [stride for stride in wanted if stride not in available]
        if missing:
            raise InputError(f"{name}: no map of stride {missing[0]}; it has strides {available}")
        # Of several maps of one stride, the last one is the deepest.
        indices = [len(available) - 1 - available[::-1].index(stride) for stride in sorted(set(wanted))]
        layers = timm.create_model(known, features_only=True, out_indices=indices, pretrained=pretrained)
    except (AssertionError, AttributeError, RuntimeError, TypeError) as error:
        raise InputError(
            f"{name}: timm cannot return the feature maps of this network ({error}); take another network"
        ) from error
    return layers.eval()


def trim(layers: nn.Module) -> None:
    """Drops the blocks after the last feature level; timm's EfficientNets would compute them needlessly."""
    kind, _, number = layers.feature_info.module_name()[-1].partition(".")  # type: ignore[operator,union-attr]
    blocks = getattr(layers, "blocks", None)
    if kind == "blocks" and number.isdigit() and isinstance(blocks, nn.Sequential):
        layers.blocks = blocks[: int(number) + 1]


def timm_normalisation(name: str) -> Normalisation:
    """Returns the normalisation with which timm's weights of this network were trained."""
    if name in TIMM_NAMES:
        return EFFICIENTNET_LITE
    config = timm.get_pretrained_cfg(timm_name(name))
    if config is None:
        return IMAGENET
    mean, std = (tuple(255 * value for value in values) for values in (config.mean, config.std))
    return Normalisation(mean, std)  # type: ignore[arg-type]


def weighted_layers(name: str, weights: str | Path | None, strides: Sequence[int] | None) -> nn.Module:
    """Creates a timm network with weights, without the blocks after its last feature level.

    Args:
        name: this project's or timm's name.
        weights: a file, ``"random"``, or ``None`` for the weights of the installed package or of timm.
        strides: as in `timm_layers`.

    Raises:
        InputError: see `build_network`.
    """
    if weights is None and name not in PACKAGES:
        layers = _pretrained_layers(name, strides)
    else:
        layers = timm_layers(name, strides)
        if weights != RANDOM:
            _load_file(layers, packaged_weights(name) if weights is None else Path(weights))
    trim(layers)
    return layers


def _load_file(layers: nn.Module, path: Path) -> None:
    state = read_weights(path)
    if "_conv_stem.weight" in state:  # the published names of EfficientNet-Lite
        stages = [len(stage) for stage in layers.blocks]  # type: ignore[union-attr]
        state = timm_names(state, stages, str(path))
    load_exactly(layers, state, str(path))


def _pretrained_layers(name: str, strides: Sequence[int] | None) -> nn.Module:
    try:
        return timm_layers(name, strides, pretrained=True)
    except InputError:
        raise
    except Exception as error:  # The client of the hub raises many types of errors.
        raise InputError(
            f"{name}: timm's weights cannot be downloaded ({type(error).__name__}); pass a file of weights, "
            'or "random"'
        ) from error


@cache
def timm_geometries(name: str, strides: tuple[int, ...] | None) -> tuple[Geometry, ...]:
    """Measures the geometry of each feature level; it depends on the network's structure, not on weights.

    Raises:
        InputError: the network is not convolutional.
    """
    layers = timm_layers(name, strides)
    trim(layers)
    try:
        return tuple(probe(layers))
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"{name}: its geometry cannot be measured ({error}); take a convolutional network"
        ) from error

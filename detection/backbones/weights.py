"""Reads files of weights, and loads them into a network only if they fit it exactly."""

import re
import zipfile
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from sppnet.common.errors import InputError
from sppnet.detection.backbones.caffemodel import read_caffemodel

RANDOM = "random"
# The user's name for the weights that come with a network, as the start of a training.
_OWN = "own"
# Prefixes and wrappers in saved state dicts of DataParallel, Lightning and others, and detectors.
_PREFIXES = ("module.", "model.", "backbone.")
_WRAPPERS = ("state_dict", "model")
_PICKLED = (".pth", ".pt")
# Others, such as the 8-bit ones, are for inference on special hardware.
_PRECISIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def starting_weights(text: str) -> str | None:
    """Converts a user's choice of starting weights to the ``weights`` argument of `build_network`.

    Args:
        text: a file, ``own`` for the weights that come with the network, or an empty text for random weights.
    """
    return None if text == _OWN else text or RANDOM


def read_weights(path: Path) -> dict[str, Tensor]:
    """Reads a file of weights without executing any of it.

    Args:
        path: ``.safetensors``; a state dict saved by torch (``.pth``, ``.pt``), read with ``weights_only``;
            or a ``.caffemodel``, whose layers become ``<layer>.weight`` and ``<layer>.bias``.

    Returns:
        name to tensor, on the CPU, in the stored precision.

    Raises:
        InputError: the file cannot be read, or its content does not fit its suffix.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file of weights; check the path")
    suffix = path.suffix.lower()
    if suffix == ".caffemodel":
        return _from_caffe(path)
    if suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, OSError) as error:
            raise InputError(f"{path}: not a whole safetensors file ({error}); fetch it again") from error
    if suffix not in _PICKLED:
        raise InputError(
            f"{path}: unknown kind of weights {suffix!r}; pass .safetensors, .pth, .pt or .caffemodel"
        )
    try:
        _check_not_compressed(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and torch each raise their own errors.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path}: not a state dict that can be read without executing it ({reason}); "
            "save model.state_dict() alone, best as safetensors"
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path}: holds no state dict (names to tensors); save model.state_dict() alone")
    return {str(key): value for key, value in content.items()}


def _check_not_compressed(path: Path) -> None:
    """Refuses compressed members, which torch does not write: a small file may swell to any size."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("it is compressed")


def _from_caffe(path: Path) -> dict[str, Tensor]:
    state = {}
    for layer, blobs in read_caffemodel(path).items():
        state[f"{layer}.weight"] = blobs[0]
        if len(blobs) > 1:
            state[f"{layer}.bias"] = blobs[1].flatten()  # of the legacy shape (1, 1, 1, n)
    return state


def load_exactly(layers: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Copies weights into a network: every tensor of the network must be there, finite, with its shape.

    Tensors of parts that the network does not have, such as a classifier, are ignored. Extra tensors within a
    part that it has (as in a deeper variant) are an error. Half precision becomes float32.

    Args:
        layers: the network, under the key names of its usual weight files.
        state: name to tensor; the prefixes ``module.``, ``model.``, ``backbone.`` are stripped.
        source: the file's name, for error messages.

    Raises:
        InputError: the weights do not fit; the message names the tensor.
    """
    wanted = layers.state_dict()
    given = _under_names_of(wanted, state)
    parts = {key.partition(".")[0] for key in wanted}
    for key, target in wanted.items():
        if key not in given:
            if key.endswith("num_batches_tracked"):
                continue
            raise InputError(f"{source}: no tensor {key}; these are not this network's weights")
        tensor = given[key]
        if tensor.shape != target.shape:
            raise InputError(
                f"{source}: {key} has shape {tuple(tensor.shape)}, the network's is {tuple(target.shape)}; "
                "these are not this network's weights"
            )
        if target.is_floating_point() and tensor.dtype not in _PRECISIONS:
            raise InputError(
                f"{source}: {key} is {tensor.dtype}; weights must be floating point of 16 to 64 bits"
            )
        if not tensor.isfinite().all():
            raise InputError(f"{source}: {key} has values that are not finite; fetch the file again")
    extra = [key for key in given if key not in wanted and key.partition(".")[0] in parts]
    if extra:
        raise InputError(
            f"{source}: {len(extra)} tensors have no place in the network, first {extra[0]}; "
            "these are another network's weights"
        )
    layers.load_state_dict({key: given[key] for key in wanted if key in given}, strict=False)


def _under_names_of(wanted: dict[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Strips known prefixes, and renames ``stages.0`` to timm's ``stages_0`` if the network has that."""
    stripped = True
    while stripped and not wanted.keys() & state.keys():
        stripped = False
        for prefix in _PREFIXES:
            inner = {
                key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)
            }
            if inner:
                state, stripped = inner, True
                break
    parts = {key.partition(".")[0] for key in wanted}
    renamed = {}
    for key, value in state.items():
        joined = re.sub(r"^([A-Za-z]+)\.(\d+)\.", r"\1_\2.", key)
        renamed[joined if joined.partition(".")[0] in parts and key not in wanted else key] = value
    return renamed

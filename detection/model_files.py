"""A detector's folder on disk: ``model.safetensors`` and ``model.json``. No pickle."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from sppnet.common.errors import DamageError, InputError
from sppnet.common.files import atomic_path, file_digest, json_digest, write_json
from sppnet.common.parsing import read_description
from sppnet.common.settings import override, with_todays_names
from sppnet.detection.backbones import network_from_config
from sppnet.detection.calibration import TENSOR_PREFIX, Calibration
from sppnet.detection.detection_settings import DetectionSettings
from sppnet.detection.fc_layers import FullyConnected
from sppnet.detection.features.extractor import Extractor
from sppnet.detection.features.rcnn import make_extractor
from sppnet.detection.features.settings import FeatureSettings
from sppnet.detection.heads import Head, head_from_tensors
from sppnet.proposals import Engine, engine_from_parameters
from sppnet.svm import BoxRegressors

_FORMAT = 1
_NETWORK = "network."


class Parts(Protocol):
    """The parts of a detector that its folder holds; see `sppnet.detection.detector.Detector`."""

    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def extractor(self) -> Extractor: ...
    @property
    def head(self) -> Head: ...
    @property
    def regressors(self) -> BoxRegressors | None: ...
    @property
    def settings(self) -> DetectionSettings: ...
    @property
    def engine(self) -> Engine: ...
    @property
    def origin(self) -> Mapping[str, Any]: ...
    @property
    def layers(self) -> FullyConnected | None: ...
    @property
    def calibration(self) -> Calibration | None: ...


def write_model(detector: Parts, folder: Path, half: bool = False) -> None:
    """Writes a detector, replacing a model in the folder.

    Args:
        detector: to write.
        folder: created if it is missing.
        half: whether weights are rounded to float16. The calibration is not.

    Raises:
        InputError: the folder cannot be written.
    """
    extractor = detector.extractor
    tensors = {f"{_NETWORK}{name}": value for name, value in extractor.network.state_dict().items()}
    description: dict[str, Any] = {
        "format": _FORMAT,
        "classes": detector.classes,
        "network": extractor.network.config(),
        "features": asdict(extractor.settings),
        "scale": detector.head.norm_factor,
        "detection": asdict(detector.settings),
        "proposals": detector.engine.parameters(),
        "origin": detector.origin,
    }
    if detector.layers is not None:
        tensors |= detector.layers.tensors()
    arrays: dict[str, NDArray[Any]] = {**detector.head.tensors()}
    if detector.regressors is not None:
        arrays |= {
            "regression.weights": detector.regressors.weights,
            "regression.bias": detector.regressors.bias,
        }
        description["regression_scale"] = detector.regressors.norm_factor
    if detector.calibration is not None:
        arrays |= detector.calibration.tensors()
    tensors |= {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    if half:
        tensors = {
            name: value if name.startswith(TENSOR_PREFIX) else _rounded(value)
            for name, value in tensors.items()
        }
    try:
        # Before a model that is there is replaced: JSON holds no infinite numbers.
        json.dumps(description, allow_nan=False)
    except ValueError as error:
        raise InputError(f"{folder}: the model cannot be written ({error}); give finite settings") from error
    try:
        with atomic_path(folder / "model.safetensors") as path:
            save_file({name: value.contiguous() for name, value in tensors.items()}, path)
            description["model.safetensors"] = file_digest(path)
        description["digest"] = json_digest(description)
        write_json(folder / "model.json", description, indent=2)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder}: the model cannot be written ({error}); free some space") from error


def read_model(folder: Path) -> dict[str, Any]:
    """Reads the parts of a detector, by the names of `Detector`'s attributes.

    Raises:
        DamageError: a file is missing or cut, or the weights are not those that were written.
        InputError: the description was altered, or is of another format.
    """
    model, weights = folder / "model.json", folder / "model.safetensors"
    try:
        return _parts(model, weights)
    except FileNotFoundError as error:
        raise DamageError(f"{error.filename}: missing; {folder} is no complete model folder") from error
    except DamageError:
        raise
    except InputError as error:
        named = str(folder) in str(error)
        raise InputError(str(error) if named else f"{model}: {error}") from error
    except (KeyError, AttributeError) as error:
        raise InputError(f"{model}: {error} is missing or damaged; train again") from error
    # Of a description that was altered: numpy, torch and safetensors raise errors of many types.
    except Exception as error:
        raise InputError(f"{folder}: the model cannot be read ({error}); train again") from error


def read_calibration(folder: Path) -> Calibration | None:
    """Reads the calibration of a detector alone; None where there is none, or no detector.

    Raises:
        InputError: the file cannot be read, or is not the one that ``model.json`` describes.
    """
    model, weights = folder / "model.json", folder / "model.safetensors"
    if not weights.is_file():
        return None
    try:
        if model.is_file():
            _check_weights(model, weights, read_description(model, "is no complete model folder"))
        with safe_open(weights, "numpy") as file:
            names = [name for name in file.keys() if name.startswith(TENSOR_PREFIX)]  # noqa: SIM118 (no dict)
            return Calibration.from_tensors({name: file.get_tensor(name) for name in names})
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{weights}: the calibration cannot be read ({error}); train again") from error


def _check_weights(model: Path, weights: Path, description: Mapping[str, Any]) -> None:
    if file_digest(weights) != description["model.safetensors"]:
        raise DamageError(f"{weights}: not the file that {model.name} describes; restore it or train again")


def _parts(model: Path, weights: Path) -> dict[str, Any]:
    description = read_description(model, "is no complete model folder")
    if description["format"] != _FORMAT:
        raise InputError(f"{model}: format {description['format']}, expected {_FORMAT}; train again")
    _check_weights(model, weights, description)
    # First of all, so that nothing is built to an altered description. Models of before this was kept have
    # none.
    if description.pop("digest", None) not in (None, json_digest(description)):
        # Perhaps by hand, so it is not taken for damage.
        raise InputError(
            f"{model}: altered since it was saved; restore it, or delete {model.parent} and train again"
        )
    # Half-precision models are computed with as the others.
    tensors = {
        name: value.float() if value.dtype == torch.float16 else value
        for name, value in load_file(weights).items()
    }
    state = {
        name.removeprefix(_NETWORK): value for name, value in tensors.items() if name.startswith(_NETWORK)
    }
    arrays = {name: value.numpy() for name, value in tensors.items() if not name.startswith(_NETWORK)}
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"{weights}: {name} has values that are not finite; train again")
    network = network_from_config(description["network"], state)
    norm_factor = _factor(description["scale"])
    regressors = None
    if "regression.weights" in arrays:
        # The factor of SVMs on pooled vectors, too; older models keep just one.
        regression_factor = _factor(description.get("regression_scale", norm_factor))
        regressors = BoxRegressors(arrays["regression.weights"], arrays["regression.bias"], regression_factor)
    features = override(FeatureSettings(), description["features"], str(model))
    extractor = make_extractor(network, features)
    layers = FullyConnected.from_tensors(tensors)
    if layers is not None and layers.inputs != extractor.length:
        raise InputError(f"{model}: fc6 takes {layers.inputs} numbers, not {extractor.length}; train again")
    head = head_from_tensors(arrays, norm_factor)
    expected = len(description["classes"]), (layers or extractor).length
    if (head.num_classes, head.length) != expected:
        raise InputError(
            f"{model}: the {head.kind} head is for {head.num_classes} classes and {head.length} numbers, "
            f"not {expected[0]} and {expected[1]}; train again"
        )
    if regressors is not None:
        shapes = regressors.weights.shape, regressors.bias.shape
        if shapes != ((expected[0], 4, extractor.length), (expected[0], 4)):
            raise InputError(f"{weights}: box regressors of shapes {shapes} do not fit; train again")
    calibration = Calibration.from_tensors(arrays)
    if calibration is not None and len(calibration.slopes) != expected[0]:
        raise InputError(f"{weights}: a calibration of {len(calibration.slopes)} classes; train again")
    return {
        "classes": _class_names(description["classes"]),
        "extractor": extractor,
        "head": head,
        "regressors": regressors,
        "settings": override(DetectionSettings(), with_todays_names(description["detection"]), str(model)),
        "engine": engine_from_parameters(description["proposals"], str(model)),
        "origin": description["origin"],
        "layers": layers,
        "calibration": calibration,
    }


def _rounded(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as float16; unchanged where it is not float32, or has values too large for float16."""
    half = tensor.half()
    return half if tensor.dtype == torch.float32 and bool(half.isfinite().all()) else tensor


def _factor(value: Any) -> float:
    factor = float(value)
    if not math.isfinite(factor):
        raise ValueError(f"a factor of {factor}")
    return factor


def _class_names(names: Any) -> list[str]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError("the classes are no texts")
    return names

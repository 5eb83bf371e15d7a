"""The trained thing: image in, detections out; and its folder on disk."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sppnet.common.arrays import FloatArray, Image
from sppnet.common.errors import InputError
from sppnet.common.files import atomic_path, file_digest, json_digest
from sppnet.common.settings import override, with_todays_names
from sppnet.common.stopwatch import Stopwatch
from sppnet.data.images import read_image
from sppnet.data.types import Detections
from sppnet.detection.backbones import network_from_config
from sppnet.detection.fc_layers import FullyConnected, Head, SoftmaxHead
from sppnet.detection.features.extractor import FeatureExtractor, FeatureMap, FeatureSettings
from sppnet.detection.features.rcnn import make_extractor
from sppnet.detection.nms import DetectionSettings, nms_best_first, suppress
from sppnet.proposals import Engine, ImportedBoxes, OpenCVSelectiveSearch, SelectiveSearch
from sppnet.proposals.engine import settings_of
from sppnet.svm import BoxRegressors, LinearSVMs, apply_deltas

_FORMAT = 1


class Detector:
    """SPP-net: proposals, one network pass, pooled windows, SVMs or softmax, box regression, suppression.

    Attributes:
        classes: names; a detection's label is an index into them.
        extractor: the network and its pooling.
        head: linear SVMs, or the softmax layer of a fine-tuned network.
        regressors: one a class, on pooled windows; or None for windows as they are proposed.
        settings: thresholds of detection.
        engine: proposes windows where the caller gives none.
        origin: what it was trained from, as JSON values; kept with it.
        layers: fully connected ones between pooled windows and ``svms``, or None.
        clock: time spent in each stage so far.
    """

    def __init__(
        self,
        classes: Sequence[str],
        extractor: FeatureExtractor,
        head: Head,
        regressors: BoxRegressors | None = None,
        settings: DetectionSettings | None = None,
        engine: Engine | None = None,
        origin: dict[str, Any] | None = None,
        layers: FullyConnected | None = None,
    ) -> None:
        self.classes = tuple(classes)
        self.extractor = extractor
        self.head = head
        self.regressors = regressors
        self.settings = settings or DetectionSettings()
        self.engine = engine or SelectiveSearch()
        self.origin = origin or {}
        self.layers = layers
        self.clock = Stopwatch()

    @property
    def least_shown(self) -> float:
        """The score from which a detection is worth showing: even odds of the softmax, or -0.75 of SVMs.

        SVMs of rare classes seldom give their objects a margin above 0. From -0.75 on two to three boxes an
        image remained on VOC2007, about as many as there are objects; from -0.5 on hardly a dog did.
        """
        return 0.0 if isinstance(self.head, SoftmaxHead) else -0.75

    def detect(
        self,
        image: Image | Path | str,
        boxes: FloatArray | None = None,
        maps: Sequence[FeatureMap] | None = None,
    ) -> Detections:
        """Detects the objects of one image.

        Args:
            image: uint8 (H, W, 3) RGB, or an image file.
            boxes: windows to score, float32 (N, 4), xyxy, pixel edges; proposed here if None.
            maps: the image's feature maps if they are at hand.

        Returns:
            detections grouped by class, best first; boxes that regression moved are clipped to the image.

        Raises:
            InputError: the file is no image, or the array is not uint8 (H, W, 3).
        """
        with self.clock("decode"):
            image = read_image(image) if isinstance(image, Path | str) else _checked(image)
        with self.clock("proposals"):
            boxes = self.engine.propose(image) if boxes is None else boxes
        with self.clock("convolution"):
            maps = self.extractor.maps(image) if maps is None else maps
        return self.refine(*self.score(maps, boxes), image.shape[:2])

    def score(self, maps: Sequence[FeatureMap], boxes: FloatArray) -> tuple[Detections, FloatArray]:
        """The proposed windows that stand, and how box regression would move them.

        Args:
            maps: of the image, one a scale.
            boxes: float32 (N, 4), xyxy, pixel edges.

        Returns:
            K detections grouped by class, best first, and float32 (K, 4) deltas for `svm.apply_deltas`,
            zeros where there are no regressors.
        """
        with self.clock("pooling"):
            pooled = self.extractor.pool(maps, boxes)
        features = pooled.features
        if self.layers is not None:
            with self.clock("fc"):
                features = self.layers(features)
        with self.clock("svm"):
            scores = self.head.score(features)[pooled.rows]
        with self.clock("nms"):
            windows, labels = suppress(boxes, scores, self.settings)
        found = Detections(boxes[windows], scores[windows, labels], labels)
        if self.regressors is None:
            return found, np.zeros_like(found.boxes)
        with self.clock("regression"):
            offsets = self.regressors.deltas(pooled.features)[pooled.rows[windows], labels]
        return found, offsets

    def refine(self, found: Detections, offsets: FloatArray, size: tuple[int, int]) -> Detections:
        """The detections with their boxes moved as `score` says.

        Boxes are clipped to the image and suppressed again, for some now coincide (released code).

        Args:
            found: K detections.
            offsets: float32 (K, 4), of their boxes.
            size: height and width of the image.
        """
        if self.regressors is None:
            return found
        with self.clock("regression"):
            moved = apply_deltas(found.boxes, offsets)
            moved = np.clip(moved, 0, np.array([size[1], size[0]] * 2, np.float32))
        with self.clock("nms"):
            kept = [np.zeros(0, np.int64)]
            for label in np.unique(found.labels):
                mine = np.flatnonzero((found.labels == label) & (moved[:, 2:] > moved[:, :2]).all(axis=1))
                kept.append(mine[nms_best_first(moved[mine], found.scores[mine], self.settings)])
            chosen = np.concatenate(kept)
        return Detections(moved[chosen], found.scores[chosen], found.labels[chosen])

    def save(self, folder: Path | str) -> None:
        """Writes ``model.safetensors`` and ``model.json`` into ``folder``, replacing a model there.

        Raises:
            InputError: the folder cannot be written.
        """
        folder = Path(folder)
        tensors = {f"network.{name}": value for name, value in self.extractor.network.state_dict().items()}
        description: dict[str, Any] = {
            "format": _FORMAT,
            "classes": self.classes,
            "network": self.extractor.network.config(),
            "features": asdict(self.extractor.settings),
            "scale": self.head.norm_factor,
            "detection": asdict(self.settings),
            "proposals": self.engine.parameters(),
            "origin": self.origin,
        }
        if self.layers is not None:
            tensors |= self.layers.tensors()
        kind = "softmax" if isinstance(self.head, SoftmaxHead) else "svm"
        arrays = {f"{kind}.weights": self.head.weights, f"{kind}.bias": self.head.bias}
        if self.regressors is not None:
            arrays |= {"regression.weights": self.regressors.weights, "regression.bias": self.regressors.bias}
            description["regression_scale"] = self.regressors.norm_factor
        tensors |= {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
        try:
            with atomic_path(folder / "model.safetensors") as path:
                save_file({name: value.contiguous() for name, value in tensors.items()}, path)
                description["model.safetensors"] = file_digest(path)
            description["digest"] = json_digest(description)
            with atomic_path(folder / "model.json") as path:
                path.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        except (OSError, SafetensorError) as error:
            raise InputError(f"{folder}: the model cannot be written ({error}); free some space") from error

    @classmethod
    def load(cls, folder: Path | str) -> "Detector":
        """Reads what `save` wrote.

        Raises:
            InputError: a file is missing, altered, or of another format.
        """
        folder = Path(folder)
        model, weights = folder / "model.json", folder / "model.safetensors"
        try:
            description = json.loads(model.read_text(encoding="utf-8"))
            if description["format"] != _FORMAT:
                raise InputError(f"{model}: format {description['format']}, expected {_FORMAT}; train again")
            if file_digest(weights) != description["model.safetensors"]:
                raise InputError(
                    f"{weights}: not the file that {model.name} describes; restore it or train again"
                )
            tensors = load_file(weights)
            prefix = "network."
            state = {name.removeprefix(prefix): v for name, v in tensors.items() if name.startswith(prefix)}
            arrays = {name: v.numpy() for name, v in tensors.items() if not name.startswith(prefix)}
            network = network_from_config(description["network"], state)
            scale = float(description["scale"])
            regressors = None
            if "regression.weights" in arrays:
                # The same scale as that of SVMs on pooled windows, of which older models keep just one.
                own = float(description.get("regression_scale", scale))
                regressors = BoxRegressors(arrays["regression.weights"], arrays["regression.bias"], own)
            features = override(FeatureSettings(), description["features"], str(model))
            extractor = make_extractor(network, features)
            layers = FullyConnected.from_tensors(tensors)
            if layers is not None and layers.inputs != extractor.length:
                raise InputError(
                    f"{model}: fc6 takes {layers.inputs} numbers, not {extractor.length}; train again"
                )
            scores_head = _head(arrays, scale)
            softmax = isinstance(svms, SoftmaxHead)
            expected = len(description["classes"]) + softmax, (layers or extractor).length
            if svms.weights.shape != expected:
                name = "the softmax layer is" if softmax else "SVMs are"
                raise InputError(f"{model}: {name} {svms.weights.shape}, not {expected}; train again")
            # Models of before this was kept have none.
            if description.pop("digest", None) not in (None, json_digest(description)):
                raise InputError(f"{model}: altered since it was saved; restore it or train again")
            return cls(
                description["classes"],
                extractor,
                svms,
                regressors,
                override(DetectionSettings(), with_todays_names(description["detection"]), str(model)),
                _engine(description["proposals"], model),
                description["origin"],
                layers,
            )
        except FileNotFoundError as error:
            raise InputError(f"{error.filename}: missing; {folder} is no complete model folder") from error
        except InputError as error:
            named = str(folder) in str(error)
            raise InputError(str(error) if named else f"{model}: {error}") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{model}: {error} is missing or damaged; train again") from error
        except (OSError, SafetensorError, ValueError) as error:
            raise InputError(f"{folder}: the model cannot be read ({error}); train again") from error


def _head(arrays: Mapping[str, FloatArray], scale: float) -> Head:
    if "softmax.weights" in arrays:
        return SoftmaxHead(arrays["softmax.weights"], arrays["softmax.bias"])
    return LinearSVMs(arrays["svm.weights"], arrays["svm.bias"], scale)


def _engine(parameters: dict[str, Any], source: Path) -> Engine:
    known = settings_of(parameters)
    match parameters["engine"]:
        case "imported":
            return override(ImportedBoxes("none"), known, str(source))
        case "opencv":
            return override(OpenCVSelectiveSearch(), known, str(source))
        case "selective-search":
            return SelectiveSearch(**known)
    raise InputError(f"{source}: unknown proposal engine {parameters['engine']!r}; train again")


def _checked(image: Image) -> Image:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(f"the image is {image.dtype} {image.shape}; give uint8 (height, width, 3), RGB")
    return image

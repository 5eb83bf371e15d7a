"""Teachers: networks whose maps another one learns, and those maps brought to its cells."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sppnet.common.arrays import FloatArray, Image
from sppnet.common.errors import InputError
from sppnet.common.files import file_digest
from sppnet.data.images import read_image
from sppnet.data.types import Example
from sppnet.detection.backbones import Geometry, Network, build_network
from sppnet.detection.detector import Detector
from sppnet.detection.features.extractor import FeatureExtractor, FeatureMap, FeatureSettings
from sppnet.detection.features.map_store import MapStore
from sppnet.proposals import image_key

# What a teacher is named by that is none: the annotated boxes.
LABELS = "labels"


@dataclass(frozen=True)
class View:
    """A square part of a resized image, maybe mirrored: what a student sees in one go.

    Attributes:
        scale: which of the scales the image was resized to.
        left, top: of the crop in the resized image, in pixels.
        side: of the crop, in pixels.
        mirrored: whether the crop is mirrored left to right afterwards.
    """

    scale: int
    left: int
    top: int
    side: int
    mirrored: bool

    def cut(self, resized: Image) -> Image:
        """The crop, uint8 (side, side, 3), of the resized image."""
        crop = resized[self.top : self.top + self.side, self.left : self.left + self.side]
        return crop[:, ::-1] if self.mirrored else crop

    def pixels(self, geometry: Geometry, cells: int) -> tuple[FloatArray, FloatArray]:
        """Columns and rows of the resized image, in pixels, that the crop's cells are centred on."""
        centres = geometry.offset + geometry.stride * np.arange(cells, dtype=np.float32)
        across = self.side - 1 - centres if self.mirrored else centres
        return self.left + across, self.top + centres


class Teacher:
    """A network that teaches, at the short sides that belong to the student's scales.

    Attributes:
        parts: channels of each of its taps, which count alike.
    """

    def __init__(self, text: str, scales: int, maps: Path, map_bytes: int) -> None:
        """Builds the teacher that ``text`` (see `DistillSettings.teachers`) names.

        Raises:
            InputError: no such network, weights or folder, or not one short side for each of ``scales``.
        """
        name, *sides = teacher_parts(text, scales)
        if len(sides) != scales or not all(side.isdecimal() and int(side) > 0 for side in sides):
            raise InputError(
                f"teacher {text!r}: write its name, then a short side in pixels for each of {scales} scales"
            )
        network = named_network(name)
        components = network.feature_levels.components
        self.parts = network.feature_levels.level_channels if components is None else (components,)
        self._extractors = [FeatureExtractor(network, FeatureSettings((int(side),))) for side in sides]
        self._stores = [MapStore(maps, extractor, map_bytes) for extractor in self._extractors]
        self.geometry = network.geometry

    def map(self, example: Example, scale: int) -> FeatureMap:
        """Its map of a whole image, for the student's ``scale``; computed once, then kept on disk."""
        extractor, store = self._extractors[scale], self._stores[scale]
        digest = image_key(example).image_digest
        return store.get(digest, lambda: extractor.maps(read_image(example.path)))[0]

    def look(
        self, example: Example, scale: int, factor: tuple[float, float], columns: FloatArray, rows: FloatArray
    ) -> FloatArray:
        """`seen` of an image's map for one of the student's scales."""
        return self.seen(self.map(example, scale), factor, columns, rows)

    def seen(
        self,
        one_map: FeatureMap,
        factor: tuple[float, float],
        columns: FloatArray,
        rows: FloatArray,
    ) -> FloatArray:
        """What the teacher sees at pixels of the student's resized image.

        Args:
            one_map: of the image.
            factor: resize factors in x and y of the student's image.
            columns: float32 (w,), in pixels of it.
            rows: float32 (h,), likewise.

        Returns:
            float32 (h, w, C), interpolated between the teacher's cells.
        """
        values = one_map.values
        for axis, pixels in enumerate((rows, columns)):
            ratio = one_map.factor[1 - axis] / factor[1 - axis]
            # Pixel 0 is centred on 0 here, but images are resized about their corner.
            own = (pixels + 0.5) * ratio - 0.5
            places = (own - self.geometry.offset) / self.geometry.stride
            values = _interpolated(values, axis, places.astype(np.float32))
        return values


class Labels:
    """Takes the annotated boxes for a teacher, who sees of each class whether an object of it is there.

    Attributes:
        parts: see `Teacher`.
    """

    def __init__(self, classes: int) -> None:
        """Takes the number of classes."""
        self.parts = (classes,)

    def look(
        self,
        example: Example,
        _scale: int,
        factor: tuple[float, float],
        columns: FloatArray,
        rows: FloatArray,
    ) -> FloatArray:
        """Float32 (h, w, classes): 1 for the class of the smallest box around a pixel, else 0.

        Arguments are `Teacher.look`'s.
        """
        x, y = ((pixels + 0.5) / ratio for pixels, ratio in zip((columns, rows), factor, strict=True))
        values = np.zeros((len(y), len(x), *self.parts), np.float32)
        areas = np.prod(example.boxes[:, 2:] - example.boxes[:, :2], axis=1)
        for index in np.argsort(-areas, kind="stable"):
            left, top, right, bottom = example.boxes[index]
            inside = np.ix_((top <= y) & (y < bottom), (left <= x) & (x < right))
            values[inside] = 0
            values[(*inside, example.labels[index])] = 1
        return values


def _interpolated(values: FloatArray, axis: int, places: FloatArray) -> FloatArray:
    """Linear interpolation along an axis at fractional ``places``; beyond the ends, the end's value."""
    places = places.clip(0, values.shape[axis] - 1)
    below = np.floor(places).astype(np.int64)
    above = np.minimum(below + 1, values.shape[axis] - 1)
    weight = (places - below).astype(np.float32).reshape([-1 if one == axis else 1 for one in range(3)])
    result: FloatArray = (1 - weight) * values.take(below, axis) + weight * values.take(above, axis)
    return result


def teacher_parts(text: str, scales: int) -> list[str]:
    """What names a teacher's network, and its short side for each of ``scales``, as far as they are given."""
    # From the right: a file's name may have blanks.
    return text.rsplit(maxsplit=scales)


def named_network(text: str) -> Network:
    """The network of a trained detector's folder, or of ``name`` or ``name=file of weights``."""
    if (Path(text) / "model.json").exists():
        return Detector.load(text).extractor.network
    name, _, weights = text.partition("=")
    return build_network(name, weights or None)


def source_digest(text: str) -> str:
    """SHA-256 of the file that a network's weights come from; empty where a package or a seed gives them.

    Args:
        text: as in `named_network`.
    """
    _, _, weights = text.partition("=")
    # A model's description has the digest of its weights.
    file = next((one for one in (Path(text) / "model.json", Path(weights)) if one.is_file()), None)
    return "" if file is None else file_digest(file)


@dataclass(frozen=True, eq=False)
class Standard:
    """Brings a teacher's channels to mean 0 and variance 1.

    Attributes:
        mean, deviation: float32 (C,).
    """

    mean: Tensor
    deviation: Tensor

    def __call__(self, values: Tensor) -> Tensor:
        """Float (..., C) to the same shape."""
        return (values - self.mean) / self.deviation


def standard_of(maps: Sequence[NDArray[np.float32]], alike: bool = False) -> Standard:
    """The mean and deviation of the channels of some maps, each float32 (h, w, C).

    Args:
        maps: at least one.
        alike: all channels get the same deviation, that of their joint variance. Of labels, a class of which
            the maps show few or none would else count for more than all others.
    """
    cells = np.concatenate([one.reshape(-1, one.shape[2]) for one in maps])
    variance = cells.var(axis=0)
    deviation = np.sqrt(np.full_like(variance, variance.mean()) if alike else variance)
    # A channel that hardly ever differs from its mean must not be blown up.
    deviation += 0.01 * deviation.mean() + np.finfo(np.float32).tiny
    return Standard(torch.from_numpy(cells.mean(axis=0)), torch.from_numpy(deviation))

"""Teachers: networks, or annotated boxes, whose maps a student learns to reproduce."""

from pathlib import Path

import numpy as np

from sppnet.common.arrays import FloatArray
from sppnet.common.errors import InputError
from sppnet.common.files import file_digest
from sppnet.data.types import Example
from sppnet.detection.backbones import Geometry, Network, build_network
from sppnet.detection.detector import Detector
from sppnet.detection.features.extractor import SPPExtractor
from sppnet.detection.features.feature_map import FeatureMap
from sppnet.detection.features.settings import FeatureSettings
from sppnet.proposals import image_key

# The name, among teachers, of the annotated boxes.
LABELS = "labels"


class Teacher:
    """A network that teaches, at the short sides that belong to the student's scales.

    Attributes:
        level_channels: channels of each of its feature levels, which count alike.
    """

    def __init__(self, text: str, scales: int, maps: Path, map_bytes: int) -> None:
        """Builds a teacher.

        Args:
            text: names it, see `DistillSettings.teachers`.
            scales: number of the student's scales.
            maps: folder where its maps are stored.
            map_bytes: bound on that folder.

        Raises:
            InputError: no such network, weights or folder, or not one short side for each of the scales.
        """
        name, *sides = split_teacher(text, scales)
        if len(sides) != scales or not all(side.isdecimal() and int(side) > 0 for side in sides):
            raise InputError(
                f"teacher {text!r}: write its name, then a short side in pixels for each of {scales} scales"
            )
        network = named_network(name)
        components = network.feature_levels.components
        level_channels = network.feature_levels.level_channels
        self.level_channels = level_channels if components is None else (components,)
        self._extractors = [SPPExtractor(network, FeatureSettings((int(side),))) for side in sides]
        self._stores = [extractor.store(maps, map_bytes) for extractor in self._extractors]
        self._geometry = network.geometry

    def values_at(
        self, example: Example, scale: int, factor: tuple[float, float], columns: FloatArray, rows: FloatArray
    ) -> FloatArray:
        """The teacher's features at pixels of the student's resized image.

        Its map of the whole image is computed once, then kept on disk.

        Args:
            example: the image.
            scale: index of the student's scale.
            factor: resize factors in x and y of the student's image.
            columns: float32 (w,), in pixels of the student's image.
            rows: float32 (h,), likewise.

        Returns:
            float32 (h, w, C), interpolated between the teacher's cells.
        """
        extractor, store = self._extractors[scale], self._stores[scale]
        digest = image_key(example).image_digest
        (feature_map,) = store.get(digest, lambda: extractor.prepare(example.read()))
        return values_at_pixels(feature_map, self._geometry, factor, columns, rows)


class Labels:
    """The annotated boxes as a teacher: its channel of a class is 1 where an object of the class is.

    Attributes:
        level_channels: see `Teacher`.
    """

    def __init__(self, classes: int) -> None:
        """Takes the number of classes."""
        self.level_channels = (classes,)

    def values_at(
        self,
        example: Example,
        _scale: int,
        factor: tuple[float, float],
        columns: FloatArray,
        rows: FloatArray,
    ) -> FloatArray:
        """Float32 (h, w, classes): 1 for the class of the smallest box around a pixel, else 0.

        The arguments are those of `Teacher.values_at`.
        """
        x, y = ((pixels + 0.5) / ratio for pixels, ratio in zip((columns, rows), factor, strict=True))
        values = np.zeros((len(y), len(x), *self.level_channels), np.float32)
        areas = np.prod(example.boxes[:, 2:] - example.boxes[:, :2], axis=1)
        for index in np.argsort(-areas, kind="stable"):
            left, top, right, bottom = example.boxes[index]
            inside = np.ix_((top <= y) & (y < bottom), (left <= x) & (x < right))
            values[inside] = 0
            values[(*inside, example.labels[index])] = 1
        return values


def values_at_pixels(
    feature_map: FeatureMap,
    geometry: Geometry,
    factor: tuple[float, float],
    columns: FloatArray,
    rows: FloatArray,
) -> FloatArray:
    """A map's features at pixels of the same image at another size.

    Args:
        feature_map: of the whole image.
        geometry: of the network that made it.
        factor: resize factors in x and y of the image at the other size.
        columns: float32 (w,), pixels of the image at the other size.
        rows: float32 (h,), likewise.

    Returns:
        float32 (h, w, C), interpolated between the cells of the map.

    Example:
        >>> values = np.array([[[0], [1], [2]]], np.float32)
        >>> cells = FeatureMap(values, factor=(1.0, 1.0))
        >>> columns, rows = np.array([4, 8, 12], np.float32), np.array([0], np.float32)
        >>> values_at_pixels(cells, Geometry(8, 0.0, 8), (1.0, 1.0), columns, rows)[0, :, 0]
        array([0.5, 1. , 1.5], dtype=float32)
    """
    values = feature_map.values
    for axis, pixels in enumerate((rows, columns)):
        ratio = feature_map.factor[1 - axis] / factor[1 - axis]
        # Pixel 0 is centred on 0 here, but images are resized about their corner.
        in_map_image = (pixels + 0.5) * ratio - 0.5
        cells = (in_map_image - geometry.offset) / geometry.stride
        values = _interpolated(values, axis, cells.astype(np.float32))
    return values


def _interpolated(values: FloatArray, axis: int, cells: FloatArray) -> FloatArray:
    """Linear interpolation along an axis at fractional cells; beyond the ends, the end's value."""
    cells = cells.clip(0, values.shape[axis] - 1)
    below = np.floor(cells).astype(np.int64)
    above = np.minimum(below + 1, values.shape[axis] - 1)
    shape = [1, 1, 1]
    shape[axis] = -1
    weight = (cells - below).astype(np.float32).reshape(shape)
    result: FloatArray = (1 - weight) * values.take(below, axis) + weight * values.take(above, axis)
    return result


def split_teacher(text: str, scales: int) -> list[str]:
    """The name of a teacher's network, and its short sides for ``scales``, as far as they are given.

    Example:
        >>> split_teacher("alexnet=my weights.pth 576 400", 2)
        ['alexnet=my weights.pth', '576', '400']
    """
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
    files = (Path(text) / "model.json", Path(weights))
    file = next((path for path in files if path.is_file()), None)
    return "" if file is None else file_digest(file)

"""Extractors: an image is prepared once, and the vectors of its boxes are extracted from the result."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from sppnet.common.arrays import FloatArray, Image, IntArray
from sppnet.common.stopwatch import Stopwatch
from sppnet.detection.backbones import Network, weights_digest
from sppnet.detection.features.feature_map import FeatureMap
from sppnet.detection.features.map_store import MapStore
from sppnet.detection.features.pooling import num_bins, spatial_pyramid_pool
from sppnet.detection.features.projection import choose_scale, project, resize_factor
from sppnet.detection.features.settings import FeatureSettings


def resize_to_scales(image: Image, settings: FeatureSettings) -> list[tuple[Image, tuple[float, float]]]:
    """Resizes an image to each scale (bilinear, no antialiasing: released code).

    Args:
        image: uint8 (H, W, 3) RGB.
        settings: the scales and the limit on the long side are used.

    Returns:
        for each scale the resized image, and the resize factors in x and y.
    """
    height, width = image.shape[:2]
    images = []
    for scale in settings.scales:
        factor = resize_factor(height, width, scale, settings.max_long_side)
        size = max(1, round(width * factor)), max(1, round(height * factor))
        resized = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        images.append((np.asarray(resized, np.uint8), (size[0] / width, size[1] / height)))
    return images


@dataclass(frozen=True, eq=False)
class PooledFeatures:
    """Vectors of an image's boxes; boxes with the same window share a vector.

    Attributes:
        features: float32 (U, length), a row for each distinct window.
        rows: int64 (N,), the row of each box in ``features``.
    """

    features: FloatArray
    rows: IntArray


class PreparedStore(Protocol):
    """Keeps results of `Extractor.prepare` for a second pass over the same images."""

    def get(self, image_digest: str, prepare: Callable[[], Any]) -> Any:
        """Returns the prepared image with this digest, from the store or else from ``prepare``."""


class Extractor(Protocol):
    """Makes vectors from an image and its boxes.

    Attributes:
        network: the backbone.
        settings: scales, projection and pyramid, or the crop of R-CNN.
        clock: seconds spent in each stage so far.
    """

    @property
    def network(self) -> Network: ...

    @property
    def settings(self) -> FeatureSettings: ...

    @property
    def clock(self) -> Stopwatch: ...

    @property
    def length(self) -> int:
        """Length of a box's vector."""

    @property
    def pooled_length(self) -> int:
        """Length of the longest vector that memory must hold while a box's vector is made."""

    def prepare(self, image: Image) -> Any:
        """Prepares an image, uint8 (H, W, 3) RGB, once for the vectors of all its boxes."""

    def extract(self, prepared: Any, boxes: FloatArray, scales: IntArray | None = None) -> PooledFeatures:
        """Extracts the vectors of boxes.

        Args:
            prepared: the image, from `prepare`.
            boxes: float32 (N, 4), xyxy, pixels of the image.
            scales: int64 (N,), the index of each box's scale; -1: the scale that suits the box. None: all -1.
        """

    def store(self, folder: Path, max_bytes: int) -> PreparedStore:
        """Opens a store of prepared images in a folder of at most ``max_bytes`` bytes."""

    def identity(self) -> dict[str, Any]:
        """Returns JSON values that the vectors depend on, besides the image and its boxes."""


@dataclass(frozen=True, eq=False)
class PyramidExtractor:
    """The parts that SPP-net's and R-CNN's extractors share: both pool the network's maps by a pyramid.

    Attributes:
        network: the backbone.
        settings: how boxes become vectors.
        clock: seconds spent in each stage so far.
    """

    network: Network
    settings: FeatureSettings
    clock: Stopwatch = field(default_factory=Stopwatch)

    @property
    def length(self) -> int:
        """Length of a box's vector: bins of the pyramid times channels."""
        return num_bins(self.settings.levels) * self.network.channels

    @property
    def pooled_length(self) -> int:
        """See `Extractor.pooled_length`."""
        return self.length

    def identity(self) -> dict[str, Any]:
        """See `Extractor.identity`."""
        return {
            "weights": weights_digest(self.network),
            "network": self.network.config(),
            "settings": asdict(self.settings),
        }


@dataclass(frozen=True, eq=False)
class SPPExtractor(PyramidExtractor):
    """SPP-net's extractor: an image passes once through the network, and boxes are pooled from its maps.

    Attributes:
        network: the backbone.
        settings: scales, projection and pyramid.
        clock: seconds spent in ``resize``, ``convolution`` and ``pooling`` so far.

    Example:
        >>> import numpy as np
        >>> from sppnet.detection.backbones import build_network
        >>> extractor = SPPExtractor(build_network("alexnet", "random"), FeatureSettings(scales=(96,)))
        >>> maps = extractor.prepare(np.zeros((80, 110, 3), np.uint8))
        >>> extractor.extract(maps, np.array([[10, 10, 60, 70]], np.float32)).features.shape
        (1, 12800)
    """

    def prepare(self, image: Image) -> list[FeatureMap]:
        """Computes the feature map of an image, uint8 (H, W, 3) RGB, at each scale."""
        maps = []
        with self.clock("resize"):
            resized_images = resize_to_scales(image, self.settings)
        for resized, factor in resized_images:
            with self.clock("convolution"):
                channels_first = self.network.feature_map(resized, self.settings.bfloat16)
                values = channels_first.permute(1, 2, 0).contiguous().numpy()
            maps.append(FeatureMap(values, factor))
        return maps

    def extract(
        self, prepared: Sequence[FeatureMap], boxes: FloatArray, scales: IntArray | None = None
    ) -> PooledFeatures:
        """Pools each box from the map of the scale that is chosen for it; see `Extractor.extract`."""
        with self.clock("pooling"):
            return self._pool(prepared, boxes, scales)

    def _pool(self, maps: Sequence[FeatureMap], boxes: FloatArray, scales: IntArray | None) -> PooledFeatures:
        settings = self.settings
        ratios = [feature_map.factor for feature_map in maps]
        factors = np.array([np.sqrt(ratio[0] * ratio[1]) for ratio in ratios], np.float32)
        chosen = choose_scale(boxes, factors, settings.scale_rule)
        if scales is not None:
            chosen = np.where(scales >= 0, scales, chosen)
        # The index of the scale and the window of each box.
        windows = np.empty((len(boxes), 5), np.int32)
        windows[:, 0] = chosen
        for index, feature_map in enumerate(maps):
            rows = chosen == index
            windows[rows, 1:] = project(
                boxes[rows],
                feature_map.factor,
                self.network.geometry,
                feature_map.values.shape[:2],
                settings.projection,
            )
        distinct, box_rows = np.unique(windows, axis=0, return_inverse=True)
        parts = [
            spatial_pyramid_pool(feature_map.values, distinct[distinct[:, 0] == index, 1:], settings.levels)
            for index, feature_map in enumerate(maps)
        ]
        features = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return PooledFeatures(features, box_rows.reshape(-1).astype(np.int64))

    def store(self, folder: Path, max_bytes: int) -> MapStore:
        """Opens a store of feature maps on disk; see `MapStore`."""
        settings = self.settings
        made_by = {
            "weights": weights_digest(self.network),
            "network": self.network.config(),
            "scales": settings.scales,
            "max_long_side": settings.max_long_side,
        } | ({"bfloat16": True} if settings.bfloat16 else {})
        return MapStore(folder, made_by, len(settings.scales), max_bytes)

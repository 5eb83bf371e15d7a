"""Extractors: an image is prepared once, and vectors of its regions are extracted from that."""

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
        settings: of which scales and the cap on the long side are used.

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
    """Vectors of an image's regions; regions with the same window share one.

    Attributes:
        features: float32 (U, length), a row for each distinct window.
        rows: int64 (N,), the row of each region.
    """

    features: FloatArray
    rows: IntArray


class PreparedStore(Protocol):
    """Keeps what `Extractor.prepare` gives, for a second pass over the same images."""

    def get(self, image_digest: str, prepare: Callable[[], Any]) -> Any:
        """The prepared image of this digest: from the store, else from ``prepare``."""


class Extractor(Protocol):
    """Vectors of an image's regions.

    Attributes:
        network: the backbone.
        settings: how regions become vectors.
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
        """Numbers in a region's vector."""

    @property
    def pooled_length(self) -> int:
        """Numbers in the longest vector that memory has to hold on the way to a region's vector."""

    def prepare(self, image: Image) -> Any:
        """Prepares an image, uint8 (H, W, 3) RGB, once for the vectors of all its regions."""

    def extract(self, prepared: Any, boxes: FloatArray, scales: IntArray | None = None) -> PooledFeatures:
        """The vectors of regions.

        Args:
            prepared: the image, from `prepare`.
            boxes: float32 (N, 4), xyxy, pixels of the image.
            scales: int64 (N,), the index of the scale to take each region from; -1: the one that suits it.
                None: all -1.
        """

    def store(self, folder: Path, max_bytes: int) -> PreparedStore:
        """A store of prepared images in a folder of at most so many bytes."""

    def identity(self) -> dict[str, Any]:
        """JSON values that the vectors depend on, beside the image and its regions."""


@dataclass(frozen=True, eq=False)
class SPPExtractor:
    """SPP-net's extractor: an image passes once through the network, and regions are pooled from its maps.

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

    network: Network
    settings: FeatureSettings
    clock: Stopwatch = field(default_factory=Stopwatch)

    @property
    def length(self) -> int:
        """Numbers in a region's vector: bins of the pyramid times channels."""
        return num_bins(self.settings.levels) * self.network.channels

    @property
    def pooled_length(self) -> int:
        """See `Extractor.pooled_length`."""
        return self.length

    def prepare(self, image: Image) -> list[FeatureMap]:
        """The feature map of an image, uint8 (H, W, 3) RGB, at each scale."""
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
        """Pools regions, each from the map of the scale chosen for it; see `Extractor.extract`."""
        with self.clock("pooling"):
            return self._pool(prepared, boxes, scales)

    def _pool(self, maps: Sequence[FeatureMap], boxes: FloatArray, scales: IntArray | None) -> PooledFeatures:
        settings = self.settings
        factors = np.array([np.sqrt(level.factor[0] * level.factor[1]) for level in maps], np.float32)
        chosen = choose_scale(boxes, factors, settings.scale_rule)
        if scales is not None:
            chosen = np.where(scales >= 0, scales, chosen)
        # The scale's index and the window of each region.
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
        distinct, row_of_region = np.unique(windows, axis=0, return_inverse=True)
        parts = [
            spatial_pyramid_pool(feature_map.values, distinct[distinct[:, 0] == index, 1:], settings.levels)
            for index, feature_map in enumerate(maps)
        ]
        features = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return PooledFeatures(features, row_of_region.reshape(-1).astype(np.int64))

    def store(self, folder: Path, max_bytes: int) -> MapStore:
        """A store of feature maps on disk; see `MapStore`."""
        settings = self.settings
        made_by = {
            "weights": weights_digest(self.network),
            "network": self.network.config(),
            "scales": settings.scales,
            "max_long_side": settings.max_long_side,
        } | ({"bfloat16": True} if settings.bfloat16 else {})
        return MapStore(folder, made_by, len(settings.scales), max_bytes)

    def identity(self) -> dict[str, Any]:
        """See `Extractor.identity`."""
        return {
            "weights": weights_digest(self.network),
            "network": self.network.config(),
            "settings": asdict(self.settings),
        }

"""Image to feature maps, and windows of them to pooled vectors: one network pass an image and scale."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from sppnet.common.arrays import FloatArray, Image, IntArray
from sppnet.common.errors import InputError
from sppnet.common.stopwatch import Stopwatch
from sppnet.detection.backbones import Network
from sppnet.detection.features.pooling import PAPER_LEVELS, num_bins, spatial_pyramid_pool
from sppnet.detection.features.projection import Projection, ScaleRule, choose_scale, project, resize_factor


@dataclass(frozen=True)
class FeatureSettings:
    """How windows become vectors.

    Attributes:
        scales: short sides of the resized image, in pixels (paper §4.1: 688 for one scale).
        max_long_side: cap on the long side, in pixels; our own, for panoramas. Of VOC2007's images 0.1 %
            reach it at 688, 1 % at 1,200.
        scale_rule: which scale a window is pooled from, where there are several.
        projection: from windows to cells.
        levels: bins a side of the pyramid's levels (paper §4.1: 6, 3, 2, 1).
        mode: ``spp``: windows are pooled from maps of the image; ``rcnn``: each window is warped and passes
            through the network on its own, ``scales`` and the two rules mean nothing.
        crop, crop_padding: with ``rcnn``, the side that windows are warped to, and how much of it on each
            side is context, in pixels (R-CNN: 227 and 16).
        bfloat16: whether convolutions are computed in bfloat16; our own. It pays on processors that have it
            (AVX-512 BF16, AMX); on others it is many times slower.
    """

    scales: tuple[int, ...] = (688,)
    max_long_side: int = 2500
    scale_rule: ScaleRule = "paper"
    projection: Projection = "paper"
    levels: tuple[int, ...] = PAPER_LEVELS
    mode: Literal["spp", "rcnn"] = "spp"
    crop: int = 227
    crop_padding: int = 16
    bfloat16: bool = False

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) < 1 or self.max_long_side < max(self.scales):
            raise InputError(
                f"scales {self.scales}: give at least one, from 1 to {self.max_long_side} pixels"
            )
        if not self.levels or min(self.levels) < 1:
            raise InputError(f"levels {self.levels}: give at least one, each at least 1")
        for name, value in (("scale_rule", self.scale_rule), ("projection", self.projection)):
            if value not in ("paper", "released"):
                raise InputError(f"{name} {value!r}: choose paper or released")
        if self.mode not in ("spp", "rcnn"):
            raise InputError(f"mode {self.mode!r}: choose spp or rcnn")
        if not 0 <= 2 * self.crop_padding < self.crop:
            raise InputError(f"crop {self.crop}, crop_padding {self.crop_padding}: leave room for the window")


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """The network's last map of an image at one scale.

    Attributes:
        values: float32 (h, w, C), channels last.
        factor: resize factors in x and y that the network's input was made at.
    """

    values: FloatArray
    factor: tuple[float, float]


@dataclass(frozen=True, eq=False)
class PooledFeatures:
    """Vectors of an image's windows; windows that project to the same cells share one.

    Attributes:
        features: float32 (U, length), one row for each distinct window.
        rows: int64 (N,), the row of each window.
    """

    features: FloatArray
    rows: IntArray


class FeatureExtractor:
    """The network and the way windows are pooled from its maps.

    Attributes:
        network: it.
        settings: the way.
        clock: time spent in ``resize``, ``convolution`` and ``pooling`` so far.
    """

    # Whether maps are worth storing.
    stores_maps = True
    # Of layers between the pooled vectors and a window's; here there are none.
    layers_digest = ""

    def __init__(self, network: Network, settings: FeatureSettings) -> None:
        self.network = network
        self.settings = settings
        self.clock = Stopwatch()

    @property
    def length(self) -> int:
        """Numbers in a window's vector: bins of the pyramid times channels."""
        return num_bins(self.settings.levels) * self.network.channels

    @property
    def pooled_length(self) -> int:
        """Numbers in the longest vector on the way to a window's: what memory has to hold."""
        return self.length

    def maps(self, image: Image) -> list[FeatureMap]:
        """The feature map of an image, uint8 (H, W, 3) RGB, at each scale."""
        maps = []
        with self.clock("resize"):
            images = self.scaled(image)
        for scaled, factor in images:
            with self.clock("convolution"):
                one = self.network.feature_map(scaled, self.settings.bfloat16)
                values = one.permute(1, 2, 0).contiguous().numpy()
            maps.append(FeatureMap(values, factor))
        return maps

    def scaled(self, image: Image) -> list[tuple[Image, tuple[float, float]]]:
        """The image resized for each scale (bilinear, no antialiasing: released code), with the factors."""
        height, width = image.shape[:2]
        results = []
        for scale in self.settings.scales:
            factor = resize_factor(height, width, scale, self.settings.max_long_side)
            size = max(1, round(width * factor)), max(1, round(height * factor))
            resized = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
            results.append((np.asarray(resized, np.uint8), (size[0] / width, size[1] / height)))
        return results

    def pool(
        self, maps: Sequence[FeatureMap], boxes: FloatArray, scales: IntArray | None = None
    ) -> PooledFeatures:
        """Pools windows, each from the scale chosen for it.

        Args:
            maps: of the image, one a scale.
            boxes: float32 (N, 4), xyxy, pixels of the original image.
            scales: int64 (N,), the map to pool each window from; -1: the one that suits it. None: all -1.
        """
        with self.clock("pooling"):
            return self._pool(maps, boxes, scales)

    def _pool(self, maps: Sequence[FeatureMap], boxes: FloatArray, scales: IntArray | None) -> PooledFeatures:
        settings = self.settings
        factors = np.array([np.sqrt(one.factor[0] * one.factor[1]) for one in maps], np.float32)
        chosen = choose_scale(boxes, factors, settings.scale_rule)
        if scales is not None:
            chosen = np.where(scales >= 0, scales, chosen)
        places = np.empty((len(boxes), 5), np.int32)
        places[:, 0] = chosen
        for scale, one in enumerate(maps):
            mine = chosen == scale
            places[mine, 1:] = project(
                boxes[mine], one.factor, self.network.geometry, one.values.shape[:2], settings.projection
            )
        distinct, rows = np.unique(places, axis=0, return_inverse=True)
        parts = [
            spatial_pyramid_pool(one.values, distinct[distinct[:, 0] == scale, 1:], settings.levels)
            for scale, one in enumerate(maps)
        ]
        features = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return PooledFeatures(features, rows.reshape(-1).astype(np.int64))

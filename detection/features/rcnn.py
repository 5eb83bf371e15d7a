"""R-CNN's extractor: every box is warped and passes through the network separately.

It serves to compare SPP-net with R-CNN. Training and detection take this extractor or `SPPExtractor`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sppnet.common.arrays import FloatArray, Image, IntArray
from sppnet.detection.backbones import Network
from sppnet.detection.features.extractor import Extractor, PooledFeatures, PyramidExtractor, SPPExtractor
from sppnet.detection.features.settings import FeatureSettings

# Number of boxes that pass at a time; EfficientNet-Lite0's widest layer holds 6 MB for each.
_BATCH = 32


def make_extractor(network: Network, settings: FeatureSettings) -> Extractor:
    """Makes the extractor of ``settings.mode``."""
    return (RCNNExtractor if settings.mode == "rcnn" else SPPExtractor)(network, settings)


class NoStore:
    """A store that keeps nothing, because R-CNN's prepared image is the image itself."""

    def get(self, image_digest: str, prepare: Callable[[], Image]) -> Image:
        """Returns the image, from ``prepare``."""
        return prepare()


@dataclass(frozen=True, eq=False)
class RCNNExtractor(PyramidExtractor):
    """Warps boxes to one size, passes them through the network, and pools each map by the pyramid.

    With level 6 on AlexNet's 13 x 13 cells, the bins are the 3 x 3 maxima at every second cell of AlexNet's
    own last layer: R-CNN's pool5.

    Attributes:
        network: the backbone.
        settings: ``crop``, ``crop_padding``, ``levels`` and ``bfloat16`` are used.
        clock: seconds spent in ``resize``, ``convolution`` and ``pooling`` so far.
    """

    def prepare(self, image: Image) -> Image:
        """Returns the image itself; its boxes are warped one by one."""
        return image

    def extract(self, prepared: Image, boxes: FloatArray, scales: IntArray | None = None) -> PooledFeatures:
        """Warps boxes, passes them through the network, and pools the map of each box.

        Args:
            prepared: the image, uint8 (H, W, 3) RGB.
            boxes: float32 (N, 4), xyxy, pixels of the image.
            scales: not used.
        """
        distinct, rows = np.unique(boxes, axis=0, return_inverse=True)
        features = np.empty((len(distinct), self.length), np.float32)
        done = 0
        for batch in self._batches(prepared.astype(np.float32), distinct):
            with self.clock("convolution"), torch.inference_mode():
                # Normalised images are in channels-last order, in which oneDNN's convolutions are faster.
                images = torch.cat([self.network.normalise(warped) for warped in batch])
                output = self.network(images, self.settings.bfloat16)
            with self.clock("pooling"):
                features[done : done + len(batch)] = _pooled(output, self.settings.levels)
            done += len(batch)
        return PooledFeatures(features, rows.reshape(-1).astype(np.int64))

    def store(self, folder: Path, max_bytes: int) -> NoStore:
        """See `NoStore`."""
        return NoStore()

    def _batches(self, image: FloatArray, boxes: FloatArray) -> Iterator[FloatArray]:
        settings, normalise = self.settings, self.network.normalise
        mean = np.array(normalise.mean[::-1] if normalise.to_bgr else normalise.mean, np.float32)
        for start in range(0, len(boxes), _BATCH):
            with self.clock("resize"):
                batch = np.stack(
                    [
                        warp(image, box, settings.crop, settings.crop_padding, mean)
                        for box in boxes[start : start + _BATCH]
                    ]
                )
            yield batch


def warp(image: FloatArray, box: FloatArray, size: int, padding: int, fill: FloatArray) -> FloatArray:
    """Warps a box of an image, with some context around it, to a square.

    The box is enlarged about its centre so that it ends ``padding`` pixels inside the square; its sides are
    rounded to whole pixels of the image. The part that lies in the image is resized, each axis by its own
    factor, bilinearly and without antialiasing; the other part is filled (R-CNN, appendix A; released code).

    Args:
        image: float32 (H, W, 3).
        box: float (4,), xyxy, pixel edges.
        size: side of the square, in pixels (R-CNN: 227).
        padding: pixels of context on each side of the square (R-CNN: 16).
        fill: float32 (3,), the pixel beyond the image: the network's mean, which becomes 0.

    Returns:
        float32 (size, size, 3).

    Example:
        >>> image = np.arange(16, dtype=np.float32).reshape(4, 4, 1).repeat(3, axis=2)
        >>> warp(image, np.array([2, 0, 4, 2]), 4, 1, np.float32([-1, -1, -1]))[..., 0]
        array([[-1., -1., -1., -1.],
               [ 1.,  2.,  3., -1.],
               [ 5.,  6.,  7., -1.],
               [ 9., 10., 11., -1.]], dtype=float32)
    """
    sources, targets = [], []
    for axis in (0, 1):
        centre, half = (box[axis] + box[axis + 2]) / 2, (box[axis + 2] - box[axis]) / 2
        reach = half * size / (size - 2 * padding)
        first = int(np.floor(centre - reach + 0.5))
        last = max(int(np.floor(centre + reach + 0.5)), first + 1)
        inside = max(first, 0), min(last, image.shape[1 - axis])
        sources.append(slice(*inside))
        to_square = size / (last - first)
        targets.append(slice(*(int(np.floor((edge - first) * to_square + 0.5)) for edge in inside)))
    warped = np.empty((size, size, 3), np.float32)
    warped[:] = fill
    columns, rows = (target.stop - target.start for target in targets)
    if columns > 0 and rows > 0 and all(source.stop > source.start for source in sources):
        patch = image[sources[1], sources[0]]
        warped[targets[1], targets[0]] = cv2.resize(patch, (columns, rows), interpolation=cv2.INTER_LINEAR)
    return warped


def _pooled(maps: Tensor, levels: Sequence[int]) -> FloatArray:
    """Pools maps (N, C, h, w) to float32 (N, bins * C), ordered as in `pooling.spatial_pyramid_pool`."""
    bins = [F.adaptive_max_pool2d(maps, level).flatten(2).transpose(1, 2) for level in levels]
    vectors: FloatArray = torch.cat(bins, dim=1).flatten(1).numpy()
    return vectors

"""R-CNN's way to the same vectors: every window warped and passed through the network on its own.

It is what SPP-net is measured against, and differs from `FeatureExtractor` in nothing else, so training and
detection take either.
"""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sppnet.common.arrays import FloatArray, Image, IntArray
from sppnet.detection.backbones import Network
from sppnet.detection.features.extractor import FeatureExtractor, FeatureMap, FeatureSettings, PooledFeatures

# Windows that pass at a time: EfficientNet-Lite0's widest layer holds 6 MB of each.
_BATCH = 32


def make_extractor(network: Network, settings: FeatureSettings) -> FeatureExtractor:
    """The extractor of ``settings.mode``."""
    return (WarpExtractor if settings.mode == "rcnn" else FeatureExtractor)(network, settings)


class WarpExtractor(FeatureExtractor):
    """The network on windows warped to one size; maxima of its map of each, over the bins of the levels.

    With level 6 on AlexNet's 13 x 13 cells, these are the 3 x 3 maxima at every second cell of its own last
    layer: R-CNN's pool5.
    """

    # A "map" here is the image, which is at hand anyway.
    stores_maps = False

    def maps(self, image: Image) -> list[FeatureMap]:
        """The image itself, uint8 (H, W, 3) RGB, as float32: all that its windows are made of."""
        return [FeatureMap(image.astype(np.float32), (1.0, 1.0))]

    def pool(
        self, maps: Sequence[FeatureMap], boxes: FloatArray, scales: IntArray | None = None
    ) -> PooledFeatures:
        """Warps windows, passes them through the network, and pools each one's map.

        Args:
            maps: from `maps`.
            boxes: float32 (N, 4), xyxy, pixels of the image.
            scales: of no meaning here.
        """
        distinct, rows = np.unique(boxes, axis=0, return_inverse=True)
        features = np.empty((len(distinct), self.length), np.float32)
        done = 0
        for batch in self._batches(maps[0].values, distinct):
            with self.clock("convolution"), torch.inference_mode():
                # oneDNN's convolutions are faster in this order, which normalising already gives.
                images = torch.cat([self.network.normalise(one) for one in batch])
                output = self.network(images, self.settings.bfloat16)
            with self.clock("pooling"):
                features[done : done + len(batch)] = _pooled(output, self.settings.levels)
            done += len(batch)
        return PooledFeatures(features, rows.reshape(-1).astype(np.int64))

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
    """Warps a window of the image, with some of what is around it, to a square.

    The window is enlarged about its centre so that it ends ``padding`` pixels inside the square, its sides
    rounded to whole pixels of the image; what lies in the image is resized, each axis by its own factor,
    bilinear and without antialiasing, and the rest is filled (R-CNN, appendix A; released code).

    Args:
        image: float32 (H, W, 3).
        box: float (4,), xyxy, pixel edges.
        size: side of the square (R-CNN: 227).
        padding: pixels of context on each side of it (R-CNN: 16).
        fill: float32 (3,), the pixel where there is no image: the network's mean, which becomes 0.

    Returns:
        float32 (size, size, 3).
    """
    places, sources = [], []
    for axis in (0, 1):
        centre, half = (box[axis] + box[axis + 2]) / 2, (box[axis + 2] - box[axis]) / 2
        reach = half * size / (size - 2 * padding)
        first = int(np.floor(centre - reach + 0.5))
        last = max(int(np.floor(centre + reach + 0.5)), first + 1)
        inside = max(first, 0), min(last, image.shape[1 - axis])
        sources.append(slice(*inside))
        to_square = size / (last - first)
        places.append(slice(*(int(np.floor((edge - first) * to_square + 0.5)) for edge in inside)))
    warped = np.empty((size, size, 3), np.float32)
    warped[:] = fill
    columns, rows = (place.stop - place.start for place in places)
    if columns > 0 and rows > 0 and all(one.stop > one.start for one in sources):
        patch = image[sources[1], sources[0]]
        warped[places[1], places[0]] = cv2.resize(patch, (columns, rows), interpolation=cv2.INTER_LINEAR)
    return warped


def _pooled(maps: Tensor, levels: Sequence[int]) -> FloatArray:
    """Maps (N, C, h, w) to float32 (N, bins * C), ordered as by `sppnet.detection.features.pooling.spatial_pyramid_pool`."""
    bins = [F.adaptive_max_pool2d(maps, level).flatten(2).transpose(1, 2) for level in levels]
    vectors: FloatArray = torch.cat(bins, dim=1).flatten(1).numpy()
    return vectors

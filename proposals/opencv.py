"""Selective Search in OpenCV's implementation, with the settings of the paper's fast mode."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import cv2
import numpy as np

from sppnet.common.arrays import FloatArray, Image
from sppnet.common.errors import InputError
from sppnet.proposals.engine import stored_parameters

ColourSpace = Literal["hsv", "lab"]
_TO_COLOUR_SPACE = {"hsv": cv2.COLOR_RGB2HSV, "lab": cv2.COLOR_RGB2Lab}
# Pixels. OpenCV's grouping needs segments with neighbours, and its texture filters read outside smaller
# images.
_SMALLEST_SIDE = 4


@dataclass(frozen=True)
class OpenCVSelectiveSearch:
    """Selective Search (Uijlings et al., IJCV 2013) through OpenCV's strategy interface.

    The defaults are the paper's fast mode: HSV and Lab, colour+texture+size+fill and texture+size+fill,
    k = 50 and 100, smoothing 0.8 and smallest segment = k (the authors' released code): eight groupings.
    OpenCV's own "fast" preset is another method: 12 groupings at k = 150, 300, 450, small regions first.

    The paper ranks by ``RND * i``; i is the position in a hierarchy, 1 at its top, and RND a random number.
    OpenCV hides the hierarchy and shuffles with an unseeded generator. Here i is the position by area,
    largest first (a parent is never smaller than its child), and RND comes from ``seed``, so one seed gives
    one order.

    Attributes:
        colour_spaces: the colour spaces of segmentation and similarities.
        ks: thresholds of the graph segmentation; each is also its smallest segment, in pixels.
        sigma: smoothing before segmentation, in pixels.
        min_side: boxes with a side below this are dropped (R-CNN's released code: 20 pixels).
        max_side: an image with a longer side is shrunk to this side for the search, in pixels, and its boxes
            are enlarged again: time grows faster than the number of pixels. Our constant; VOC's images are
            smaller.
        max_proposals: at most this many boxes are kept, the best ranked (SPP-net §4: about 2,000 per image).
        seed: seed of the ranking.

    Raises:
        InputError: a setting is out of its range.

    Example:
        >>> image = np.full((80, 100, 3), 60, np.uint8)
        >>> image[20:60, 30:75] = (200, 60, 60)
        >>> boxes = OpenCVSelectiveSearch().propose(image)
        >>> boxes.dtype, [0, 0, 100, 80] in boxes.tolist()
        (dtype('float32'), True)
    """

    colour_spaces: tuple[ColourSpace, ...] = ("hsv", "lab")
    ks: tuple[int, ...] = (50, 100)
    sigma: float = 0.8
    min_side: int = 20
    max_side: int = 1000
    max_proposals: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = set(self.colour_spaces) - set(_TO_COLOUR_SPACE)
        if unknown or not self.colour_spaces:
            raise InputError(f"colour_spaces {self.colour_spaces}: choose from {sorted(_TO_COLOUR_SPACE)}")
        if not self.ks or min(self.ks) < 1:
            raise InputError(f"ks {self.ks}: give at least one threshold, each at least 1")
        if self.sigma <= 0 or min(self.min_side, self.max_side, self.max_proposals) < 1:
            raise InputError("sigma, min_side, max_side and max_proposals must be positive")

    def parameters(self) -> dict[str, Any]:
        """Returns all that the boxes depend on, as plain JSON values; the cache's key is made from it."""
        settings = stored_parameters(asdict(self))
        return {"engine": "opencv", "revision": 1, "opencv": cv2.__version__, **settings}

    def propose(self, image: Image) -> FloatArray:
        """Proposes boxes for one image.

        Args:
            image: uint8 (H, W, 3), RGB.

        Returns:
            float32 (N, 4), N <= max_proposals, best first; xyxy, 0-based pixel edges, right and bottom
            exclusive; whole numbers. Empty for an image with a side below ``min_side``.
        """
        height, width = image.shape[:2]
        factor = min(1.0, self.max_side / max(height, width))
        size = round(width * factor), round(height * factor)
        if min(height, width) < self.min_side or min(size) < _SMALLEST_SIDE:
            return np.zeros((0, 4), np.float32)
        searched = image if factor == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        rectangles = self._search(np.ascontiguousarray(searched, np.uint8))
        boxes = np.concatenate([rectangles[:, :2], rectangles[:, :2] + rectangles[:, 2:]], axis=1)
        boxes = np.rint(boxes * (np.array([width, height] * 2) / np.array(size * 2))).astype(np.int64)
        boxes = boxes[(boxes[:, 2:] - boxes[:, :2] >= self.min_side).all(axis=1)]
        # OpenCV's order is random; sorting makes the ranking depend on the seed alone.
        boxes = np.unique(boxes, axis=0)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        boxes = boxes[np.argsort(-area, kind="stable")]
        rank = np.random.default_rng(self.seed).random(len(boxes)) * np.arange(1, len(boxes) + 1)
        best = np.argsort(rank, kind="stable")[: self.max_proposals]
        return boxes[best].astype(np.float32)

    def _search(self, image: Image) -> np.ndarray:
        """Returns int32 (N, 4) rectangles x, y, width, height, without exact duplicates, in random order."""
        cv2.setNumThreads(1)  # Images are searched in parallel, not the parts of one image.
        segmentation = cv2.ximgproc.segmentation
        search = segmentation.createSelectiveSearchSegmentation()
        search.setBaseImage(image)
        for space in self.colour_spaces:
            search.addImage(cv2.cvtColor(image, _TO_COLOUR_SPACE[space]))
        for k in self.ks:
            search.addGraphSegmentation(segmentation.createGraphSegmentation(self.sigma, float(k), k))
        colour = segmentation.createSelectiveSearchSegmentationStrategyColor()
        for with_colour in (True, False):
            texture = segmentation.createSelectiveSearchSegmentationStrategyTexture()
            size = segmentation.createSelectiveSearchSegmentationStrategySize()
            fill = segmentation.createSelectiveSearchSegmentationStrategyFill()
            parts = (colour, texture, size, fill) if with_colour else (texture, size, fill)
            strategy = segmentation.createSelectiveSearchSegmentationStrategyMultiple()
            for part in parts:
                strategy.addStrategy(part, 1.0 / len(parts))
            search.addStrategy(strategy)
        return np.asarray(search.process()).reshape(-1, 4)

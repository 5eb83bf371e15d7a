"""The implementations of Selective Search to compare: ours, OpenCV's, and two packages from PyPI."""

import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from unittest.mock import patch

import cv2
import joblib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from sppnet.common.arrays import FloatArray, Image
from sppnet.detection.experiments.proposal_evaluation import make_engine
from sppnet.proposals.selective_search import distinct

Propose = Callable[[Image], FloatArray]

# Pixels. The filter of R-CNN's released code, for our engine and OpenCV's; the two packages have no filter.
MIN_SIDE = 20
REFERENCE = "ours, fast"


@dataclass(frozen=True)
class Contender:
    """One implementation with its settings.

    Attributes:
        name: the name in the table.
        load: imports the implementation; returns a function from uint8 (H, W, 3) RGB to all proposals,
            float32 (N, 4) xyxy pixel edges, best first.
        slow: whether its time is limited, so that it gets fewer images.
    """

    name: str
    load: Callable[[], Propose]
    slow: bool = False


def _engine(name: str) -> Callable[[], Propose]:
    return lambda: make_engine(name, max_proposals=None, min_side=MIN_SIDE).propose


def opencv_own_fast() -> Propose:
    """Makes OpenCV's fast search as documented: ``switchToSelectiveSearchFast``, k = 150, 300, 450.

    The order is OpenCV's, from an unseeded generator.
    """

    def propose(image: Image) -> FloatArray:
        search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
        search.setBaseImage(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        search.switchToSelectiveSearchFast()
        rectangles = np.asarray(search.process()).reshape(-1, 4)
        large = (rectangles[:, 2:] >= MIN_SIDE).all(axis=1)
        return _from_rectangles(rectangles[large])

    return propose


def alpacadb(scale: int, sigma: float, min_size: int) -> Callable[[], Propose]:
    """Loads AlpacaDB (PyPI: ``selectivesearch``): one strategy, unranked; the top of the hierarchy first."""

    def load() -> Propose:
        from selectivesearch import selective_search

        def propose(image: Image) -> FloatArray:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # scikit-image warns at every image.
                _, regions = selective_search(image, scale=scale, sigma=sigma, min_size=min_size)
            rectangles = np.array([region["rect"] for region in reversed(regions)]).reshape(-1, 4)
            # Its widths and heights count from the first to the last pixel, so they are one too small.
            return distinct(_from_rectangles(rectangles + np.array([0, 0, 1, 1])))

        return propose

    return load


def chenjiexu(mode: str, patched: bool) -> Callable[[], Propose]:
    """Loads ChenjieXu (PyPI: ``selective-search``), with the paper's ranking.

    The patch passes masks to scipy's ``find_objects`` as integers: today's numpy turns the booleans of the
    package into a number that scipy does not accept.
    """

    def load() -> Propose:
        from selective_search import selective_search, structure

        original = structure.find_objects

        def find_objects(mask: NDArray[np.bool_]) -> list[tuple[slice, ...]]:
            objects: list[tuple[slice, ...]] = original(mask.astype(np.int32))
            return objects

        def propose(image: Image) -> FloatArray:
            random.seed(0)
            with (
                joblib.parallel_config(backend="sequential"),  # The package asks for all cores.
                patch.object(structure, "find_objects", find_objects if patched else original),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")
                boxes = selective_search(image, mode=mode, random_sort=True)
            return distinct(np.array(boxes, np.float32).reshape(-1, 4))

        return propose

    return load


CONTENDERS = (
    Contender("ours, single", _engine("single")),
    Contender(REFERENCE, _engine("fast")),
    Contender("ours, quality", _engine("quality")),
    Contender("OpenCV, paper's fast", _engine("opencv")),
    Contender("OpenCV, its own fast", opencv_own_fast),
    # The settings from its README.
    Contender("AlpacaDB, k = 500", alpacadb(500, 0.9, 10), slow=True),
    # The settings of the paper's single strategy.
    Contender("AlpacaDB, k = 100", alpacadb(100, 0.8, 100), slow=True),
    Contender("ChenjieXu, fast", chenjiexu("fast", patched=False), slow=True),
    Contender("ChenjieXu, single, patched", chenjiexu("single", patched=True), slow=True),
    Contender("ChenjieXu, fast, patched", chenjiexu("fast", patched=True), slow=True),
)


def _from_rectangles(rectangles: ArrayLike) -> FloatArray:
    """Converts (N, 4) x, y, width, height to float32 (N, 4) xyxy."""
    x, y, width, height = np.asarray(rectangles, np.float32).T
    return np.stack([x, y, x + width, y + height], axis=1)

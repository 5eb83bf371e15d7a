"""Selective Search (Uijlings, van de Sande, Gevers, Smeulders, IJCV 2013)."""

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, TypeVar, cast

import cv2
import numpy as np

from sppnet.common.arrays import FloatArray, Image, Int32Array
from sppnet.common.errors import InputError
from sppnet.proposals.engine import stored_parameters
from sppnet.proposals.selective_search.colour import COLOUR_SPACES, ColourSpace, to_colour_space
from sppnet.proposals.selective_search.grouping import Hierarchy, Similarities, group
from sppnet.proposals.selective_search.regions import colour_bins, measure, texture_bins
from sppnet.proposals.selective_search.segmentation import Labels, segment, sorted_edges

Boxes = TypeVar("Boxes", Int32Array, FloatArray)
_LETTERS = "CTSF"
# An image has up to four edges per pixel, and the numbers of edges are kept in 32 bits.
MAX_SEARCHED_PIXELS = 1 << 28


def _check_whole(name: str, value: object, minimum: int, maximum: int | None = None) -> None:
    """Checks that a setting is an int in its range.

    Other types would fail much later, or store the same boxes under another key of the cache.
    """
    if type(value) is int and value >= minimum and (maximum is None or value <= maximum):
        return
    limits = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum:,}"
    raise InputError(f"{name} = {value!r}: must be a whole number {limits}")


@dataclass(frozen=True)
class Strategy:
    """The settings of one hierarchy: its segmentation and the similarities that join segments.

    Attributes:
        colour_space: colour space of segmentation and histograms (see `colour.to_colour_space`).
        similarities: letters of the similarities that are added, such as "CTSF": ``C`` colour, ``T`` texture,
            ``S`` size, ``F`` fill.
        k: threshold of the segmentation, and its smallest segment in pixels (k = minimum size in the
            authors' code).

    Raises:
        InputError: a value is wrong.

    Example:
        >>> Strategy.parse("lab/TSF/100")
        Strategy(colour_space='lab', similarities='TSF', k=100)
        >>> str(Strategy("hsv", "CTSF", 50))
        'hsv/CTSF/50'
    """

    colour_space: ColourSpace
    similarities: str
    k: int

    @classmethod
    def parse(cls, text: str) -> "Strategy":
        """Reads a strategy from text such as ``"hsv/CTSF/50"``; `str` is the inverse.

        Raises:
            InputError: the text has another form.
        """
        parts = text.split("/")
        if len(parts) != 3 or not parts[2].isdecimal():
            modes = ", ".join(MODES)
            raise InputError(f"strategy {text!r}: write it as hsv/CTSF/50, or give a mode alone: {modes}")
        return cls(cast(ColourSpace, parts[0]), parts[1], int(parts[2]))

    def __str__(self) -> str:
        return f"{self.colour_space}/{self.similarities}/{self.k}"

    def __post_init__(self) -> None:
        if self.colour_space not in COLOUR_SPACES:
            raise InputError(f"colour space {self.colour_space!r}: choose from {', '.join(COLOUR_SPACES)}")
        letters = sorted(self.similarities) if isinstance(self.similarities, str) else []
        if not letters or letters != sorted(set(letters) & set(_LETTERS)):
            raise InputError(
                f"similarities {self.similarities!r}: give some of the letters {_LETTERS}, each once"
            )
        _check_whole("k", self.k, 1, 1_000_000)


def _strategies(
    spaces: tuple[ColourSpace, ...], sets: tuple[str, ...], ks: tuple[int, ...]
) -> tuple[Strategy, ...]:
    return tuple(Strategy(space, letters, k) for space, k, letters in itertools.product(spaces, ks, sets))


# IJCV 2013, Table 4 (there the fast mode has k = 50 and 100).
MODES: dict[str, tuple[Strategy, ...]] = {
    "single": _strategies(("hsv",), ("CTSF",), (100,)),
    "fast": _strategies(("hsv", "lab"), ("CTSF", "TSF"), (50, 100)),
    "quality": _strategies(
        ("hsv", "lab", "rgi", "hue", "intensity"), ("CTSF", "TSF", "F", "S"), (50, 100, 150, 300)
    ),
}


class Grouped(NamedTuple):
    """The result of one strategy for one image.

    Attributes:
        strategy: the strategy that was run.
        labels: int32 (H, W), the segments that it started from.
        hierarchy: the tree of regions.
    """

    strategy: Strategy
    labels: Labels
    hierarchy: Hierarchy


@dataclass(frozen=True)
class SelectiveSearch:
    """Selective Search: proposes boxes that are likely to hold an object of any class.

    An image is segmented and its segments are joined, the most similar neighbours first, until one region is
    left; the box around each segment and each joined region is a proposal. Strategies with other colour
    spaces, similarities and thresholds make other proposals. All are ranked by ``RND * i``; RND is a random
    number, and i the position in a hierarchy, 1 for the whole image at its top (§4.3 of the paper). Of equal
    boxes the first is kept.

    Our choices where the paper leaves them open: the ranges of the colour spaces and of the texture bins
    (`colour.to_colour_space`, `regions.texture_bins`), 8-neighbours, ties by the lower index
    (`grouping.group`), and the segments at the end of a hierarchy in reverse scan order of their first pixel.

    Attributes:
        strategies: a mode of the paper (``single``: 1 strategy, ``fast``: 8, ``quality``: 80), or a tuple of
            strategies, or their text with spaces between them: ``"hsv/CTSF/50 lab/TSF/100"``.
        sigma: smoothing before the segmentation, in pixels (the authors' code: 0.8).
        min_side: boxes with a side below this are dropped, after ranking (R-CNN's released code: 20 pixels).
        max_pixels: a larger image is shrunk to this many pixels for the search, and its boxes are enlarged
            again; None: no limit. Our constant: k is in pixels, and R-CNN's code also shrinks images first.
        max_proposals: at most this many boxes are kept, the best ranked (SPP-net §4: about 2,000 per image);
            None: all.
        seed: seed of the ranking.

    Raises:
        InputError: a setting has a wrong type or is out of its range.

    Example:
        >>> image = np.full((80, 100, 3), 60, np.uint8)
        >>> image[20:60, 30:75] = (200, 60, 60)
        >>> boxes = SelectiveSearch("single", sigma=0)(image)
        >>> boxes.dtype, boxes.tolist()
        (dtype('float32'), [[0.0, 0.0, 100.0, 80.0], [30.0, 20.0, 75.0, 60.0]])
    """

    strategies: str | tuple[Strategy, ...] = "fast"
    sigma: float = 0.8
    min_side: int = 20
    max_pixels: int | None = 1_000_000
    max_proposals: int | None = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        given: Any = self.strategies
        if not isinstance(given, str | tuple | list) or not all(
            isinstance(strategy, Strategy) for strategy in self._resolved()
        ):
            raise InputError(f"strategies = {given!r}: give text or a tuple of Strategy")
        if not self._resolved():
            raise InputError("strategies: give at least one, or one of " + ", ".join(MODES))
        sigma: Any = self.sigma
        if isinstance(sigma, bool) or not isinstance(sigma, int | float) or not 0 <= sigma <= 100:
            raise InputError(f"sigma = {sigma!r}: must be a number from 0 to 100 (pixels)")
        _check_whole("min_side", self.min_side, 1)
        if self.max_pixels is not None:
            _check_whole("max_pixels", self.max_pixels, 1)
        if self.max_proposals is not None:
            _check_whole("max_proposals", self.max_proposals, 1)
        _check_whole("seed", self.seed, 0)

    def __call__(self, image: Image) -> FloatArray:
        """Calls `propose`."""
        return self.propose(image)

    def parameters(self) -> dict[str, Any]:
        """Returns all that the boxes depend on, as plain JSON values; the cache's key is made from it."""
        return {
            "engine": "selective-search",
            "revision": 1,
            "opencv": cv2.__version__,  # The boxes depend on its colour conversion and blur.
            **stored_parameters(asdict(self)),
            "strategies": " ".join(map(str, self._resolved())),
        }

    def propose(self, image: Image) -> FloatArray:
        """Proposes boxes for one image.

        Args:
            image: uint8 (H, W, 3), RGB, any strides; it is not written to.

        Returns:
            float32 (N, 4), best first, no duplicates; xyxy, 0-based pixel edges, right and bottom exclusive;
            whole numbers. Empty if no box has sides of ``min_side`` or more.

        Raises:
            InputError: the array has another type or shape, or more than 2**28 pixels are to be searched.
        """
        image = checked(image)
        height, width = image.shape[:2]
        searched = self._shrunk(image)
        by_strategy = [grouped.hierarchy.boxes for grouped in self.hierarchies(searched)]
        boxes = np.concatenate(by_strategy)
        # The last region of a hierarchy is its top.
        position = np.concatenate([np.arange(len(regions), 0, -1) for regions in by_strategy])
        rank = np.random.default_rng(self.seed).random(len(position)) * position
        boxes = boxes[np.argsort(rank, kind="stable")]
        if searched is not image:
            shrunk_height, shrunk_width = searched.shape[:2]
            factor = np.array([width / shrunk_width, height / shrunk_height] * 2)
            boxes = np.rint(boxes * factor).astype(np.int32)
        boxes = boxes[(boxes[:, 2:] - boxes[:, :2] >= self.min_side).all(axis=1)]
        return distinct(boxes)[: self.max_proposals].astype(np.float32)

    def hierarchies(self, image: Image) -> Iterator[Grouped]:
        """Runs every strategy on an image at its own size (``max_pixels`` is not applied).

        Segmentations and histograms are computed once for the strategies that share them.

        Args:
            image: uint8 (H, W, 3), RGB.

        Yields:
            the labels and the tree of each strategy; strategies that share a segmentation follow each other.

        Raises:
            InputError: the array has another type or shape, or more than 2**28 pixels.
        """
        image = checked(image)
        if image.shape[0] * image.shape[1] > MAX_SEARCHED_PIXELS:
            size = f"{image.shape[1]} x {image.shape[0]}"
            raise InputError(
                f"image of {size} pixels: at most {MAX_SEARCHED_PIXELS:,} can be searched; set max_pixels"
            )

        def colour_space(strategy: Strategy) -> ColourSpace:
            return strategy.colour_space

        def threshold(strategy: Strategy) -> int:
            return strategy.k

        cv2.setNumThreads(1)  # Images are searched in parallel, not the parts of one image.
        ordered = sorted(self._resolved(), key=lambda strategy: (strategy.colour_space, strategy.k))
        for space, space_strategies in itertools.groupby(ordered, colour_space):
            colours = to_colour_space(image, space)
            edges = sorted_edges(colours, self.sigma)
            bins, textures = colour_bins(colours), texture_bins(colours)
            for k, k_strategies in itertools.groupby(space_strategies, threshold):
                labels = segment(edges, k, k)
                regions = measure(labels, bins, textures)
                for strategy in k_strategies:
                    used = Similarities(*(letter in strategy.similarities for letter in _LETTERS))
                    yield Grouped(strategy, labels, group(regions, used))

    def _resolved(self) -> tuple[Strategy, ...]:
        if not isinstance(self.strategies, str):
            return tuple(self.strategies)
        if self.strategies in MODES:
            return MODES[self.strategies]
        return tuple(Strategy.parse(text) for text in self.strategies.split())

    def _shrunk(self, image: Image) -> Image:
        height, width = image.shape[:2]
        if self.max_pixels is None or height * width <= self.max_pixels:
            return image
        factor = (self.max_pixels / (height * width)) ** 0.5
        size = max(1, round(width * factor)), max(1, round(height * factor))
        return np.asarray(
            cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA), np.uint8
        )


def distinct(boxes: Boxes) -> Boxes:
    """Drops duplicates of boxes (N, 4): keeps the first of equal boxes, in order.

    Example:
        >>> distinct(np.array([[0, 0, 9, 9], [0, 0, 5, 5], [0, 0, 9, 9]], np.int32)).tolist()
        [[0, 0, 9, 9], [0, 0, 5, 5]]
    """
    return boxes[np.sort(np.unique(boxes, axis=0, return_index=True)[1])]


def checked(image: Image) -> Image:
    """Checks the type and the shape of an image, and returns the image.

    Raises:
        InputError: the image is not uint8 (H, W, 3), or it is empty.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        kind = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(
            f"image is {kind}, not uint8 (H, W, 3) RGB; convert floats to 0 to 255, repeat a grey channel, "
            "drop alpha"
        )
    if image.size == 0:
        raise InputError(f"image of {image.shape[1]} x {image.shape[0]} pixels is empty")
    return image

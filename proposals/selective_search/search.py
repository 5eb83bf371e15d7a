"""Selective Search (Uijlings, van de Sande, Gevers, Smeulders, IJCV 2013)."""

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, TypeVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from sppnet.common.arrays import FloatArray, Image
from sppnet.common.errors import InputError
from sppnet.proposals.engine import stored_parameters
from sppnet.proposals.selective_search.colour import COLOUR_SPACES, ColourSpace, to_colour_space
from sppnet.proposals.selective_search.grouping import Hierarchy, Similarities, group
from sppnet.proposals.selective_search.regions import colour_bins, measure, texture_bins
from sppnet.proposals.selective_search.segmentation import Labels, segment, sorted_edges

Boxes = TypeVar("Boxes", NDArray[np.int32], FloatArray)
_LETTERS = "CTSF"


def _check_whole(name: str, value: object, least: int, most: int | None = None) -> None:
    """Other types than int would not be found again in the cache, or fail much later."""
    if type(value) is int and value >= least and (most is None or value <= most):
        return
    limits = f"of at least {least}" if most is None else f"from {least} to {most:,}"
    raise InputError(f"{name} = {value!r}: must be a whole number {limits}")


@dataclass(frozen=True)
class Strategy:
    """One hierarchy: where it starts and how it grows.

    Attributes:
        colour_space: of segmentation and histograms.
        similarities: letters of those added, ``C`` colour, ``T`` texture, ``S`` size, ``F`` fill: "CTSF".
        k: threshold of the segmentation, and its smallest segment in pixels (k = minimum size in the
            authors' code).
    """

    colour_space: ColourSpace
    similarities: str
    k: int

    @classmethod
    def parse(cls, text: str) -> "Strategy":
        """Reads ``"hsv/CTSF/50"``, what `str` of a strategy gives."""
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


# IJCV 2013, Table 4 (k of the fast mode are 50 and 100 there).
MODES: dict[str, tuple[Strategy, ...]] = {
    "single": _strategies(("hsv",), ("CTSF",), (100,)),
    "fast": _strategies(("hsv", "lab"), ("CTSF", "TSF"), (50, 100)),
    "quality": _strategies(
        ("hsv", "lab", "rgi", "hue", "intensity"), ("CTSF", "TSF", "F", "S"), (50, 100, 150, 300)
    ),
}


class Grouped(NamedTuple):
    """What one strategy made of an image: the labels it started from, int32 (H, W), and the tree."""

    strategy: Strategy
    labels: Labels
    hierarchy: Hierarchy


@dataclass(frozen=True)
class SelectiveSearch:
    """Selective Search: windows that are likely to hold an object, of any class.

        boxes = SelectiveSearch("fast")(image)

    An image is segmented and its segments are joined, the most similar neighbours first, until one is left;
    the box around each region that ever existed is a window. Strategies with other colour spaces,
    similarities and thresholds make other windows; all are put in one order by ``RND * i``, i = 1 for the
    whole image at the top of each hierarchy (§4.3 of the paper), and of equal boxes the first one stays.

    Where the paper leaves a choice open: ranges of the colour spaces and of the texture bins
    (`colour.to_colour_space`, `regions.texture_bins`), 8-neighbours, ties by the lower index
    (`grouping.group`), the segments at the end of a hierarchy in reverse scan order of their first pixel.

    Attributes:
        strategies: a mode of the paper (``single``: 1 strategy, ``fast``: 8, ``quality``: 80), or any
            strategies; as text with spaces between them: ``"hsv/CTSF/50 lab/TSF/100"``.
        sigma: smoothing before the segmentation, in pixels (the authors' code: 0.8).
        min_side: boxes with a side below this are dropped, after ranking (R-CNN's released code: 20 pixels).
        max_pixels: a larger image is searched at this many pixels, and the boxes are brought back to its
            own; None never shrinks. Ours: k is in pixels, and R-CNN's code also shrinks images first.
        max_proposals: keep at most this many, the best ranked (SPP-net §4: about 2,000 an image); None for
            all.
        seed: of the ranking.
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
        """The same as `propose`."""
        return self.propose(image)

    def parameters(self) -> dict[str, Any]:
        """All that the boxes depend on, as plain JSON values; the cache keys on it."""
        return {
            "engine": "selective-search",
            "revision": 1,
            "opencv": cv2.__version__,  # Its colour conversion and blur.
            **stored_parameters(asdict(self)),
            "strategies": " ".join(map(str, self._resolved())),
        }

    def propose(self, image: Image) -> FloatArray:
        """Proposes windows of one image.

        Args:
            image: uint8 (H, W, 3), RGB, any strides; it is not written to.

        Returns:
            float32 (N, 4), best first, no duplicates; xyxy, 0-based pixel edges, right and bottom exclusive;
            whole numbers. Empty where no box has ``min_side``.

        Raises:
            InputError: another type or shape of array, or more than 2**28 pixels to search.
        """
        image = checked(image)
        height, width = image.shape[:2]
        searched = self._shrunk(image)
        found = []
        positions = []
        for grouped in self.hierarchies(searched):
            boxes = grouped.hierarchy.boxes
            found.append(boxes)
            positions.append(np.arange(len(boxes), 0, -1))
        boxes = np.concatenate(found)
        position = np.concatenate(positions)
        rank = np.random.default_rng(self.seed).random(len(position)) * position
        boxes = boxes[np.argsort(rank, kind="stable")]
        if searched is not image:
            shrunk_height, shrunk_width = searched.shape[:2]
            factor = np.array([width / shrunk_width, height / shrunk_height] * 2)
            boxes = np.rint(boxes * factor).astype(np.int32)
        boxes = boxes[(boxes[:, 2:] - boxes[:, :2] >= self.min_side).all(axis=1)]
        return distinct(boxes)[: self.max_proposals].astype(np.float32)

    def hierarchies(self, image: Image) -> Iterator[Grouped]:
        """Runs every strategy on an image as it is (``max_pixels`` is not applied).

        Segmentations and histograms are made once for the strategies that share them.

        Args:
            image: uint8 (H, W, 3), RGB.

        Yields:
            one tree a strategy, those of one segmentation after each other.
        """
        image = checked(image)
        if image.shape[0] * image.shape[1] > _MOST_PIXELS:
            size = f"{image.shape[1]} x {image.shape[0]}"
            raise InputError(f"image of {size} pixels: at most 2**28 can be searched; set max_pixels")

        def colour_space(strategy: Strategy) -> ColourSpace:
            return strategy.colour_space

        def threshold(strategy: Strategy) -> int:
            return strategy.k

        cv2.setNumThreads(1)  # Parallelism is over images.
        ordered = sorted(self._resolved(), key=lambda strategy: (strategy.colour_space, strategy.k))
        for space, of_space in itertools.groupby(ordered, colour_space):
            colours = to_colour_space(image, space)
            edges = sorted_edges(colours, self.sigma)
            bins, textures = colour_bins(colours), texture_bins(colours)
            for k, of_k in itertools.groupby(of_space, threshold):
                labels = segment(edges, k, k)
                regions = measure(labels, bins, textures)
                for strategy in of_k:
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


# A pixel's four edges have a number each, kept in 32 bits.
_MOST_PIXELS = 1 << 28


def distinct(boxes: Boxes) -> Boxes:
    """(N, 4) boxes in their order, of equal ones the first."""
    return boxes[np.sort(np.unique(boxes, axis=0, return_index=True)[1])]


def checked(image: Image) -> Image:
    """The image, if it is one.

    Raises:
        InputError: it is not uint8 (H, W, 3), or is empty.
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

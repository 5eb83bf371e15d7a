"""Regions to fine-tune on, drawn from ground truth and proposals, and their pooled vectors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from sppnet.common.arrays import BoolArray, FloatArray, IntArray
from sppnet.common.prefetch import prefetch
from sppnet.data.types import Example
from sppnet.detection.features.extractor import Extractor
from sppnet.detection.training.finetuning_settings import FineTuningSettings
from sppnet.detection.training.training_images import TrainingData, mirror_boxes, prepare_image
from sppnet.eval.boxes import box_iou
from sppnet.proposals import propose_example

# The label of negatives.
BACKGROUND = -1


@dataclass(frozen=True, eq=False)
class Regions:
    """Regions drawn from images, in the order of the images.

    Attributes:
        images: int64 (N,), indices of the images.
        boxes: float32 (N, 4), xyxy, in the image that is not mirrored.
        labels: int64 (N,), the class of the object that a positive overlaps most, or `BACKGROUND`.
        mirrored: bool (N,), whether the region is seen in the mirrored image.
        scales: int64 (N,), index of the scale that it is pooled from; -1: the scale that suits it best.
    """

    images: IntArray
    boxes: FloatArray
    labels: IntArray
    mirrored: BoolArray
    scales: IntArray

    def __len__(self) -> int:
        return len(self.images)

    def only(self, indices: IntArray) -> "Regions":
        """The regions of these indices."""
        return Regions(*(getattr(self, field.name)[indices] for field in fields(self)))


def label_regions(
    example: Example, boxes: FloatArray, settings: FineTuningSettings, difficult: bool
) -> tuple[IntArray, IntArray, IntArray]:
    """Chooses the positives and the negatives among boxes, by the object that each overlaps most.

    Args:
        example: with ground truth; a box on a difficult object is neither, unless ``difficult``.
        boxes: float32 (N, 4), xyxy.
        settings: the ranges of IoU.
        difficult: whether difficult objects make positives.

    Returns:
        int64 (P,) indices of the positives, int64 (P,) their labels, int64 (Q,) indices of the negatives.

    Example:
        >>> image = Path("a.jpg")
        >>> ground_truth = np.array([[0, 0, 10, 10]], np.float32)
        >>> example = Example(
        ...     "a", image, 20, 10, ground_truth, np.array([3]), np.array([False]), np.array([False])
        ... )
        >>> boxes = np.array([[0, 0, 10, 9], [0, 0, 10, 3], [12, 0, 20, 10]], np.float32)
        >>> label_regions(example, boxes, FineTuningSettings(), difficult=False)
        (array([0]), array([3]), array([1]))
    """
    empty = np.zeros(0, np.int64)
    if len(example.boxes) == 0:
        # Every IoU is 0: all boxes are negatives, or none.
        return empty, empty, np.arange(len(boxes)) if settings.negative_iou_range[0] == 0 else empty
    iou = box_iou(boxes, example.boxes)
    nearest = iou.argmax(axis=1)
    greatest = iou.max(axis=1)
    positive = greatest >= settings.min_positive_iou
    if not difficult:
        positive &= ~example.difficult[nearest]
    low, high = settings.negative_iou_range
    positives = np.flatnonzero(positive)
    negatives = np.flatnonzero((greatest >= low) & (greatest < high))
    return positives, example.labels[nearest[positives]], negatives


class RegionSampler:
    """Draws regions from a data set; a draw depends on the seed, its number and the images only."""

    def __init__(
        self,
        data: TrainingData,
        extractor: Extractor,
        settings: FineTuningSettings,
        difficult: bool,
    ) -> None:
        """Takes proposals and maps from where ``data`` keeps them; what is missing there is computed.

        Args:
            data: the images.
            extractor: regions to vectors.
            settings: of fine-tuning.
            difficult: whether difficult objects make positives.
        """
        self._data = data
        self._extractor = extractor
        self._store = extractor.store(data.maps, data.map_bytes)
        self._settings = settings
        self._difficult = difficult

    def draw(self, images: Sequence[int], number: int, per_image: int, augment: bool) -> Regions:
        """Chooses regions; no vectors are made yet, so that this takes milliseconds an image.

        Args:
            images: indices into the data set.
            number: of the draw.
            per_image: at most so many regions of an image.
            augment: whether to mirror half of them and to take random scales, as the settings say.
        """
        settings, scales = self._settings, len(self._extractor.settings.scales)
        max_positives = round(per_image * settings.positive_fraction)
        drawn: list[tuple[FloatArray, IntArray]] = []
        for index in images:
            rng = np.random.default_rng([settings.seed, number, index])
            example = self._data.dataset[index]
            proposals = propose_example(example, self._data.engine, self._data.cache)
            boxes = np.concatenate([example.boxes, proposals])
            positives, labels, negatives = label_regions(example, boxes, settings, self._difficult)
            order = rng.permutation(len(positives))[:max_positives]
            negatives = rng.permutation(negatives)[: per_image - max_positives]
            drawn.append(
                (
                    boxes[np.concatenate([positives[order], negatives])],
                    np.concatenate([labels[order], np.full(len(negatives), BACKGROUND)]),
                )
            )
        counts = [len(labels) for _, labels in drawn]
        total = sum(counts)
        rng = np.random.default_rng([settings.seed, number])
        mirrored = rng.random(total) < 0.5
        random_scales = rng.integers(0, scales, total)
        return Regions(
            np.repeat(np.asarray(images, np.int64), counts),
            np.concatenate([boxes for boxes, _ in drawn]) if drawn else np.zeros((0, 4), np.float32),
            np.concatenate([labels for _, labels in drawn]) if drawn else np.zeros(0, np.int64),
            mirrored if augment and settings.flip else np.zeros(total, np.bool_),
            random_scales if augment and settings.random_scale and scales > 1 else np.full(total, -1),
        )

    def image_path(self, index: int) -> Path:
        """The file of an image, for messages."""
        example: Example = self._data.dataset[index]
        return example.path

    def vectors(self, regions: Regions) -> Iterator[tuple[IntArray, FloatArray]]:
        """Pools regions, image by image; the next image is prepared meanwhile.

        A mirrored region is pooled from the maps of the mirrored image, see `prepare_image`.

        Yields:
            int64 (n,) indices into ``regions``, and float32 (n, length).
        """
        starts = np.flatnonzero(np.diff(regions.images, prepend=-1))
        by_image = np.split(np.arange(len(regions)), starts[1:])

        def pool_image(indices: IntArray) -> tuple[IntArray, FloatArray]:
            vectors = np.empty((len(indices), self._extractor.length), np.float32)
            for mirrored in (False, True):
                rows = np.flatnonzero(regions.mirrored[indices] == mirrored)
                if len(rows):
                    vectors[rows] = self._pool(regions.only(indices[rows]), mirrored)
            return indices, vectors

        if len(regions):
            yield from prefetch(pool_image, by_image, ahead=1)

    def _pool(self, regions: Regions, mirrored: bool) -> FloatArray:
        """Vectors of regions of one image, all mirrored or none of them."""
        example = self._data.dataset[int(regions.images[0])]
        prepared, width = prepare_image(example, self._extractor, self._store, mirrored)
        boxes = mirror_boxes(regions.boxes, width) if mirrored else regions.boxes
        pooled = self._extractor.extract(prepared, boxes, regions.scales)
        return pooled.features[pooled.rows]

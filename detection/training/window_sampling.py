"""Windows to fine-tune on: which, from which image, mirrored or not, at which scale; and their vectors."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from sppnet.common.arrays import BoolArray, FloatArray, IntArray
from sppnet.common.prefetch import prefetch
from sppnet.data.images import read_image
from sppnet.data.types import Example
from sppnet.detection.features.extractor import FeatureExtractor, FeatureMap
from sppnet.detection.features.map_store import MapStore
from sppnet.detection.training.finetuning_settings import FineTuningSettings
from sppnet.detection.training.svm_training import TrainingData
from sppnet.eval.voc import box_iou
from sppnet.proposals import image_key, propose_example

BACKGROUND = -1


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows drawn from images, in the order of the images.

    Attributes:
        images: int64 (N,), indices of the images.
        boxes: float32 (N, 4), xyxy, in the image that is not mirrored.
        labels: int64 (N,), the class of the ground truth that a positive overlaps most; `BACKGROUND`.
        mirrored: bool (N,), whether the window is seen in the mirrored image.
        scales: int64 (N,), the scale it is pooled from; -1: the one that suits it best.
    """

    images: IntArray
    boxes: FloatArray
    labels: IntArray
    mirrored: BoolArray
    scales: IntArray

    def __len__(self) -> int:
        return len(self.images)

    def only(self, places: IntArray) -> "Windows":
        """Those at some places."""
        return Windows(*(getattr(self, field.name)[places] for field in fields(self)))


def label_windows(
    example: Example, boxes: FloatArray, settings: FineTuningSettings, difficult: bool
) -> tuple[IntArray, IntArray, IntArray]:
    """Which windows of an image are positives and which negatives, by the ground truth they overlap most.

    Args:
        example: with ground truth; a window on a difficult object is neither, unless ``difficult``.
        boxes: float32 (N, 4), xyxy.
        settings: overlaps.
        difficult: whether difficult objects make positives.

    Returns:
        int64 (P,) positives, int64 (P,) their labels, int64 (Q,) negatives.
    """
    none = np.zeros(0, np.int64)
    if len(example.boxes) == 0:
        # Nothing overlaps: negatives only where they need not overlap anything.
        return none, none, np.arange(len(boxes)) if settings.negative_iou_range[0] == 0 else none
    overlap = box_iou(boxes, example.boxes)
    best = overlap.argmax(axis=1)
    most = overlap.max(axis=1)
    positive = most >= settings.min_positive_iou
    if not difficult:
        positive &= ~example.difficult[best]
    low, high = settings.negative_iou_range
    found = np.flatnonzero(positive)
    return found, example.labels[best[found]], np.flatnonzero((most >= low) & (most < high))


class WindowSampler:
    """Draws windows from a data set; a draw depends on the seed, its number and the images only."""

    def __init__(
        self,
        data: TrainingData,
        extractor: FeatureExtractor,
        settings: FineTuningSettings,
        difficult: bool,
    ) -> None:
        """Takes proposals and maps from where ``data`` keeps them; what is missing there is computed."""
        self._data = data
        self._extractor = extractor
        self._store = MapStore(data.maps, extractor, data.map_bytes)
        self._settings = settings
        self._difficult = difficult

    def draw(self, images: Sequence[int], number: int, per_image: int, augment: bool) -> Windows:
        """Chooses windows; no vectors are made yet, so that this takes milliseconds an image.

        Args:
            images: indices into the data set.
            number: of the draw.
            per_image: at most so many windows of an image.
            augment: whether to mirror half of them and to take random scales, as the settings say.
        """
        settings, scales = self._settings, len(self._extractor.settings.scales)
        wanted = round(per_image * settings.positive_fraction)
        parts: list[tuple[FloatArray, IntArray]] = []
        for index in images:
            rng = np.random.default_rng([settings.seed, number, index])
            example = self._data.dataset[index]
            proposals = propose_example(example, self._data.engine, self._data.cache)
            boxes = np.concatenate([example.boxes, proposals])
            positives, labels, negatives = label_windows(example, boxes, settings, self._difficult)
            chosen = rng.permutation(len(positives))[:wanted]
            others = rng.permutation(negatives)[: per_image - wanted]
            parts.append(
                (
                    boxes[np.concatenate([positives[chosen], others])],
                    np.concatenate([labels[chosen], np.full(len(others), BACKGROUND)]),
                )
            )
        counts = [len(labels) for _, labels in parts]
        total = sum(counts)
        rng = np.random.default_rng([settings.seed, number])
        mirrored = rng.random(total) < 0.5
        random_scales = rng.integers(0, scales, total)
        return Windows(
            np.repeat(np.asarray(images, np.int64), counts),
            np.concatenate([boxes for boxes, _ in parts]) if parts else np.zeros((0, 4), np.float32),
            np.concatenate([labels for _, labels in parts]) if parts else np.zeros(0, np.int64),
            mirrored if augment and settings.flip else np.zeros(total, np.bool_),
            random_scales if augment and settings.random_scale and scales > 1 else np.full(total, -1),
        )

    def image_path(self, index: int) -> Path:
        """The file of an image, for messages."""
        example: Example = self._data.dataset[index]
        return example.path

    def vectors(self, windows: Windows) -> Iterator[tuple[IntArray, FloatArray]]:
        """The windows' pooled vectors, image by image, the next image being prepared meanwhile.

        A mirrored window is pooled from the maps of the mirrored image, computed by the network and stored
        beside the others: mirroring a map is not the same, for filters are not symmetric.

        Yields:
            int64 (n,) places in ``windows``, and float32 (n, length).
        """
        starts = np.flatnonzero(np.diff(windows.images, prepend=-1))
        places = np.split(np.arange(len(windows)), starts[1:])

        def prepare(mine: IntArray) -> tuple[IntArray, FloatArray]:
            vectors = np.empty((len(mine), self._extractor.length), np.float32)
            for mirrored in (False, True):
                part = np.flatnonzero(windows.mirrored[mine] == mirrored)
                if len(part):
                    vectors[part] = self._pool(windows.only(mine[part]), mirrored)
            return mine, vectors

        if len(windows):
            yield from prefetch(prepare, places, ahead=1)

    def _pool(self, windows: Windows, mirrored: bool) -> FloatArray:
        """Vectors of windows of one image, all mirrored or none of them."""
        example = self._data.dataset[int(windows.images[0])]
        image = functools.cache(lambda: read_image(example.path))
        digest, boxes = image_key(example).image_digest, windows.boxes
        if mirrored:
            width = np.float32(image().shape[1])
            digest += "-mirrored"
            boxes = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)

        def maps() -> list[FeatureMap]:
            return self._extractor.maps(np.ascontiguousarray(image()[:, ::-1]) if mirrored else image())

        pooled = self._extractor.pool(self._store.get(digest, maps), boxes, windows.scales)
        return pooled.features[pooled.rows]

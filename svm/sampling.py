"""Training windows for the box regressors: a bounded sample of a stream of images, kept on disk."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou

from sppnet.common.arrays import FloatArray, IntArray
from sppnet.svm.regression import BoxRegressors, RegressionSettings, encode_boxes, fit_deltas


class RegressionSampler:
    """Keeps an even random sample, per class, of the windows that overlap ground truth enough.

    Reservoir sampling: every eligible window of the whole stream has the same chance, whenever it comes.
    The draw depends on the seed, the images' keys and their order only. Features are kept as float16 in one
    file a class, written as windows come (20 classes of 5,000 windows of 12,800 features are 2.6 GB, too
    much for memory beside the negatives); the folder is the caller's to remove.
    """

    def __init__(
        self,
        num_classes: int,
        dimension: int,
        settings: RegressionSettings,
        norm_factor: float,
        folder: Path,
    ) -> None:
        """An empty sample.

        Args:
            num_classes: C.
            dimension: d.
            settings: overlap, size of the sample, and the ridge.
            norm_factor: from `sppnet.svm.linear.norm_factor`.
            folder: for the files of features; made if need be. Files of an earlier sample are overwritten.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.settings = settings
        self.norm_factor = norm_factor
        self._folder = folder
        self._dimension = dimension
        self._offsets = np.zeros((num_classes, settings.max_samples, 4), np.float32)
        self._seen = np.zeros(num_classes, np.int64)

    @property
    def seen(self) -> IntArray:
        """int64 (C,): eligible windows up to now; at most ``max_samples`` of a class are kept."""
        return self._seen.copy()

    def add_image(
        self,
        key: int,
        features: FloatArray,
        boxes: FloatArray,
        ground_truth: FloatArray,
        ground_truth_labels: IntArray,
    ) -> None:
        """Offers the windows of one image; each image once.

        A window is eligible for a class whose ground truth it overlaps by ``min_iou`` or more, and is
        to be moved to the one of that class that it overlaps most.

        Args:
            key: the image's number, from 0.
            features: (N, d), unscaled.
            boxes: (N, 4) xyxy, the windows.
            ground_truth: (G, 4) xyxy, ground truth.
            ground_truth_labels: int (G,).

        Raises:
            ValueError: shapes or labels that do not fit, boxes without area, or features that are not finite.
            OSError: the features cannot be written, as when the disk is full.
        """
        boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
        ground_truth = np.asarray(ground_truth, np.float32).reshape(-1, 4)
        ground_truth_labels = np.asarray(ground_truth_labels)
        if features.shape != (len(boxes), self._dimension):
            raise ValueError(
                f"image {key}: features are {features.shape}, not ({len(boxes)}, {self._dimension})"
            )
        if ground_truth_labels.shape != (len(ground_truth),):
            raise ValueError(
                f"image {key}: {len(ground_truth)} ground truths but labels {ground_truth_labels.shape}"
            )
        if not ((ground_truth_labels >= 0) & (ground_truth_labels < len(self._seen))).all():
            raise ValueError(f"image {key}: labels must be 0..{len(self._seen) - 1}")
        overlaps = box_iou(torch.from_numpy(boxes), torch.from_numpy(ground_truth)).numpy()
        for label in np.unique(ground_truth_labels):
            mine = np.flatnonzero(ground_truth_labels == label)
            best = overlaps[:, mine].argmax(axis=1)
            eligible = np.flatnonzero(overlaps[:, mine].max(axis=1) >= self.settings.min_iou)
            offsets = encode_boxes(boxes[eligible], ground_truth[mine[best[eligible]]])
            places = self._draw(key, int(label), len(eligible))
            self._write(key, int(label), places, features, eligible)
            for index, place in places.items():
                self._offsets[label, place] = offsets[index]
            self._seen[label] += len(eligible)

    def finish(self) -> BoxRegressors:
        """Trains the regressors on the sample; one class' features are in memory at a time."""
        weights = np.zeros((len(self._seen), 4, self._dimension), np.float32)
        bias = np.zeros((len(self._seen), 4), np.float32)
        for label in np.flatnonzero(self._seen):
            count = min(int(self._seen[label]), self.settings.max_samples)
            stored = np.fromfile(self._path(int(label)), np.float16, count * self._dimension)
            features = stored.reshape(count, self._dimension).astype(np.float32)
            weights[label], bias[label] = fit_deltas(features, self._offsets[label, :count], self.settings)
        return BoxRegressors(weights, bias, self.norm_factor)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """What `from_state` needs beside the folder.

        The folder may run ahead of the state: the same images, offered again, write the same places again.
        """
        return {"offsets": self._offsets, "seen": self._seen}

    @classmethod
    def from_state(
        cls,
        state: Mapping[str, NDArray[np.generic]],
        dimension: int,
        settings: RegressionSettings,
        norm_factor: float,
        folder: Path,
    ) -> Self:
        """The sampler that `state` was taken from; the other arguments must be as they were then.

        Raises:
            ValueError: an array is missing or has another shape, or a file in the folder is missing or too
            short.
        """
        try:
            offsets, seen = state["offsets"], state["seen"]
        except KeyError as error:
            raise ValueError(f"the sampler's state lacks {error}") from error
        if offsets.shape != (len(seen), settings.max_samples, 4):
            raise ValueError(f"the state's offsets are {offsets.shape}, not (C, {settings.max_samples}, 4)")
        sampler = cls(len(seen), dimension, settings, norm_factor, folder)
        sampler._offsets[:] = offsets
        sampler._seen[:] = seen
        for label in np.flatnonzero(sampler._seen):
            path = sampler._path(int(label))
            needed = min(int(sampler._seen[label]), settings.max_samples) * dimension * 2
            if not path.is_file() or path.stat().st_size < needed:
                raise ValueError(f"{path}: features of the saved sample are missing; start the sample afresh")
        return sampler

    def _path(self, label: int) -> Path:
        return self._folder / f"windows-{label:04d}.f16"

    def _draw(self, key: int, label: int, count: int) -> dict[int, int]:
        """Which of ``count`` new windows are kept, and where; a later one may take an earlier one's place."""
        turns = self._seen[label] + np.arange(count)
        draws = np.random.default_rng([self.settings.seed, key, label]).integers(0, turns + 1)
        places = np.where(turns < self.settings.max_samples, turns, draws)
        kept = {int(place): index for index, place in enumerate(places) if place < self.settings.max_samples}
        return {index: place for place, index in kept.items()}

    def _write(
        self, key: int, label: int, places: dict[int, int], features: FloatArray, eligible: IntArray
    ) -> None:
        if not places:
            return
        path = self._path(label)
        # Plain writes, for a full disk is an error then; under a memory map it would kill the process.
        with open(path, "r+b" if self._seen[label] else "wb") as file:
            for index, place in places.items():
                row = (features[eligible[index]] * np.float32(self.norm_factor)).astype(np.float16)
                if not np.isfinite(row).all():
                    raise ValueError(f"image {key}: features of window {eligible[index]} are not finite")
                file.seek(place * row.nbytes)
                file.write(row.tobytes())

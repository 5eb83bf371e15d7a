"""Draws the training samples of box regressors: a bounded random sample of a stream, kept on disk."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sppnet.common.arrays import FloatArray, IntArray
from sppnet.common.errors import DamageError
from sppnet.common.files import checksum, sync_file
from sppnet.svm.regression import BoxRegressors, RegressionSettings, encode_boxes, fit_deltas


class RegressionSampler:
    """Keeps, for each class, an even random sample of the proposals that overlap ground truth enough.

    Reservoir sampling: every eligible proposal of the whole stream has the same chance, early or late. The
    draw depends only on the seed and on the images' keys and order. Features are kept as float16, in one file
    per class, because 20 classes of 5,000 proposals of 12,800 features are 2.6 GB, too much for memory beside
    the negatives. Their checksums are in memory, and are compared in the end. The caller removes the folder.

    Attributes:
        settings: the settings of the sample and of the ridge regression.
        norm_factor: the factor on features before the regressors.

    Example:
        >>> import tempfile
        >>> rng = np.random.default_rng(0)
        >>> object_box = np.array([[10, 10, 50, 40]], np.float32)
        >>> boxes = (object_box + rng.uniform(-3, 3, (20, 4))).astype(np.float32)
        >>> features = encode_boxes(boxes, object_box.repeat(20, axis=0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     settings = RegressionSettings(penalty=1e-4)
        ...     sampler = RegressionSampler(1, 4, settings, norm_factor=1.0, folder=Path(folder))
        ...     sampler.add_image(0, features, boxes, object_box, np.array([0]))
        ...     regressors = sampler.finish()
        >>> bool(np.abs(regressors.deltas(features)[:, 0] - features).max() < 0.01)
        True
    """

    def __init__(
        self,
        num_classes: int,
        dimension: int,
        settings: RegressionSettings,
        norm_factor: float,
        folder: Path,
    ) -> None:
        """Makes an empty sample.

        Args:
            num_classes: C, the number of classes.
            dimension: d, the length of a feature row.
            settings: least IoU, size of the sample, and the ridge regression.
            norm_factor: from `sppnet.svm.linear.norm_factor`.
            folder: for the files of features; it is created if it is missing. Files of an earlier sample are
                overwritten.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.settings = settings
        self.norm_factor = norm_factor
        self._folder = folder
        self._dimension = dimension
        self._deltas = np.zeros((num_classes, settings.max_samples, 4), np.float32)
        self._seen = np.zeros(num_classes, np.int64)
        self._checksums = np.zeros((num_classes, settings.max_samples), np.uint32)
        # Labels whose files have changed since they were last known to be on the disk.
        self._unsynced: set[int] = set()

    @property
    def seen(self) -> IntArray:
        """int64 (C,), eligible proposals of each class so far; at most ``max_samples`` of them are kept."""
        return self._seen.copy()

    def add_image(
        self,
        key: int,
        features: FloatArray,
        boxes: FloatArray,
        ground_truth: FloatArray,
        ground_truth_labels: IntArray,
    ) -> None:
        """Offers the proposals of one image to the sample; each image comes once.

        A proposal is eligible for a class if it overlaps an object of the class by ``min_iou`` or more; its
        target is the object of that class that it overlaps most.

        Args:
            key: the image's number, from 0.
            features: (N, d), the features of the proposals, not yet multiplied by ``norm_factor``.
            boxes: (N, 4) xyxy, the proposals.
            ground_truth: (G, 4) xyxy, the objects.
            ground_truth_labels: int (G,), the class of each object, 0 to C - 1.

        Raises:
            ValueError: a shape or a label does not fit, a box has no area, or a feature is not finite.
            OSError: the features cannot be written, for example because the disk is full.
        """
        boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
        ground_truth = np.asarray(ground_truth, np.float32).reshape(-1, 4)
        # Imported here because settings of regression are read without torch.
        import torch
        from torchvision.ops import box_iou

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
        iou = box_iou(torch.from_numpy(boxes), torch.from_numpy(ground_truth)).numpy()
        for label in np.unique(ground_truth_labels):
            objects = np.flatnonzero(ground_truth_labels == label)
            best = iou[:, objects].argmax(axis=1)
            eligible = np.flatnonzero(iou[:, objects].max(axis=1) >= self.settings.min_iou)
            deltas = encode_boxes(boxes[eligible], ground_truth[objects[best[eligible]]])
            slots = self._draw(key, int(label), len(eligible))
            self._write(key, int(label), slots, features, eligible)
            for index, slot in slots.items():
                self._deltas[label, slot] = deltas[index]
            self._seen[label] += len(eligible)

    def finish(self) -> BoxRegressors:
        """Trains the regressors on the sample, with the features of one class in memory at a time.

        Raises:
            DamageError: a file in the folder is not as it was written.
        """
        weights = np.zeros((len(self._seen), 4, self._dimension), np.float32)
        bias = np.zeros((len(self._seen), 4), np.float32)
        for label in np.flatnonzero(self._seen):
            count = min(int(self._seen[label]), self.settings.max_samples)
            stored = self._read(int(label), count)
            if not np.array_equal(_checksums(stored), self._checksums[label, :count]):
                raise DamageError(
                    f"{self._path(int(label))}: damaged since it was written; check the disk, run again"
                )
            features = stored.astype(np.float32)
            weights[label], bias[label] = fit_deltas(features, self._deltas[label, :count], self.settings)
        return BoxRegressors(weights, bias, self.norm_factor)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Waits until the folder is on the disk, and returns the arrays that `from_state` needs besides it.

        The folder may be ahead of the state: if the same images are offered again, they write the same bytes.
        """
        # Checkpoints keep "offsets", the old name of the deltas.
        for label in self._unsynced:
            sync_file(self._path(label))
        self._unsynced.clear()
        return {"offsets": self._deltas, "seen": self._seen, "checksums": self._checksums}

    @classmethod
    def from_state(
        cls,
        state: Mapping[str, NDArray[np.generic]],
        dimension: int,
        settings: RegressionSettings,
        norm_factor: float,
        folder: Path,
    ) -> Self:
        """Rebuilds the sampler that `state` was taken from; the other arguments must be the same as there.

        Raises:
            ValueError: an array is missing or has another shape, or a file in the folder is missing or too
                short.
        """
        try:
            deltas, seen = state["offsets"], state["seen"]
        except KeyError as error:
            raise ValueError(f"the sampler's state lacks {error}") from error
        if deltas.shape != (len(seen), settings.max_samples, 4):
            raise ValueError(f"the state's offsets are {deltas.shape}, not (C, {settings.max_samples}, 4)")
        sampler = cls(len(seen), dimension, settings, norm_factor, folder)
        sampler._deltas[:] = deltas
        sampler._seen[:] = seen
        for label in np.flatnonzero(sampler._seen):
            path = sampler._path(int(label))
            count = min(int(sampler._seen[label]), settings.max_samples)
            if not path.is_file() or path.stat().st_size < count * dimension * 2:
                raise ValueError(f"{path}: features of the saved sample are missing; start the sample afresh")
            if "checksums" not in state:
                # A state of version 0.1.0.
                sampler._checksums[label, :count] = _checksums(sampler._read(int(label), count))
        if "checksums" in state:
            sampler._checksums[:] = state["checksums"]
        return sampler

    def _read(self, label: int, count: int) -> NDArray[np.float16]:
        stored = np.fromfile(self._path(label), np.float16, count * self._dimension)
        return stored[: len(stored) // self._dimension * self._dimension].reshape(-1, self._dimension)

    def _path(self, label: int) -> Path:
        return self._folder / f"windows-{label:04d}.f16"

    def _draw(self, key: int, label: int, count: int) -> dict[int, int]:
        """Draws which of ``count`` new proposals are kept; returns proposal index to slot in the sample.

        A later proposal may take the slot of an earlier one.
        """
        turns = self._seen[label] + np.arange(count)
        draws = np.random.default_rng([self.settings.seed, key, label]).integers(0, turns + 1)
        slots = np.where(turns < self.settings.max_samples, turns, draws)
        kept = {int(slot): index for index, slot in enumerate(slots) if slot < self.settings.max_samples}
        return {index: slot for slot, index in kept.items()}

    def _write(
        self, key: int, label: int, slots: dict[int, int], features: FloatArray, eligible: IntArray
    ) -> None:
        if not slots:
            return
        path = self._path(label)
        self._unsynced.add(label)
        # Plain writes raise an error when the disk is full; a memory map would kill the process.
        with open(path, "r+b" if self._seen[label] else "wb") as file:
            for index, slot in slots.items():
                row = (features[eligible[index]] * np.float32(self.norm_factor)).astype(np.float16)
                if not np.isfinite(row).all():
                    raise ValueError(f"image {key}: features of proposal {eligible[index]} are not finite")
                file.seek(slot * row.nbytes)
                file.write(row.tobytes())
                self._checksums[label, slot] = checksum(row.data)


def _checksums(rows: NDArray[np.float16]) -> NDArray[np.uint32]:
    return np.array([checksum(row.data) for row in rows], np.uint32)

"""Hard negative mining for all classes at once, over a stream of images, in bounded memory."""

import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sppnet.common.arrays import BoolArray, FloatArray, IntArray
from sppnet.svm.linear import LinearSVMs
from sppnet.svm.mining_settings import MiningSettings, MiningStatistics
from sppnet.svm.solver import Problem, SolverSettings, train_svms
from sppnet.svm.store import RowStore

# The key of positives in the store; the caller's images have keys from 0.
_POSITIVES = -2
# The score of every sample for a class without positives: below any threshold, and finite because some file
# formats cannot hold infinity.
NEVER = -1e6
# Making room scores all stored rows, so at least this fraction of the store is freed at a time.
_RESERVE = 0.1


class HardNegativeMiner:
    """Trains one SVM per class on its ground truth and on the hard negatives of a stream of images.

    The samples of an image are its proposals, as feature rows. A sample that the present SVM of a class
    scores above the margin becomes a negative of the class. After 2,000 new negatives the class is trained
    again, starting from its last solution, and its easy negatives are dropped (R-CNN and SPP-net, released
    code). A sample is stored once, even if several classes hold it. When memory is full, a tenth of it is
    freed: the rows that are the easiest for the classes that hold them are dropped. `MiningStatistics.lost`
    counts dropped rows that were within the margin. Before the first training all scores are 0, so all
    samples are hard.

    A class without positives is not trained: its weights are 0 and its bias is `NEVER`. The result depends
    on the order of images, not on ``threads``.

    Attributes:
        settings: the thresholds and the solver.
        norm_factor: the factor on features before the SVMs.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> positives = rng.random((10, 8), dtype=np.float32) + 1
        >>> miner = HardNegativeMiner(1, 8, MiningSettings(), norm_factor=5.0, memory_bytes=10**6)
        >>> miner.add_positives(positives, labels=np.zeros(10, np.int64))
        >>> for key in range(3):
        ...     background = rng.random((50, 8), dtype=np.float32)
        ...     miner.add_image(key, background, max_iou=np.zeros((50, 1), np.float32))
        >>> svms = miner.finish()
        >>> bool((svms.score(positives) > svms.score(background).max()).all())
        True
        >>> miner.statistics().images
        3
    """

    def __init__(
        self,
        num_classes: int,
        dimension: int,
        settings: MiningSettings,
        norm_factor: float,
        memory_bytes: int,
        threads: int = 1,
    ) -> None:
        """Makes a miner without samples; `add_positives` comes next.

        Args:
            num_classes: C, the number of classes.
            dimension: d, the length of a feature row.
            settings: thresholds and solver.
            norm_factor: from `sppnet.svm.linear.norm_factor`.
            memory_bytes: memory for the feature rows of positives and negatives.
            threads: number of classes trained at a time.
        """
        self.settings = settings
        self.norm_factor = norm_factor
        self._threads = threads
        self._store = RowStore(memory_bytes, dimension, num_classes)
        self._positives = 0
        self._weights = np.zeros((num_classes, dimension), np.float32)
        self._bias = np.zeros(num_classes, np.float32)
        self._images = 0
        self._seconds = 0.0
        # Rows of counts, each (C,).
        (
            self._pending, self._added, self._evicted, self._forced, self._lost, self._trainings,
        ) = self._counts = np.zeros((6, num_classes), np.int64)  # fmt: skip
        self._set_trainable()

    def check_room(self, positives: int) -> None:
        """Checks that a number of positives, and at least one negative, fit into the memory.

        Raises:
            ValueError: they do not fit.
        """
        store = self._store
        if store.capacity <= positives:
            missing = (positives + 1 - store.capacity) * store.row_bytes
            raise ValueError(
                f"{store.capacity * store.row_bytes / 1e9:.2f} GB hold {store.capacity} feature rows, too "
                f"few for {positives} positives and any negatives; "
                f"give at least {missing / 1e9:.2f} GB more"
            )

    def add_positives(self, features: FloatArray, labels: IntArray) -> None:
        """Stores the features of ground truth; call it before the first `add_image`.

        Args:
            features: (P, d), not yet multiplied by ``norm_factor``; they are copied.
            labels: int (P,), the class of each row, 0 to C - 1.

        Raises:
            ValueError: a shape or a label does not fit, a feature is not finite, the memory is too small, or
                an image was added before.
        """
        if self._images:
            raise ValueError("positives must come before the images")
        features = _finite_rows("positives", features)
        labels = np.asarray(labels)
        if features.shape[1] != self._weights.shape[1]:
            raise ValueError(f"positives are {features.shape}, not (P, {self._weights.shape[1]})")
        if labels.shape != (len(features),):
            raise ValueError(f"{len(features)} positives but labels of shape {labels.shape}")
        if not ((labels >= 0) & (labels < len(self._bias))).all():
            raise ValueError(f"positive labels must be 0..{len(self._bias) - 1}")
        self.check_room(self._positives + len(features))
        samples = self._positives + np.arange(len(features))
        slots = self._store.add(features, self.norm_factor, _POSITIVES, samples)
        self._store.held[slots, labels] = True
        self._positives += len(features)
        self._trainable[labels] = True
        self._bias[labels] = 0

    def _set_trainable(self) -> None:
        self._trainable: BoolArray = np.any(self._store.held[: self._positives], axis=0)
        self._bias[~self._trainable] = NEVER

    def add_image(
        self, key: int, features: FloatArray, max_iou: FloatArray, boxes: FloatArray | None = None
    ) -> None:
        """Adds the hard negatives of one image, and trains the classes that have enough new negatives.

        Args:
            key: the image's number, from 0; a sample is not added twice if its image comes again.
            features: (N, d), not yet multiplied by ``norm_factor``, a row for each sample; proposals pooled
                from the same cells are one sample.
            max_iou: (N, C), greatest IoU of each sample with the ground truth of each class, 0 if the image
                has no object of the class.
            boxes: (N, 4) xyxy boxes of the samples; needed only with ``duplicate_iou``.

        Raises:
            ValueError: a shape does not fit, or a value is not finite; nothing was added then.
        """
        features = _finite_rows(f"image {key}: features", features)
        count, classes = len(features), len(self._bias)
        max_iou = np.asarray(max_iou, np.float32)
        if key < 0:
            raise ValueError(f"image {key}: keys must not be negative")
        if features.shape[1] != self._weights.shape[1]:
            raise ValueError(f"image {key}: features are {features.shape}, not (N, {self._weights.shape[1]})")
        if max_iou.shape != (count, classes):
            raise ValueError(f"image {key}: max_iou must be ({count}, {classes}), it is {max_iou.shape}")
        if not np.isfinite(max_iou).all():
            raise ValueError(f"image {key}: max_iou has a value that is not finite")
        if self.settings.duplicate_iou is not None and (boxes is None or boxes.shape != (count, 4)):
            raise ValueError(f"image {key}: boxes must be ({count}, 4) to drop near duplicates")

        scores = self._svms().score(features)
        slots = self._store.find(key, count)
        held = self._store.held[slots] & (slots >= 0)[:, None]
        limit = self.settings.max_negative_iou
        hard = max_iou <= limit if self.settings.negative_iou_inclusive else max_iou < limit
        hard &= (scores > self.settings.hard_threshold) & self._trainable & ~held
        if boxes is not None and self.settings.duplicate_iou is not None:
            for label in np.flatnonzero(hard.any(axis=0)):
                hard[:, label] &= self._distinct(boxes, scores[:, label], hard[:, label], held[:, label])
        self._added += hard.sum(axis=0)
        self._pending += hard.sum(axis=0)
        self._take(key, features, scores, hard, slots)
        self._images += 1
        interim = replace(self.settings.solver, tolerance=self.settings.interim_tolerance)
        if self._images == self.settings.initial_images:
            self._train(self._trainable, interim)
        elif self._images > self.settings.initial_images:
            self._train(np.greater(self._pending, self.settings.retrain_after), interim)

    def finish(self) -> LinearSVMs:
        """Trains all classes on the rows that they hold, to the final tolerance; images may still follow."""
        self._train(self._trainable, self.settings.solver)
        return self._svms()

    def finish_without(self, keys: Collection[int], positives: Collection[int]) -> LinearSVMs:
        """Trains all classes on the rows they hold, but for those of some images; the miner stays as it is.

        After `finish` this takes a few sweeps, because it starts from that solution. It gives SVMs that judge
        images as if they were new: only the choice of the other negatives has seen them.

        Args:
            keys: of the images whose negatives are left out.
            positives: the numbers of positives to leave out, in the order in which they were added.
        """
        store = self._store
        left_out = np.isin(store.keys[: store.end], list(keys))
        left_out[list(positives)] = True
        svms = LinearSVMs(np.zeros_like(self._weights), np.full_like(self._bias, NEVER), self.norm_factor)
        labels, problems = [], []
        for label in np.flatnonzero(self._trainable):
            rows = np.flatnonzero(store.held[: store.end, label] & ~left_out)
            if (rows < self._positives).any():
                labels.append(label)
                problems.append(Problem(rows, rows < self._positives, store.alphas[rows, label]))
        solver = self.settings.solver
        solutions = train_svms(store.rows, problems, solver, store.norms, self._threads, store.units)
        for label, solution in zip(labels, solutions, strict=True):
            svms.weights[label], svms.bias[label] = solution.weights, solution.bias
        return svms

    def statistics(self) -> MiningStatistics:
        """Returns copies of the counts and times so far."""
        store = self._store
        held = store.held[self._positives :].sum(axis=0)
        return MiningStatistics(
            self._images, held, self._added.copy(), self._evicted.copy(), self._forced.copy(),
            self._lost.copy(), self._trainings.copy(), store.capacity - store.free, store.capacity,
            self._seconds, self._positives,
        )  # fmt: skip

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Returns the arrays that `from_state` needs to continue with the same result.

        The large arrays are views, which take no memory: save them before the next call of a method.
        """
        return {
            **self._store.state(),
            "weights": self._weights,
            "bias": self._bias,
            "counts": self._counts,
            "progress": np.array([self._positives, self._images], np.int64),
            "seconds": np.array([self._seconds]),
        }

    @classmethod
    def from_state(
        cls,
        state: Mapping[str, NDArray[np.generic]],
        settings: MiningSettings,
        norm_factor: float,
        memory_bytes: int,
        threads: int = 1,
    ) -> Self:
        """Rebuilds the miner that `state` was taken from.

        Args:
            state: arrays by name; if they are memory-mapped, the peak stays within ``memory_bytes``.
            settings: the settings of that miner.
            norm_factor: the factor of that miner.
            memory_bytes: the memory of that miner.
            threads: number of classes trained at a time.

        Raises:
            ValueError: arrays are missing, do not fit together, or do not fit into the memory.
        """
        try:
            classes, dimension = state["weights"].shape
            miner = cls(classes, dimension, settings, norm_factor, memory_bytes, threads)
            miner._store.restore(state)
            miner._weights[:] = state["weights"]
            miner._bias[:] = state["bias"]
            miner._counts[:] = state["counts"]
            miner._positives, miner._images = (int(value) for value in state["progress"])
            miner._seconds = float(state["seconds"][0])
        except KeyError as error:
            raise ValueError(f"the miner's state lacks {error}") from error
        miner._set_trainable()
        return miner

    def _svms(self) -> LinearSVMs:
        return LinearSVMs(self._weights.copy(), self._bias.copy(), self.norm_factor)

    def _distinct(self, boxes: FloatArray, scores: FloatArray, hard: BoolArray, held: BoolArray) -> BoolArray:
        """Drops a hard sample that nearly coincides with a harder sample or with one that the class holds.

        Args:
            boxes: (N, 4) xyxy boxes of the samples.
            scores: (N,), scores for the class.
            hard: (N,), true for the new hard samples.
            held: (N,), true for the samples that the class holds already.

        Returns:
            bool (N,), true for the samples that stay.
        """
        # Imported here because settings of mining are read without torch.
        import torch
        from torchvision.ops import nms

        samples = np.flatnonzero(hard | held)
        order = np.where(held, np.inf, scores)[samples].astype(np.float32)
        chosen = np.ascontiguousarray(boxes[samples], np.float32)
        iou = self.settings.duplicate_iou or 0.0
        distinct = np.zeros(len(hard), np.bool_)
        distinct[samples[nms(torch.from_numpy(chosen), torch.from_numpy(order), iou).numpy()]] = True
        return distinct

    def _take(
        self, key: int, features: FloatArray, scores: FloatArray, hard: BoolArray, slots: IntArray
    ) -> None:
        """Stores the hard samples, or the hardest of them if there is no room for all."""
        new = np.flatnonzero(hard.any(axis=1) & (slots < 0))
        if len(new) > self._store.free:
            self._make_room(len(new))
            slots = self._store.find(key, len(slots))
            hardness = np.where(hard, scores, -np.inf).max(axis=1)
            new = np.flatnonzero(hard.any(axis=1) & (slots < 0))
            new = new[np.argsort(-hardness[new], kind="stable")]
            self._forced += hard[new[self._store.free :]].sum(axis=0)
            new = np.sort(new[: self._store.free])
        slots[new] = self._store.add(features[new], self.norm_factor, key, new)
        samples, labels = np.nonzero(hard & (slots >= 0)[:, None])
        self._store.held[slots[samples], labels] = True

    def _make_room(self, count: int) -> None:
        """Frees ``count`` rows, or the reserve if it is larger: easy rows first, then the least hard rows."""
        store = self._store
        negatives = np.flatnonzero(store.held[: store.end].any(axis=1))
        negatives = negatives[negatives >= self._positives]
        scores = np.empty((len(negatives), len(self._bias)), np.float32)
        for start in range(0, len(negatives), 1024):
            part = slice(start, start + 1024)
            scores[part] = store.scores(negatives[part], self._weights) + self._bias
        held = store.held[negatives]
        easy = held & (scores < self.settings.easy_threshold)
        hardness = np.where(held & ~easy, scores, -np.inf).max(axis=1)
        wanted = max(count, int(_RESERVE * store.capacity)) - store.free
        wanted = max(wanted, int(np.count_nonzero(hardness == -np.inf)))
        forced = np.zeros_like(held)
        forced[np.argsort(hardness, kind="stable")[:wanted]] = True
        forced &= held & ~easy
        self._evicted += easy.sum(axis=0)
        self._forced += forced.sum(axis=0)
        self._lost += (forced & (scores > -1)).sum(axis=0)
        for label in np.flatnonzero((forced | easy).any(axis=0)):
            store.release(negatives[(forced | easy)[:, label]], label)
        store.sweep()

    def _train(self, due: BoolArray, solver: SolverSettings) -> None:
        start = time.perf_counter()
        store = self._store
        labels = np.flatnonzero(due)
        held = store.held[: store.end]
        problems = []
        for label in labels:
            rows = np.flatnonzero(held[:, label])
            problems.append(Problem(rows, rows < self._positives, store.alphas[rows, label]))
        solutions = train_svms(store.rows, problems, solver, store.norms, self._threads, store.units)
        for label, problem, solution in zip(labels, problems, solutions, strict=True):
            self._weights[label] = solution.weights
            self._bias[label] = solution.bias
            store.alphas[problem.rows, label] = solution.alphas
            easy = problem.rows[~problem.positive & (solution.margins < self.settings.easy_threshold)]
            store.release(easy, label)
            self._evicted[label] += len(easy)
        self._pending[labels] = 0
        self._trainings[labels] += 1
        store.sweep()
        self._seconds += time.perf_counter() - start


def _finite_rows(name: str, features: FloatArray) -> FloatArray:
    """Returns the features as contiguous float32 rows; ``name`` names them in the error for a bad row."""
    if np.ndim(features) != 2:
        raise ValueError(f"{name} must be (N, d), not {np.shape(features)}")
    features = np.ascontiguousarray(features, np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        finite = np.isfinite(features.sum(axis=1))
    if not finite.all():
        raise ValueError(f"{name}: row {np.flatnonzero(~finite)[0]} has a value that is not finite")
    return features

"""Settings and statistics of hard negative mining."""

from dataclasses import dataclass, field

from sppnet.common.arrays import IntArray
from sppnet.svm.solver import SolverSettings


@dataclass(frozen=True)
class MiningSettings:
    """Thresholds for negatives, and the times at which classes are trained.

    Attributes:
        max_negative_iou: greatest IoU of a negative with the ground truth of its class: 0.3 (paper and
            released code; R-CNN lost 4 points with 0 and 5 with 0.5).
        negative_iou_inclusive: whether a sample of exactly that IoU is a negative: the paper says <= 0.3, the
            released code < 0.3.
        duplicate_iou: a negative that overlaps a harder negative of the same image by more than this is
            dropped: 0.7 (paper). ``None`` keeps all negatives, as the released code does.
        hard_threshold: samples that score above this are added: -1.0001, just outside the margin (released
            code).
        easy_threshold: negatives that score below this after a training are dropped: -1.2 (released code).
        retrain_after: a class is trained again when more negatives than this were added since its last
            training: 2,000 (released code).
        initial_images: the first training starts after this many images; all their negatives are added: 1
            (released code).
        interim_tolerance: the solver's tolerance before `HardNegativeMiner.finish`: 2e-3, about as exact as
            liblinear's default tolerance, which the released code uses throughout.
        solver: the settings of the SVM solver.

    Example:
        >>> RELEASED_MINING == MiningSettings()
        True
        >>> PAPER_MINING.duplicate_iou, PAPER_MINING.negative_iou_inclusive
        (0.7, True)
    """

    max_negative_iou: float = 0.3
    negative_iou_inclusive: bool = False
    duplicate_iou: float | None = None
    hard_threshold: float = -1.0001
    easy_threshold: float = -1.2
    retrain_after: int = 2000
    initial_images: int = 1
    interim_tolerance: float = 2e-3
    solver: SolverSettings = field(default_factory=SolverSettings)


RELEASED_MINING = MiningSettings()
PAPER_MINING = MiningSettings(negative_iou_inclusive=True, duplicate_iou=0.7)


@dataclass(frozen=True, eq=False)
class MiningStatistics:
    """Counts and times of hard negative mining; each array is int64 (C,), a count for each class.

    ``str()`` gives a sentence for logs.

    Attributes:
        images: number of images seen.
        held: negatives that the class trains on now.
        added: negatives that the class has added so far.
        evicted: added negatives that were dropped because they became easy.
        forced: added negatives that were dropped, or were not stored at all, because memory was full.
        lost: forced negatives that were within the margin, so the objective misses them.
        trainings: number of trainings.
        rows: feature rows in memory now, positives and negatives; classes share the rows of negatives.
        capacity: feature rows that fit into the memory.
        seconds: time spent in training.
        positives: feature rows of positives in memory.

    Example:
        >>> import numpy as np
        >>> held, none = np.array([9000, 4000]), np.zeros(2, np.int64)
        >>> statistics = MiningStatistics(
        ...     images=5011, held=held, added=held, evicted=none, forced=none, lost=none,
        ...     trainings=np.array([3, 4]), rows=12_742, capacity=67_834, seconds=60.0, positives=500,
        ... )
        >>> print(statistics)
        kept 12,242 hard negatives of 67,334 that fit; each class trained 3 to 4 times; none lost
    """

    images: int
    held: IntArray
    added: IntArray
    evicted: IntArray
    forced: IntArray
    lost: IntArray
    trainings: IntArray
    rows: int
    capacity: int
    seconds: float
    positives: int

    def __str__(self) -> str:
        kept, fitting = self.rows - self.positives, self.capacity - self.positives
        fewest, most = self.trainings.min(), self.trainings.max()
        times = f"{most}" if fewest == most else f"{fewest} to {most}"
        lost = f"{self.lost.sum():,} lost because memory was full" if self.lost.any() else "none lost"
        return (
            f"kept {kept:,} hard negatives of {fitting:,} that fit; each class trained {times} times; {lost}"
        )

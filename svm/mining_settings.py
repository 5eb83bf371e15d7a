"""What hard negative mining is told, and what it tells afterwards."""

from dataclasses import dataclass, field

from sppnet.common.arrays import IntArray
from sppnet.svm.solver import SolverSettings


@dataclass(frozen=True)
class MiningSettings:
    """Which windows become negatives, and when classes are trained.

    Attributes:
        max_negative_iou: the greatest IoU that a negative of a class has with the class' ground truth: 0.3
            (paper and released code; R-CNN lost 4 points with 0 and 5 with 0.5).
        negative_iou_inclusive: whether exactly that is a negative: the paper says <= 0.3, the released code
            < 0.3.
        duplicate_iou: a negative that overlaps a harder negative of the same image by more than this is
            dropped: 0.7 (paper). ``None`` keeps all, as the released code does.
        hard_threshold: windows that score above it are added: -1.0001, just outside the margin (released
            code).
        easy_threshold: negatives that score below it after a training are let go: -1.2 (released code).
        retrain_after: a class is trained again when more negatives than this were added since the last time:
            2,000 (released code).
        initial_images: all negatives of the first so many images are taken before the first training: 1
            (released code).
        interim_tolerance: the solver's tolerance before `HardNegativeMiner.finish`: 2e-3, about what
            liblinear's default tolerance, which the released code keeps throughout, comes to.
        solver: of the SVMs themselves.
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
    """What happened so far, for logs; each array is int64 (C,).

    Attributes:
        images: images seen.
        held: negatives in each class' cache now.
        added: negatives ever added.
        evicted: of them, those let go because they had become easy.
        forced: of them, those let go, or not even taken in, for want of memory.
        lost: of those, the ones let go within the margin, which the objective misses.
        trainings: times each class was trained.
        rows, capacity: feature rows in memory now (positives and negatives), and how many fit.
        seconds: spent in training.
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

"""R-CNN and SPP-net side by side: same backbone, same windows, same training; accuracy and time an image."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from sppnet.common.arrays import FloatArray
from sppnet.common.errors import InputError
from sppnet.common.stopwatch import Stopwatch
from sppnet.data.images import read_image
from sppnet.data.types import Dataset, Example
from sppnet.detection.detector import Detector
from sppnet.detection.fc_layers import FullyConnected
from sppnet.detection.runs.run import Run
from sppnet.detection.training.presets import PRESETS, RunSettings
from sppnet.proposals import ProposalCache, image_key, propose_example

Progress = Callable[[str, int, int], None]

RCNN, ONE_SCALE, FIVE_SCALES = "R-CNN", "SPP-net, 1 scale", "SPP-net, 5 scales"
# The width is the paper's (SPP-net §3.1.1); these layers are random and no part of what finds the objects.
FC = "fc6, fc7 of width 4,096 (time only)"
_FC_WIDTH = 4096
_FOLDERS = {RCNN: "rcnn", ONE_SCALE: "spp-1scale", FIVE_SCALES: "spp-5scale"}
# R-CNN computes all windows of these images twice in training, so fewer than the released 200; alike for all.
_NORM_IMAGES = 4
_TAP_IMAGES = 20
_WARM_UP_WINDOWS = 40


@dataclass(frozen=True)
class Sizes:
    """How much is compared, so that R-CNN, at 10 to 30 ms a window, is done in about ten minutes.

    Attributes:
        train_images, train_windows: what all are trained on: the first images, the best windows of each
            beside the ground truth.
        test_images, test_windows: what all are scored on.
        timed_images: test images to take the times on, with all their windows.
    """

    train_images: int = 60
    train_windows: int = 100
    test_images: int = 40
    test_windows: int = 200
    timed_images: int = 3

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise InputError(f"{name} is {value}; it must be at least 1")


@dataclass(frozen=True, eq=False)
class Compared:
    """The figures of one method.

    Attributes:
        name: of the method.
        map_windows, map_refined: 11-point mean average precision of the proposed windows, and after box
            regression; nan without ground truth.
        seconds: mean wall time an image of each stage; ``all`` is that of the whole, without decoding and
            proposals. `FC`, the paper's fully connected layers on the same vectors, is no part of it.
        cpu_seconds: likewise, processor time of all threads: on a busy machine the fairer figure.
    """

    name: str
    map_windows: float
    map_refined: float
    seconds: Mapping[str, float]
    cpu_seconds: Mapping[str, float]


def methods(base: RunSettings) -> dict[str, RunSettings]:
    """The settings of each method: ``base`` but for the way from windows to vectors.

    SPP-net at one scale takes ``base``'s first, R-CNN the crop and R-CNN's pool5 (level 6 alone). The feature
    norm and taps are taken from fewer images than ``base`` says, for a comparison trains on few.
    """
    training = replace(base.training, norm_images=_NORM_IMAGES, feature_level_images=_TAP_IMAGES)
    base = replace(base, training=training)
    features = {
        RCNN: replace(base.features, mode="rcnn", levels=PRESETS["rcnn"].features.levels),
        ONE_SCALE: replace(base.features, mode="spp", scales=base.features.scales[:1]),
        FIVE_SCALES: replace(base.features, mode="spp", scales=PRESETS["paper-5scale"].features.scales),
    }
    return {name: replace(base, features=one) for name, one in features.items()}


def compare(
    train: Dataset, test: Dataset, base: Run, sizes: Sizes, progress: Progress
) -> tuple[list[Compared], int]:
    """Trains, tests and times each method; what was trained and tested before is not done again.

    Args:
        train: of which the first images are taken.
        test: likewise.
        base: settings of all methods, the cache with the proposals of these images (computed where they are
            missing), and the folder that gets one run for each method.
        sizes: how many images and windows.
        progress: called with a stage's name, images done, images in all.

    Returns:
        the figures, R-CNN's first; and the mean number of windows of the timed images.

    Raises:
        InputError: there is a comparison with other settings in the folder, or what training raises.
    """
    train, test = train.head(sizes.train_images), test.head(sizes.test_images)
    few = _first_windows(train, base, sizes.train_windows)
    more = _first_windows(test, base, sizes.test_windows)
    detectors, scores = {}, {}
    for name, settings in methods(few.settings).items():

        def report(stage: str, done: int, total: int, name: str = name) -> None:
            progress(f"{name}: {stage}", done, total)

        run = replace(few, folder=base.folder / _FOLDERS[name], settings=settings)
        run.claim(
            f"{train.name} {train.split}, {len(train)} images; detection: {test.split}, {len(test)} images "
            f"of {sizes.test_windows} windows",
            train.digest(),
        )
        detector = run.load() or run.train(train, run.build(), report)
        detector.engine = more.settings.proposer
        if not run.detected(test):
            replace(run, cache=more.cache).detect(detector, test, report)
        refined, windows = run.score(test, *run.read_detections(test))
        assert windows is not None, "detecting keeps both"
        detectors[name], scores[name] = detector, (windows.map_11point, refined.map_11point)
    timed = test.examples[: sizes.timed_images]
    boxes = [propose_example(example, base.settings.proposer, base.cache) for example in timed]
    times = time_stages(detectors, timed, boxes, progress)
    figures = [Compared(name, *scores[name], *times[name]) for name in detectors]
    return figures, round(sum(map(len, boxes)) / len(boxes))


def time_stages(
    detectors: Mapping[str, Detector],
    examples: Sequence[Example],
    boxes: Sequence[FloatArray],
    progress: Progress,
) -> dict[str, tuple[dict[str, float], dict[str, float]]]:
    """Mean wall and processor time an image of each detector's stages.

    All in one process and with the same threads; the detectors take turns at every image, so that what else
    the machine does falls on all of them.

    The detectors score pooled vectors, the paper's networks pass them through fc6 and fc7 first. What that
    would take is measured beside them (`FC`): random layers, on the vectors that the detector has just
    pooled, windows that share one counting once. The time does not depend on the weights.

    Args:
        detectors: by name; without fully connected layers.
        examples: images.
        boxes: windows of each image, float32 (N, 4).
        progress: see `compare`.
    """
    pooled: list[FloatArray] = []
    for detector in detectors.values():
        # Compiles the kernels, or loads them from numba's cache.
        detector.detect(examples[0].path, boxes[0][:_WARM_UP_WINDOWS])
    sums: dict[str, tuple[dict[str, float], dict[str, float]]] = {name: ({}, {}) for name in detectors}
    for done, (example, windows) in enumerate(zip(examples, boxes, strict=True)):
        progress("times", done, len(examples))
        image = read_image(example.path)
        for name, detector in detectors.items():
            detector.clock, detector.extractor.clock = Stopwatch(), Stopwatch()
            detector.layers = _Tap((), (), pooled)
            whole, connected = Stopwatch(), Stopwatch()
            with whole("all"):
                detector.detect(image, windows)
            detector.layers = None
            _time_layers(connected, pooled.pop())
            for place, kind in enumerate(("seconds", "cpu_seconds")):
                inner, outer = getattr(detector.extractor.clock, kind), getattr(detector.clock, kind)
                stages = {
                    # R-CNN passes none of these where an image has no windows.
                    "resize or warp": inner.get("resize", 0.0),
                    "convolution": inner.get("convolution", 0.0),
                    "pooling": inner.get("pooling", 0.0),
                    "SVM + NMS": outer["svm"] + outer["nms"],
                    "box regression": outer.get("regression", 0.0),
                    "all": getattr(whole, kind)["all"],
                    FC: getattr(connected, kind)["fc"],
                }
                for stage, value in stages.items():
                    sums[name][place][stage] = sums[name][place].get(stage, 0.0) + value / len(examples)
    progress("times", len(examples), len(examples))
    return sums


@dataclass(frozen=True, eq=False)
class _Tap(FullyConnected):
    """In the place of layers: hands vectors on as they come, and keeps them in ``kept``.

    So R-CNN's need not be computed twice.
    """

    kept: list[FloatArray]

    def __call__(self, features: FloatArray) -> FloatArray:
        self.kept.append(features)
        return features


def _time_layers(clock: Stopwatch, features: FloatArray) -> None:
    """Adds the time of random fc6 and fc7 on vectors (N, d), which they then let go, to the stage ``fc``."""
    layers = _random_layers(features.shape[1])
    # Not timed: loading the library.
    layers(features[:1])
    with clock("fc"):
        layers(features)


def _random_layers(inputs: int) -> FullyConnected:
    """fc6 and fc7 of the paper's width, on vectors of this length: 0.3 GB on AlexNet's 12,800 numbers."""
    generator = torch.Generator().manual_seed(0)
    weights = [
        # By He et al.: numbers of a size that a real layer's have.
        torch.randn(_FC_WIDTH, length, generator=generator).mul_(math.sqrt(2 / length))
        for length in (inputs, _FC_WIDTH)
    ]
    return FullyConnected(tuple((one,) for one in weights), (torch.zeros(_FC_WIDTH),) * 2)


def _first_windows(dataset: Dataset, base: Run, count: int) -> Run:
    """The run with at most ``count`` windows an image, all of them cached.

    The best of the windows at hand are what the engine would propose with this bound.

    Raises:
        InputError: boxes made elsewhere, which are not bounded.
    """
    settings = base.settings
    if settings.boxes:
        raise InputError(
            f"boxes {settings.boxes!r}: methods are compared on an engine's first windows; leave boxes out"
        )
    name = "opencv" if settings.engine == "opencv" else "proposals"
    engine = getattr(settings, name)
    # No more than the engine gives, or the cache would have fewer than it says.
    count = min(count, engine.max_proposals or count)
    settings = replace(settings, **{name: replace(engine, max_proposals=count)})
    few = replace(base, settings=settings, cache=ProposalCache(base.cache.path, settings.proposer))
    for example in dataset:
        key = image_key(example)
        if few.cache.get(key) is None:
            boxes = propose_example(example, base.settings.proposer, base.cache)
            few.cache.put([(key, boxes[:count])])
    return few

"""Compares R-CNN with SPP-net: same backbone, same proposals, same training; accuracy and time an image."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from sppnet.common.errors import InputError
from sppnet.common.parsing import read_toml
from sppnet.common.progress import Progress
from sppnet.data.types import Dataset
from sppnet.detection.experiments.stage_times import Layers, paper_layers, time_stages
from sppnet.detection.runs.detection_files import is_detected, read_detections
from sppnet.detection.runs.run import Run
from sppnet.detection.runs.scoring import score_run
from sppnet.detection.runs.split_detection import detect_split
from sppnet.detection.training.presets import PRESETS, RunSettings
from sppnet.proposals import ProposalCache, image_key, propose_example

RCNN, ONE_SCALE, FIVE_SCALES = "R-CNN", "SPP-net, 1 scale", "SPP-net, 5 scales"
_FOLDERS = {RCNN: "rcnn", ONE_SCALE: "spp-1scale", FIVE_SCALES: "spp-5scale"}
# R-CNN computes all regions of these images twice in training, so fewer than the released 200; alike for all.
_NORM_IMAGES = 4
_FEATURE_LEVEL_IMAGES = 20


@dataclass(frozen=True)
class Sizes:
    """How much is compared. R-CNN takes 10 to 30 ms a proposal, and with the defaults about ten minutes.

    Attributes:
        train_images, train_proposals: each method is trained on the first images, and on the best proposals
            of each beside the ground truth.
        test_images, test_proposals: each method is scored on these.
        timed_images: test images to measure the times on, with all their proposals.

    Raises:
        InputError: a size below 1.

    Example:
        >>> Sizes(train_images=10).test_proposals
        200
    """

    train_images: int = 60
    train_proposals: int = 100
    test_images: int = 40
    test_proposals: int = 200
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
        map_proposed, map_regressed: 11-point mean average precision of the boxes as they were proposed, and
            after box regression; nan without ground truth.
        seconds, cpu_seconds: mean time an image of each stage; see `StageTimes`.
    """

    name: str
    map_proposed: float
    map_regressed: float
    seconds: Mapping[str, float]
    cpu_seconds: Mapping[str, float]


def methods(base: RunSettings) -> dict[str, RunSettings]:
    """The settings of each method. They differ only in the way from regions to vectors.

    SPP-net at one scale takes ``base``'s first scale, R-CNN the crop and R-CNN's pool5 (level 6 alone). The
    feature norm and the feature levels are fitted on fewer images than ``base`` says, for a comparison trains
    on few.

    Args:
        base: all other settings.

    Example:
        >>> [settings.features.mode for settings in methods(RunSettings()).values()]
        ['rcnn', 'spp', 'spp']
    """
    training = replace(base.training, norm_images=_NORM_IMAGES, feature_level_images=_FEATURE_LEVEL_IMAGES)
    # A comparison prints no probabilities, and R-CNN would detect in all training images once more.
    base = replace(base, training=training, calibration=replace(base.calibration, enabled=False))
    features = {
        RCNN: replace(base.features, mode="rcnn", levels=PRESETS["rcnn"].features.levels),
        ONE_SCALE: replace(base.features, mode="spp", scales=base.features.scales[:1]),
        FIVE_SCALES: replace(base.features, mode="spp", scales=PRESETS["paper-5scale"].features.scales),
    }
    return {name: replace(base, features=part) for name, part in features.items()}


def compare(
    train: Dataset,
    test: Dataset,
    base: Run,
    sizes: Sizes,
    progress: Progress,
    make_layers: Callable[[int], Layers] = paper_layers,
) -> tuple[list[Compared], int]:
    """Trains, tests and times each method. Called again, it does not repeat what it has done.

    Args:
        train: of which the first images are taken.
        test: likewise.
        base: settings of all methods, the cache with the proposals of these images (computed where they are
            missing), and the folder that gets one run for each method.
        sizes: how many images and proposals.
        progress: called with a stage's name, images done, images in all.
        make_layers: makes the fully connected layers to time; see `time_stages`.

    Returns:
        the figures, R-CNN's first; and the mean number of proposals of the timed images.

    Raises:
        InputError: there is a comparison with other settings in the folder, or training fails.
    """
    train, test = train.head(sizes.train_images), test.head(sizes.test_images)
    training = first_proposals(train, base, sizes.train_proposals)
    testing = first_proposals(test, base, sizes.test_proposals)
    # Settings of runs in folders say "windows", so that a comparison of an earlier version goes on.
    about = (
        f"{train.name} {train.split}, {len(train)} images; detection: {test.split}, {len(test)} images "
        f"of {sizes.test_proposals} windows"
    )
    detectors, scores = {}, {}
    for name, settings in methods(training.settings).items():

        def report(stage: str, done: int, total: int, name: str = name) -> None:
            progress(f"{name}: {stage}", done, total)

        run = replace(training, folder=base.folder / _FOLDERS[name], settings=settings)
        _claim(run, about, train.digest())
        detector = run.load() or run.train(train, run.build(), report)
        detector = replace(detector, engine=testing.settings.proposer)
        if not is_detected(run, test):
            detect_split(replace(run, cache=testing.cache), detector, test, report)
        detectors[name] = detector
        # The table shows VOC's figures alone.
        scores[name] = score_run(run, test, read_detections(run, test), with_coco=False)
    timed = test.examples[: sizes.timed_images]
    boxes = [propose_example(example, base.settings.proposer, base.cache) for example in timed]
    times = time_stages(detectors, timed, boxes, progress, make_layers)
    figures = []
    for name, result in scores.items():
        assert result.voc_proposed is not None, "detection keeps both"
        means = result.voc_proposed.map_11point, result.voc.map_11point
        figures.append(Compared(name, *means, times[name].seconds, times[name].cpu_seconds))
    return figures, round(sum(map(len, boxes)) / len(boxes))


def _claim(run: Run, about: str, digest: str) -> None:
    """Claims the run's folder for these images, and for the number of proposals that ``about`` names."""
    file = run.folder / "settings.toml"
    try:
        present = read_toml(file, "the run's settings").get("images", about)
    except InputError:
        # No run yet, or a damaged file, of which `Run.claim` says what is wrong.
        present = about
    # The digest is of the training images alone. Compared before the claim, which may write the file anew.
    if present != about:
        raise InputError(
            f"{file}: the run has {present!r}, not {about!r}; give another RUN name, or delete the folder"
        )
    run.claim(about, digest)


def first_proposals(dataset: Dataset, base: Run, count: int) -> Run:
    """The run with at most ``count`` proposals an image, all of them in the cache.

    They are the best of the proposals that ``base`` has: an engine with this bound proposes the same.

    Args:
        dataset: the images.
        base: its settings name the engine; its cache gives the proposals, computed where they are missing.
        count: the bound, at least 1.

    Raises:
        InputError: imported boxes, which have no bound.
    """
    settings = base.settings.with_max_proposals(count)
    bounded = replace(base, settings=settings, cache=ProposalCache(base.cache.path, settings.proposer))
    for example in dataset:
        key = image_key(example)
        if bounded.cache.get(key) is None:
            boxes = propose_example(example, base.settings.proposer, base.cache)
            bounded.cache.put([(key, boxes[:count])])
    return bounded

"""What the commands on a run share: settings, data sets, proposals, the run's folder."""

import time
from collections.abc import Mapping
from pathlib import Path

from sppnet.cli.options import SAMPLE, choose_dataset, console
from sppnet.cli.progress import ProgressReport
from sppnet.common.errors import InputError
from sppnet.data import Dataset, OnError, default_train_split, open_dataset
from sppnet.data.examples import size_faults
from sppnet.detection.runs.run import Run, detected_images
from sppnet.detection.training.presets import make_settings
from sppnet.eval import check_voc_names
from sppnet.proposals import ProposalCache, fill_cache
from sppnet.proposals.source import ImageSource


def file_name(dataset: str) -> str:
    """What runs on a data set are named by: its folder, or, of COCO's layout, its JSON file."""
    kind, *paths = dataset.split(":")
    if kind == "coco" and paths:
        return Path(paths[0]).stem.replace("{split}", "").strip("_-.") or "coco"
    return Path(dataset).name.replace(":", "_")


def with_detections(dataset: Dataset, detections: Path) -> Dataset:
    """The images that a folder of detections is of; all of them where it does not say."""
    listed = detected_images(detections)
    if listed is None:
        return dataset
    return dataset.without({one.image_id for one in dataset} - set(listed))


def check_classes(test: Dataset, train: Dataset) -> None:
    """Refuses a test set that what is trained on ``train`` could not be tested on.

    Raises:
        InputError: its classes are others.
    """
    if test.classes != train.classes:
        other = sorted({*test.classes} ^ {*train.classes}) or ["the order"]
        raise InputError(
            f"{test.name}: {test.split} and {train.split} differ in their classes, such as {other[0]!r}; "
            "give both the same classes in the same order"
        )


def warn_of_shared_images(test: Dataset, train: Dataset) -> None:
    """Prints how many images are trained on and tested on alike, where there are some."""
    both = {one.path for one in test} & {one.path for one in train}
    if both:
        console.print(
            f"warning: {len(both)} of the {len(test)} images of {test.split} are among those trained on "
            f"({train.split}), so the figures say little of new images; see --train-split and --test-split, "
            "and {split} in coco:<json>:<images>",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip


class Job:
    """What the commands on a run share: settings, data sets, proposals cache, run folder."""

    def __init__(
        self,
        dataset: str,
        voc_root: Path,
        train_split: str = "",
        backbone: str = "",
        weights: str = "",
        preset: str = "default",
        config: Path | None = None,
        changes: list[str] | None = None,
        run: str = "",
        limit: int = 0,
        map_gb: float = 0,
        skip_errors: bool = False,
        head: str = "pool5",
        fc_rank: int = 0,
        bfloat16: bool = False,
        test_split: str = "test",
    ) -> None:
        network = {"name": backbone, "weights": weights}
        self.settings = make_settings(
            preset, config, changes or (), {key: value for key, value in network.items() if value}
        )
        self.name, self.voc_root = choose_dataset(dataset, voc_root)
        self.limit, self.skip_errors = limit or None, skip_errors
        self.train_split = train_split or default_train_split(self.name, self.voc_root, test_split)
        name = run or "-".join([file_name(self.name), self.settings.network.name, preset])
        self.cache = ProposalCache(Path("cache/proposals.sqlite"), self.settings.proposer)
        self.run = Run(
            Path("runs") / name, self.settings, self.cache, Path("cache/maps"), map_gb, head, fc_rank,
            bfloat16,
        )  # fmt: skip

    def open(self, split: str) -> Dataset:
        """The first ``limit`` images of a split."""
        on_error: OnError = "skip" if self.skip_errors else "raise"
        dataset = open_dataset(self.name, split, self.voc_root, SAMPLE, on_error).head(self.limit)
        console.print(f"{split}: {len(dataset)} images", highlight=False)
        return dataset

    def check_test(self, test: Dataset, train: Dataset) -> None:
        """Refuses a test set that a detector of ``train`` could not be tested on, hours before it is.

        Warns where images are trained on and tested on alike.

        Raises:
            InputError: its classes are others than ``train``'s, or detections of it cannot be written.
        """
        check_classes(test, train)
        if not any(len(one.boxes) for one in test):
            console.print(
                f"warning: no object is annotated in {test.split}: there will be detections, but no mAP; "
                "see --test-split", highlight=False, markup=False, soft_wrap=True,
            )  # fmt: skip
        check_voc_names(test.classes, test.split, [one.image_id for one in test])
        warn_of_shared_images(test, train)

    def image_source(self, split: str, url: str) -> ImageSource | None:
        """The URL that stands for the data set's folder (VOC's devkit, COCO's images) at the workers."""
        if not url:
            return None
        _, *folders = self.name.replace("{split}", split).split(":")
        named = {"sample": SAMPLE, "voc2007": self.voc_root, "voc2012": self.voc_root}.get(self.name)
        return ImageSource(named or Path(folders[-1] if folders else self.name), url)

    def fill(self, dataset: Dataset, jobs: int, source: ImageSource | None = None) -> Dataset:
        """Fills the cache with the proposals of a split; returns the images that have some.

        Raises:
            InputError: without ``--skip-errors``, an image is smaller than annotated, or cannot be read.
        """
        faults = size_faults(dataset)
        if faults:
            self._leave_out(faults, f"{len(faults)} images do not fit their annotations, the first: "
                f"{next(iter(faults.values()))}; or leave them out with --skip-errors")  # fmt: skip
            dataset = dataset.without(faults)
        start = time.monotonic()
        with ProgressReport(console) as progress:
            report = fill_cache(
                dataset, self.settings.proposer, self.cache, jobs,
                lambda done, total: progress(f"proposals ({dataset.split})", done, total), source,
            )  # fmt: skip
        console.print(
            f"proposals ({dataset.split}): {report.computed} images computed in "
            f"{time.monotonic() - start:.0f} s, {report.cached} in the cache",
            highlight=False,
        )
        if report.errors:
            self._leave_out(report.errors, report.complaint())
        return dataset.without(report.errors)

    def _leave_out(self, faults: Mapping[str, str], complaint: str) -> None:
        if not self.skip_errors:
            raise InputError(complaint)
        first = next(iter(faults.values()))
        console.print(f"{len(faults)} images left out, the first: {first}", highlight=False)

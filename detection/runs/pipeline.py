"""The stages of a run in their order: proposals, training of each head, detection, scoring."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from sppnet.common.distributed import ALONE, Group
from sppnet.common.progress import Progress, quiet
from sppnet.data.types import Dataset
from sppnet.detection.detector import Detector
from sppnet.detection.runs.checks import check_test_set
from sppnet.detection.runs.detection_files import RunDetections
from sppnet.detection.runs.proposal_filling import fill_proposals
from sppnet.detection.runs.run import Run
from sppnet.detection.runs.scoring import RunScores, score_run
from sppnet.detection.runs.split_detection import detect_split
from sppnet.detection.training import HeadName
from sppnet.detection.training.finetuning import starting_layers
from sppnet.proposals.source import ImageSource

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class JobResult:
    """The result of the main job.

    Attributes:
        detector: the run's.
        test: the images that were detected in.
        detections: of these.
        scores: of the detections.
    """

    detector: Detector
    test: Dataset
    detections: RunDetections
    scores: RunScores


@dataclass(frozen=True)
class Pipeline:
    """The stages of a run. Each goes on where it was stopped.

    Attributes:
        run: the folder that the stages fill, and its settings.
        jobs: processes for proposals; -1: one a core.
        skip_errors: whether images that cannot be used are left out and counted, in place of an error.
        progress: called with a stage's name, how much is done, and how much there is.
        report: called with a sentence for people where a stage begins or ends, or leaves something out.
        group: the processes of this training.
    """

    run: Run
    jobs: int = -1
    skip_errors: bool = False
    progress: Progress = quiet
    report: Callable[[str], None] = _LOG.info
    group: Group = ALONE

    def main_job(self, train: Dataset, test: Dataset) -> JobResult:
        """Trains a detector where there is none, detects in the test images, and scores the detections.

        Raises:
            InputError: bad data, settings or files; see the stages.
        """
        start = time.monotonic()
        detector = self.train(train, test)
        test = self.fill_proposals(test)
        detections = detect_split(self.run, detector, test, self.progress)
        scores = score_run(self.run, test, detections)
        if scores.calibration is not None:
            self.report(str(scores.calibration))
        self.run.record(main_job_seconds_this_time=time.monotonic() - start)
        return JobResult(detector, test, detections, scores)

    def train(self, dataset: Dataset, test: Dataset | None = None) -> Detector:
        """The run's detector; where there is none it is trained, after those that it builds on.

        Args:
            dataset: to train on.
            test: to be tested on later; it is checked before the work.

        Raises:
            InputError: the run has other settings or images, the data are bad, or a disk is full.
        """
        run, group = self.run, self.group
        if test is not None:
            for warning in check_test_set(test, dataset):
                self.report(warning)
        run.claim(f"{dataset.name} {dataset.split}, {len(dataset)} images", dataset.digest())
        detector = run.load()
        if detector is not None:
            self.report(f"model: {run.model} (trained before)")
            return detector
        # Before the hours of proposals and pooled vectors: a wrong network, or wrong layers to start
        # fine-tuning from, show here.
        extractor = run.build()
        if run.head != "pool5" and not replace(run, head="softmax", fc_rank=0).trained:
            starting_layers(run.settings.finetuning, extractor)
        # One process writes the cache; the others then find all in it.
        if group.rank > 0:
            group.wait()
        dataset = self.fill_proposals(dataset)
        if group.rank == 0:
            group.wait()
        # The detector on pooled vectors gives joined feature levels, norm factor and box regression to the
        # later ones.
        base: Detector | None = None
        for head in _stages(run.head):
            stage = replace(run, head=head, fc_rank=0, bfloat16=False)
            base, detector = detector, stage.load()
            if detector is None:
                if base is None:
                    detector = stage.train(dataset, extractor, self.progress)
                elif head == "softmax":
                    detector = stage.finetune(dataset, base, self.progress, group)
                else:
                    detector = stage.train_head(dataset, base, self.progress)
                self.report(f"model: {stage.model}")
        loaded = run.load()
        assert loaded is not None, "the last stage saved it"
        return loaded

    def fill_proposals(self, dataset: Dataset, source: ImageSource | None = None) -> Dataset:
        """Fills the cache with the proposals of a split.

        Args:
            dataset: the split.
            source: where workers on other machines read the images; None: the same paths as here.

        Returns:
            the images that have proposals; without ``skip_errors``, all.

        Raises:
            InputError: without ``skip_errors``, an image is smaller than annotated, or cannot be read.
        """
        run = self.run
        return fill_proposals(
            dataset, run.settings.proposer, run.cache, self.jobs, self.skip_errors, self.progress,
            self.report, source,
        )  # fmt: skip


def _stages(head: HeadName) -> list[HeadName]:
    """The heads that are trained one after the other to get to ``head``."""
    if head == "pool5":
        return ["pool5"]
    return ["pool5", "softmax"] if head == "softmax" else ["pool5", "softmax", head]

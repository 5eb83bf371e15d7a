"""The stages of a run in their order: proposals, training of each head, detection, scoring."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from sppnet.common.distributed import ALONE, Group
from sppnet.common.outputs import check_output_folder
from sppnet.common.progress import Progress, quiet
from sppnet.data.types import Dataset
from sppnet.detection.detector import Detector
from sppnet.detection.features.extractor import Extractor
from sppnet.detection.runs.checks import check_test_set, check_training_set
from sppnet.detection.runs.detection_files import RunDetections
from sppnet.detection.runs.proposal_filling import fill_proposals
from sppnet.detection.runs.run import Run
from sppnet.detection.runs.scoring import RunScores, score_run
from sppnet.detection.runs.split_detection import detect_split
from sppnet.detection.training import HeadName
from sppnet.detection.training.finetuning import check_finetuning
from sppnet.detection.training.svm_training import check_room
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
        self._begin(train, test)
        detector = self._trained()
        if detector is None:
            extractor = self._checked_extractor(train)
            train = self.fill_proposals(train)
            # Before the hours of training: images to test on that cannot be used show here.
            test = self.fill_proposals(test)
            detector = self._train_stages(train, extractor)
        else:
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
        self._begin(dataset, test)
        detector = self._trained()
        if detector is not None:
            return detector
        extractor = self._checked_extractor(dataset)
        # One process writes the cache; the others then find all in it.
        if self.group.rank > 0:
            self.group.wait()
        dataset = self.fill_proposals(dataset)
        if self.group.rank == 0:
            self.group.wait()
        return self._train_stages(dataset, extractor)

    def _begin(self, dataset: Dataset, test: Dataset | None) -> None:
        """Checks the images, and claims the run's folder for them."""
        run = self.run
        warnings = check_training_set(dataset, run.settings.training.difficult_positives)
        for warning in warnings + ([] if test is None else check_test_set(test, dataset)):
            self.report(warning)
        run.claim(f"{dataset.name} {dataset.split}, {len(dataset)} images", dataset.digest())
        check_output_folder(run.maps)

    def _trained(self) -> Detector | None:
        detector = self.run.load()
        if detector is not None:
            self.report(f"model: {self.run.model} (trained before)")
        return detector

    def _checked_extractor(self, dataset: Dataset) -> Extractor:
        """The run's extractor.

        Before the hours of proposals and pooled vectors, what would stop the training after them shows here:
        a wrong network, wrong layers to start fine-tuning from, too little memory.
        """
        run = self.run
        extractor = run.build()
        if not replace(run, head="pool5", fc_rank=0).trained:
            check_room(dataset, extractor, run.settings)
        if run.head != "pool5" and not replace(run, head="softmax", fc_rank=0).trained:
            check_finetuning(dataset, extractor, run.settings)
        return extractor

    def _train_stages(self, dataset: Dataset, extractor: Extractor) -> Detector:
        run = self.run
        # The detector on pooled vectors gives joined feature levels, norm factor and box regression to the
        # later ones.
        base: Detector | None = None
        detector: Detector | None = None
        for head in _stages(run.head):
            stage = replace(run, head=head, fc_rank=0, bfloat16=False)
            base, detector = detector, stage.load()
            if detector is None:
                if base is None:
                    detector = stage.train(dataset, extractor, self.progress)
                elif head == "softmax":
                    detector = stage.finetune(dataset, base, self.progress, self.group)
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

"""A run: its folder, its settings, and its trained detectors."""

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tomli_w

from sppnet.common.claim import claim, is_torn
from sppnet.common.distributed import ALONE, Group
from sppnet.common.errors import DamageError, InputError
from sppnet.common.files import atomic_path, file_digest, only_process, write_json
from sppnet.common.memory import peak_bytes, reset_peak
from sppnet.common.parsing import parse_toml, read_json, read_toml
from sppnet.common.progress import Progress
from sppnet.common.settings import check_choice, with_defaults, with_todays_names
from sppnet.data.types import Dataset
from sppnet.detection.backbones import build_network
from sppnet.detection.backbones.weights import RANDOM
from sppnet.detection.detector import Detector
from sppnet.detection.features.extractor import Extractor
from sppnet.detection.features.rcnn import make_extractor
from sppnet.detection.runs.names import named_by_head
from sppnet.detection.training import (
    HEADS,
    HeadName,
    RunSettings,
    TrainingData,
    finetune_detector,
)
from sppnet.detection.training.calibration_fitting import (
    Trained,
    calibrated,
    held_out_folds,
    kept_detectors,
)
from sppnet.detection.training.finetuning import split_images
from sppnet.detection.training.head_training import train_layer_svms_with_folds
from sppnet.detection.training.svm_training import train_with_folds
from sppnet.proposals import ProposalCache

_LOG = logging.getLogger(__name__)

# The indices of the images of each held-out part.
Folds = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Run:
    """The folder of a run and what it works with.

    The folder holds ``settings.toml``, ``model/``, ``detections/`` (VOC's text files and ``coco.json``; the
    same with boxes as they were proposed in ``detections/windows/``), ``metrics.json``,
    ``precision_recall.png``, ``reliability.png`` and ``times.json``.

    Attributes:
        folder: usually ``runs/<name>``.
        settings: of the run.
        cache: of proposals.
        maps: folder of stored feature maps.
        map_gb: bound on that folder, in 10^9 bytes.
        head: what scores vectors. The files of ``pool5`` have the names above; models, detections and figures
            of the other heads have ``-<head>`` in their names.
        fc_rank: fully connected layers are truncated to this rank in detection; 0: they are not.
        bfloat16: whether convolutions and fully connected layers are computed in bfloat16 in detection,
            whatever they were trained with.

    Raises:
        InputError: an unknown head, or a rank that does not fit it.
    """

    folder: Path
    settings: RunSettings
    cache: ProposalCache
    maps: Path
    map_gb: float = 20.0
    head: HeadName = "pool5"
    fc_rank: int = 0
    bfloat16: bool = False

    def __post_init__(self) -> None:
        check_choice("head", self.head, HeadName)
        if self.fc_rank < 0 or (self.fc_rank and self.head == "pool5"):
            raise InputError(
                f"fc_rank {self.fc_rank}: give a positive rank, and a head with fully connected layers"
            )

    @property
    def model(self) -> Path:
        """The folder of the trained detector."""
        return self.folder / named_by_head("model", self.head)

    @property
    def detections(self) -> Path:
        """The folder of detection files."""
        return self.result_path("detections")

    @property
    def map_bytes(self) -> int:
        """Bound on the folder of feature maps, in bytes."""
        return int(self.map_gb * 1e9)

    def result_path(self, name: str, suffix: str = "") -> Path:
        """The path of a file or folder of detections or figures, which differ by head, rank and precision."""
        rank = f"-rank{self.fc_rank}" if self.fc_rank else ""
        precision = "-bf16" if self.bfloat16 else ""
        return self.folder / f"{named_by_head(name, self.head)}{rank}{precision}{suffix}"

    def claim(self, images: str, digest: str) -> None:
        """Writes ``settings.toml``, or makes sure that it says the same already.

        Until the run's layers are fine-tuned, the settings of fine-tuning may change: nothing depends on them
        yet. Files of weights count by their path and their content.

        Args:
            images: the images that the run is trained on, for people.
            digest: their `Dataset.digest`.

        Raises:
            InputError: the folder holds a run with other settings, or cannot be written; or there is no such
                file of weights.
        """
        file = self.folder / "settings.toml"
        about = {"images": images, "images_digest": digest} | _without_none(asdict(self.settings))
        for part in (about["network"], about["finetuning"]):
            if part["weights"] in ("", RANDOM):
                continue
            # Before the run is claimed: with a wrong name, none is.
            if not Path(part["weights"]).is_file():
                raise InputError(f"{part['weights']}: no such file of weights; check the path")
            part["weights_digest"] = file_digest(Path(part["weights"]))
        text = tomli_w.dumps(about)
        if is_torn(file, text) and any(self.folder.glob("model*/model.json")):
            raise InputError(
                f"{file}: empty or cut, so the models beside it may be of other settings; restore it, "
                "delete the folder, or give another RUN name"
            )
        tuned = [named_by_head(name, head) for name in ("model", "detections") for head in HEADS[1:]]
        done = any(any(self.folder.glob(f"{name}*")) for name in tuned)
        if not done and _alike_but_for_finetuning(file, text):
            with atomic_path(file) as path:
                path.write_text(text, encoding="utf-8")
        # The digest says which images; their name is for people.
        claim(file, text, for_people=("images",), defaults=_DEFAULTS)

    @property
    def trained(self) -> bool:
        """Whether there is a model of this head."""
        return (self.model / "model.json").exists()

    def load(self) -> Detector | None:
        """The trained detector; None where there is no model yet, or a damaged one, which a warning names."""
        if not self.trained:
            return None
        try:
            detector = Detector.load(self.model)
        except DamageError as error:
            _LOG.warning("%s; it counts as not trained yet", error)
            return None
        # What a kill between saving and cleaning up left.
        shutil.rmtree(self._work, ignore_errors=True)
        return detector.approximated(self.fc_rank, self.bfloat16)

    def build(self) -> Extractor:
        """The network, its feature levels not yet joined, and how its vectors are extracted."""
        network = self.settings.network
        return make_extractor(
            build_network(
                network.name,
                network.weights or None,
                feature_levels=network.feature_levels or None,
                seed=network.seed,
            ),
            self.settings.features,
        )

    def train(self, dataset: Dataset, extractor: Extractor, progress: Progress) -> Detector:
        """Trains SVMs on pooled vectors, calibrates and saves the detector, going on where that stopped."""
        settings, data = self.settings, self._data(dataset)
        folds = held_out_folds(len(dataset), settings.calibration, settings.training.seed)

        def train(work: Path, folds: Folds) -> Trained:
            return train_with_folds(data, extractor, settings, work, progress, folds)

        return self._saved(partial(self._train_calibrated, train, folds, data, progress), "training")

    def finetune(
        self, dataset: Dataset, base: Detector, progress: Progress, group: Group = ALONE
    ) -> Detector:
        """Fine-tunes layers on ``base``'s network, calibrates and saves the softmax head, going on."""
        data = self._data(dataset)

        def train(work: Path) -> Detector:
            detector = finetune_detector(data, base, self.settings, work, progress, group)
            if group.rank > 0 or not self.settings.calibration.enabled:
                return detector
            return self._calibrated(detector, [detector], self._finetuning_folds(data), data, work, progress)

        return self._saved(train, "finetuning", group)

    def train_head(self, dataset: Dataset, tuned: Detector, progress: Progress) -> Detector:
        """Trains this head's SVMs on fine-tuned layers, calibrates and saves them, going on."""
        data = self._data(dataset)

        def train(work: Path, folds: Folds) -> Trained:
            return train_layer_svms_with_folds(data, tuned, self.head, self.settings, work, progress, folds)

        # Of other images the layers know too much.
        folds = self._finetuning_folds(data)
        return self._saved(
            partial(self._train_calibrated, train, folds, data, progress), f"{self.head}_training"
        )

    def _train_calibrated(
        self,
        train: Callable[[Path, Folds], Trained],
        folds: Folds,
        data: TrainingData,
        progress: Progress,
        work: Path,
    ) -> Detector:
        if not self.settings.calibration.enabled:
            return train(work, ())[0]
        detector, fold_detectors = kept_detectors(
            work, data.dataset.digest(), lambda folder: train(folder, folds)
        )
        return self._calibrated(detector, fold_detectors, folds, data, work, progress)

    def _calibrated(
        self,
        detector: Detector,
        fold_detectors: Sequence[Detector],
        folds: Folds,
        data: TrainingData,
        work: Path,
        progress: Progress,
    ) -> Detector:
        start = time.monotonic()
        detector = calibrated(detector, fold_detectors, folds, data, work, progress)
        self.record(calibration_seconds=time.monotonic() - start)
        return detector

    def _finetuning_folds(self, data: TrainingData) -> list[list[int]]:
        """The one part of images that fine-tuning holds out."""
        return [split_images(data.dataset, self.settings.finetuning)[1]]

    def record(self, **figures: float) -> None:
        """Adds figures of this run to ``times.json``."""
        file = self.result_path("times", ".json")
        try:
            known = read_json(file)
        except InputError:
            # None yet, or half of one, which is not worth what has been computed.
            known = {}
        known = known if isinstance(known, dict) else {}
        try:
            write_json(file, known | {name: round(value, 3) for name, value in figures.items()}, indent=2)
        except (OSError, ValueError) as error:
            _LOG.warning("%s: cannot be written (%s); the run goes on without its times", file, error)

    @property
    def _work(self) -> Path:
        return self.folder / named_by_head("training", self.head)

    def _data(self, dataset: Dataset) -> TrainingData:
        return TrainingData(dataset, self.settings.proposer, self.cache, self.maps, self.map_bytes)

    def _saved(self, train: Callable[[Path], Detector], stage: str, group: Group = ALONE) -> Detector:
        with only_process(self.folder) if group.rank == 0 else nullcontext():
            start = time.monotonic()
            reset_peak()
            detector = train(self._work)
            if group.rank == 0:
                detector.save(self.model)
                # Of the last session, where training was stopped in between.
                figures = {"seconds": time.monotonic() - start, "peak_gb": peak_bytes() / 1e9}
                self.record(**{f"{stage}_{name}": value for name, value in figures.items()})
            # The others still have files open there.
            group.wait()
            if group.rank == 0:
                shutil.rmtree(self._work, ignore_errors=True)
            group.wait()
        return detector


def _alike_but_for_finetuning(file: Path, text: str) -> bool:
    try:
        present = with_defaults(with_todays_names(read_toml(file, "the run's settings")), _DEFAULTS)
    except InputError:
        return False
    wanted = parse_toml(text, "the settings")
    old, new = present.pop("finetuning", None), wanted.pop("finetuning")
    if not isinstance(old, dict):
        return False
    strange = (old.keys() ^ new.keys()) - {"weights_digest"}
    for settings in (present, wanted):
        settings.pop("images", None)
    return present == wanted and old != new and not strange


def _without_none(value: Any) -> Any:
    """The same nested dictionaries without entries of None, which TOML lacks."""
    if isinstance(value, dict):
        return {name: _without_none(entry) for name, entry in value.items() if entry is not None}
    return value


# A run of before a setting was added was made with the setting's default.
_DEFAULTS = _without_none(asdict(RunSettings()))

"""A run: its folder, and the stages that fill it, each of which goes on where it stopped."""

import json
import shutil
import time
import tomllib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import tomli_w

from sppnet.common.files import atomic_path, file_digest, only_process, read_text
from sppnet.data.images import read_image
from sppnet.data.types import Dataset, Detections, Example
from sppnet.common.arrays import FloatArray
from sppnet.common.errors import InputError
from sppnet.common.claim import claim
from sppnet.detection.detector import Detector
from sppnet.detection.features.extractor import FeatureExtractor, FeatureMap
from sppnet.detection.features.map_store import MapStore
from sppnet.common.memory import peak_bytes, reset_peak
from sppnet.detection.backbones import build_network
from sppnet.detection.backbones.build import RANDOM
from sppnet.detection.training.presets import RunSettings
from sppnet.detection.features.rcnn import make_extractor
from sppnet.common.distributed import ALONE, Group
from sppnet.detection.training import HEADS, TrainingData, finetune_detector, train_detector, train_layer_svms
from sppnet.common.prefetch import prefetch
from sppnet.common.settings import with_todays_names
from sppnet.common.checkpoint import disk_errors_named
from sppnet.eval import VOCResult, coco_metrics, evaluate_voc, plot_precision_recall, read_voc_detections, write_coco_results, write_metrics, write_voc_detections
from sppnet.proposals import ProposalCache, image_key, propose_cached

Progress = Callable[[str, int, int], None]
# Beside detections: the images that they are of, one id a line.
IMAGES_FILE = "images.txt"


@dataclass(frozen=True)
class Run:
    """The folder of one run and what it works with.

    The folder holds ``settings.toml``, ``model/``, ``detections/`` (VOC's text files and ``coco.json``; the
    proposed windows before box regression in ``detections/windows/``), ``metrics.json``,
    ``precision_recall.png`` and ``times.json``.

    Attributes:
        folder: usually ``runs/<name>``.
        settings: of the run.
        cache: the proposals.
        maps: folder of stored feature maps.
        map_gb: bound on that folder, in 10^9 bytes.
        head: what scores windows, one of `sppnet.detection.training.HEADS`. That of ``pool5`` has the names above;
            the others' models, detections and figures have ``-<head>`` in theirs.
        fc_rank: fully connected layers are truncated to this rank when they detect; 0: they are not.
        bfloat16: whether convolutions and fully connected layers are computed in bfloat16 when they detect,
            whatever they were trained with.
    """

    folder: Path
    settings: RunSettings
    cache: ProposalCache
    maps: Path
    map_gb: float = 20.0
    head: str = "pool5"
    fc_rank: int = 0
    bfloat16: bool = False

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise InputError(f"head {self.head!r}: choose one of {', '.join(HEADS)}")
        if self.fc_rank < 0 or (self.fc_rank and self.head == "pool5"):
            raise InputError(
                f"fc_rank {self.fc_rank}: give a positive rank, and a head with fully connected layers"
            )

    @property
    def model(self) -> Path:
        """The trained detector's folder."""
        return self.folder / named_by_head("model", self.head)

    def _named(self, name: str, suffix: str = "") -> Path:
        """A file or folder of detections or figures."""
        rank = f"-rank{self.fc_rank}" if self.fc_rank else ""
        precision = "-bf16" if self.bfloat16 else ""
        return self.folder / f"{named_by_head(name, self.head)}{rank}{precision}{suffix}"

    def claim(self, images: str, digest: str) -> None:
        """Writes ``settings.toml``, or makes sure that it says the same already.

        Until the run's layers are fine-tuned, the settings of that may change: nothing depends on them yet.
        Files of weights count by their path and by what is in them.

        Args:
            images: what the run is trained on, for people.
            digest: the same as `Dataset.digest`.

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
        tuned = [named_by_head(name, head) for name in ("model", "detections") for head in HEADS[1:]]
        done = any(any(self.folder.glob(f"{name}*")) for name in tuned)
        if not done and _alike_but_for_finetuning(file, text):
            with atomic_path(file) as path:
                path.write_text(text, encoding="utf-8")
        claim(file, text)

    @property
    def trained(self) -> bool:
        """Whether there is a model of this head."""
        return (self.model / "model.json").exists()

    def load(self) -> Detector | None:
        """The trained detector; None where there is no model yet."""
        if not self.trained:
            return None
        # What a kill between saving and cleaning up left.
        shutil.rmtree(self._work, ignore_errors=True)
        detector = Detector.load(self.model)
        hasten(detector, self.fc_rank, self.bfloat16)
        return detector

    @property
    def _work(self) -> Path:
        return self.folder / named_by_head("training", self.head)

    def build(self) -> FeatureExtractor:
        """The network, as yet without fitted taps, and its pooling."""
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

    def train(self, dataset: Dataset, extractor: FeatureExtractor, progress: Progress) -> Detector:
        """Trains a detector on pooled windows and saves it, going on where that was stopped."""
        data = self._data(dataset)
        return self._saved(
            lambda work: train_detector(data, extractor, self.settings, work, progress), "training"
        )

    def finetune(
        self, dataset: Dataset, base: Detector, progress: Progress, group: Group = ALONE
    ) -> Detector:
        """Fine-tunes layers on ``base``'s network and saves the ``softmax`` head, going on where stopped."""
        data = self._data(dataset)
        return self._saved(
            lambda work: finetune_detector(data, base, self.settings, work, progress, group),
            "finetuning",
            group,
        )

    def train_head(self, dataset: Dataset, tuned: Detector, progress: Progress) -> Detector:
        """Trains this head's SVMs on fine-tuned layers and saves them, going on where that was stopped."""
        data = self._data(dataset)
        return self._saved(
            lambda work: train_layer_svms(data, tuned, self.head, self.settings, work, progress),
            f"{self.head}_training",
        )

    def _data(self, dataset: Dataset) -> TrainingData:
        return TrainingData(dataset, self.settings.proposer, self.cache, self.maps, int(self.map_gb * 1e9))

    def _saved(self, make: Callable[[Path], Detector], stage: str, group: Group = ALONE) -> Detector:
        with only_process(self.folder) if group.rank == 0 else nullcontext():
            return self._made(make, stage, group)

    def _made(self, make: Callable[[Path], Detector], stage: str, group: Group) -> Detector:
        start = time.monotonic()
        reset_peak()
        detector = make(self._work)
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

    def detect(
        self, detector: Detector, dataset: Dataset, progress: Progress
    ) -> tuple[dict[str, Detections], dict[str, Detections]]:
        """Detects in every image of the data set, going on where that was stopped.

        Returns:
            detections by image id, with box regression and, as windows were proposed, without.
        """
        if detector.classes != dataset.classes:
            raise InputError(
                f"{dataset.name} {dataset.split} has the classes {', '.join(dataset.classes)}, "
                f"but {self.model} was trained on {', '.join(detector.classes)}; give another RUN name"
            )
        with only_process(self.folder):
            return self._detect(detector, dataset, progress)

    def _detect(
        self, detector: Detector, dataset: Dataset, progress: Progress
    ) -> tuple[dict[str, Detections], dict[str, Detections]]:
        start = time.monotonic()
        reset_peak()
        partial = self._named("partial") / file_digest(self.model / "model.safetensors")[:16]
        partial.mkdir(parents=True, exist_ok=True)
        keys = {one.image_id: image_key(one) for one in dataset}
        files = {image_id: partial / f"{key.image_digest[:32]}.npz" for image_id, key in keys.items()}
        pairs = {image_id: _read_pair(path) for image_id, path in files.items()}
        todo = [example for example in dataset if pairs[example.image_id] is None]
        store = MapStore(self.maps, detector.extractor, int(self.map_gb * 1e9))

        def prepare(example: Example) -> tuple[Example, FloatArray, list[FeatureMap], tuple[int, int]]:
            key = keys[example.image_id]
            with detector.clock("decode"):
                image = read_image(example.path)
            with detector.clock("proposals"):
                boxes = propose_cached(key, lambda: image, detector.engine, self.cache)
            with detector.clock("convolution"):
                maps = store.get(key.image_digest, lambda: detector.extractor.maps(image))
            return example, boxes, maps, image.shape[:2]

        for done, (example, boxes, maps, size) in enumerate(prefetch(prepare, todo)):
            progress("detection", len(dataset) - len(todo) + done, len(dataset))
            found, offsets = detector.score(maps, boxes)
            refined = detector.refine(found, offsets, size)
            with disk_errors_named(partial), atomic_path(files[example.image_id]) as path:
                np.savez(path, **_arrays("window", found), **_arrays("refined", refined))
            pairs[example.image_id] = found, refined
        progress("detection", len(dataset), len(dataset))
        found_by_id = {image_id: pair[0] for image_id, pair in pairs.items() if pair is not None}
        refined_by_id = {image_id: pair[1] for image_id, pair in pairs.items() if pair is not None}
        self.write_detections(dataset, refined_by_id, found_by_id)
        shutil.rmtree(self._named("partial"))
        if len(todo) == len(dataset):
            stages = {f"detection_{name}_seconds": value for name, value in detector.clock.seconds.items()}
            self.record(
                detection_images=len(todo),
                detection_seconds=time.monotonic() - start,
                detection_peak_gb=peak_bytes() / 1e9,
                **stages,
            )
        return refined_by_id, found_by_id

    def detected(self, dataset: Dataset) -> bool:
        """Whether `detect` is done with exactly these images."""
        return detected_images(self.detections) == [one.image_id for one in dataset]

    @property
    def detections(self) -> Path:
        """The folder of detection files."""
        return self._named("detections")

    def write_detections(
        self, dataset: Dataset, refined: dict[str, Detections], found: dict[str, Detections] | None
    ) -> None:
        """Writes what `read_detections` reads, and COCO's results JSON."""
        # VOC's competitions: trained on VOC alone, or on any data. Others' weights are of ImageNet.
        alone = self.settings is not None and self.settings.network.weights == RANDOM
        kinds = [(self.detections, refined)]
        if found is not None:
            kinds.append((self.detections / "windows", found))
        for folder, one in kinds:
            write_voc_detections(folder, one, dataset.classes, dataset.split, "comp3" if alone else "comp4")
            # A program before this one called all of them comp3.
            for name in () if alone else dataset.classes:
                (folder / f"comp3_det_{dataset.split}_{name}.txt").unlink(missing_ok=True)
        write_coco_results(self.detections / "coco.json", refined, dataset.category_ids, dataset.image_ids)
        with atomic_path(self.detections / IMAGES_FILE) as path:
            path.write_text("".join(f"{one.image_id}\n" for one in dataset), encoding="utf-8")

    def read_detections(self, dataset: Dataset) -> tuple[dict[str, Detections], dict[str, Detections] | None]:
        """What `detect` wrote; None for windows before box regression, where there are none (combinations).

        Raises:
            InputError: it was not run, or not on the same images.
        """
        images = self.detections / IMAGES_FILE
        if not images.exists():
            raise InputError(f"{self.folder}: no detections there; run 'sppnet detect', or name another run")
        if not self.detected(dataset):
            raise InputError(
                f"{images}: detections are of other images than {dataset.name} {dataset.split}, "
                f"{len(dataset)} images; give the data set, split and limit that they were made with"
            )
        refined = read_voc_detections(self.detections, dataset.classes, dataset.split)
        windows = self.detections / "windows"
        if not windows.is_dir():
            return refined, None
        return refined, read_voc_detections(windows, dataset.classes, dataset.split)

    def score(
        self,
        dataset: Dataset,
        refined: dict[str, Detections],
        found: dict[str, Detections] | None,
        iou_threshold: float = 0.5,
    ) -> tuple[VOCResult, VOCResult | None]:
        """Scores detections with and without box regression; writes ``metrics.json`` and the plots."""
        result = evaluate_voc(dataset, refined, iou_threshold)
        windows = None if found is None else evaluate_voc(dataset, found, iou_threshold)
        settings: dict[str, Any] = {
            "dataset": dataset.name,
            "split": dataset.split,
            "images": len(dataset),
            "run": tomllib.loads((self.folder / "settings.toml").read_text(encoding="utf-8")),
        }
        if windows is not None:
            means = {"map_11point": windows.map_11point, "map_area": windows.map_area}
            settings["without_regression"] = {
                name: None if np.isnan(mean) else mean for name, mean in means.items()
            }
        write_metrics(self._named("metrics", ".json"), result, coco_metrics(dataset, refined), settings)
        plot_precision_recall(self._named("precision_recall", ".png"), result)
        return result, windows

    def record(self, **figures: float) -> None:
        """Adds figures of this run to ``times.json``."""
        file = self._named("times", ".json")
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            # None yet, or half of one, which is not worth what has been computed.
            known = {}
        known |= {name: round(value, 3) for name, value in figures.items()}
        with atomic_path(file) as path:
            path.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")


def named_by_head(name: str, head: str) -> str:
    """What a file or folder of a run is called for a head: the name alone for pool5, else with the head."""
    return name if head == "pool5" else f"{name}-{head}"


def detected_images(detections: Path) -> list[str] | None:
    """The ids of the images that a folder of detections is of; None where it does not say."""
    images = detections / IMAGES_FILE
    return read_text(images, "the list of images").split() if images.exists() else None


def hasten(detector: Detector, fc_rank: int, bfloat16: bool) -> None:
    """Makes a trained detector faster and less exact, in place; see `Run` for both.

    Raises:
        InputError: a rank for a detector without fully connected layers.
    """
    if fc_rank:
        if detector.layers is None:
            raise InputError(f"fc_rank {fc_rank}: the detector has no fully connected layers; leave it out")
        detector.layers = detector.layers.truncated(fc_rank)
    if bfloat16:
        extractor = detector.extractor
        detector.extractor = make_extractor(extractor.network, replace(extractor.settings, bfloat16=True))
        if detector.layers is not None:
            detector.layers = detector.layers.rounded()


def _arrays(prefix: str, found: Detections) -> dict[str, Any]:
    return {f"{prefix}_{name}": getattr(found, name) for name in ("boxes", "scores", "labels")}


def _read_pair(path: Path) -> tuple[Detections, Detections] | None:
    """Windows and refined detections of an image; None where there are none, or what a power cut left."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return _detections("window", arrays), _detections("refined", arrays)
    except (OSError, EOFError, ValueError, KeyError, BadZipFile):
        return None


def _detections(prefix: str, arrays: Any) -> Detections:
    return Detections(*(arrays[f"{prefix}_{name}"] for name in ("boxes", "scores", "labels")))


def _alike_but_for_finetuning(file: Path, text: str) -> bool:
    try:
        present = with_todays_names(tomllib.loads(file.read_text(encoding="utf-8")))
        wanted = tomllib.loads(text)
        old, new = present.pop("finetuning"), wanted.pop("finetuning")
    except (OSError, ValueError, KeyError):
        return False
    strange = (old.keys() ^ new.keys()) - {"weights_digest"}
    return present == wanted and old != new and not strange


def _without_none(value: Any) -> Any:
    """The same nested dictionaries without entries of None, which TOML lacks."""
    if isinstance(value, dict):
        return {name: _without_none(one) for name, one in value.items() if one is not None}
    return value

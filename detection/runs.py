"""A run: its folder, and the stages that fill it, each of which goes on where it stopped."""

import json
import resource
import shutil
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from data.files import atomic_path, file_digest
from data.images import read_image
from data.types import Dataset, Detections, Example, FloatArray, InputError
from detection.detector import Detector
from detection.features import FeatureExtractor, FeatureMap
from detection.mapstore import MapStore
from detection.networks import build_network
from detection.presets import RunSettings
from detection.training import TrainingData, prefetch, train_detector
from eval import (
    VOCResult,
    coco_metrics,
    evaluate_voc,
    plot_precision_recall,
    write_coco_results,
    write_metrics,
    write_voc_detections,
)
from proposals import ProposalCache, image_key, propose_cached

Progress = Callable[[str, int, int], None]


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
    """

    folder: Path
    settings: RunSettings
    cache: ProposalCache
    maps: Path
    map_gb: float = 20.0

    @property
    def model(self) -> Path:
        """The trained detector's folder."""
        return self.folder / "model"

    def claim(self, images: str) -> None:
        """Writes ``settings.toml``, or makes sure that it says the same already.

        Args:
            images: what the run is trained on.

        Raises:
            InputError: the folder holds a run with other settings, or cannot be written.
        """
        file = self.folder / "settings.toml"
        text = tomli_w.dumps({"images": images} | _without_none(asdict(self.settings)))
        try:
            if not file.exists():
                with atomic_path(file) as path:
                    path.write_text(text, encoding="utf-8")
            present = file.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(f"{file}: {error.strerror}; check the folder") from error
        if present != text:
            pairs = zip(present.splitlines(), text.splitlines(), strict=False)
            old, new = next(((a, b) for a, b in pairs if a != b), ("", ""))
            raise InputError(
                f"{file}: the run has {old!r}, not {new!r}; give another RUN name, or delete the folder"
            )

    def train(self, dataset: Dataset, progress: Progress) -> Detector:
        """The trained detector; trains it where there is no model yet, going on where that was stopped."""
        if (self.model / "model.json").exists():
            return Detector.load(self.model)
        network = self.settings.network
        extractor = FeatureExtractor(
            build_network(
                network.name,
                network.weights or None,
                taps=network.taps or None,
                seed=network.seed,
            ),
            self.settings.features,
        )
        engine = self.settings.proposals
        data = TrainingData(dataset, engine, self.cache, self.maps, int(self.map_gb * 1e9))
        start = time.monotonic()
        work = self.folder / "training"
        detector = train_detector(data, extractor, self.settings, work, progress)
        detector.save(self.model)
        shutil.rmtree(work)
        self.record("training (this session)", time.monotonic() - start)
        return detector

    def detect(
        self, detector: Detector, dataset: Dataset, progress: Progress
    ) -> tuple[dict[str, Detections], dict[str, Detections]]:
        """Detects in every image of the data set, going on where that was stopped.

        Returns:
            detections by image id, with box regression and, as windows were proposed, without.
        """
        start = time.monotonic()
        partial = self.folder / "partial" / file_digest(self.model / "model.safetensors")[:16]
        partial.mkdir(parents=True, exist_ok=True)
        files = {one.image_id: partial / f"{image_key(one).image_digest[:32]}.npz" for one in dataset}
        todo = [example for example in dataset if not files[example.image_id].exists()]
        store = MapStore(self.maps, detector.extractor, int(self.map_gb * 1e9))

        def prepare(example: Example) -> tuple[Example, FloatArray, list[FeatureMap]]:
            with detector.clock("decode"):
                image = read_image(example.path)
                key = image_key(example)
            with detector.clock("proposals"):
                boxes = propose_cached(example, image, detector.engine, self.cache)
            with detector.clock("convolution"):
                maps = store.load(key.image_digest) or detector.extractor.maps(image)
            return example, boxes, maps

        for done, (example, boxes, maps) in enumerate(prefetch(prepare, todo)):
            progress("detection", len(dataset) - len(todo) + done, len(dataset))
            found, features = detector.score(maps, boxes)
            refined = detector.refine(found, features, (example.height, example.width))
            with atomic_path(files[example.image_id]) as path, open(path, "wb") as file:
                np.savez(file, **_arrays("window", found), **_arrays("refined", refined))
        progress("detection", len(dataset), len(dataset))
        refined_by_id, found_by_id = {}, {}
        for image_id, path in files.items():
            with np.load(path, allow_pickle=False) as arrays:
                found_by_id[image_id] = _detections("window", arrays)
                refined_by_id[image_id] = _detections("refined", arrays)
        for folder, by_id in ((self.detections, refined_by_id), (self.detections / "windows", found_by_id)):
            write_voc_detections(folder, by_id, dataset.classes, dataset.split)
        write_coco_results(self.detections / "coco.json", refined_by_id)
        shutil.rmtree(self.folder / "partial")
        if len(todo) == len(dataset):
            self.record("detection", time.monotonic() - start)
            self.record("images detected", len(todo))
            for stage, seconds in detector.clock.seconds.items():
                self.record(f"detection: {stage}", seconds)
        return refined_by_id, found_by_id

    @property
    def detections(self) -> Path:
        """The folder of detection files."""
        return self.folder / "detections"

    def score(
        self,
        dataset: Dataset,
        refined: dict[str, Detections],
        found: dict[str, Detections],
        iou_threshold: float = 0.5,
    ) -> tuple[VOCResult, VOCResult]:
        """Scores detections with and without box regression; writes ``metrics.json`` and the plots."""
        result = evaluate_voc(dataset, refined, iou_threshold)
        windows = evaluate_voc(dataset, found, iou_threshold)
        settings: dict[str, Any] = {
            "dataset": dataset.name,
            "split": dataset.split,
            "images": len(dataset),
            "without_regression": {"map_11point": windows.map_11point, "map_area": windows.map_area},
            "run": tomllib.loads((self.folder / "settings.toml").read_text(encoding="utf-8")),
        }
        write_metrics(self.folder / "metrics.json", result, coco_metrics(dataset, refined), settings)
        plot_precision_recall(self.folder / "precision_recall.png", result)
        return result, windows

    def record(self, what: str, value: float) -> None:
        """Keeps a figure of this run, and the peak memory of this process so far, in ``times.json``."""
        file = self.folder / "times.json"
        figures = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        # Kilobytes on Linux, bytes on macOS.
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        figures |= {what: round(value, 3), f"peak memory up to then, GB ({what})": round(peak / 1e9, 3)}
        with atomic_path(file) as path:
            path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _arrays(prefix: str, found: Detections) -> dict[str, Any]:
    return {f"{prefix}_{name}": getattr(found, name) for name in ("boxes", "scores", "labels")}


def _detections(prefix: str, arrays: Any) -> Detections:
    return Detections(*(arrays[f"{prefix}_{name}"] for name in ("boxes", "scores", "labels")))


def _without_none(value: Any) -> Any:
    """The same nested dictionaries without entries of None, which TOML lacks."""
    if isinstance(value, dict):
        return {name: _without_none(one) for name, one in value.items() if one is not None}
    return value

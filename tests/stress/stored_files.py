"""Whole files of this project's own, from an earlier run, and what reads them."""

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import chdir, closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
import toy
from outside_files import tiny_data
from scenes import scene

from sppnet.common.checkpoint import Checkpoint
from sppnet.data import load_dataset
from sppnet.detection.backbones import build_network
from sppnet.detection.classification.classifier import Classifier
from sppnet.detection.classification.feature_store import FeatureStore
from sppnet.detection.classification.image_features import ImageFeatureExtractor, ImageFeatureSettings
from sppnet.detection.classification.score_store import ScoreStore
from sppnet.detection.classification.view_testing import ViewTester
from sppnet.detection.detector import Detector
from sppnet.detection.features.feature_map import FeatureMap
from sppnet.detection.features.map_store import MapStore
from sppnet.detection.runs.detection_files import read_detections, write_partial
from sppnet.detection.runs.detection_files import read_partial as read_partial_file
from sppnet.detection.runs.run import Run
from sppnet.detection.training.presets import make_settings
from sppnet.eval import read_voc_detections
from sppnet.proposals import Key, ProposalCache, SelectiveSearch

_ENGINE = SelectiveSearch()
_GB = 10**9


def _boxes_of(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 60, (40, 4)).astype(np.float32)


_KEYS = [Key(f"{number:06d}", hashlib.sha256(bytes([number])).hexdigest()) for number in range(12)]


def make_cache(folder: Path) -> None:
    with ProposalCache(folder / "proposals.sqlite", _ENGINE) as cache:
        cache.put([(key, _boxes_of(number)) for number, key in enumerate(_KEYS)])


def read_cache(folder: Path, file: Path) -> Any:
    with ProposalCache(folder / "proposals.sqlite", _ENGINE) as cache:
        cache.missing(_KEYS)
        found = [cache.get(key) for key in _KEYS]
    # A miss is as good as the boxes.
    return [_boxes_of(number) if boxes is None else boxes for number, boxes in enumerate(found)]


def _classifier_images(folder: Path) -> list[Path]:
    return sorted((tiny_data(folder) / "JPEGImages").iterdir())[:3]


def make_scores(folder: Path) -> None:
    read_scores(folder, folder)


def read_scores(folder: Path, file: Path) -> Any:
    torch.manual_seed(0)
    store = ScoreStore(folder / "scores.sqlite", ViewTester([toy.make_classifier()], "centre"))
    # A connection that stays open would write into the folder later.
    with closing(store):
        return [scores for _, scores, _ in store.scores_of_files(_classifier_images(folder))]


def make_vectors(folder: Path) -> None:
    read_vectors(folder, folder)


def read_vectors(folder: Path, file: Path) -> Any:
    extractor = ImageFeatureExtractor(
        build_network("toy", "random"), ImageFeatureSettings("warp", (32,), levels=(1,))
    )
    store = FeatureStore(folder / "vectors", extractor, _GB, images_per_file=2)
    return store.read(_classifier_images(folder), lambda done, total: None)


def _computed_maps() -> list[FeatureMap]:
    rng = np.random.default_rng(0)
    return [FeatureMap(rng.normal(size=(4, 5, 6)).astype(np.float32), (0.5, 0.5)) for _ in range(2)]


def make_maps(folder: Path) -> None:
    read_maps(folder, folder)


def read_maps(folder: Path, file: Path) -> Any:
    store = MapStore(folder / "maps", {"network": "toy"}, 2, _GB)
    return [(item.values, item.factor) for item in store.get("digest", _computed_maps)]


def _arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"weights": rng.normal(size=(20, 9)), "step": np.array(7), "ids": np.arange(60).reshape(3, 20)}


def make_checkpoint(folder: Path) -> None:
    Checkpoint(folder / "work", {"for": "stress"}).save(_arrays())


def read_checkpoint(folder: Path, file: Path) -> Any:
    arrays = Checkpoint(folder / "work", {"for": "stress"}).load()
    return None if arrays is None else {name: np.array(array) for name, array in arrays.items()}


def make_from_run(*names: str) -> Callable[[Path], None]:
    """Copies folders of the trained run."""

    def make(folder: Path) -> None:
        for name in names:
            shutil.copytree(_trained_run(folder) / name, folder / name)

    return make


def _trained_run(folder: Path) -> Path:
    """The folder of a run that is trained once for all readers."""
    run = toy.shared(folder) / "runs/toy"
    if not run.exists():
        with chdir(toy.shared(folder)):
            toy.train_detector(tiny_data(folder))
    return run


def read_detector(folder: Path, file: Path) -> Any:
    detector = Detector.load(folder / "model")
    regressors, calibration = detector.regressors, detector.calibration
    assert regressors is not None
    assert calibration is not None
    network = {name: value.numpy() for name, value in detector.extractor.network.state_dict().items()}
    return [
        detector.classes, network, detector.extractor.network.config(), detector.extractor.settings,
        detector.head.tensors(), detector.head.norm_factor, regressors.weights, regressors.bias,
        regressors.norm_factor, detector.settings, detector.engine.parameters(), detector.origin,
        calibration.tensors(),
    ]  # fmt: skip


def make_classifier(folder: Path) -> None:
    toy.make_classifier().save(folder / "classifier")


def read_classifier(folder: Path, file: Path) -> Any:
    classifier = Classifier.load(folder / "classifier")
    tensors = {name: value.numpy() for name, value in classifier.tensors().items()}
    return [classifier.classes, repr(classifier.settings), tensors]


def read_found(folder: Path, file: Path) -> Any:
    found = read_voc_detections(folder / "detections", ("bar", "square"), "test")
    return {name: (item.boxes, item.scores, item.labels) for name, item in found.items()}


def _run_of(folder: Path, cache: ProposalCache) -> Run:
    return Run(folder, make_settings("paper-1scale"), cache, folder / "maps")


def make_run_files(folder: Path) -> None:
    make_from_run("detections")(folder)
    with ProposalCache(toy.shared(folder) / "empty.sqlite", _ENGINE) as cache:
        run = _run_of(folder, cache)
        run.claim("tiny train", "digest")
        run.record(training_seconds=3.5, training_peak_gb=0.7)


def read_run_files(folder: Path, file: Path) -> Any:
    with ProposalCache(toy.shared(folder) / "empty.sqlite", _ENGINE) as cache:
        run = _run_of(folder, cache)
        run.record(scoring_seconds=1.0)
        json.loads((folder / "times.json").read_text())
        read_detections(run, load_dataset(tiny_data(folder), "test"))
        run.claim("tiny train", "digest")


def make_partial(folder: Path) -> None:
    found = Detector.load(_trained_run(folder) / "model").predict(scene(0, 60, 80))
    write_partial(folder / "a.npz", found, found[:3])


def read_partial(folder: Path, file: Path) -> Any:
    found = read_partial_file(folder / "a.npz")
    return None if found is None else [(item.boxes, item.scores, item.labels) for item in found]

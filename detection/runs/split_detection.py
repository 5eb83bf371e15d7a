"""Detection in all images of a split, going on where it was stopped."""

import shutil
import time
from typing import Any

from sppnet.common.arrays import FloatArray
from sppnet.common.checkpoint import disk_errors_named
from sppnet.common.errors import InputError
from sppnet.common.files import file_digest, only_process
from sppnet.common.memory import peak_bytes, reset_peak
from sppnet.common.prefetch import prefetch
from sppnet.common.progress import Progress
from sppnet.data.types import Dataset, Example
from sppnet.detection.detector import Detector
from sppnet.detection.runs.detection_files import (
    RunDetections,
    read_partial,
    write_detections,
    write_partial,
)
from sppnet.detection.runs.run import Run
from sppnet.proposals import image_key, propose_cached


def detect_split(run: Run, detector: Detector, dataset: Dataset, progress: Progress) -> RunDetections:
    """Detects in every image of a data set and writes the run's detections.

    Args:
        run: gets the detections.
        detector: the run's.
        dataset: the images.
        progress: called with a stage's name, images done, images in all.

    Raises:
        InputError: the data set has other classes than the detector, an image cannot be read, or a disk is
            full.
    """
    if detector.classes != dataset.classes:
        raise InputError(
            f"{dataset.name} {dataset.split} has the classes {', '.join(dataset.classes)}, "
            f"but {run.model} was trained on {', '.join(detector.classes)}; give another RUN name"
        )
    with only_process(run.folder):
        return _detect(run, detector, dataset, progress)


def _detect(run: Run, detector: Detector, dataset: Dataset, progress: Progress) -> RunDetections:
    start = time.monotonic()
    reset_peak()
    partial = run.result_path("partial") / file_digest(run.model / "model.safetensors")[:16]
    partial.mkdir(parents=True, exist_ok=True)
    keys = {example.image_id: image_key(example) for example in dataset}
    files = {image_id: partial / f"{key.image_digest[:32]}.npz" for image_id, key in keys.items()}
    pairs = {image_id: read_partial(path) for image_id, path in files.items()}
    todo = [example for example in dataset if pairs[example.image_id] is None]
    store = detector.extractor.store(run.maps, run.map_bytes)

    def prepare(example: Example) -> tuple[Example, FloatArray, Any, tuple[int, int]]:
        key = keys[example.image_id]
        with detector.clock("decode"):
            image = example.read()
        with detector.clock("proposals"):
            boxes = propose_cached(key, lambda: image, detector.engine, run.cache)
        with detector.clock("convolution"):
            prepared = store.get(key.image_digest, lambda: detector.extractor.prepare(image))
        return example, boxes, prepared, image.shape[:2]

    for done, (example, boxes, prepared, size) in enumerate(prefetch(prepare, todo)):
        progress("detection", len(dataset) - len(todo) + done, len(dataset))
        proposed, deltas = detector.score(prepared, boxes)
        regressed = detector.regress(proposed, deltas, size)
        with disk_errors_named(partial):
            write_partial(files[example.image_id], regressed, proposed)
        pairs[example.image_id] = regressed, proposed
    progress("detection", len(dataset), len(dataset))
    detections = RunDetections(
        {image_id: pair[0] for image_id, pair in pairs.items() if pair is not None},
        {image_id: pair[1] for image_id, pair in pairs.items() if pair is not None},
    )
    write_detections(run, dataset, detections)
    shutil.rmtree(run.result_path("partial"))
    if len(todo) == len(dataset):
        stages = {f"detection_{name}_seconds": value for name, value in detector.clock.seconds.items()}
        run.record(
            detection_images=len(todo),
            detection_seconds=time.monotonic() - start,
            detection_peak_gb=peak_bytes() / 1e9,
            **stages,
        )
    return detections

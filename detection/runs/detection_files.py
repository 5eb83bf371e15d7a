"""Reads and writes the detections of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sppnet.common.arrays import read_arrays
from sppnet.common.errors import InputError
from sppnet.common.files import NPZ_ERRORS, atomic_path, read_text
from sppnet.data.detections import Detections
from sppnet.data.names import file_parts, text_lines
from sppnet.data.types import Dataset
from sppnet.detection.backbones.weights import RANDOM
from sppnet.detection.runs.run import Run
from sppnet.eval import read_voc_detections, write_coco_results, write_voc_detections

# The file beside detections with the ids of their images, one per line.
IMAGES_FILE = "images.txt"
_PROPOSED = "windows"


class RunDetections(NamedTuple):
    """The detections of a split, with and without box regression.

    Attributes:
        regressed: image id to detections after box regression.
        proposed: image id to detections before box regression, with the boxes of the proposals; None if a run
            has none (combinations).
    """

    regressed: Mapping[str, Detections]
    proposed: Mapping[str, Detections] | None


def write_detections(run: Run, dataset: Dataset, detections: RunDetections) -> None:
    """Writes the files that `read_detections` reads, and COCO's results JSON."""
    # VOC's competitions: comp3 is for training on VOC alone, comp4 for any data. All weights except random
    # ones come from ImageNet.
    alone = run.settings is not None and run.settings.network.weights == RANDOM
    folders = {run.detections: detections.regressed}
    if detections.proposed is not None:
        folders[run.detections / _PROPOSED] = detections.proposed
    for folder, by_image in folders.items():
        write_voc_detections(folder, by_image, dataset.classes, dataset.split, "comp3" if alone else "comp4")
        # An earlier version of this program called all files comp3.
        for name in () if alone else file_parts(dataset.classes):
            (folder / f"comp3_det_{file_parts([dataset.split])[0]}_{name}.txt").unlink(missing_ok=True)
    write_coco_results(
        run.detections / "coco.json", detections.regressed, dataset.category_ids, dataset.image_ids
    )
    with atomic_path(run.detections / IMAGES_FILE) as path:
        path.write_text("".join(f"{example.image_id}\n" for example in dataset), encoding="utf-8")


def read_detections(run: Run, dataset: Dataset) -> RunDetections:
    """Reads the detections of a run.

    Raises:
        InputError: the run has no detections, or they are of other images.
    """
    images = run.detections / IMAGES_FILE
    if not images.exists():
        raise InputError(f"{run.folder}: no detections there; run 'sppnet detect', or name another run")
    if not is_detected(run, dataset):
        raise InputError(
            f"{images}: detections are of other images than {dataset.name} {dataset.split}, "
            f"{len(dataset)} images; give the data set, split and limit of that detection"
        )
    regressed = read_voc_detections(run.detections, dataset.classes, dataset.split)
    proposed = run.detections / _PROPOSED
    if not proposed.is_dir():
        return RunDetections(regressed, None)
    return RunDetections(regressed, read_voc_detections(proposed, dataset.classes, dataset.split))


def is_detected(run: Run, dataset: Dataset) -> bool:
    """Returns whether the run has detections of exactly these images."""
    return detected_images(run.detections) == [example.image_id for example in dataset]


def detected_images(folder: Path) -> list[str] | None:
    """Reads the ids of the images of a folder of detections; None if the folder has no list."""
    images = folder / IMAGES_FILE
    if not images.exists():
        return None
    return [line for line in text_lines(read_text(images, "the list of images")) if line]


def only_detected(dataset: Dataset, folder: Path) -> Dataset:
    """Selects the images of a folder of detections; all images if the folder has no list."""
    listed = detected_images(folder)
    if listed is None:
        return dataset
    return dataset.without({example.image_id for example in dataset} - set(listed))


def write_partial(path: Path, regressed: Detections, proposed: Detections) -> None:
    """Writes the detections of one image, to keep them until all images are done."""
    # Without waiting for the disk: `read_partial` notices what a power cut left.
    with atomic_path(path, durable=False) as temporary:
        np.savez(temporary, **_arrays("window", proposed), **_arrays("refined", regressed))


def read_partial(path: Path) -> tuple[Detections, Detections] | None:
    """Reads the file of `write_partial`; None if it is missing, or incomplete after a power cut."""
    try:
        arrays = read_arrays(path)
        return _detections("refined", arrays), _detections("window", arrays)
    except NPZ_ERRORS:
        return None


def _arrays(prefix: str, detections: Detections) -> dict[str, Any]:
    return {f"{prefix}_{name}": getattr(detections, name) for name in ("boxes", "scores", "labels")}


def _detections(prefix: str, arrays: Mapping[str, Any]) -> Detections:
    return Detections(*(arrays[f"{prefix}_{name}"] for name in ("boxes", "scores", "labels")))

"""Combines the detections of several models by suppression over their union (SPP-net §4.5).

The paper suppresses the union of all scored proposals. Here each model has suppressed its own detections
before, because its files hold only the remaining detections. So a difference remains: if model A drops a
proposal for a better one, and model B's detection suppresses the better one, the proposal does not come back.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tomli_w
from rich.table import Table

from sppnet.common.arrays import FloatArray
from sppnet.common.claim import claim
from sppnet.common.errors import InputError
from sppnet.common.settings import check_choice
from sppnet.common.text import percent
from sppnet.data.detections import Detections
from sppnet.data.types import Dataset
from sppnet.detection.detection_settings import DetectionSettings
from sppnet.detection.nms import nms_best_first
from sppnet.detection.runs.detection_files import (
    IMAGES_FILE,
    RunDetections,
    detected_images,
    write_detections,
)
from sppnet.detection.runs.run import Run
from sppnet.detection.runs.scoring import score_run
from sppnet.eval import evaluate_voc, read_voc_detections

ScoreComparison = Literal["as-is", "rank"]


@dataclass(frozen=True, eq=False)
class Part:
    """The detections of one of the combined models.

    Attributes:
        name: the name of its run.
        detections: the detections of each image; without detections before box regression if the folder has
            none.
    """

    name: str
    detections: RunDetections


def read_part(folder: Path, dataset: Dataset) -> Part:
    """Reads the detections of a run, or a plain folder of VOC detection files.

    Args:
        folder: the folder of a run, whose ``detections/`` is read, or a folder of VOC detection files.
        dataset: the images whose detections are read. A run may have detected in more images, which are left
            out; a plain folder must not name any other image.

    Raises:
        InputError: there are no detections; they are of another split, of other classes or of other images;
            or a file is damaged.
    """
    files = folder / "detections" if (folder / "detections").is_dir() else folder
    prefix = f"_det_{dataset.split}_"
    present = {path.stem.split(prefix, 1)[1] for path in files.glob(f"comp?{prefix}*.txt")}
    if not present:
        raise InputError(
            f"{folder}: no detections of the split {dataset.split!r} there (comp?{prefix}<class>.txt); "
            "run 'sppnet detect' first, or name another run or split"
        )
    other_classes = sorted(present ^ set(dataset.classes))
    if other_classes:
        raise InputError(
            f"{files}: detections are of other classes than {dataset.name}'s, such as {other_classes[0]!r}; "
            "only runs of the same data set can be combined"
        )
    expected = {example.image_id for example in dataset}
    listed = detected_images(files)
    if listed is not None and not expected <= set(listed):
        raise InputError(
            f"{files / IMAGES_FILE}: detections are of other images than {dataset.name} {dataset.split}, "
            f"{len(expected)} images; give the data set, split and limit that all the runs were made with"
        )
    regressed = read_voc_detections(files, dataset.classes, dataset.split)
    unknown = sorted(regressed.keys() - expected)
    if unknown and listed is None:
        raise InputError(
            f"{files}: detections of image {unknown[0]!r}, which {dataset.name} {dataset.split} lacks; "
            "give the data set, split and limit that all the runs were made with"
        )
    proposed = None
    if (files / "windows").is_dir():
        proposed = _only(expected, read_voc_detections(files / "windows", dataset.classes, dataset.split))
    return Part(part_name(folder), RunDetections(_only(expected, regressed), proposed))


def _only(image_ids: Container[str], by_image: Mapping[str, Detections]) -> dict[str, Detections]:
    return {image_id: detections for image_id, detections in by_image.items() if image_id in image_ids}


def part_name(folder: Path) -> str:
    """Returns a name for the detections in a folder: the run's name, and the head unless it is pool5.

    Args:
        folder: the folder of a run, of its detections, or of VOC detection files.

    Example:
        >>> part_name(Path("runs/first")), part_name(Path("runs/first/detections-fc7"))
        ('first', 'first-fc7')
    """
    if folder.name.startswith("detections") and folder.parent.name:
        return folder.parent.name + folder.name.removeprefix("detections")
    return folder.name


def combine(
    parts: Sequence[Mapping[str, Detections]],
    image_ids: Sequence[str],
    settings: DetectionSettings | None = None,
    scores: ScoreComparison = "as-is",
) -> dict[str, Detections]:
    """Suppresses the union of several models' detections, class by class and image by image.

    Args:
        parts: for each model image id to detections; an image that is left out has no detections.
        image_ids: the images.
        settings: ``nms_iou`` and ``max_per_class`` are used; the scores are above the threshold already.
        scores: ``as-is`` compares scores directly, which is right for models of one kind: SVMs trained with
            one penalty on features of one norm (as in the paper). ``rank`` compares ranks: the k-th best
            detection of a class over all images of a model scores -k. It is for models whose scores are not
            comparable (SVM margins and log-odds). It needs no labels, but assumes that the models are equally
            good.

    Returns:
        image id to detections, grouped by class, best first; of equal scores the earlier model's wins.

    Raises:
        InputError: ``scores`` has another value.

    Example:
        >>> first = Detections.of([[0, 0, 10, 10]], [0.9], [0])
        >>> second = Detections.of([[1, 0, 11, 10], [50, 50, 60, 60]], [0.5, 0.4], [0, 0])
        >>> combine([{"a": first}, {"a": second}], ["a"])
        {'a': Detections(2: label 0 0.90, label 0 0.40)}
        >>> combine([{"a": first}, {"a": second}], ["a"], scores="rank")
        {'a': Detections(2: label 0 -1.00, label 0 -2.00)}
    """
    check_choice("scores", scores, ScoreComparison)
    settings = settings or DetectionSettings()
    if scores == "rank":
        parts = [_ranked(part) for part in parts]
    combined = {}
    for image_id in image_ids:
        union = Detections.merge([part.get(image_id, Detections.empty()) for part in parts])
        kept = [np.zeros(0, np.int64)]
        for label in np.unique(union.labels):
            rows = np.flatnonzero(union.labels == label)
            kept.append(rows[nms_best_first(union.boxes[rows], union.scores[rows], settings)])
        combined[image_id] = union[np.concatenate(kept)]
    return combined


def _ranked(part: Mapping[str, Detections]) -> dict[str, Detections]:
    """Replaces scores with ranks: the k-th best of a class over all images, from 1, scores -k."""
    labels = np.concatenate([np.zeros(0, np.int64), *(detections.labels for detections in part.values())])
    scores = np.concatenate([np.zeros(0, np.float32), *(detections.scores for detections in part.values())])
    # The order is stable, by class and falling score; ranks are counted from the first of each class.
    order = np.lexsort((-scores, labels))
    firsts = np.searchsorted(labels[order], labels[order])
    ranks: FloatArray = np.empty(len(scores), np.float32)
    ranks[order] = firsts - np.arange(len(scores)) - 1
    ends = np.cumsum([len(detections) for detections in part.values()])
    return {
        image_id: replace(detections, scores=ranks[end - len(detections) : end])
        for (image_id, detections), end in zip(part.items(), ends, strict=True)
    }


def combine_runs(
    folders: Sequence[Path],
    dataset: Dataset,
    run: Run,
    settings: DetectionSettings,
    scores: ScoreComparison = "as-is",
) -> Table:
    """Combines runs into a new run, scores it, and tabulates its figures with those of the runs.

    Args:
        folders: folders of at least two runs, or of VOC detection files.
        dataset: the images that all runs were tested on.
        run: the new run. Its folder gets ``settings.toml``, detections, metrics and plots, and detections
            before box regression if all runs have them.
        settings: the settings of the suppression.
        scores: as in `combine`.

    Returns:
        a table of the mean average precisions of each run and of the combination, in percent.

    Raises:
        InputError: there are fewer than two runs, the new run is among them, `read_part` refuses a run, or
            the folder of the new run holds another run.
    """
    resolved = {folder.resolve() for folder in folders}
    if len(folders) < 2 or len(resolved) < len(folders):
        raise InputError(f"{', '.join(map(str, folders))}: name at least two runs, each of them once")
    if run.folder.resolve() in resolved | {folder.parent for folder in resolved}:
        raise InputError(f"{run.folder}: is one of the runs to combine; give the new one another name")
    parts = [read_part(folder, dataset) for folder in folders]
    about: dict[str, Any] = {
        "images": f"{dataset.name} {dataset.split}, {len(dataset)} images",
        "combined": [str(folder) for folder in folders],
        "scores": scores,
        "nms_iou": settings.nms_iou,
        "max_per_class": settings.max_per_class,
    }
    claim(run.folder / "settings.toml", tomli_w.dumps(about))
    detections = _combined(parts, dataset, settings, scores)

    rows = []
    for part in parts:
        regressed, proposed = part.detections
        without = None if proposed is None else evaluate_voc(dataset, proposed).map_11point
        result = evaluate_voc(dataset, regressed)
        rows.append((part.name, result.map_11point, result.map_area, without))
    write_detections(run, dataset, detections)
    # The table shows VOC's figures alone; `sppnet eval --run` computes COCO's.
    figures = score_run(run, dataset, detections, with_coco=False)
    without = None if figures.voc_proposed is None else figures.voc_proposed.map_11point
    rows.append((f"combination of {len(parts)}", figures.voc.map_11point, figures.voc.map_area, without))
    return _table(f"{dataset.name} {dataset.split}, {len(dataset)} images, mAP in %", rows)


def _combined(
    parts: Sequence[Part], dataset: Dataset, settings: DetectionSettings, scores: ScoreComparison
) -> RunDetections:
    image_ids = [example.image_id for example in dataset]
    regressed = combine([part.detections.regressed for part in parts], image_ids, settings, scores)
    proposed = [part.detections.proposed for part in parts if part.detections.proposed is not None]
    if len(proposed) < len(parts):
        return RunDetections(regressed, None)
    return RunDetections(regressed, combine(proposed, image_ids, settings, scores))


def _table(title: str, rows: Iterable[tuple[str, float, float, float | None]]) -> Table:
    table = Table(title=title)
    for column in ("run", "11-point", "area", "11-point without box regression"):
        table.add_column(column, justify="left" if column == "run" else "right")
    for name, *figures in rows:
        table.add_row(name, *("–" if figure is None else percent(figure) for figure in figures))
    return table

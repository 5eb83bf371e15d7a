"""Several models' detections as one: suppression over their union (SPP-net §4.5).

The paper suppresses the union of all scored windows; here each model's own suppression has gone before, as
its detections on disk are what is left of it. A window that its own model dropped for a better one, which
then falls to another model, does not come back.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tomli_w
from rich.table import Table

from sppnet.common.arrays import FloatArray
from sppnet.common.claim import claim
from sppnet.common.errors import InputError
from sppnet.data.types import Dataset, Detections
from sppnet.detection.nms import DetectionSettings, nms_best_first
from sppnet.detection.runs.run import IMAGES_FILE, Run, detected_images
from sppnet.eval import VOCResult, evaluate_voc, read_voc_detections

Scores = Literal["as-is", "rank"]
_NONE = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


@dataclass(frozen=True, eq=False)
class Part:
    """What one model found.

    Attributes:
        name: of its run.
        refined: detections by image id.
        windows: the same before box regression, where they are on disk.
    """

    name: str
    refined: Mapping[str, Detections]
    windows: Mapping[str, Detections] | None


def read_part(folder: Path, dataset: Dataset) -> Part:
    """Reads the detections of a run, or a plain folder of VOC detection files.

    Args:
        folder: of a run, whose ``detections/`` is taken, or of the files themselves.
        dataset: the images wanted; detections of others, where the run says that it looked at them, are left
            out.

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
    strangers = sorted(present ^ set(dataset.classes))
    if strangers:
        raise InputError(
            f"{files}: detections are of other classes than {dataset.name}'s, such as {strangers[0]!r}; "
            "only runs of the same data set can be combined"
        )
    expected = {one.image_id for one in dataset}
    listed = detected_images(files)
    if listed is not None and not expected <= set(listed):
        raise InputError(
            f"{files / IMAGES_FILE}: detections are of other images than {dataset.name} {dataset.split}, "
            f"{len(expected)} images; give the data set, split and limit that all the runs were made with"
        )
    refined = read_voc_detections(files, dataset.classes, dataset.split)
    foreign = sorted(refined.keys() - expected)
    if foreign and listed is None:
        raise InputError(
            f"{files}: detections of image {foreign[0]!r}, which {dataset.name} {dataset.split} lacks; "
            "give the data set, split and limit that all the runs were made with"
        )
    windows = None
    if (files / "windows").is_dir():
        windows = _only(expected, read_voc_detections(files / "windows", dataset.classes, dataset.split))
    return Part(part_name(folder), _only(expected, refined), windows)


def _only(image_ids: Container[str], found: Mapping[str, Detections]) -> dict[str, Detections]:
    return {image_id: one for image_id, one in found.items() if image_id in image_ids}


def part_name(folder: Path) -> str:
    """What the detections in a folder are called: the run's name, and the head where it is not pool5."""
    if folder.name.startswith("detections") and folder.parent.name:
        return folder.parent.name + folder.name.removeprefix("detections")
    return folder.name


def combine(
    parts: Sequence[Mapping[str, Detections]],
    image_ids: Sequence[str],
    settings: DetectionSettings | None = None,
    scores: Scores = "as-is",
) -> dict[str, Detections]:
    """Suppresses the union of several models' detections, class by class and image by image.

    Args:
        parts: detections by image id, one mapping a model; an image left out has none.
        image_ids: the images.
        settings: ``nms_iou`` and ``max_per_class`` are used; scores were thresholded already.
        scores: ``as-is`` compares them as they are, which is right for models of one kind: SVMs trained with
            one penalty on features of one norm (the paper does so). ``rank`` compares the places in each
            model's own list of its class over all images instead, the k-th best scoring -k, for models whose
            scores have nothing in common (SVM margins and probabilities). It needs no labels, but takes the
            models for equally good.

    Returns:
        detections by image id, grouped by class, best first; of equal ones the earlier model's wins.
    """
    settings = settings or DetectionSettings()
    if scores == "rank":
        parts = [_ranked(part) for part in parts]
    combined = {}
    for image_id in image_ids:
        together = [part.get(image_id, _NONE) for part in parts]
        boxes = np.concatenate([one.boxes for one in together])
        margins = np.concatenate([one.scores for one in together])
        labels = np.concatenate([one.labels for one in together])
        kept = [np.zeros(0, np.int64)]
        for label in np.unique(labels):
            mine = np.flatnonzero(labels == label)
            kept.append(mine[nms_best_first(boxes[mine], margins[mine], settings)])
        chosen = np.concatenate(kept)
        combined[image_id] = Detections(boxes[chosen], margins[chosen], labels[chosen])
    return combined


def _ranked(part: Mapping[str, Detections]) -> dict[str, Detections]:
    """The same detections; the k-th best of a class over all images, from 1, scores -k."""
    labels = np.concatenate([np.zeros(0, np.int64), *(one.labels for one in part.values())])
    values = np.concatenate([np.zeros(0, np.float32), *(one.scores for one in part.values())])
    # A stable order by class and falling score; places within the class follow from where it starts.
    order = np.lexsort((-values, labels))
    firsts = np.searchsorted(labels[order], labels[order])
    ranks: FloatArray = np.empty(len(values), np.float32)
    ranks[order] = firsts - np.arange(len(values)) - 1
    ends = np.cumsum([len(one) for one in part.values()])
    return {
        image_id: Detections(one.boxes, ranks[end - len(one) : end], one.labels)
        for (image_id, one), end in zip(part.items(), ends, strict=True)
    }


def combine_runs(
    folders: Sequence[Path],
    dataset: Dataset,
    run: Run,
    settings: DetectionSettings,
    scores: Scores = "as-is",
) -> Table:
    """Combines runs into a new one, scores it, and puts its figures under theirs.

    Args:
        folders: of at least two runs, or folders of VOC detection files.
        dataset: the images that all of them were tested on.
        run: the new run: its folder gets ``settings.toml``, detections, metrics and plots; the windows before
            box regression too, where all the runs have them.
        settings: of the suppression.
        scores: see `combine`.

    Returns:
        mean average precisions of each run and of the combination, in percent.

    Raises:
        InputError: fewer than two runs, the new one among them, one that `read_part` refuses, or another run
            in the new one's folder.
    """
    places = {folder.resolve() for folder in folders}
    if len(folders) < 2 or len(places) < len(folders):
        raise InputError(f"{', '.join(map(str, folders))}: name at least two runs, each of them once")
    if run.folder.resolve() in places | {place.parent for place in places}:
        raise InputError(f"{run.folder}: is one of the runs to combine; give the new one another name")
    parts = [read_part(folder, dataset) for folder in folders]
    ids = [one.image_id for one in dataset]
    before = [part.windows for part in parts if part.windows is not None]
    refined = combine([part.refined for part in parts], ids, settings, scores)
    windows = combine(before, ids, settings, scores) if len(before) == len(parts) else None

    table = Table(title=f"{dataset.name} {dataset.split}, {len(dataset)} images, mAP in %")
    for column in ("run", "11-point", "area", "11-point without box regression"):
        table.add_column(column, justify="left" if column == "run" else "right")

    def add_row(name: str, result: VOCResult, raw: VOCResult | None) -> None:
        figures = result.map_11point, result.map_area, None if raw is None else raw.map_11point
        table.add_row(name, *("–" if one is None else f"{100 * one:.1f}" for one in figures))

    for part in parts:
        raw = None if part.windows is None else evaluate_voc(dataset, part.windows)
        add_row(part.name, evaluate_voc(dataset, part.refined), raw)
    about: dict[str, Any] = {
        "images": f"{dataset.name} {dataset.split}, {len(dataset)} images",
        "combined": [str(folder) for folder in folders],
        "scores": scores,
        "nms_iou": settings.nms_iou,
        "max_per_class": settings.max_per_class,
    }
    claim(run.folder / "settings.toml", tomli_w.dumps(about))
    run.write_detections(dataset, refined, windows)
    add_row(f"combination of {len(parts)}", *run.score(dataset, refined, windows))
    return table

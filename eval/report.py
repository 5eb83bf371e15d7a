"""Writes VOC's figures: JSON, tables for the terminal, precision-recall plots."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sppnet.common.files import write_json
from sppnet.eval.output import new_figure, new_table, number_or_none, percent_or_dash, write_png
from sppnet.eval.voc import ClassResult, VOCResult
from sppnet.eval.voc_classification import ImageClassificationResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table

_PANEL_INCHES = (2.4, 2.3)
_TITLE_LETTERS = 20  # No longer title fits above a panel, beside the AP.
_MIN_COLUMNS = 5  # VOC's twenty classes make 5 × 4 panels.


def metrics_dict(
    result: VOCResult,
    coco: Mapping[str, float] | None = None,
    settings: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """Returns all figures of a data set as plain numbers for JSON; None for NaN, which JSON lacks.

    Args:
        result: the VOC figures.
        coco: the figures of `sppnet.eval.coco_metrics`; None: they are left out.
        settings: JSON values that the figures depend on: data set, split, model.

    Example:
        >>> from sppnet.eval import evaluate_voc
        >>> ground_truth = {"a.jpg": {"boxes": [[0, 0, 9, 9]], "labels": ["cat"]}}
        >>> metrics = metrics_dict(evaluate_voc(ground_truth, {}), settings={"split": "test"})
        >>> metrics["map_11point"], metrics["ground_truths"], metrics["settings"]
        (0.0, 1, {'split': 'test'})
    """
    metrics: dict[str, object] = {
        "map_11point": number_or_none(result.map_11point),
        "map_area": number_or_none(result.map_area),
        "iou_threshold": result.iou_threshold,
        "counted_classes": result.counted_classes,
        "ground_truths": sum(figures.ground_truths for figures in result.classes),
        "detections": sum(figures.detections for figures in result.classes),
        "classes": {
            figures.name: {
                "ap_11point": number_or_none(figures.ap_11point),
                "ap_area": number_or_none(figures.ap_area),
                "ground_truths": figures.ground_truths,
                "detections": figures.detections,
            }
            for figures in result.classes
        },
    }
    if coco is not None:
        metrics["coco"] = {name: number_or_none(value) for name, value in coco.items()}
    return metrics | {"settings": dict(settings or {})}


def write_metrics(
    path: Path,
    result: VOCResult,
    coco: Mapping[str, float] | None = None,
    settings: Mapping[str, object] | None = None,
) -> None:
    """Writes the result of `metrics_dict` as JSON, replacing the file as a whole; same arguments as there.

    Raises:
        TypeError: JSON cannot hold a setting.
        ValueError: a setting is NaN or infinite.

    Example:
        >>> import json, tempfile
        >>> from sppnet.eval import evaluate_voc
        >>> ground_truth = {"a.jpg": {"boxes": [[0, 0, 9, 9]], "labels": ["cat"]}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "metrics.json")
        ...     write_metrics(path, evaluate_voc(ground_truth, {}))
        ...     json.loads(path.read_text())["classes"]
        {'cat': {'ap_11point': 0.0, 'ap_area': 0.0, 'ground_truths': 1, 'detections': 0}}
    """
    write_json(path, metrics_dict(result, coco, settings), indent=2)


def class_table(result: VOCResult, title: str | None = None) -> "Table":
    """Makes a table of average precisions in percent: a row for each class, the means below.

    A class without ground truth shows –.

    Args:
        result: the VOC figures.
        title: the title above the table.

    Example:
        >>> from sppnet.eval import evaluate_voc
        >>> ground_truth = {"a.jpg": {"boxes": [[0, 0, 9, 9]], "labels": ["cat"]}}
        >>> table = class_table(evaluate_voc(ground_truth, {}), "my photos")
        >>> [column.header for column in table.columns]
        ['class', 'AP 11-pt', 'AP area', 'ground truths', 'detections']

    ``rich.print(table)`` shows it.
    """
    from rich.text import Text

    table = new_table(title, show_footer=True)
    _add_means(table, result)
    ground_truths = sum(figures.ground_truths for figures in result.classes)
    table.add_column("ground truths", justify="right", footer=f"{ground_truths:,}")
    detections = sum(figures.detections for figures in result.classes)
    table.add_column("detections", justify="right", footer=f"{detections:,}")
    for figures in result.classes:
        table.add_row(
            Text(figures.name),
            percent_or_dash(figures.ap_11point),
            percent_or_dash(figures.ap_area),
            f"{figures.ground_truths:,}",
            f"{figures.detections:,}",
        )
    return table


def classification_dict(result: ImageClassificationResult) -> dict[str, object]:
    """Returns all figures of VOC's image classification as plain numbers for JSON; None for NaN.

    Example:
        >>> from sppnet.eval import evaluate_voc_classification
        >>> result = evaluate_voc_classification([[1], [-1]], [[0.9], [0.2]], ("cat",))
        >>> classification_dict(result)["classes"]
        {'cat': {'ap_11point': 1.0, 'ap_area': 1.0, 'positives': 1, 'images': 2}}
    """
    return {
        "map_11point": number_or_none(result.map_11point),
        "map_area": number_or_none(result.map_area),
        "counted_classes": result.counted_classes,
        "classes": {
            figures.name: {
                "ap_11point": number_or_none(figures.ap_11point),
                "ap_area": number_or_none(figures.ap_area),
                "positives": figures.positives,
                "images": figures.images,
            }
            for figures in result.classes
        },
    }


def classification_table(result: ImageClassificationResult, title: str | None = None) -> "Table":
    """Makes a table of image classification in percent: a row for each class, the means below.

    A class without positive images shows –.

    Args:
        result: the figures of VOC's image classification.
        title: the title above the table.

    Example:
        >>> from sppnet.eval import evaluate_voc_classification
        >>> result = evaluate_voc_classification([[1], [-1]], [[0.9], [0.2]], ("cat",))
        >>> [column.header for column in classification_table(result).columns]
        ['class', 'AP 11-pt', 'AP area', 'positives', 'images']
    """
    from rich.text import Text

    table = new_table(title, show_footer=True)
    _add_means(table, result)
    table.add_column("positives", justify="right")
    table.add_column("images", justify="right")
    for figures in result.classes:
        table.add_row(
            Text(figures.name),
            percent_or_dash(figures.ap_11point),
            percent_or_dash(figures.ap_area),
            f"{figures.positives:,}",
            f"{figures.images:,}",
        )
    return table


def _add_means(table: "Table", result: VOCResult | ImageClassificationResult) -> None:
    """Adds the columns of classes and average precisions, with the means as footers."""
    count = f"mean of {result.counted_classes}"
    if result.counted_classes < len(result.classes):
        count += f" of {len(result.classes)} classes"
    table.add_column("class", footer=count)
    table.add_column("AP 11-pt", justify="right", footer=percent_or_dash(result.map_11point))
    table.add_column("AP area", justify="right", footer=percent_or_dash(result.map_area))


def plot_precision_recall(path: Path, result: VOCResult) -> None:
    """Draws the precision-recall curve of every class into a PNG, one panel per class.

    The line is the measured precision; the shaded area lies below the interpolated precision and equals AP.

    Args:
        path: the file, replaced as a whole.
        result: the figures of any number of classes; panels keep their size and the picture grows.

    Example:
        >>> import tempfile
        >>> from sppnet.eval import evaluate_voc
        >>> ground_truth = {"a.jpg": {"boxes": [[0, 0, 9, 9]], "labels": ["cat"]}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "curves.png")
        ...     plot_precision_recall(path, evaluate_voc(ground_truth, {}))
        ...     path.read_bytes()[1:4]
        b'PNG'
    """
    columns = max(_MIN_COLUMNS, math.isqrt(len(result.classes) - 1) + 1)
    rows = math.ceil(len(result.classes) / columns)
    width, height = columns * _PANEL_INCHES[0], rows * _PANEL_INCHES[1]
    figure = new_figure(width, height)
    # The margins are set by hand: automatic layouts draw everything twice, which takes seconds for dozens of
    # panels.
    margins = {
        "left": 0.5 / width,
        "right": 1 - 0.1 / width,
        "bottom": 0.5 / height,
        "top": 1 - 0.25 / height,
    }
    panels = figure.subplots(
        rows, columns, squeeze=False, gridspec_kw=margins | {"wspace": 0.22, "hspace": 0.28}
    ).ravel()
    for panel, figures in zip(panels, result.classes, strict=False):
        _draw_curve(panel, figures)
    for panel in panels[len(result.classes) :]:
        panel.remove()
    figure.supxlabel("recall", fontsize=10, y=0.08 / height)
    figure.supylabel("precision", fontsize=10, x=0.05 / width)
    write_png(path, figure)


def _draw_curve(panel: "Axes", figures: ClassResult) -> None:
    name = figures.name
    if len(name) > _TITLE_LETTERS:
        name = f"{name[: _TITLE_LETTERS - 1]}…"
    panel.set_title(f"{name}  AP {percent_or_dash(figures.ap_11point)}", fontsize=9, pad=3)
    panel.set(xlim=(0, 1), ylim=(0, 1.02), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    panel.tick_params(labelsize=7)
    panel.grid(alpha=0.3, linewidth=0.5)
    if not figures.ground_truths:
        panel.text(0.5, 0.5, "no ground truth", ha="center", va="center", fontsize=8, color="gray")
        return
    # Between two true positives precision only falls, so the points where recall rises give the whole shape.
    rises = np.flatnonzero(np.diff(figures.recall, prepend=0) > 0)
    recall, precision = figures.recall[rises], figures.precision[rises]
    interpolated = np.maximum.accumulate(precision[::-1])[::-1]
    panel.fill_between(np.append(0, recall), np.append(interpolated[:1], interpolated), step="pre", alpha=0.2)
    panel.plot(recall, precision, linewidth=1)

"""Figures for people and programs: `metrics.json`, a table for the terminal, precision-recall plots."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.markup import escape
from rich.table import Table

from sppnet.common.files import atomic_path, write_json
from sppnet.eval.voc import ClassResult, VOCResult
from sppnet.eval.voc_classification import ImageClassificationResult

_PANEL_INCHES = (2.4, 2.3)
_DOTS_PER_INCH = 110
_LEAST_COLUMNS = 5  # VOC's twenty classes as 5 × 4


def metrics_dict(
    result: VOCResult,
    coco: Mapping[str, float] | None = None,
    settings: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """All figures as plain numbers, ready for JSON; nan, which JSON lacks, as None.

    Args:
        result: the VOC figures.
        coco: the figures of `sppnet.eval.coco.coco_metrics`, left out when None.
        settings: whatever the figures depend on: data set, split, model.
    """
    metrics: dict[str, object] = {
        "map_11point": _plain(result.map_11point),
        "map_area": _plain(result.map_area),
        "iou_threshold": result.iou_threshold,
        "counted_classes": result.counted_classes,
        "ground_truths": sum(one.ground_truths for one in result.classes),
        "detections": sum(one.detections for one in result.classes),
        "classes": {
            one.name: {
                "ap_11point": _plain(one.ap_11point),
                "ap_area": _plain(one.ap_area),
                "ground_truths": one.ground_truths,
                "detections": one.detections,
            }
            for one in result.classes
        },
    }
    if coco is not None:
        metrics["coco"] = {name: _plain(value) for name, value in coco.items()}
    return metrics | {"settings": dict(settings or {})}


def write_metrics(
    path: Path,
    result: VOCResult,
    coco: Mapping[str, float] | None = None,
    settings: Mapping[str, object] | None = None,
) -> None:
    """Writes `metrics_dict` of the same arguments as JSON, replacing the file as a whole.

    Raises:
        TypeError: a setting is nothing that JSON can hold.
        ValueError: a setting is nan or infinite.
    """
    write_json(path, metrics_dict(result, coco, settings), indent=2)


def class_table(result: VOCResult, title: str | None = None) -> Table:
    """The table of average precisions in percent, a class a row, the means below; – without ground truth."""
    table = Table(title=title and escape(title), show_footer=True)
    _add_means(table, result)
    ground_truths = sum(one.ground_truths for one in result.classes)
    detections = sum(one.detections for one in result.classes)
    table.add_column("ground truths", justify="right", footer=f"{ground_truths:,}")
    table.add_column("detections", justify="right", footer=f"{detections:,}")
    for one in result.classes:
        table.add_row(
            escape(one.name),
            _percent(one.ap_11point),
            _percent(one.ap_area),
            f"{one.ground_truths:,}",
            f"{one.detections:,}",
        )
    return table


def classification_dict(result: ImageClassificationResult) -> dict[str, object]:
    """All figures as plain numbers, ready for JSON; nan, which JSON lacks, as None."""
    return {
        "map_11point": _plain(result.map_11point),
        "map_area": _plain(result.map_area),
        "counted_classes": result.counted_classes,
        "classes": {
            one.name: {
                "ap_11point": _plain(one.ap_11point),
                "ap_area": _plain(one.ap_area),
                "positives": one.positives,
                "images": one.images,
            }
            for one in result.classes
        },
    }


def classification_table(result: ImageClassificationResult, title: str | None = None) -> Table:
    """The table of average precisions in percent, a class a row, the means below; – without positives."""
    table = Table(title=title and escape(title), show_footer=True)
    _add_means(table, result)
    table.add_column("positives", justify="right")
    table.add_column("images", justify="right")
    for one in result.classes:
        table.add_row(
            escape(one.name),
            _percent(one.ap_11point),
            _percent(one.ap_area),
            f"{one.positives:,}",
            f"{one.images:,}",
        )
    return table


def _add_means(table: Table, result: VOCResult | ImageClassificationResult) -> None:
    """The columns of classes and average precisions, with the means as their footers."""
    count = f"mean of {result.counted_classes}"
    if result.counted_classes < len(result.classes):
        count += f" of {len(result.classes)} classes"
    table.add_column("class", footer=count)
    table.add_column("AP 11-pt", justify="right", footer=_percent(result.map_11point))
    table.add_column("AP area", justify="right", footer=_percent(result.map_area))


def plot_precision_recall(path: Path, result: VOCResult) -> None:
    """Draws the precision-recall curve of every class, a panel each, into one PNG.

    The line is the measured precision, the shade below the interpolated one whose area is AP.

    Args:
        path: the file, replaced as a whole.
        result: any number of classes; panels keep their size and the picture grows.
    """
    columns = max(_LEAST_COLUMNS, math.isqrt(len(result.classes) - 1) + 1)
    rows = math.ceil(len(result.classes) / columns)
    width, height = columns * _PANEL_INCHES[0], rows * _PANEL_INCHES[1]
    figure = Figure(figsize=(width, height))
    # Margins by hand: the automatic layouts draw everything twice and take seconds for dozens of panels.
    margins = {
        "left": 0.5 / width,
        "right": 1 - 0.1 / width,
        "bottom": 0.5 / height,
        "top": 1 - 0.25 / height,
    }
    panels = figure.subplots(
        rows, columns, squeeze=False, gridspec_kw=margins | {"wspace": 0.22, "hspace": 0.28}
    )
    panels = panels.ravel()
    for panel, one in zip(panels, result.classes, strict=False):
        _draw_curve(panel, one)
    for panel in panels[len(result.classes) :]:
        panel.remove()
    figure.supxlabel("recall", fontsize=10, y=0.08 / height)
    figure.supylabel("precision", fontsize=10, x=0.05 / width)
    with atomic_path(path) as temporary:
        FigureCanvasAgg(figure).print_figure(temporary, format="png", dpi=_DOTS_PER_INCH)


def _draw_curve(panel: Axes, one: ClassResult) -> None:
    panel.set_title(f"{one.name}  AP {_percent(one.ap_11point)}", fontsize=9, pad=3)
    panel.set(xlim=(0, 1), ylim=(0, 1.02), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    panel.tick_params(labelsize=7)
    panel.grid(alpha=0.3, linewidth=0.5)
    if not one.ground_truths:
        panel.text(0.5, 0.5, "no ground truth", ha="center", va="center", fontsize=8, color="gray")
        return
    # Between two true positives precision only falls; the points where recall rises hold all of the shape.
    rises = np.flatnonzero(np.diff(one.recall, prepend=0) > 0)
    recall, precision = one.recall[rises], one.precision[rises]
    interpolated = np.maximum.accumulate(precision[::-1])[::-1]
    panel.fill_between(np.append(0, recall), np.append(interpolated[:1], interpolated), step="pre", alpha=0.2)
    panel.plot(recall, precision, linewidth=1)


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else float(value)

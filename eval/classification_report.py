"""Classification for people and programs: a table, JSON, the confusion matrix as CSV and as a picture."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.markup import escape
from rich.table import Table

from sppnet.common.files import atomic_path, write_json
from sppnet.eval.classification import ClassificationResult

_INCHES_A_CLASS = 0.3
_MOST_INCHES = 24
# Beyond so many classes, numbers and names in the picture cannot be read.
_NUMBERS_UP_TO = 40
_NAMES_UP_TO = 80
_DOTS_PER_INCH = 110


def accuracy_table(result: ClassificationResult, title: str | None = None) -> Table:
    """Images and accuracy of each class in percent, and what it is most often taken for; – without images."""
    table = Table(title=title and escape(title), show_footer=True)
    table.add_column("class", footer=f"{len(result.classes)} classes")
    table.add_column("images", justify="right", footer=f"{result.images:,}")
    table.add_column("accuracy", justify="right", footer=f"{100 * (1 - result.top1_error):.1f}")
    table.add_column("most often taken for")
    wrong = result.confusion.copy()
    np.fill_diagonal(wrong, 0)
    for name, row, mistakes, accuracy in zip(
        result.classes, result.confusion, wrong, result.accuracies, strict=True
    ):
        worst = int(mistakes.argmax())
        taken = f"{escape(result.classes[worst])} ({mistakes[worst]:,})" if mistakes[worst] else ""
        shown = "–" if math.isnan(accuracy) else f"{100 * accuracy:.1f}"
        table.add_row(escape(name), f"{row.sum():,}", shown, taken)
    return table


def accuracy_dict(
    result: ClassificationResult, settings: Mapping[str, object] | None = None
) -> dict[str, object]:
    """All figures as plain numbers, ready for JSON; nan, which JSON lacks, as None.

    Args:
        result: the figures.
        settings: whatever they depend on.
    """
    accuracies = [None if math.isnan(one) else float(one) for one in result.accuracies]
    return {
        "images": result.images,
        "top1_error": result.top1_error,
        "top5_error": result.top5_error,
        "accuracy": dict(zip(result.classes, accuracies, strict=True)),
        "classes": list(result.classes),
        "confusion": result.confusion.tolist(),
        "settings": dict(settings or {}),
    }


def write_classification(
    folder: Path, result: ClassificationResult, settings: Mapping[str, object] | None = None
) -> None:
    """Writes ``classification.json``, ``confusion.csv`` and ``confusion.png``, each replaced as a whole.

    Args:
        folder: made if need be.
        result: the figures.
        settings: JSON values that they depend on.
    """
    write_json(folder / "classification.json", accuracy_dict(result, settings), indent=1)
    with (
        atomic_path(folder / "confusion.csv") as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["true \\ predicted", *result.classes])
        writer.writerows(
            [name, *row] for name, row in zip(result.classes, result.confusion.tolist(), strict=True)
        )
    plot_confusion(folder / "confusion.png", result)


def plot_confusion(path: Path, result: ClassificationResult) -> None:
    """Draws the confusion matrix: shares of each true class' images as shades, their numbers on top.

    Args:
        path: a PNG, replaced as a whole.
        result: any number of classes; numbers are left out beyond 40, names beyond 80.
    """
    confusion, count = result.confusion, len(result.classes)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    side = min(2.5 + _INCHES_A_CLASS * count, _MOST_INCHES)
    figure = Figure(figsize=(side, side), layout="constrained")
    panel = figure.subplots()
    panel.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    panel.set(xlabel="predicted", ylabel="true")
    panel.set_title(f"top-1 error {100 * result.top1_error:.1f} %, {result.images:,} images", fontsize=10)
    names = count <= _NAMES_UP_TO
    panel.set_xticks(range(count) if names else [], result.classes if names else [], rotation=90, fontsize=7)
    panel.set_yticks(range(count) if names else [], result.classes if names else [], fontsize=7)
    if count <= _NUMBERS_UP_TO:
        for row, column in zip(*confusion.nonzero(), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            panel.text(
                column, row, str(confusion[row, column]), ha="center", va="center", fontsize=6, color=colour
            )
    with atomic_path(path) as temporary:
        FigureCanvasAgg(figure).print_figure(temporary, format="png", dpi=_DOTS_PER_INCH)

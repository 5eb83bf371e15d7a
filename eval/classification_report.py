"""Writes the figures of classification: a table, JSON, the confusion matrix."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sppnet.common.files import atomic_path, write_json
from sppnet.common.text import percent
from sppnet.eval.classification import ClassificationResult
from sppnet.eval.output import new_figure, new_table, number_or_none, percent_or_dash, write_png

if TYPE_CHECKING:
    from rich.table import Table

_INCHES_PER_CLASS = 0.3
_MAX_INCHES = 24
# Above these numbers of classes, numbers and names in the picture are too small to read.
_MAX_CLASSES_WITH_NUMBERS = 40
_MAX_CLASSES_WITH_NAMES = 80


def accuracy_table(result: ClassificationResult, title: str | None = None) -> "Table":
    """Makes a table of accuracies in percent, with the most frequent mistake of each class.

    A class without images shows –.

    Args:
        result: the figures.
        title: the title above the table.

    Example:
        >>> from sppnet.eval import evaluate_classification
        >>> scores = np.array([[0.9, 0.1], [0.6, 0.4]], np.float32)
        >>> table = accuracy_table(evaluate_classification(scores, np.array([0, 1]), ["cat", "dog"]))
        >>> [column.header for column in table.columns]
        ['class', 'images', 'accuracy', 'most often taken for']

    ``rich.print(table)`` shows it.
    """
    from rich.markup import escape

    table = new_table(title, show_footer=True)
    table.add_column("class", footer=f"{len(result.classes)} classes")
    table.add_column("images", justify="right", footer=f"{result.images:,}")
    table.add_column("accuracy", justify="right", footer=percent(1 - result.top1_error))
    table.add_column("most often taken for")
    mistakes = result.confusion.copy()
    np.fill_diagonal(mistakes, 0)
    for name, row, row_mistakes, accuracy in zip(
        result.classes, result.confusion, mistakes, result.accuracies, strict=True
    ):
        worst = int(row_mistakes.argmax())
        confused = f"{escape(result.classes[worst])} ({row_mistakes[worst]:,})" if row_mistakes[worst] else ""
        table.add_row(escape(name), f"{row.sum():,}", percent_or_dash(accuracy), confused)
    return table


def accuracy_dict(
    result: ClassificationResult, settings: Mapping[str, object] | None = None
) -> dict[str, object]:
    """Returns all figures of classification as plain numbers for JSON; None for NaN, which JSON lacks.

    Args:
        result: the figures.
        settings: JSON values that the figures depend on.
    """
    accuracies = map(number_or_none, result.accuracies)
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
        folder: the folder to write to; it is created if it is missing.
        result: the figures.
        settings: JSON values that the figures depend on.

    Example:
        >>> import tempfile
        >>> from sppnet.eval import evaluate_classification
        >>> scores = np.array([[0.9, 0.1], [0.6, 0.4]], np.float32)
        >>> result = evaluate_classification(scores, np.array([0, 1]), ["cat", "dog"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_classification(Path(folder), result)
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['classification.json', 'confusion.csv', 'confusion.png']
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
    """Draws the confusion matrix into a PNG: shares of each class's images as shades, counts as numbers.

    Args:
        path: the file, replaced as a whole.
        result: the figures; above 40 classes the numbers are left out, above 80 the names.

    Example:
        >>> import tempfile
        >>> from sppnet.eval import evaluate_classification
        >>> scores = np.array([[0.9, 0.1], [0.6, 0.4]], np.float32)
        >>> result = evaluate_classification(scores, np.array([0, 1]), ["cat", "dog"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "confusion.png")
        ...     plot_confusion(path, result)
        ...     path.read_bytes()[1:4]
        b'PNG'
    """
    confusion, count = result.confusion, len(result.classes)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    side = min(2.5 + _INCHES_PER_CLASS * count, _MAX_INCHES)
    figure = new_figure(side, side, layout="constrained")
    panel = figure.subplots()
    panel.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    panel.set(xlabel="predicted", ylabel="true")
    panel.set_title(f"top-1 error {percent(result.top1_error)} %, {result.images:,} images", fontsize=10)
    names = result.classes if count <= _MAX_CLASSES_WITH_NAMES else ()
    panel.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    panel.set_yticks(range(len(names)), names, fontsize=7)
    if count <= _MAX_CLASSES_WITH_NUMBERS:
        for row, column in zip(*confusion.nonzero(), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            panel.text(
                column, row, str(confusion[row, column]), ha="center", va="center", fontsize=6, color=colour
            )
    write_png(path, figure)

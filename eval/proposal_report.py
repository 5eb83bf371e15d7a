"""Writes the figures of proposals: tables, curves over the number of proposals, JSON."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sppnet.eval.boxes import Float64
from sppnet.eval.output import new_figure, new_table, number_or_none, percent_or_dash, write_png
from sppnet.eval.proposals import ALL, BEST, ProposalResult

if TYPE_CHECKING:
    from rich.table import Table

Results = Mapping[str, ProposalResult]

_PANEL_INCHES = (4.6, 3.4)


def proposal_curves(result: ProposalResult) -> dict[str, Float64]:
    """Returns the curves of a report: name to float64 (G,)."""
    return {
        "recall at IoU 0.5": result.recall(0.5),
        "recall at IoU 0.7": result.recall(0.7),
        "average recall": result.average_recall(),
        "MABO": result.mabo(),
    }


def proposals_dict(result: ProposalResult) -> dict[str, object]:
    """Returns all figures of proposals as plain numbers for JSON.

    NaN becomes None, and so does `ALL`, the count that stands for all proposals.

    Example:
        >>> from sppnet.eval import ProposalResult
        >>> overlaps, counts = np.array([[0.4, 0.8]]), np.array([BEST, ALL])
        >>> result = ProposalResult(("cat",), counts, overlaps, np.array([0]), np.array([3000]))
        >>> figures = proposals_dict(result)
        >>> figures["counts"], figures["curves"]["MABO"]
        ([2000, None], [0.4, 0.8])
    """
    return {
        "images": len(result.proposals_per_image),
        "objects": len(result.labels),
        "mean_windows": number_or_none(_mean_proposals(result)),
        "counts": [None if count == ALL else count for count in result.counts.tolist()],
        "curves": {name: _numbers(curve) for name, curve in proposal_curves(result).items()},
        "class_recall": _numbers(result.class_recall(0.5)),
        "abo": {name: _numbers(curve) for name, curve in zip(result.classes, result.abo(), strict=True)},
    }


def proposal_table(results: Results, title: str | None = None) -> "Table":
    """Makes a table of figures in percent, with a row for each method.

    A row shows the mean number of proposals per image, and each figure for the best 2,000 proposals and for
    all proposals.

    Args:
        results: name of the method to its figures, evaluated at counts that include `BEST` and `ALL`.
        title: the title above the table.

    Example:
        >>> from sppnet.eval import ProposalResult
        >>> overlaps, counts = np.array([[0.4, 0.8]]), np.array([BEST, ALL])
        >>> result = ProposalResult(("cat",), counts, overlaps, np.array([0]), np.array([3000]))
        >>> [column.header for column in proposal_table({"ours": result}).columns]
        ['proposals of', 'mean', 'recall at IoU 0.5', 'recall at IoU 0.7', 'average recall', 'MABO']

    ``rich.print(table)`` shows it.
    """
    from rich.markup import escape

    class_recalls = ", ".join(
        f"{name} {percent_or_dash(result.class_recall(0.5)[result.at(ALL)])}"
        for name, result in results.items()
    )
    caption = (
        f"in %, best {BEST:,} proposals/all; recall at IoU 0.5 of all, mean of the classes: {class_recalls}"
    )
    table = new_table(title, caption)
    table.add_column("proposals of", overflow="fold")
    table.add_column("mean", justify="right")
    for index, (name, result) in enumerate(results.items()):
        curves = proposal_curves(result)
        if index == 0:
            for curve in curves:
                table.add_column(curve, justify="right")
        best, last = result.at(BEST), result.at(ALL)
        pairs = (
            f"{percent_or_dash(curve[best])}/{percent_or_dash(curve[last])}" for curve in curves.values()
        )
        table.add_row(escape(name), f"{_mean_proposals(result):,.0f}", *pairs)
    return table


def abo_table(results: Results, title: str | None = None) -> "Table":
    """Makes a table of average best overlaps (ABO) in percent, with a row for each class.

    A row shows the number of objects, and the ABO of each method for the best 2,000 proposals.

    Args:
        results: name of the method to its figures, evaluated at counts that include `BEST`.
        title: the title above the table.

    Example:
        >>> from sppnet.eval import ProposalResult
        >>> overlaps, counts = np.array([[0.4, 0.8]]), np.array([BEST, ALL])
        >>> result = ProposalResult(("cat",), counts, overlaps, np.array([0]), np.array([3000]))
        >>> [column.header for column in abo_table({"ours": result}).columns]
        ['class', 'objects', 'ours']

    ``rich.print(table)`` shows it.
    """
    from rich.markup import escape

    table = new_table(title, f"ABO in %, best {BEST:,} proposals")
    table.add_column("class")
    table.add_column("objects", justify="right")
    for name in results:
        table.add_column(name, justify="right", overflow="fold")
    by_method = [result.abo()[:, result.at(BEST)] for result in results.values()]
    any_result = next(iter(results.values()))
    for label, name in enumerate(any_result.classes):
        objects = np.count_nonzero(any_result.labels == label)
        table.add_row(escape(name), f"{objects:,}", *(percent_or_dash(abo[label]) for abo in by_method))
    return table


def plot_proposals(path: Path, results: Results) -> None:
    """Draws each figure over the number of proposals, a line for each method, into a PNG.

    A line ends at the largest number of proposals of an image.

    Args:
        path: the file, replaced as a whole.
        results: name of the method to its figures.

    Example:
        >>> import tempfile
        >>> from sppnet.eval import ProposalResult
        >>> overlaps, counts = np.array([[0.4, 0.8]]), np.array([BEST, ALL])
        >>> result = ProposalResult(("cat",), counts, overlaps, np.array([0]), np.array([3000]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "proposals.png")
        ...     plot_proposals(path, {"ours": result})
        ...     path.read_bytes()[1:4]
        b'PNG'
    """
    figure = new_figure(2 * _PANEL_INCHES[0], 2 * _PANEL_INCHES[1], layout="constrained")
    panels = figure.subplots(2, 2, sharex=True).ravel()
    for name, result in results.items():
        largest = int(result.proposals_per_image.max(initial=1))
        shown = result.counts < largest
        for panel, (title, curve) in zip(panels, proposal_curves(result).items(), strict=True):
            # Beyond the largest number of an image the curve is flat, so its last point is valid there.
            panel.plot(
                [*result.counts[shown], largest], [*curve[shown], curve[-1]], label=name, linewidth=1.4
            )
            panel.set(title=title, xscale="log", ylim=(0, 1))
            panel.grid(alpha=0.3, linewidth=0.5)
    for panel in panels[2:]:
        panel.set_xlabel("proposals per image, best first")
    panels[0].legend(fontsize=8)
    write_png(path, figure)


def _mean_proposals(result: ProposalResult) -> float:
    return float(result.proposals_per_image.mean()) if len(result.proposals_per_image) else np.nan


def _numbers(curve: Float64) -> list[float | None]:
    return [number_or_none(value) for value in curve.round(6).tolist()]

"""Figures of proposals for people and programs: a table, curves over the number of windows, JSON."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.markup import escape
from rich.table import Table

from sppnet.common.files import atomic_path
from sppnet.eval.proposals import ALL, BEST, ProposalResult
from sppnet.eval.voc import Float64

Results = Mapping[str, ProposalResult]

_PANEL_INCHES = (4.6, 3.4)
_DOTS_PER_INCH = 110


def proposal_curves(result: ProposalResult) -> dict[str, Float64]:
    """The curves that are reported, float64 (G,) each, by name."""
    return {
        "recall at IoU 0.5": result.recall(0.5),
        "recall at IoU 0.7": result.recall(0.7),
        "average recall": result.average_recall(),
        "MABO": result.mabo(),
    }


def proposals_dict(result: ProposalResult) -> dict[str, object]:
    """All figures as plain numbers, ready for JSON; nan as None, and None as the count of all windows."""
    return {
        "images": len(result.windows),
        "objects": len(result.labels),
        "mean_windows": _plain(_mean_windows(result)),
        "counts": [None if count == ALL else count for count in result.counts.tolist()],
        "curves": {name: _numbers(curve) for name, curve in proposal_curves(result).items()},
        "class_recall": _numbers(result.class_recall(0.5)),
        "abo": {name: _numbers(curve) for name, curve in zip(result.classes, result.abo(), strict=True)},
    }


def proposal_table(results: Results, title: str | None = None) -> Table:
    """A method a row: windows an image, and each figure at the best 2,000 windows and at all.

    Args:
        results: by name, evaluated at counts with `BEST` and `ALL` among them.
        title: above the table.
    """
    of_classes = ", ".join(
        f"{name} {_percent(result.class_recall(0.5)[result.at(ALL)])}" for name, result in results.items()
    )
    caption = f"in %, best {BEST:,} windows/all; recall at IoU 0.5 of all, mean of the classes: {of_classes}"
    table = Table(title=title and escape(title), caption=caption)
    table.add_column("windows of", overflow="fold")
    table.add_column("mean", justify="right")
    for index, (name, result) in enumerate(results.items()):
        curves = proposal_curves(result)
        if index == 0:
            for curve in curves:
                table.add_column(curve, justify="right")
        best, last = result.at(BEST), result.at(ALL)
        pairs = (f"{_percent(curve[best])}/{_percent(curve[last])}" for curve in curves.values())
        table.add_row(escape(name), f"{_mean_windows(result):,.0f}", *pairs)
    return table


def abo_table(results: Results, title: str | None = None) -> Table:
    """A class a row: objects, and the average best overlap of each method at the best 2,000 windows."""
    table = Table(title=title and escape(title), caption=f"ABO in %, best {BEST:,} windows")
    table.add_column("class")
    table.add_column("objects", justify="right")
    for name in results:
        table.add_column(name, justify="right", overflow="fold")
    by_method = [result.abo()[:, result.at(BEST)] for result in results.values()]
    any_result = next(iter(results.values()))
    for label, name in enumerate(any_result.classes):
        objects = np.count_nonzero(any_result.labels == label)
        table.add_row(escape(name), f"{objects:,}", *(_percent(abo[label]) for abo in by_method))
    return table


def plot_proposals(path: Path, results: Results) -> None:
    """Draws each figure over the number of windows, a line a method, into one PNG.

    A line ends at the number of windows that no image has more of.

    Args:
        path: the file, replaced as a whole.
        results: by name.
    """
    figure = Figure(figsize=(2 * _PANEL_INCHES[0], 2 * _PANEL_INCHES[1]), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True).ravel()
    for name, result in results.items():
        most = int(result.windows.max(initial=1))
        shown = result.counts < most
        for panel, (title, curve) in zip(panels, proposal_curves(result).items(), strict=True):
            # Beyond the most windows of an image a curve is flat: its last point holds for that number too.
            panel.plot([*result.counts[shown], most], [*curve[shown], curve[-1]], label=name, linewidth=1.4)
            panel.set(title=title, xscale="log", ylim=(0, 1))
            panel.grid(alpha=0.3, linewidth=0.5)
    for panel in panels[2:]:
        panel.set_xlabel("windows an image, best first")
    panels[0].legend(fontsize=8)
    with atomic_path(path) as temporary:
        FigureCanvasAgg(figure).print_figure(temporary, format="png", dpi=_DOTS_PER_INCH)


def _mean_windows(result: ProposalResult) -> float:
    return float(result.windows.mean()) if len(result.windows) else np.nan


def _percent(value: float) -> str:
    return "–" if np.isnan(value) else f"{100 * value:.1f}"


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _numbers(curve: Float64) -> list[float | None]:
    return [_plain(value) for value in curve.round(6).tolist()]

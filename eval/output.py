"""Formats numbers, tables and pictures for all reports.

The functions that need rich and matplotlib import them, so that scoring starts without them.
"""

import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sppnet.common.files import atomic_path
from sppnet.common.text import percent
from sppnet.data.names import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

_DOTS_PER_INCH = 110


def percent_or_dash(value: float) -> str:
    """Formats a fraction as percent; – for NaN."""
    return "–" if math.isnan(value) else percent(value)


def number_or_none(value: float) -> float | None:
    """Returns the number in a form that JSON can hold: None for NaN."""
    return None if math.isnan(value) else float(value)


def new_table(title: str | None, caption: str | None = None, show_footer: bool = False) -> "Table":
    """Makes an empty table for the terminal; rich's markup in the title is not interpreted."""
    from rich.markup import escape
    from rich.table import Table

    return Table(title=title and escape(title), caption=caption, show_footer=show_footer)


def new_figure(width: float, height: float, layout: Literal["constrained"] | None = None) -> "Figure":
    """Makes an empty matplotlib figure.

    Args:
        width: the width in inches.
        height: the height in inches.
        layout: ``"constrained"`` makes room for titles and labels; None leaves the margins to the caller.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout=layout)


def write_png(path: Path, figure: "Figure") -> None:
    """Writes a figure as a PNG, replacing the file as a whole.

    Texts are drawn as they are: a class may be called ``$x_1$``. Characters that the font lacks become boxes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_parse_math(False)
        text.set_text(printable(text.get_text()))
    with atomic_path(path) as temporary, warnings.catch_warnings():
        # One warning for each character that the font lacks.
        warnings.filterwarnings("ignore", "Glyph|Matplotlib currently does not support")
        FigureCanvasAgg(figure).print_figure(temporary, format="png", dpi=_DOTS_PER_INCH)

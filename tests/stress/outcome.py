"""What a part of the campaign tried, what survived and what was lost, and the table of all parts."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from rich.table import Table


@dataclass
class Outcome:
    """The trials of one kind.

    Attributes:
        kind: what was tried.
        tried: number of inputs, kills or runs.
        survived: those of them with a right end.
        lost: a line for each wrong end, with the file or folder that shows it. A command that was killed
            four times and then ends wrong has a line, but four kills did not survive.
        refused: those of the tried that ended with an error, as they may in bad surroundings.
        skipped: why nothing was tried; empty where something was.
        note: a figure for people, such as the memory of a soak.
    """

    kind: str
    tried: int = 0
    survived: int = 0
    lost: list[str] = field(default_factory=list)
    refused: int = 0
    skipped: str = ""
    note: str = ""

    def count(self, loss: str = "", times: int = 1) -> None:
        """Counts trials with the same end; a text says why they are lost."""
        self.tried += times
        if loss:
            self.lost.append(loss)
        else:
            self.survived += times


def table(outcomes: Iterable[Outcome], caption: str = "") -> Table:
    """The table of the campaign: a row a kind, then the sums, then a caption."""
    outcomes = list(outcomes)
    result = Table(title="stress", caption=caption)
    for name in ("kind", "tried", "survived", "lost", "note"):
        result.add_column(name, justify="left" if name in ("kind", "note") else "right")
    for row in outcomes:
        note = f"skipped: {row.skipped}" if row.skipped else row.note
        if row.refused:
            note = f"{row.refused} of them ended with an error line"
        result.add_row(row.kind, *_figures(row.tried, row.survived), note)
    result.add_section()
    sums = sum(row.tried for row in outcomes), sum(row.survived for row in outcomes)
    result.add_row("all", *_figures(*sums), "")
    return result


def _figures(tried: int, survived: int) -> tuple[str, str, str]:
    return str(tried), str(survived), str(tried - survived)

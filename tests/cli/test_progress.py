"""Progress: estimates in a log, and bars."""

import io

from rich.console import Console

from sppnet.cli.progress import ProgressReport


def test_a_stage_that_begins_anew_has_a_new_estimate():
    """As the test after each epoch: the hours of training in between are not part of it."""
    now = 0.0
    out = io.StringIO()
    with ProgressReport(Console(file=out), clock=lambda: now) as progress:
        for epoch in (0, 100_000):
            for done in range(3):
                now = epoch + 60.0 * done
                progress("testing", done, 10)
    assert out.getvalue().splitlines() == [
        f"testing: {done} of 10, about {10 - done} min left" for done in (1, 2, 1, 2)
    ]


def test_bars_of_a_terminal_begin_anew():
    out = io.StringIO()
    with ProgressReport(Console(file=out, force_terminal=True, width=80)) as progress:
        for done in (5, 9, 2):
            progress("testing", done, 10)
    text = out.getvalue()
    assert "2/10" in text

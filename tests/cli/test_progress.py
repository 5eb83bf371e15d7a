"""Reports of progress: estimates in a log, and bars in a terminal."""

import io

from rich.console import Console

from sppnet.cli.progress import ProgressReport


def test_a_stage_that_begins_again_has_a_new_estimate():
    """Such as the test after each epoch: its estimate leaves out the hours of training between the tests."""
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


def test_bars_of_a_terminal_begin_again():
    out = io.StringIO()
    with ProgressReport(Console(file=out, force_terminal=True, width=80)) as progress:
        for done in (5, 9, 2):
            progress("testing", done, 10)
    text = out.getvalue()
    assert "2/10" in text

"""The command ``sppnet``."""

import logging
import os
import sys
from typing import Annotated

import typer

from sppnet.cli.commands import COMMANDS
from sppnet.cli.groups import lazy_group, new_app

app = new_app("SPP-net object detection on a CPU.", lazy_group(COMMANDS), add_completion=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        from sppnet import __version__

        print(f"sppnet {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """SPP-net object detection on a CPU."""


def main() -> None:
    """The entry point."""
    # One image at a time is computed on all cores; OpenCV's own threads would only compete. OpenCV reads this
    # when it is imported.
    os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")
    # Its warnings about videos and cameras; the command says what is wrong.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    app(prog_name="sppnet")

"""Calls the command sppnet as a person would."""

from typer.testing import CliRunner

from sppnet.cli.app import app
from sppnet.cli.terminal import console

# A detector that trains in a second: random AlexNet, one small scale, two pyramid levels, few proposals.
QUICK = (
    "--backbone", "alexnet", "--weights", "random", "--preset", "paper-1scale",
    "--set", "features.scales = [96]", "--set", "features.levels = [2, 1]",
    "--set", "proposals.max_proposals = 60",
)  # fmt: skip


def call(*arguments, app=app, columns=250):
    """Runs the command, or another app, in a terminal with a number of columns.

    An exception that the command does not turn into a message and an exit code is raised.
    """
    width = console.width
    console.width = columns
    try:
        texts = [str(argument) for argument in arguments]
        result = CliRunner().invoke(app, texts, env={"COLUMNS": str(columns)})
    finally:
        console.width = width
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def words(result):
    """Returns the output of a command with single blanks, because the terminal breaks long lines."""
    return " ".join(result.output.split())

"""The command sppnet, called as a person would."""

from typer.testing import CliRunner

from sppnet.cli.app import app


def call(*arguments, app=app):
    """Runs it, or another app; what it does not turn into a message and an exit code is raised."""
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result

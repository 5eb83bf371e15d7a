"""The terminal: one console, sentences, paths of what was written."""

from pathlib import Path

from rich.console import Console

from sppnet.common.errors import InputError

console = Console()


def say(sentence: str) -> None:
    """Prints a sentence as it is: no markup, no colours, and no line breaks, so that paths can be copied."""
    console.print(sentence, highlight=False, markup=False, soft_wrap=True)


def say_written(*paths: Path | str) -> None:
    """Prints where the results are: the last line of a command."""
    *others, last = map(str, paths)
    say("written: " + (f"{', '.join(others)} and " if others else "") + last)


def complain(complaint: str, skip_errors: bool) -> None:
    """Prints what was left out.

    Args:
        complaint: the sentence.
        skip_errors: whether the user asked for it.

    Raises:
        InputError: the user did not; it says the same.
    """
    if not skip_errors:
        raise InputError(complaint)
    say(complaint)

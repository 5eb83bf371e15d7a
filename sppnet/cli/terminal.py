"""Prints to the terminal: one console for all commands, sentences, paths of results."""

from pathlib import Path

from rich.console import Console

from sppnet.common.errors import InputError

console = Console()


def say(sentence: str) -> None:
    """Prints a sentence without markup, colours and line breaks, so that paths can be copied."""
    console.print(sentence, highlight=False, markup=False, soft_wrap=True)


def say_written(*paths: Path | str) -> None:
    """Prints the paths of the results, as the last line of a command."""
    *first, last = map(str, paths)
    say("written: " + (f"{', '.join(first)} and " if first else "") + last)


def complain(complaint: str, skip_errors: bool) -> None:
    """Prints a sentence about images that were left out, or raises it as an error.

    Args:
        complaint: the sentence.
        skip_errors: whether the user asked to leave out images.

    Raises:
        InputError: ``skip_errors`` is false; the message is the sentence.
    """
    if not skip_errors:
        raise InputError(complaint)
    say(complaint)

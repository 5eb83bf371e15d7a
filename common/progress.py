"""Progress of long work, reported by callback."""

from collections.abc import Callable

# Called with a stage's name, the number of steps or images done, and their total number.
Progress = Callable[[str, int, int], None]


def quiet(stage: str, done: int, total: int) -> None:
    """A `Progress` that does nothing.

    Example:
        >>> quiet("proposals", 3, 10)
    """

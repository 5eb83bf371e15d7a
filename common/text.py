"""Numbers as text for people."""


def percent(value: float) -> str:
    """A fraction of one in percent, with one digit after the point.

    Example:
        >>> percent(0.5871)
        '58.7'
    """
    return f"{100 * value:.1f}"

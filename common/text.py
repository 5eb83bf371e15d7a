"""Numbers as text for people."""

import re

# Names of classes of VOC and COCO that do not follow the rules of `counted`.
_PLURALS = {"knife": "knives", "mouse": "mice", "scissors": "scissors", "sheep": "sheep", "skis": "skis"}


def percent(value: float) -> str:
    """Formats a fraction as percent, with one digit after the point and no sign.

    Example:
        >>> percent(0.5871)
        '58.7'
    """
    return f"{100 * value:.1f}"


def counted(count: int, noun: str) -> str:
    """Joins a number and an English noun in singular or plural.

    Names that do not end with a small letter from a to z stay as they are.

    Example:
        >>> counted(1, "dog"), counted(2, "dog"), counted(3, "bus"), counted(2, "sheep"), counted(2, "K9")
        ('1 dog', '2 dogs', '3 buses', '2 sheep', '2 K9')
    """
    if count == 1 or not re.search(r"[a-z]$", noun):
        return f"{count} {noun}"
    if noun in _PLURALS:
        return f"{count} {_PLURALS[noun]}"
    if re.search(r"[^aeiou]y$", noun):
        return f"{count} {noun[:-1]}ies"
    return f"{count} {noun}{'es' if re.search(r'(s|x|z|ch|sh)$', noun) else 's'}"

"""The findings of a check of a data set."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["problem", "remark"]


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a data set, or worth a look.

    Attributes:
        severity: of a ``"problem"``, training or scoring would fail or mislead; a ``"remark"`` may be as it
            should.
        title: what it is, with a number.
        advice: what to do about it.
        details: the files or classes, with the fault of each where faults differ.
    """

    severity: Severity
    title: str
    advice: str
    details: tuple[str, ...] = ()

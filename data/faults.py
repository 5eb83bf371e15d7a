"""Faults that readers meet in a data set, image by image, so that all of them can be listed."""

from dataclasses import dataclass
from typing import Literal

from sppnet.common.errors import InputError

FaultKind = Literal["annotation", "box", "missing image", "missing annotation", "over the border"]


class BoxError(InputError):
    """A box that is empty, inverted, no number, or outside of its image."""


class MissingImageError(InputError):
    """An annotation or a list names an image file that is not there."""


class MissingAnnotationError(InputError):
    """A list names an image whose annotation file is not there."""


@dataclass(frozen=True)
class Fault:
    """Something wrong with one image of a data set.

    Attributes:
        kind: ``"over the border"``: boxes were clipped, and the image is used. Of every other kind: the image
            was left out, or at least the object that the message names.
        image_id: the image's id in the lists; empty where the fault belongs to no listed image.
        message: names the file, what is wrong, and what to do.

    Example:
        >>> Fault.of(BoxError("a.xml: object 1 (dog) has an inverted box; correct it"), "a").kind
        'box'
    """

    kind: FaultKind
    image_id: str
    message: str

    @classmethod
    def of(cls, error: InputError, image_id: str = "") -> "Fault":
        """The fault that an error of a reader tells of."""
        kinds: dict[type[InputError], FaultKind] = {
            BoxError: "box",
            MissingImageError: "missing image",
            MissingAnnotationError: "missing annotation",
        }
        return cls(kinds.get(type(error), "annotation"), image_id, str(error))

"""Images that are used as stored although EXIF asks to turn them."""

from sppnet.common.errors import InputError
from sppnet.data.images import image_header
from sppnet.data.types import Example


def is_taken_as_stored(example: Example) -> bool:
    """Whether an annotation is of the stored pixels though EXIF asks to turn them; its size tells that.

    Whoever decodes an image says whether it can be read; one that cannot is not taken as stored.
    """
    try:
        header = image_header(example.path)
    except InputError:
        return False
    return header.applied_orientation() != header.applied_orientation(example.size)

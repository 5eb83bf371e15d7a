"""An engine for boxes of another program, which must be imported into the cache."""

from dataclasses import asdict, dataclass
from typing import Any

from sppnet.common.arrays import FloatArray, Image
from sppnet.common.errors import InputError


@dataclass(frozen=True)
class ImportedBoxes:
    """Boxes that `sppnet.proposals.exchange.import_boxes` stored in the cache under a name.

    Attributes:
        name: the name under which the boxes were imported.

    Raises:
        InputError: the name is empty.

    Example:
        >>> ImportedBoxes("edge-boxes").parameters()
        {'engine': 'imported', 'name': 'edge-boxes'}
    """

    name: str

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise InputError("imported boxes need a name; give one")

    def propose(self, image: Image) -> FloatArray:
        """Always fails: an image has its boxes in the cache, or it has none.

        Args:
            image: uint8 (H, W, 3).

        Raises:
            InputError: always.
        """
        height, width = image.shape[:2]
        raise InputError(
            f"no boxes named {self.name!r} were imported for this {width} x {height} image; import them with "
            "'sppnet proposals-import', or use Selective Search"
        )

    def parameters(self) -> dict[str, Any]:
        """Returns the engine and the name; nothing else is known of the boxes."""
        return {"engine": "imported", **asdict(self)}

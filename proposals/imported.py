"""Boxes made elsewhere, as an engine: they are in the cache, or nowhere."""

from dataclasses import asdict, dataclass
from typing import Any

from sppnet.common.arrays import FloatArray, Image
from sppnet.common.errors import InputError


@dataclass(frozen=True)
class ImportedBoxes:
    """Boxes that `sppnet.proposals.exchange.import_boxes` put into the cache under a name.

    Attributes:
        name: what they were called then.
    """

    name: str

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise InputError("imported boxes need a name; give one")

    def propose(self, image: Image) -> FloatArray:
        """Always fails: an image without imported boxes has none.

        Raises:
            InputError: always.
        """
        height, width = image.shape[:2]
        raise InputError(
            f"no boxes named {self.name!r} were imported for this {width} x {height} image; import them with "
            "'sppnet proposals-import', or use Selective Search"
        )

    def parameters(self) -> dict[str, Any]:
        """The name, which is all that is known of them."""
        return {"engine": "imported", **asdict(self)}

"""An extractor that passes pooled vectors through fully connected layers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sppnet.common.arrays import FloatArray, Image, IntArray
from sppnet.common.stopwatch import Stopwatch
from sppnet.detection.backbones import Network, tensors_digest
from sppnet.detection.fc_layers import FullyConnected
from sppnet.detection.features.extractor import Extractor, PooledFeatures, PreparedStore
from sppnet.detection.features.settings import FeatureSettings


@dataclass(frozen=True, eq=False)
class LayeredExtractor:
    """An extractor followed by fully connected layers; see `Extractor`.

    Attributes:
        extractor: makes pooled vectors.
        layers: the layers that take the pooled vectors.
    """

    extractor: Extractor
    layers: FullyConnected

    @property
    def network(self) -> Network:
        """See `Extractor.network`."""
        return self.extractor.network

    @property
    def settings(self) -> FeatureSettings:
        """The settings of the inner extractor."""
        return self.extractor.settings

    @property
    def clock(self) -> Stopwatch:
        """The clock of the inner extractor."""
        return self.extractor.clock

    @property
    def length(self) -> int:
        """Number of outputs of the last layer."""
        return self.layers.length

    @property
    def pooled_length(self) -> int:
        """See `Extractor.pooled_length`."""
        return self.extractor.pooled_length

    def prepare(self, image: Image) -> Any:
        """See `Extractor.prepare`."""
        return self.extractor.prepare(image)

    def extract(self, prepared: Any, boxes: FloatArray, scales: IntArray | None = None) -> PooledFeatures:
        """See `Extractor.extract`."""
        pooled = self.extractor.extract(prepared, boxes, scales)
        return PooledFeatures(self.layers(pooled.features), pooled.rows)

    def store(self, folder: Path, max_bytes: int) -> PreparedStore:
        """Opens the store of the inner extractor, because layers do not change prepared images."""
        return self.extractor.store(folder, max_bytes)

    def identity(self) -> dict[str, Any]:
        """See `Extractor.identity`."""
        return self.extractor.identity() | {"layers": tensors_digest(self.layers.tensors())}

"""Networks: an image goes in, a feature map with its geometry comes out."""

from sppnet.detection.backbones.base import Network, Normalisation
from sppnet.detection.backbones.build import (
    build_network,
    network_from_config,
    tensors_digest,
    weights_digest,
)
from sppnet.detection.backbones.geometry import Geometry, probe
from sppnet.detection.backbones.taps import TapNormalisation, fit_taps

__all__ = [
    "Geometry",
    "Network",
    "Normalisation",
    "TapNormalisation",
    "build_network",
    "fit_taps",
    "network_from_config",
    "probe",
    "tensors_digest",
    "weights_digest",
]

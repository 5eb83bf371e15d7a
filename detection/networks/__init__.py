"""Networks: an image goes in, a feature map with its geometry comes out."""

from detection.networks.base import Network, Normalisation
from detection.networks.build import build_network, network_from_config, tensors_digest, weights_digest
from detection.networks.geometry import Geometry, probe
from detection.networks.taps import TapNormalisation, fit_taps

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

"""Networks: an image goes in, a feature map with its geometry comes out."""

from sppnet.detection.backbones.base import Network, Normalisation
from sppnet.detection.backbones.build import (
    build_network,
    network_from_config,
    tensors_digest,
    weights_digest,
)
from sppnet.detection.backbones.feature_levels import FeatureLevels, fit_feature_levels
from sppnet.detection.backbones.geometry import Geometry, probe

__all__ = [
    "FeatureLevels",
    "Geometry",
    "Network",
    "Normalisation",
    "build_network",
    "fit_feature_levels",
    "network_from_config",
    "probe",
    "tensors_digest",
    "weights_digest",
]

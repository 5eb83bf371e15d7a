"""Backbones: networks that turn an image into a feature map with its geometry."""

from sppnet.detection.backbones.base import Network
from sppnet.detection.backbones.build import build_network, network_from_config
from sppnet.detection.backbones.digests import tensors_digest, weights_digest
from sppnet.detection.backbones.feature_levels import FeatureLevels, fit_feature_levels
from sppnet.detection.backbones.geometry import Geometry
from sppnet.detection.backbones.normalisation import Normalisation
from sppnet.detection.backbones.probing import probe

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

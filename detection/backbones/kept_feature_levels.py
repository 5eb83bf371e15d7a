"""Fits the constants that join a network's feature levels once, and keeps them on disk."""

from collections.abc import Callable

import numpy as np
import torch

from sppnet.common.checkpoint import Checkpoint
from sppnet.detection.backbones.base import Network
from sppnet.detection.backbones.feature_levels import FeatureLevels


def set_kept_feature_levels(
    network: Network, kept: Checkpoint, fit: Callable[[], FeatureLevels], components: int | None = None
) -> None:
    """Sets the constants of a network from a checkpoint; fits and saves them if there is none.

    If the constants were fitted again, with other threads or libraries, they might differ in their last bits,
    and all that is stored under a digest of them would be lost.

    Args:
        network: the network whose feature levels are set.
        kept: the checkpoint of the constants, for this network, these images and these settings.
        fit: computes the constants; called if there is no checkpoint.
        components: principal components that the map is reduced to; ``None``: no reduction.
    """
    state = kept.load()
    if state is None:
        feature_levels = fit()
        kept.save({name: tensor.numpy() for name, tensor in feature_levels.state_dict().items()})
    else:
        feature_levels = FeatureLevels(network.feature_levels.level_channels, components)
        feature_levels.load_state_dict(
            {name: torch.from_numpy(np.array(array)) for name, array in state.items()}
        )
    network.set_feature_levels(feature_levels)

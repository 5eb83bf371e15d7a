"""The constants that join a network's maps, fitted once and kept."""

from collections.abc import Callable

import numpy as np
import torch

from sppnet.common.checkpoint import Checkpoint
from sppnet.detection.backbones import FeatureLevels, Network


def set_kept_feature_levels(
    network: Network, kept: Checkpoint, fit: Callable[[], FeatureLevels], components: int | None = None
) -> None:
    """Gives a network the constants kept in a checkpoint, or fits and keeps them.

    Fitted anew, by another number of threads or another library, they might differ in their last bits, and
    all that is stored by a digest of them would be lost.

    Args:
        network: whose taps are set.
        kept: where the constants are; made for this network, these images and settings.
        fit: called where they are not.
        components: of the PCA that reduces the map; None: it is not reduced.
    """
    state = kept.load()
    if state is None:
        feature_levels = fit()
        kept.save({name: tensor.numpy() for name, tensor in feature_levels.state_dict().items()})
    else:
        feature_levels = FeatureLevels(network.feature_levels.level_channels, components)
        feature_levels.load_state_dict({name: torch.from_numpy(np.array(one)) for name, one in state.items()})
    network.set_feature_levels(feature_levels)

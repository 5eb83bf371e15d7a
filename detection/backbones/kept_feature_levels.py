"""The constants that join a network's feature levels, fitted once and kept on disk."""

from collections.abc import Callable

import numpy as np
import torch

from sppnet.common.checkpoint import Checkpoint
from sppnet.detection.backbones.base import Network
from sppnet.detection.backbones.feature_levels import FeatureLevels


def set_kept_feature_levels(
    network: Network, kept: Checkpoint, fit: Callable[[], FeatureLevels], components: int | None = None
) -> None:
    """Gives a network the constants kept in a checkpoint, or fits and keeps them.

    Fitted anew, by another number of threads or another library, they might differ in their last bits, and
    all that is stored by a digest of them would be lost.

    Args:
        network: whose feature levels are set.
        kept: the file of the constants; made for this network, these images and settings.
        fit: called where there is no such file.
        components: of the PCA that reduces the map; ``None``: it is not reduced.
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

"""Fits the constants that join a network's feature levels, on images of the training set."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from sppnet.common.checkpoint import Checkpoint
from sppnet.common.progress import Progress
from sppnet.data.types import Dataset
from sppnet.detection.backbones import fit_feature_levels, weights_digest
from sppnet.detection.backbones.kept_feature_levels import set_kept_feature_levels
from sppnet.detection.features.extractor import Extractor, resize_to_scales
from sppnet.detection.training.presets import RunSettings


def join_feature_levels(
    dataset: Dataset, extractor: Extractor, settings: RunSettings, work: Path, progress: Progress
) -> None:
    """Gives the network the constants that join its feature levels, or that reduce its map (PCA).

    Nothing is done where the network has one level and no PCA is asked for. The constants are kept in
    ``work`` for when training goes on: the checkpoint and all stored maps are named by a digest of them.

    Args:
        dataset: the images of training.
        extractor: whose network gets the constants.
        settings: of the run.
        work: folder where the constants are kept.
        progress: called with a stage's name, images done, images in all.
    """
    network, training = extractor.network, settings.training
    components = settings.network.pca or None
    if len(network.feature_levels.level_channels) == 1 and components is None:
        return
    purpose = {
        "feature levels of": weights_digest(network),
        "settings": settings.without_finetuning(),
        "dataset": dataset.digest(),
    }
    count = min(training.feature_level_images, len(dataset))
    chosen = np.sort(np.random.default_rng(training.seed).choice(len(dataset), count, replace=False))

    def level_maps() -> Iterator[list[Tensor]]:
        for done, index in enumerate(chosen):
            progress("feature levels", done, count)
            image = dataset[int(index)].read()
            for resized, _ in resize_to_scales(image, extractor.settings):
                yield network.level_maps(resized)
        progress("feature levels", count, count)

    set_kept_feature_levels(
        network, Checkpoint(work, purpose), lambda: fit_feature_levels(level_maps(), components), components
    )

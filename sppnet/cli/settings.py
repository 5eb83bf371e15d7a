"""Reads the settings of a run from options, without torch."""

from pathlib import Path

from sppnet.cli.datasets import short_name
from sppnet.cli.options import SettingsOptions
from sppnet.common.folders import PROPOSALS
from sppnet.detection.training.presets import RunSettings, make_settings
from sppnet.proposals import ProposalCache


def read_settings(options: SettingsOptions) -> RunSettings:
    """Returns the preset, changed by the file of settings, single settings, and backbone and weights.

    Raises:
        InputError: a preset or setting is unknown, a value is wrong, or a file cannot be read.
    """
    network = {"name": options.backbone, "weights": options.weights}
    given = {name: value for name, value in network.items() if value}
    return make_settings(options.preset, options.config, options.change or (), given)


def default_run_name(dataset: str, settings: RunSettings, preset: str) -> str:
    """Returns the default name of a run.

    Args:
        dataset: the name of the data set.
        settings: the settings of the run.
        preset: the preset of the settings.
    """
    return "-".join([short_name(dataset), settings.network.name, preset])


def open_cache(folder: Path, settings: RunSettings) -> ProposalCache:
    """Opens the offline cache for the proposals of these settings.

    Args:
        folder: of the caches.
        settings: of a run.

    Raises:
        InputError: see `ProposalCache`.
    """
    return ProposalCache(folder / PROPOSALS, settings.proposer)

"""From options to the settings of a run; without torch."""

from sppnet.cli.datasets import short_name
from sppnet.cli.options import SettingsOptions
from sppnet.common.folders import PROPOSALS
from sppnet.detection.training.presets import RunSettings, make_settings
from sppnet.proposals import ProposalCache


def read_settings(options: SettingsOptions) -> RunSettings:
    """The preset, overridden by the file of settings, by single settings, and by backbone and weights.

    Raises:
        InputError: an unknown preset or setting, a wrong value, or a file that cannot be read.
    """
    network = {"name": options.backbone, "weights": options.weights}
    given = {name: value for name, value in network.items() if value}
    return make_settings(options.preset, options.config, options.change or (), given)


def default_run_name(dataset: str, settings: RunSettings, preset: str) -> str:
    """The name of a run that the options do not name.

    Args:
        dataset: the data set's name.
        settings: of the run.
        preset: that they come from.
    """
    return "-".join([short_name(dataset), settings.network.name, preset])


def open_cache(settings: RunSettings) -> ProposalCache:
    """The offline cache, for proposals of these settings."""
    return ProposalCache(PROPOSALS, settings.proposer)

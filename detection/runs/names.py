"""Names of files and folders of runs."""

from pathlib import Path

from sppnet.detection.training.choices import HEADS, HeadName


def named_by_head(name: str, head: str) -> str:
    """Returns the name of a run's file or folder for a head: the name alone for pool5, else with the head.

    Example:
        >>> named_by_head("model", "pool5"), named_by_head("model", "fc7")
        ('model', 'model-fc7')
    """
    return name if head == "pool5" else f"{name}-{head}"


def trained_heads(runs: Path) -> dict[str, list[HeadName]]:
    """Returns name of the run to its trained heads, for the runs in a folder that have trained heads."""
    heads_by_run = {}
    for folder in sorted(runs.iterdir()) if runs.is_dir() else ():
        heads = [head for head in HEADS if (folder / named_by_head("model", head) / "model.json").is_file()]
        if heads:
            heads_by_run[folder.name] = heads
    return heads_by_run

"""The command ``sppnet``."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import cv2
import typer

from sppnet.cli.classify import classify_command
from sppnet.cli.classify_svm import classify_svm_command
from sppnet.cli.compare import combine_command, compare_command
from sppnet.cli.distill import distill_command
from sppnet.cli.options import SAMPLE, VOC_ROOT, VocRoot, console, reported
from sppnet.cli.pretrain import crops_command, pretrain_command
from sppnet.cli.progress import ProgressReport
from sppnet.cli.proposals import (
    evaluate_proposals,
    proposals,
    proposals_export,
    proposals_import,
)
from sppnet.cli.run import detect, evaluate, finetune_layers, train
from sppnet.common.errors import InputError
from sppnet.data import VOC2007_URL, download_voc2007, make_sample

app = typer.Typer(no_args_is_help=True, add_completion=False, help="SPP-net object detection on a CPU.")
data_app = typer.Typer(no_args_is_help=True, help="Data sets: download VOC2007, write the built-in sample.")
_COMMANDS: dict[str, Callable[..., None]] = {
    "detect": detect,
    "eval": evaluate,
    "train": train,
    "finetune": finetune_layers,
    "combine": combine_command,
    "compare": compare_command,
    "proposals": proposals,
    "proposals-import": proposals_import,
    "proposals-export": proposals_export,
    "eval-proposals": evaluate_proposals,
    "classify": classify_command,
    "classify-svm": classify_svm_command,
    "pretrain": pretrain_command,
    "distill": distill_command,
}
for name, command in _COMMANDS.items():
    app.command(name)(command)
app.add_typer(data_app, name="data")
data_app.command("crops")(crops_command)


@data_app.command()
@reported
def download(
    name: Annotated[str, typer.Argument(help="voc2007")],
    voc_root: VocRoot = VOC_ROOT,
    base_url: Annotated[str, typer.Option(help="Folder on a server that holds the archives.")] = VOC2007_URL,
) -> None:
    """Downloads a data set; a broken download goes on where it stopped."""
    if name != "voc2007":
        raise InputError(f"no download of {name!r}; there is voc2007")
    with ProgressReport(console) as progress:
        folder = download_voc2007(
            voc_root, base_url, progress=lambda file, done, total: progress(file, done, total or done)
        )
    console.print(f"VOC2007: {folder}", highlight=False)


@data_app.command()
@reported
def sample(folder: Annotated[Path, typer.Argument(help="Where to.")] = SAMPLE) -> None:
    """Writes the built-in sample."""
    console.print(f"sample: {make_sample(folder)}", highlight=False)


def main() -> None:
    """The entry point."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # One image at a time is computed on all cores; OpenCV's own threads would only compete.
    cv2.setNumThreads(1)
    app()

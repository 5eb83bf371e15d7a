"""What the modules of commands share: the terminal, option types, errors as one line, the choice of data."""

import functools
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ParamSpec

import typer
from rich.console import Console

from sppnet.common.errors import InputError
from sppnet.detection.training.presets import PRESETS

Parameters = ParamSpec("Parameters")

console = Console()

SAMPLE = Path("datasets/sample")
VOC_ROOT = Path("datasets/VOCdevkit")

DatasetName = Annotated[
    str,
    typer.Option(
        help="voc2007, voc2012, sample, a folder in VOC's layout, coco:<json>:<images> ({split} stands for "
        "the split) or ilsvrc:<folder>; empty: voc2007 if it is on disk, else sample."
    ),
]
VocRoot = Annotated[Path, typer.Option(envvar="VOC_ROOT", help="The VOC devkit folder.")]
TrainSplit = Annotated[
    str, typer.Option(help="Split to train on; empty: trainval where it is, train for a test on val.")
]
TestSplit = Annotated[str, typer.Option(help="Split to detect in and score on.")]
Backbone = Annotated[str, typer.Option(help="Network; empty: the preset's.")]
Weights = Annotated[str, typer.Option(help="Weights file, or random; empty: the network's own.")]
Preset = Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}.")]
Config = Annotated[Path | None, typer.Option(help="TOML file of settings over the preset's.")]
Change = Annotated[
    list[str] | None, typer.Option("--set", help="One setting, as TOML: 'features.scales = [480, 576]'.")
]
RunName = Annotated[
    str, typer.Option(help="Folder below runs/; empty: named by data set, network and preset.")
]
Jobs = Annotated[
    int, typer.Option(min=-1, help="Processes for proposals, or images at a time; -1 or 0: one a core.")
]
Limit = Annotated[int, typer.Option(min=0, help="Only the first images of each split; 0: all.")]
SkipErrors = Annotated[bool, typer.Option(help="Leave out images that cannot be read, and say how many.")]
MapGb = Annotated[
    float, typer.Option(min=0, max=1e6, help="Bound on stored feature maps in cache/maps, in GB.")
]
HeadName = Annotated[
    str,
    typer.Option("--head", help="What scores windows: SVMs on pool5, fc6 or fc7, or the fine-tuned softmax."),
]
FcRank = Annotated[
    int, typer.Option(min=0, help="Truncate fully connected layers to this rank (SVD) to detect; 0: do not.")
]
BFloat16 = Annotated[
    bool,
    typer.Option("--bfloat16", help="Compute layers in bfloat16 to detect: for processors that have it."),
]


def complain(complaint: str, skip_errors: bool) -> None:
    """Raises an `InputError` that says what was left out; with ``--skip-errors`` prints it."""
    if not skip_errors:
        raise InputError(complaint)
    console.print(complaint, highlight=False, markup=False, soft_wrap=True)


def reported(command: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """Turns bad input and Ctrl-C into one line and an exit code."""

    @functools.wraps(command)
    def wrapper(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        for stream in (sys.stdout, sys.stderr):
            # Not every name that a disk holds is UTF-8.
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            command(*args, **kwargs)
        except InputError as error:
            Console(stderr=True).print(f"error: {error}", style="bold red", markup=False, highlight=False)
            raise typer.Exit(2) from None
        except OSError as error:
            place = error.filename or "a file"
            Console(stderr=True).print(
                f"error: {place}: {error.strerror or error}; check the folder and the space left",
                style="bold red", markup=False, highlight=False,
            )  # fmt: skip
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            Console(stderr=True).print("stopped; the same command goes on from here")
            raise typer.Exit(130) from None

    return wrapper


def choose_dataset(dataset: str, voc_root: Path) -> tuple[str, Path | None]:
    """The data set that a command works on: the one named, else VOC2007 on disk, else the sample.

    Which it is, and why, is printed.

    Returns:
        its name; and ``voc_root``, None where there is no such folder.
    """
    if dataset:
        name, why = dataset, "as asked"
    elif (voc_root / "VOC2007").is_dir():
        name, why = "voc2007", f"found in {voc_root}"
    else:
        name = "sample"
        why = (
            f"built in, since there is no VOC2007 in {voc_root}: set VOC_ROOT, "
            "or run 'sppnet data download voc2007'"
        )
    console.print(f"data set: {name} ({why})", highlight=False)
    return name, voc_root if voc_root.is_dir() else None


def percent(value: float) -> str:
    """A part of one, for people."""
    return f"{100 * value:.1f}"

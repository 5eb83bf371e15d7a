"""The command ``sppnet predict``."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from sppnet.cli.command import Without, command
from sppnet.cli.options import HeadOptions, Jobs, SkipErrors
from sppnet.common.errors import InputError
from sppnet.common.folders import RUNS
from sppnet.detection.runs.names import named_by_head, trained_heads
from sppnet.detection.training.choices import HeadName


@command
def predict(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO", help="Image files, or folders of images.")],
    *,
    model: Annotated[Path | None, typer.Option(help="Folder of a trained detector.")] = None,
    run: Annotated[str, typer.Option(help="In place of --model: a run, by its name below runs/.")] = "",
    head: Annotated[
        HeadName | None, typer.Option(help="With --run: another of its heads than pool5.")
    ] = None,
    draw: Annotated[Path | None, typer.Option(help="Folder for pictures with the boxes drawn.")] = None,
    min_score: Annotated[
        float | None,
        typer.Option(
            help="Print and draw detections of at least this score: margin, or log-odds of softmax; by "
            "default -0.75 or even odds."
        ),
    ] = None,
    regression: Annotated[
        bool, typer.Option(help="Boxes moved by regression, or as they were proposed.")
    ] = True,
    skip_errors: SkipErrors = False,
    jobs: Jobs = -1,
    approximation: Annotated[HeadOptions, Without("head")],
) -> None:
    """Detects objects in photos with a trained detector; prints the boxes, and draws them."""
    folder = _model_folder(model, run, head)
    from sppnet.cli.photos import detect_in_photos
    from sppnet.cli.terminal import say
    from sppnet.detection.detector import Detector
    from sppnet.proposals import ImportedBoxes, SelectiveSearch

    detector = Detector.load(folder).approximated(approximation.fc_rank, approximation.bfloat16)
    if not regression:
        detector = replace(detector, regressors=None)
    if isinstance(detector.engine, ImportedBoxes):
        say("warning: trained on imported boxes, of which these images have none; Selective Search")
        detector = replace(detector, engine=SelectiveSearch())
    least = detector.working_score if min_score is None else min_score
    detect_in_photos(detector, photos, draw, least, skip_errors, max(jobs, 0))


def _model_folder(model: Path | None, run: str, head: HeadName | None) -> Path:
    """The folder of the detector that the options name.

    Raises:
        InputError: they name none, or two, or a run that has none; the runs that have one are named.
    """
    if model is not None:
        if run or head:
            raise InputError("--model is a detector with its own head: leave out --run and --head")
        return model
    heads_by_run = trained_heads(RUNS)
    there_are = "; ".join(f"--run {name} ({', '.join(heads)})" for name, heads in heads_by_run.items())
    advice = f"there are: {there_are}" if there_are else "train a detector: sppnet train DATASET --run NAME"
    if not run:
        raise InputError(f"no --model and no --run to detect with; {advice}")
    head = head or "pool5"
    if head not in heads_by_run.get(run, ()):
        raise InputError(f"{RUNS / run}: has no trained detector with head {head}; {advice}")
    return RUNS / run / named_by_head("model", head)

"""The command ``sppnet predict``."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sppnet.cli.command import Without, command
from sppnet.cli.options import HeadOptions, Jobs, OutputOptions, PhotoOptions
from sppnet.common.errors import InputError
from sppnet.common.folders import RUNS
from sppnet.detection.runs.names import named_by_head, trained_heads
from sppnet.detection.training.choices import HeadName

if TYPE_CHECKING:
    from sppnet.detection.detector import Detector


@command
def predict(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PATH", help="Photos, videos, folders of photos, patterns such as 'photos/*.jpg'."
        ),
    ] = None,
    *,
    model: Annotated[Path | None, typer.Option(help="Folder of a trained detector.")] = None,
    run: Annotated[str, typer.Option(help="In place of --model: a run, by its name below runs/.")] = "",
    head: Annotated[
        HeadName | None, typer.Option(help="With --run: another of its heads than pool5.")
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(
            help="Least score of detections; by default a threshold for each class, with the best F1."
        ),
    ] = None,
    precision: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Show so many that this part of them is right, such as 0.9."),
    ] = None,
    regression: Annotated[
        bool, typer.Option(help="Boxes moved by regression, or as they were proposed.")
    ] = True,
    jobs: Jobs = -1,
    photos: PhotoOptions,
    outputs: OutputOptions,
    approximation: Annotated[HeadOptions, Without("head")],
) -> None:
    """Detects objects in photos and videos with a trained detector; prints them, draws and writes files."""
    if min_score is not None and precision is not None:
        raise InputError("--min-score and --precision both choose a threshold; give one of them")
    folder = _model_folder(model, run, head)
    from sppnet.cli.photo_files import choose_photos

    inputs = choose_photos(paths or [], photos, outputs)

    from sppnet.cli.photos import PhotoDetector
    from sppnet.cli.terminal import say
    from sppnet.detection.detector import Detector

    detector = Detector.load(folder).approximated(approximation.fc_rank, approximation.bfloat16)
    if not regression:
        detector = replace(detector, regressors=None)
    if detector.calibration is None:
        say("warning: trained without calibration: scores are margins or log-odds, not probabilities")
    threshold: str | float = "f1" if min_score is None else min_score
    if precision is not None:
        threshold = f"precision:{precision}"
    PhotoDetector(_with_engine(detector), threshold, outputs, max(jobs, 0)).detect(inputs, photos)


def _with_engine(detector: "Detector") -> "Detector":
    """Replaces imported boxes, which photos do not have, by Selective Search."""
    from sppnet.cli.terminal import say
    from sppnet.proposals import ImportedBoxes, SelectiveSearch

    if not isinstance(detector.engine, ImportedBoxes):
        return detector
    say("warning: trained on imported boxes, of which these images have none; Selective Search")
    return replace(detector, engine=SelectiveSearch())


def _model_folder(model: Path | None, run: str, head: HeadName | None) -> Path:
    """Returns the folder of the detector that the options name.

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

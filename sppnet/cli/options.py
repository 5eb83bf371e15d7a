"""Groups of options that several commands or modules use."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from sppnet.cli.choices import PRESETS, TestViews, ViewSource
from sppnet.common.folders import CACHE, VOC_ROOT
from sppnet.detection.training.choices import HeadName


def _presets(incomplete: str) -> list[str]:
    return [name for name in PRESETS if name.startswith(incomplete)]


Limit = Annotated[int, typer.Option(min=0, help="Only the first images of each split; 0: all.")]
SkipErrors = Annotated[bool, typer.Option(help="Leave out images that cannot be read, and say how many.")]
Weights = Annotated[str, typer.Option(help="Weights file, or random; empty: the network's own.")]
Backbone = Annotated[str, typer.Option(help="Network; empty: the preset's.")]
Config = Annotated[Path | None, typer.Option(help="TOML file of settings over the preset's.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="One setting, as TOML: 'features.scales = [480, 576]'; repeatable."),
]
MapGb = Annotated[float, typer.Option(min=0, max=1e6, help="Bound on stored feature maps, in GB.")]
Cache = Annotated[
    Path,
    typer.Option(
        envvar="SPPNET_CACHE",
        help="Folder that keeps proposals and feature maps, on a disk with file locks; it may be deleted.",
    ),
]
Jobs = Annotated[
    int, typer.Option(min=-1, help="Processes for proposals, or images at a time; -1 or 0: one a core.")
]


@dataclass(frozen=True)
class DataOptions:
    """The data set, and how much of it."""

    PANEL: ClassVar[str] = "Data set"

    dataset: Annotated[
        str,
        typer.Option(
            help="voc2007, voc2012, sample, a folder of images annotated in VOC's, COCO's or YOLO's form, "
            "coco:<json>:<images> ({split} stands for the split) or ilsvrc:<folder>; empty: voc2007 if it is "
            "on disk, else sample."
        ),
    ] = ""
    voc_root: Annotated[Path, typer.Option(envvar="VOC_ROOT", help="The VOC devkit folder.")] = VOC_ROOT
    train_split: Annotated[
        str, typer.Option(help="Split to train on; empty: trainval where it is, train for a test on val.")
    ] = ""
    test_split: Annotated[str, typer.Option(help="Split to detect in and score on.")] = "test"
    limit: Limit = 0
    skip_errors: SkipErrors = False


@dataclass(frozen=True)
class SettingsOptions:
    """The settings of a run."""

    PANEL: ClassVar[str] = "Settings"

    preset: Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}.", autocompletion=_presets)] = (
        "default"
    )
    backbone: Backbone = ""
    weights: Weights = ""
    config: Config = None
    change: Changes = None


@dataclass(frozen=True)
class RunOptions:
    """The folder of a run, and what it may take of the machine."""

    PANEL: ClassVar[str] = "Run"

    run: Annotated[
        str, typer.Option(help="Folder below runs/; empty: named by data set, network and preset.")
    ] = ""
    jobs: Jobs = -1
    map_gb: MapGb = 20.0
    cache: Cache = CACHE


@dataclass(frozen=True)
class HeadOptions:
    """The head that scores the regions of an image, and how exactly it computes."""

    PANEL: ClassVar[str] = "Head"

    head: Annotated[
        HeadName,
        typer.Option(help="What scores regions: SVMs on pool5, fc6 or fc7, or the fine-tuned softmax."),
    ] = "pool5"
    fc_rank: Annotated[
        int,
        typer.Option(min=0, help="Truncate fully connected layers to this rank (SVD) to detect; 0: do not."),
    ] = 0
    bfloat16: Annotated[
        bool,
        typer.Option("--bfloat16", help="Compute layers in bfloat16 to detect: for processors that have it."),
    ] = False


@dataclass(frozen=True)
class PhotoOptions:
    """Which of the named photos and frames are looked at."""

    PANEL: ClassVar[str] = "Photos"

    every: Annotated[int, typer.Option(min=1, help="Of a video or camera, one of so many frames.")] = 1
    camera: Annotated[int | None, typer.Option(min=0, help="Number of a camera, until Ctrl-C.")] = None
    skip_errors: Annotated[bool, typer.Option(help="Leave out files that cannot be read, and say which.")] = (
        False
    )


@dataclass(frozen=True)
class OutputOptions:
    """Files and folders that detections are written to."""

    PANEL: ClassVar[str] = "Output"

    draw: Annotated[
        Path | None, typer.Option(help="Folder for the photos with boxes drawn, under their names.")
    ] = None
    json: Annotated[Path | None, typer.Option(help="JSON file: each photo and its detections.")] = None
    csv: Annotated[Path | None, typer.Option(help="CSV file: a row for each detection.")] = None
    coco: Annotated[Path | None, typer.Option(help="COCO file: images, categories, annotations.")] = None
    voc: Annotated[Path | None, typer.Option(help="Folder for VOC's comp4_det_test_<class>.txt.")] = None
    yolo: Annotated[Path | None, typer.Option(help="Folder for YOLO's labels/ and data.yaml.")] = None


@dataclass(frozen=True)
class ViewOptions:
    """Options for the views of an image that classifiers score."""

    PANEL: ClassVar[str] = "Views"

    views: Annotated[TestViews, typer.Option(help="Views of an image, whose scores are averaged.")] = "ten"
    source: Annotated[
        ViewSource | None,
        typer.Option(
            "--from",
            help="Views are pooled from the feature maps, or cut out of the image and passed one by one; "
            "by default maps, or crops for a classifier without a pyramid.",
        ),
    ] = None
    check_crops: Annotated[
        int, typer.Option(min=0, help="Number of images to compare maps with crops on: agreement and times.")
    ] = 0
    change: Changes = None

"""Tabulates R-CNN beside SPP-net, with the paper's figures and the hardware."""

import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.table import Table

from sppnet.common.files import write_json
from sppnet.detection.experiments.rcnn_comparison import FIVE_SCALES, ONE_SCALE, RCNN, Compared, Sizes
from sppnet.detection.experiments.stage_times import FC
from sppnet.eval.output import percent_or_dash

_STAGES = ("resize or warp", "convolution", "pooling", "SVM + NMS", "box regression")
_NONE = "–"
_MAP = "mAP without box regression"
# Figures that the paper states: SPP-net §4.2, §4.3 and table 10, all with ZF-5, times on a GPU, mean of 100
# random VOC images. The paper's totals, and so its ratios, are of convolution and fc.
_PAPER = {
    RCNN: {"convolution": "14.37"},
    ONE_SCALE: {
        _MAP: "43.0",
        "convolution": "0.053",
        FC: "0.089",
        "R-CNN's convolution / its": "270×",
        "R-CNN's convolution + fc / its": "102×",
    },
    FIVE_SCALES: {
        _MAP: "44.9",
        "convolution": "0.293",
        FC: "0.089",
        "R-CNN's convolution / its": "49×",
        "R-CNN's convolution + fc / its": "38×",
    },
}
PAPER_NOTE = (
    "The paper's (SPP-net §4.2 and §4.3): ZF-5 in Caffe on a GPU (its networks were trained on a GeForce GTX "
    "Titan), mean of 100 VOC images without proposals; mAP of pool5 on all 4,952 test images of VOC2007, "
    "trained on trainval. Other images and other hardware than ours. Our fc6 and fc7 are random, there "
    "for their time alone: no part of our mAP, nor of 'all'."
)


def comparison_table(figures: Sequence[Compared], title: str) -> Table:
    """Tabulates accuracy, seconds per image by stage, and time ratios, beside the paper's figures.

    Args:
        figures: the figures of the methods, R-CNN first.
        title: the title, from `comparison_title`.
    """
    table = Table(title=title, caption=PAPER_NOTE, caption_justify="left")
    table.add_column("")
    for method in figures:
        table.add_column(method.name, justify="right")
    for method in figures:
        table.add_column(f"paper, GPU: {method.name}", justify="right", style="dim")

    def row(name: str, ours: Sequence[str], end_section: bool = False) -> None:
        paper = (_PAPER.get(method.name, {}).get(name, _NONE) for method in figures)
        table.add_row(name, *ours, *paper, end_section=end_section)

    row(_MAP, [percent_or_dash(method.map_proposed) for method in figures])
    row(
        "mAP with box regression",
        [percent_or_dash(method.map_regressed) for method in figures],
        end_section=True,
    )
    for stage in _STAGES:
        row(stage, [_seconds(method.seconds[stage]) for method in figures])
    row("all", [_seconds(method.seconds["all"]) for method in figures])
    row(FC, [_seconds(method.seconds[FC]) for method in figures], end_section=True)
    ratios = {
        "convolution": ("convolution",),
        "convolution + fc": ("convolution", FC),
        "all": ("all",),
    }
    for name, stages in ratios.items():
        wall = [sum(method.seconds[stage] for stage in stages) for method in figures]
        row(f"R-CNN's {name} / its", [_ratio(wall[0], seconds) for seconds in wall])
        cpu = [sum(method.cpu_seconds[stage] for stage in stages) for method in figures]
        row("the same, processor time", [_ratio(cpu[0], seconds) for seconds in cpu])
    return table


def comparison_title(dataset: str, network: str, sizes: Sizes, proposals: int) -> str:
    """Returns a title that names the compared methods, the images and the hardware.

    Args:
        dataset: the name of the data set.
        network: the name of the backbone.
        sizes: the sizes of the comparison.
        proposals: mean number of proposals of the timed images.

    Example:
        >>> comparison_title("voc2007", "alexnet", Sizes(), 2000).partition(" × ")[0]
        'voc2007, alexnet: mAP in % after 60 training images'
    """
    return (
        f"{dataset}, {network}: mAP in % after {sizes.train_images} training images × "
        f"{sizes.train_proposals} proposals, on {sizes.test_images} test images × {sizes.test_proposals} "
        f"proposals; seconds an image without decoding and proposals, {sizes.timed_images} images × "
        f"{proposals} proposals, on {processor()}, {torch.get_num_threads()} threads"
    )


def processor() -> str:
    """Returns the name of the processor, or of its architecture if the system does not know the name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def write_comparison(path: Path, figures: Sequence[Compared], sizes: Sizes, title: str) -> None:
    """Writes the figures as JSON.

    Args:
        path: the file.
        figures: the figures of the methods; nan becomes null.
        sizes: the sizes of the comparison.
        title: the title, from `comparison_title`.
    """
    content = {
        "title": title,
        "sizes": asdict(sizes),
        "methods": [
            {name: None if value != value else value for name, value in asdict(method).items()}
            for method in figures
        ],
    }
    write_json(path, content)


def _seconds(value: float) -> str:
    return _NONE if value == 0 else f"{value:.3f}"


def _ratio(slow: float, fast: float) -> str:
    return _NONE if slow == fast or fast == 0 else f"{slow / fast:.0f}×"

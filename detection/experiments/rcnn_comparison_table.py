"""The table of R-CNN beside SPP-net, with the paper's figures and its hardware."""

import json
import math
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.table import Table

from sppnet.common.files import atomic_path
from sppnet.detection.experiments.rcnn_comparison import FC, FIVE_SCALES, ONE_SCALE, RCNN, Compared, Sizes

_STAGES = ("resize or warp", "convolution", "pooling", "SVM + NMS", "box regression")
_NONE = "–"
# SPP-net §4.2, §4.3 and table 10: all with ZF-5, the times on a GPU, mean of 100 random VOC images. Only what
# its text states. Its totals, and so its ratios of them, are of convolution and fc.
_PAPER = {
    RCNN: {"convolution": "14.37"},
    ONE_SCALE: {
        "mAP, windows": "43.0",
        "convolution": "0.053",
        FC: "0.089",
        "R-CNN's convolution / its": "270×",
        "R-CNN's convolution + fc / its": "102×",
    },
    FIVE_SCALES: {
        "mAP, windows": "44.9",
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
    """Accuracy, seconds an image by stage, and R-CNN's time over SPP-net's; the paper's columns beside."""
    table = Table(title=title, caption=PAPER_NOTE, caption_justify="left")
    table.add_column("")
    for one in figures:
        table.add_column(one.name, justify="right")
    for one in figures:
        table.add_column(f"paper, GPU: {one.name}", justify="right", style="dim")

    def row(name: str, ours: Sequence[str], end_section: bool = False) -> None:
        theirs = (_PAPER.get(one.name, {}).get(name, _NONE) for one in figures)
        table.add_row(name, *ours, *theirs, end_section=end_section)

    row("mAP, windows", [_percent(one.map_windows) for one in figures])
    row("mAP, box regression", [_percent(one.map_refined) for one in figures], end_section=True)
    for stage in _STAGES:
        row(stage, [_seconds(one.seconds[stage]) for one in figures])
    row("all", [_seconds(one.seconds["all"]) for one in figures])
    row(FC, [_seconds(one.seconds[FC]) for one in figures], end_section=True)
    ratios = {
        "convolution": ("convolution",),
        "convolution + fc": ("convolution", FC),
        "all": ("all",),
    }
    for name, stages in ratios.items():
        wall = [sum(one.seconds[stage] for stage in stages) for one in figures]
        row(f"R-CNN's {name} / its", [_ratio(wall[0], one) for one in wall])
        cpu = [sum(one.cpu_seconds[stage] for stage in stages) for one in figures]
        row("the same, processor time", [_ratio(cpu[0], one) for one in cpu])
    return table


def comparison_title(dataset: str, network: str, sizes: Sizes, windows: int) -> str:
    """What was compared, on what: sizes, backbone and hardware."""
    return (
        f"{dataset}, {network}: mAP in % after {sizes.train_images} training images × {sizes.train_windows} "
        f"windows, on {sizes.test_images} test images × {sizes.test_windows} windows; seconds an image "
        f"without decoding and proposals, {sizes.timed_images} images × {windows} windows, on "
        f"{processor()}, {torch.get_num_threads()} threads"
    )


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def write_comparison(path: Path, figures: Sequence[Compared], sizes: Sizes, title: str) -> None:
    """Writes the figures as JSON."""
    content = {
        "title": title,
        "sizes": asdict(sizes),
        "methods": [
            {name: None if value != value else value for name, value in asdict(one).items()}
            for one in figures
        ],
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _percent(value: float) -> str:
    return _NONE if math.isnan(value) else f"{100 * value:.1f}"


def _seconds(value: float) -> str:
    return _NONE if value == 0 else f"{value:.3f}"


def _ratio(slow: float, fast: float) -> str:
    return _NONE if slow == fast or fast == 0 else f"{slow / fast:.0f}×"

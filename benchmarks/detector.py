"""Where a detector's time goes; and pooling against torchvision's `roi_pool`, EfficientNet's convolutions
against timm's, bfloat16 against float32: both sides in one go."""

import copy
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
import typer
from rich.table import Table
from timm.layers.conv2d_same import Conv2dSame
from torchvision.ops import roi_pool

from sppnet.cli.job import Job
from sppnet.cli.options import (
    VOC_ROOT,
    Backbone,
    BFloat16,
    DatasetName,
    FcRank,
    HeadName,
    Limit,
    Preset,
    RunName,
    VocRoot,
    console,
    reported,
)
from sppnet.common.arrays import FloatArray, Image
from sppnet.common.stopwatch import Stopwatch
from sppnet.data.types import Example
from sppnet.detection.backbones import build_network
from sppnet.detection.backbones.build import RANDOM
from sppnet.detection.backbones.timm_nets import DivisibleConv2dSame
from sppnet.detection.batch import detect_many
from sppnet.detection.detector import Detector
from sppnet.detection.features.pooling import PAPER_LEVELS, spatial_pyramid_pool
from sppnet.detection.features.projection import Windows

app = typer.Typer(add_completion=False)

# A 688-pixel short side on a VOC image of 500 x 375, AlexNet or ZF-5.
_MAP_SIZE = (43, 58, 256)
# The paper's number of an image; and what fine-tuning draws from an image and its mirror image each.
_WINDOWS = (2000, 30)
# The default's short side, and the greatest of the five.
_SIDES = (576, 1200)
# A processor without bfloat16 takes a hundred times as long with it, which shows on a small image, too.
_SMALL_SIDE, _TOO_SLOW = 96, 8.0


def bench_pooling(repeats: int = 7) -> Table:
    """Median time of `pool` and of one `roi_pool` a level on the same windows, one thread; their ratio."""
    rng = np.random.default_rng(0)
    height, width, channels = _MAP_SIZE
    feature_map = np.maximum(rng.standard_normal(_MAP_SIZE), 0).astype(np.float32)
    channels_first = torch.from_numpy(np.ascontiguousarray(feature_map.transpose(2, 0, 1)))[None]
    table = Table(title=f"pooling windows of a {height} x {width} x {channels} map, one thread")
    for column in ("windows", "ours", "roi_pool, one call a level", "ratio", "equal to the bit"):
        table.add_column(column, justify="right")
    with _one_thread():
        for windows in _WINDOWS:
            corner = rng.integers(0, (width - 1, height - 1), (windows, 2))
            size = rng.integers(1, (width, height), (windows, 2))
            cells = np.hstack([corner, np.minimum(corner + size, (width, height))]).astype(np.int32)
            rois = torch.from_numpy(np.insert(cells - [0, 0, 1, 1], 0, 0, axis=1).astype(np.float32))

            def ours(cells: Windows = cells) -> FloatArray:
                return spatial_pyramid_pool(feature_map, cells)

            def theirs(rois: torch.Tensor = rois) -> FloatArray:
                levels = [roi_pool(channels_first, rois, level, 1.0) for level in PAPER_LEVELS]
                joined = torch.cat([one.flatten(2).transpose(1, 2) for one in levels], 1).flatten(1)
                return joined.numpy()

            equal = np.array_equal(ours(), theirs())
            ours_seconds, theirs_seconds = (_median_seconds(side, repeats) for side in (ours, theirs))
            table.add_row(
                f"{windows:,}",
                f"{1000 * ours_seconds:.1f} ms",
                f"{1000 * theirs_seconds:.1f} ms",
                f"{theirs_seconds / ours_seconds:.1f}",
                "yes" if equal else "NO",
            )
    return table


def bench_same_convolution(repeats: int = 7) -> Table:
    """Median time of EfficientNet-Lite0's map with `DivisibleConv2dSame` and with timm's; one thread."""
    ours = build_network("efficientnet_lite0")
    theirs = copy.deepcopy(ours)
    for part in theirs.modules():
        if isinstance(part, DivisibleConv2dSame):
            part.__class__ = Conv2dSame  # type: ignore[assignment]
    table = Table(title="EfficientNet-Lite0's map, one thread")
    for column in ("image", "ours", 'timm\'s "same" convolutions', "ratio", "greatest difference"):
        table.add_column(column, justify="right")
    with _one_thread():
        for side in _SIDES:
            image = _noise(side)
            one, other = ours.feature_map(image), theirs.feature_map(image)
            ours_seconds, theirs_seconds = _in_turns(
                [partial(each.feature_map, image) for each in (ours, theirs)], repeats
            )
            table.add_row(
                f"{image.shape[1]} x {side}",
                f"{1000 * ours_seconds:.0f} ms",
                f"{1000 * theirs_seconds:.0f} ms",
                f"{theirs_seconds / ours_seconds:.2f}",
                f"{float((one - other).abs().max() / other.abs().max()):.0e}",
            )
    return table


def bench_bfloat16(repeats: int = 7) -> Table:
    """Median time of networks' maps in float32 and in bfloat16, one thread; their ratio.

    Where the processor has no bfloat16, a small image only.
    """
    table = Table(title="maps in float32 and in bfloat16, one thread")
    for column in ("network", "image", "float32", "bfloat16", "ratio", "mean difference"):
        table.add_column(column, justify="right", no_wrap=True)
    with _one_thread():
        for name, weights, sides in (("efficientnet_lite0", None, _SIDES), ("alexnet", RANDOM, (688, 1200))):
            network = build_network(name, weights)
            for side in (_SMALL_SIDE, *sides):
                image = _noise(side)
                exact, rounded = network.feature_map(image), network.feature_map(image, True)
                seconds, rounded_seconds = _in_turns(
                    [partial(network.feature_map, image, bfloat16) for bfloat16 in (False, True)], repeats
                )
                table.add_row(
                    name,
                    f"{image.shape[1]} x {side}",
                    f"{1000 * seconds:.0f} ms",
                    f"{1000 * rounded_seconds:.0f} ms",
                    f"{seconds / rounded_seconds:.2f}",
                    f"{float((exact - rounded).abs().mean() / exact.abs().mean()):.0e}",
                )
                if rounded_seconds > _TOO_SLOW * seconds:
                    break
    return table


def bench_stages(detector: Detector, examples: Sequence[Example]) -> Table:
    """Time per image of each stage of `Detector.detect`, one image after the other, proposals included."""
    detector.detect(examples[0].path)  # Compiles the kernels, or loads them from numba's cache.
    by_stage: dict[str, list[float]] = {}
    for example in examples:
        detector.clock = Stopwatch()
        start = time.perf_counter()
        detector.detect(example.path)
        for stage, seconds in detector.clock.seconds.items():
            by_stage.setdefault(stage, []).append(seconds)
        by_stage.setdefault("all", []).append(time.perf_counter() - start)
    network = detector.extractor.network.name
    table = Table(
        title=f"{network}, scales {detector.extractor.settings.scales}, {len(examples)} images, "
        f"{torch.get_num_threads()} threads"
    )
    table.add_column("stage")
    for column in ("median ms an image", "mean", "90th percentile"):
        table.add_column(column, justify="right")
    for stage, values in by_stage.items():
        figures = statistics.median(values), statistics.fmean(values), float(np.quantile(values, 0.9))
        table.add_row(stage, *(f"{1000 * value:.0f}" for value in figures))
    return table


def bench_many(detector: Detector, examples: Sequence[Example]) -> Table:
    """Time per image from file to detections: one after the other on all cores, and several at a time."""
    files = [example.path for example in examples]
    cores = os.cpu_count() or 1
    table = Table(title=f"{detector.extractor.network.name}, {len(files)} images, proposals included")
    table.add_column("images at a time")
    for column in ("seconds an image", "processor time"):
        table.add_column(column, justify="right")
    for workers in (1, cores):
        list(detect_many(detector, files[:workers], workers))
        start, cpu_start = time.perf_counter(), time.process_time()
        list(detect_many(detector, files, workers))
        figures = time.perf_counter() - start, time.process_time() - cpu_start
        table.add_row(str(workers), *(f"{value / len(files):.2f}" for value in figures))
    return table


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keeps torch to one thread; afterwards it has as many as before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _noise(side: int) -> Image:
    """An image of noise, uint8 (side, side * 4 / 3, 3)."""
    return np.random.default_rng(0).integers(0, 256, (side, side * 4 // 3, 3), dtype=np.uint8)


def _in_turns(sides: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Median seconds of each, measured in turns: what else the machine does falls on all alike."""
    rounds = [[_median_seconds(side, 1) for side in sides] for _ in range(repeats)]
    return [statistics.median(one) for one in zip(*rounds, strict=True)]


def _median_seconds(run: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


@app.command()
@reported
def bench(
    dataset: DatasetName = "",
    voc_root: VocRoot = VOC_ROOT,
    backbone: Backbone = "",
    preset: Preset = "default",
    run: RunName = "",
    limit: Limit = 0,
    head: HeadName = "pool5",
    fc_rank: FcRank = 0,
    bfloat16: BFloat16 = False,
) -> None:
    """Times pooling, convolution, and a run's detector by stage (50 test images unless --limit is given)."""
    console.print(bench_pooling())
    console.print(bench_same_convolution())
    console.print(bench_bfloat16())
    job = Job(
        dataset, voc_root, "test", backbone, preset=preset, run=run, limit=limit or 50, head=head,
        fc_rank=fc_rank, bfloat16=bfloat16,
    )  # fmt: skip
    detector = job.run.load()
    if detector is None:
        console.print(f"{job.run.folder}: no model yet, so no times of its stages", highlight=False)
        return
    examples = job.open("test").examples
    console.print(bench_stages(detector, examples))
    console.print(bench_many(detector, examples))


if __name__ == "__main__":
    app()

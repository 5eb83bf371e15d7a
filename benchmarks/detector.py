"""Times a detector's stages, and compares some of its parts with alternatives.

Spatial pyramid pooling is compared with torchvision's `roi_pool`, EfficientNet's convolutions with timm's,
and bfloat16 with float32; both sides are measured in the same process.
"""

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Annotated

import numpy as np
import torch
from rich.table import Table
from timm.layers.conv2d_same import Conv2dSame
from torchvision.ops import roi_pool

from sppnet.cli.command import Without, command
from sppnet.cli.datasets import ChosenDataset
from sppnet.cli.groups import single_command
from sppnet.cli.job import open_run
from sppnet.cli.options import DataOptions, HeadOptions, RunOptions, SettingsOptions
from sppnet.cli.settings import default_run_name, read_settings
from sppnet.cli.terminal import console, say
from sppnet.common.arrays import FloatArray, Image
from sppnet.common.cores import allowed_cores
from sppnet.common.stopwatch import Stopwatch
from sppnet.data.types import Example
from sppnet.detection.backbones import build_network
from sppnet.detection.backbones.timm_nets import DivisibleConv2dSame
from sppnet.detection.backbones.weights import RANDOM
from sppnet.detection.detector import Detector
from sppnet.detection.features.pooling import PAPER_LEVELS, spatial_pyramid_pool
from sppnet.detection.features.projection import Windows

# Height, width and channels of the map of a VOC image (500 x 375) at the scale 688, with AlexNet or ZF-5.
_MAP_SIZE = (43, 58, 256)
# The paper's number of windows per image, and the number that fine-tuning draws from an image.
_WINDOWS = (2000, 30)
# The scale of the default preset, and the greatest scale of the paper's five.
_SCALES = (576, 1200)
# Without bfloat16 in hardware, it takes a hundred times as long, which a small image already shows.
_SMALL_SCALE, _TOO_SLOW = 96, 8.0


def bench_pooling(repeats: int = 7) -> Table:
    """Compares the median times of `spatial_pyramid_pool` and of `roi_pool` for each level, one thread."""
    rng = np.random.default_rng(0)
    height, width, channels = _MAP_SIZE
    feature_map = np.maximum(rng.standard_normal(_MAP_SIZE), 0).astype(np.float32)
    channels_first = torch.from_numpy(np.ascontiguousarray(feature_map.transpose(2, 0, 1)))[None]
    table = Table(title=f"pooling windows of a {height} x {width} x {channels} map, one thread")
    for column in ("windows", "ours", "roi_pool, one call per level", "ratio", "equal to the bit"):
        table.add_column(column, justify="right")
    with _one_thread():
        for count in _WINDOWS:
            corner = rng.integers(0, (width - 1, height - 1), (count, 2))
            size = rng.integers(1, (width, height), (count, 2))
            windows = np.hstack([corner, np.minimum(corner + size, (width, height))]).astype(np.int32)
            rois = torch.from_numpy(np.insert(windows - [0, 0, 1, 1], 0, 0, axis=1).astype(np.float32))

            def pool(windows: Windows = windows) -> FloatArray:
                return spatial_pyramid_pool(feature_map, windows)

            def pool_by_torchvision(rois: torch.Tensor = rois) -> FloatArray:
                levels = [roi_pool(channels_first, rois, level, 1.0) for level in PAPER_LEVELS]
                joined = torch.cat([bins.flatten(2).transpose(1, 2) for bins in levels], 1).flatten(1)
                return joined.numpy()

            equal = np.array_equal(pool(), pool_by_torchvision())
            seconds, torchvision_seconds = (
                _median_seconds(function, repeats) for function in (pool, pool_by_torchvision)
            )
            table.add_row(
                f"{count:,}",
                f"{1000 * seconds:.1f} ms",
                f"{1000 * torchvision_seconds:.1f} ms",
                f"{torchvision_seconds / seconds:.1f}",
                "yes" if equal else "NO",
            )
    return table


def bench_same_convolution(repeats: int = 7) -> Table:
    """Compares EfficientNet-Lite0's median times with `DivisibleConv2dSame` and timm's, one thread."""
    ours = build_network("efficientnet_lite0")
    timms = copy.deepcopy(ours)
    for layer in timms.modules():
        if isinstance(layer, DivisibleConv2dSame):
            layer.__class__ = Conv2dSame  # type: ignore[assignment]
    table = Table(title="EfficientNet-Lite0's map, one thread")
    for column in ("image", "ours", 'timm\'s "same" convolutions', "ratio", "greatest difference"):
        table.add_column(column, justify="right")
    with _one_thread():
        for scale in _SCALES:
            image = _noise(scale)
            our_map, timms_map = ours.feature_map(image), timms.feature_map(image)
            seconds, timms_seconds = _in_turns(
                [partial(network.feature_map, image) for network in (ours, timms)], repeats
            )
            table.add_row(
                f"{image.shape[1]} x {scale}",
                f"{1000 * seconds:.0f} ms",
                f"{1000 * timms_seconds:.0f} ms",
                f"{timms_seconds / seconds:.2f}",
                f"{float((our_map - timms_map).abs().max() / timms_map.abs().max()):.0e}",
            )
    return table


def bench_bfloat16(repeats: int = 7) -> Table:
    """Compares the median times of networks' maps in float32 and in bfloat16, one thread.

    If the processor has no bfloat16, only a small image is used.
    """
    table = Table(title="maps in float32 and in bfloat16, one thread")
    for column in ("network", "image", "float32", "bfloat16", "ratio", "mean difference"):
        table.add_column(column, justify="right", no_wrap=True)
    with _one_thread():
        for name, weights, scales in (
            ("efficientnet_lite0", None, _SCALES),
            ("alexnet", RANDOM, (688, 1200)),
        ):
            network = build_network(name, weights)
            for scale in (_SMALL_SCALE, *scales):
                image = _noise(scale)
                exact, rounded = network.feature_map(image), network.feature_map(image, True)
                seconds, rounded_seconds = _in_turns(
                    [partial(network.feature_map, image, bfloat16) for bfloat16 in (False, True)], repeats
                )
                table.add_row(
                    name,
                    f"{image.shape[1]} x {scale}",
                    f"{1000 * seconds:.0f} ms",
                    f"{1000 * rounded_seconds:.0f} ms",
                    f"{seconds / rounded_seconds:.2f}",
                    f"{float((exact - rounded).abs().mean() / exact.abs().mean()):.0e}",
                )
                if rounded_seconds > _TOO_SLOW * seconds:
                    break
    return table


def bench_stages(detector: Detector, examples: Sequence[Example]) -> Table:
    """Measures the time per image of each stage of `Detector.detect`, including proposals."""
    detector.detect(examples[0].path)  # Compiles the kernels, or loads them from numba's cache.
    by_stage: dict[str, list[float]] = {}
    for example in examples:
        timed = replace(detector, clock=Stopwatch())
        start = time.perf_counter()
        timed.detect(example.path)
        for stage, seconds in timed.clock.seconds.items():
            by_stage.setdefault(stage, []).append(seconds)
        by_stage.setdefault("all", []).append(time.perf_counter() - start)
    network = detector.extractor.network.name
    table = Table(
        title=f"{network}, scales {detector.extractor.settings.scales}, {len(examples)} images, "
        f"{torch.get_num_threads()} threads"
    )
    table.add_column("stage")
    for column in ("median ms per image", "mean", "90th percentile"):
        table.add_column(column, justify="right")
    for stage, values in by_stage.items():
        figures = statistics.median(values), statistics.fmean(values), float(np.quantile(values, 0.9))
        table.add_row(stage, *(f"{1000 * value:.0f}" for value in figures))
    return table


def bench_many(detector: Detector, examples: Sequence[Example]) -> Table:
    """Measures the time per image from file to detections, for one image at a time and for several."""
    files = [example.path for example in examples]
    cores = allowed_cores()
    table = Table(title=f"{detector.extractor.network.name}, {len(files)} images, proposals included")
    table.add_column("images at a time")
    for column in ("seconds per image", "processor time"):
        table.add_column(column, justify="right")
    for workers in (1, cores):
        list(detector.detect_all(files[:workers], workers))
        start, cpu_start = time.perf_counter(), time.process_time()
        list(detector.detect_all(files, workers))
        figures = time.perf_counter() - start, time.process_time() - cpu_start
        table.add_row(str(workers), *(f"{value / len(files):.2f}" for value in figures))
    return table


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limits torch to one thread within a ``with`` block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _noise(scale: int) -> Image:
    """Makes an image of noise, uint8 (scale, scale * 4 / 3, 3)."""
    return np.random.default_rng(0).integers(0, 256, (scale, scale * 4 // 3, 3), dtype=np.uint8)


def _in_turns(functions: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Measures the median seconds of each function in turns, so that other load delays all of them."""
    rounds = [[_median_seconds(function, 1) for function in functions] for _ in range(repeats)]
    return [statistics.median(seconds) for seconds in zip(*rounds, strict=True)]


def _median_seconds(function: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


@command
def bench(
    *,
    data: Annotated[DataOptions, Without("train_split", "test_split", "skip_errors")],
    settings: Annotated[SettingsOptions, Without("weights", "config", "change")],
    run: Annotated[RunOptions, Without("jobs", "map_gb")],
    head: HeadOptions,
) -> None:
    """Times pooling, convolution, and a run's detector by stage (50 test images unless --limit is given)."""
    console.print(bench_pooling())
    console.print(bench_same_convolution())
    console.print(bench_bfloat16())
    chosen = ChosenDataset(replace(data, limit=data.limit or 50))
    resolved = read_settings(settings)
    opened = open_run(resolved, run, default_run_name(chosen.name, resolved, settings.preset), head)
    detector = opened.load()
    if detector is None:
        say(f"{opened.folder}: no model yet, so no times of its stages")
        return
    examples = chosen.open(chosen.test_split).examples
    console.print(bench_stages(detector, examples))
    console.print(bench_many(detector, examples))


app = single_command("bench", bench)

if __name__ == "__main__":
    app()

"""A detector from few images of VOC2007: mAP and minutes for numbers of training images and seeds.

    python -m benchmarks.few_photos FOLDER --images 10 30 100 --seeds 0 1 2 [--test] [--set KEY=VALUE]

Draws training images at random, trains with the default settings and what --set changes, and scores. Without
--test it scores on 300 training images that are never drawn: settings are chosen there. FOLDER keeps
proposals, feature maps and runs: called again, what is there is not done again. --fresh gives each training
caches of its own, so that its minutes are those from nothing.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from sppnet.common.files import json_digest, write_json
from sppnet.common.text import percent
from sppnet.data import Dataset, load_dataset
from sppnet.detection.runs.pipeline import Pipeline
from sppnet.detection.runs.run import Run
from sppnet.detection.training import HEADS, RunSettings, make_settings
from sppnet.proposals import ProposalCache

# Of the permutation of the training images, the last are held out and the first are drawn from.
_PERMUTATION_SEED = 12345
_HELD_OUT = 300


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--voc-root", default=None)
    parser.add_argument("--images", type=int, nargs="+", default=[10, 30, 100])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--head", choices=HEADS, default="pool5")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--test", action="store_true", help="score on the test images")
    parser.add_argument("--fresh", action="store_true", help="nothing is stored before a training")
    parser.add_argument("--map-gb", type=float, default=60.0, help="bound on stored feature maps")
    arguments = parser.parse_args()
    train = load_dataset("voc2007", "train", root=arguments.voc_root)
    order = np.random.default_rng(_PERMUTATION_SEED).permutation(len(train))
    drawn_from, held_out = order[:-_HELD_OUT], order[-_HELD_OUT:]
    judged = _subset(train, held_out)
    if arguments.test:
        # The test images have a split of their own, so that all training images can be drawn.
        drawn_from, judged = order, load_dataset("voc2007", "test", root=arguments.voc_root)
    settings = make_settings("default", changes=arguments.changes)
    table = Table("images", "seed", "objects", "minutes", "without", "with box regression", "COCO AP")
    for images in arguments.images:
        for seed in arguments.seeds:
            chosen = np.random.default_rng(seed).permutation(drawn_from)[:images]
            name = f"{images}-{seed}-{json_digest({'changes': arguments.changes})[:6]}"
            folder = arguments.folder / ("test" if arguments.test else "held-out") / name
            figures = _measured(folder, arguments, settings, _subset(train, chosen), judged)
            table.add_row(
                str(images), str(seed), str(figures["objects"]), f"{figures['minutes']:.1f}",
                percent(figures["without"]), percent(figures["with"]), percent(figures["coco_ap"]),
            )  # fmt: skip
    Console().print(table)


def _subset(dataset: Dataset, indices: np.ndarray) -> Dataset:
    return replace(dataset, examples=tuple(dataset[index] for index in sorted(indices.tolist())))


def _measured(
    folder: Path, arguments: argparse.Namespace, settings: RunSettings, train: Dataset, judged: Dataset
) -> dict[str, float]:
    """The figures of a training, from its file where they are kept."""
    kept = folder / f"figures-{arguments.head}.json"
    if kept.exists():
        figures: dict[str, float] = json.loads(kept.read_text(encoding="utf-8"))
        return figures
    caches = folder if arguments.fresh else arguments.folder
    with ProposalCache(caches / "proposals.sqlite", settings.proposer) as cache:
        run = Run(folder / "run", settings, cache, caches / "maps", arguments.map_gb, arguments.head)
        pipeline, start = Pipeline(run), time.monotonic()
        pipeline.train(train)
        minutes = (time.monotonic() - start) / 60
        scores = pipeline.main_job(train, judged).scores
    with_regression, without = scores.voc, scores.voc_proposed or scores.voc
    figures = {
        "objects": sum(len(example.labels) for example in train),
        "minutes": minutes,
        "without": without.map_11point,
        "with": with_regression.map_11point,
        "coco_ap": (scores.coco or {}).get("AP", float("nan")),
    }
    write_json(kept, figures, allow_nan=True)
    return figures


if __name__ == "__main__":
    main()

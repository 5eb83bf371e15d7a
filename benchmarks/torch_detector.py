"""torchvision's Faster R-CNN or RetinaNet, trained for a given time on the CPU and scored as ours.

    python -m benchmarks.torch_detector --images 300 --seed 0 --seconds 300 --out frcnn-300.json

The detector that people would take instead of ours, at equal time: the backbone and its weights are ours,
EfficientNet-Lite0 with frozen batch normalisation, with a feature pyramid on its maps of strides 8, 16, 32.
It is trained end to end, but for the first stages of the backbone (`--frozen`). The time counts reading
images, forward, backward and optimiser steps; it does not count the detection in the test images. The
learning rate follows the elapsed part of the time: it rises for a while, then falls along a cosine to zero.

Settings are to be chosen on training images that are held out (`--test-split train --test-ids FILE`), never
on test images. Processor time grows where other programs use the same cores: compare on an idle machine.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from sppnet.common.errors import InputError
from sppnet.data import Dataset, Detections, Example, load_dataset
from sppnet.detection.backbones import build_network
from sppnet.detection.backbones.normalisation import EFFICIENTNET_LITE
from sppnet.eval import evaluate_voc

_CLOCKS: dict[str, Callable[[], float]] = {"cpu": time.process_time, "wall": time.monotonic}
_STRIDES = (8, 16, 32)
_RATIOS = (0.5, 1.0, 2.0)
_LEAST_SCORE = 0.01
# Images that are longer, relative to their short side, are made smaller.
_LONGEST = 3


@dataclass(frozen=True)
class Settings:
    """What is trained, and how.

    Attributes:
        model: ``fasterrcnn`` or ``retinanet``.
        short_side: pixels of the short side that images are resized to.
        channels: of the feature pyramid's maps.
        width: units of the two layers of Faster R-CNN's box head.
        frozen: leading stages of the backbone that keep their weights, of 7, with the stem; 0: none.
        optimizer: ``sgd`` with a momentum of 0.9, or ``adamw``.
        rate: the highest learning rate.
        backbone_rate: the backbone's learning rate, relative to ``rate``.
        decay: weight decay.
        batch: images a step.
        warm_up: part of the time in which the rate rises.
        seed: of the random weights, and of the order and the flips of the images.
    """

    model: str = "fasterrcnn"
    short_side: int = 256
    channels: int = 128
    width: int = 512
    frozen: int = 3
    optimizer: str = "adamw"
    rate: float = 1e-3
    backbone_rate: float = 0.2
    decay: float = 1e-4
    batch: int = 4
    warm_up: float = 0.1
    seed: int = 0


class Backbone(nn.Module):
    """EfficientNet-Lite0 and a feature pyramid of strides 8, 16, 32 and 64.

    The batch normalisations are folded into the convolutions, which saves time. Their statistics are frozen;
    their factors and shifts are part of the convolutions' weights.

    Attributes:
        out_channels: of each map of the pyramid; torchvision's detectors read it.
    """

    def __init__(self, channels: int, frozen: int) -> None:
        super().__init__()
        layers: Any = build_network("efficientnet_lite0", feature_levels=_STRIDES).layers
        for part in (layers.conv_stem, *layers.blocks[:frozen]) if frozen else ():
            part.requires_grad_(False)
        self.layers = layers
        self.pyramid = FeaturePyramidNetwork(layers.feature_info.channels(), channels, LastLevelMaxPool())
        self.out_channels = channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Computes the maps of images, float32 (N, 3, H, W); H and W are multiples of 32."""
        maps = self.layers(images.contiguous(memory_format=torch.channels_last))
        result: dict[str, Tensor] = self.pyramid({str(level): values for level, values in enumerate(maps)})
        return result


def build(settings: Settings, classes: int) -> nn.Module:
    """Makes the detector; label 0 is the background in both models."""
    torch.manual_seed(settings.seed)
    backbone = Backbone(settings.channels, settings.frozen)
    common: dict[str, Any] = {
        "min_size": settings.short_side,
        "max_size": _LONGEST * settings.short_side,
        "image_mean": [value / 255 for value in EFFICIENTNET_LITE.mean],
        "image_std": [value / 255 for value in EFFICIENTNET_LITE.std],
    }
    # One size a stride, up to objects that fill an image.
    sizes = [settings.short_side / 8 * 2**level for level in range(len(_STRIDES) + 1)]
    model: nn.Module
    if settings.model == "retinanet":
        octave = [tuple(size * 2 ** (third / 3) for third in range(3)) for size in sizes]
        anchors = AnchorGenerator(tuple(octave), (_RATIOS,) * len(sizes))
        head = RetinaNetHead(settings.channels, 3 * len(_RATIOS), classes + 1)
        model = RetinaNet(
            backbone, classes + 1, anchor_generator=anchors, head=head, score_thresh=_LEAST_SCORE, **common
        )
    else:
        names = [str(level) for level in range(len(_STRIDES))]
        # torchvision takes 224 for images of 800 pixels.
        pool = MultiScaleRoIAlign(names, 7, 2, canonical_scale=settings.short_side * 224 // 800)
        model = FasterRCNN(
            backbone,
            rpn_anchor_generator=AnchorGenerator(tuple((size,) for size in sizes), (_RATIOS,) * len(sizes)),
            rpn_pre_nms_top_n_train=500,
            rpn_post_nms_top_n_train=300,
            rpn_pre_nms_top_n_test=500,
            rpn_post_nms_top_n_test=300,
            box_roi_pool=pool,
            box_head=TwoMLPHead(settings.channels * 7 * 7, settings.width),
            box_predictor=FastRCNNPredictor(settings.width, classes + 1),
            box_score_thresh=_LEAST_SCORE,
            box_batch_size_per_image=64,
            **common,
        )
    return model.to(memory_format=torch.channels_last)


def train(
    model: nn.Module, dataset: Dataset, settings: Settings, seconds: float, clock: Callable[[], float]
) -> tuple[int, float]:
    """Trains until the time is over.

    Args:
        model: see `build`.
        dataset: difficult objects are left out.
        settings: of the optimiser.
        seconds: to train, by ``clock``.
        clock: returns seconds.

    Returns:
        the number of steps, and the seconds that they took.
    """
    optimizer = _optimizer(model, settings)
    highest = [group["lr"] for group in optimizer.param_groups]
    batches = _batches(dataset, settings.batch, np.random.default_rng(settings.seed))
    model.train()
    start, elapsed, steps, losses = clock(), 0.0, 0, []
    while elapsed < seconds:
        for group, rate in zip(optimizer.param_groups, highest, strict=True):
            group["lr"] = rate * _rate_factor(elapsed / seconds, settings.warm_up)
        images, targets = next(batches)
        loss = sum(model(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        steps, elapsed = steps + 1, clock() - start
        losses.append(loss.item())
        if steps % 20 == 0:
            print(f"step {steps}, {elapsed:.0f} s, loss {np.mean(losses[-20:]):.3f}", flush=True)
    return steps, elapsed


def _optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    parts: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parts[name.startswith("backbone.layers.")].append(parameter)
    groups = [
        {"params": parts[True], "lr": settings.rate * settings.backbone_rate},
        {"params": parts[False], "lr": settings.rate},
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, weight_decay=settings.decay)
    return torch.optim.AdamW(groups, weight_decay=settings.decay)


def _rate_factor(part: float, warm_up: float) -> float:
    """The learning rate, relative to the highest, after a part of the time."""
    if part < warm_up:
        return 0.01 + 0.99 * part / warm_up
    return 0.5 * (1 + math.cos(math.pi * (part - warm_up) / (1 - warm_up)))


Batch = tuple[list[Tensor], list[dict[str, Tensor]]]


def _batches(dataset: Dataset, size: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Yields batches without end; each image once, in a new order, before any comes again."""
    queue: list[int] = []
    while True:
        while len(queue) < size:
            queue += rng.permutation(len(dataset)).tolist()
        chosen, queue = queue[:size], queue[size:]
        inputs = [_training_input(dataset[index], bool(rng.integers(2))) for index in chosen]
        yield [image for image, _ in inputs], [target for _, target in inputs]


def _training_input(example: Example, mirrored: bool) -> tuple[Tensor, dict[str, Tensor]]:
    image = _tensor(example)
    boxes = torch.from_numpy(example.boxes[~example.difficult].copy())
    if mirrored:
        image = image.flip(2)
        boxes[:, [0, 2]] = image.shape[2] - boxes[:, [2, 0]]
    return image, {"boxes": boxes, "labels": torch.from_numpy(example.labels[~example.difficult] + 1)}


def _tensor(example: Example) -> Tensor:
    """Reads an image as torchvision's detectors take it: float32 (3, H, W), 0 to 1."""
    return torch.from_numpy(example.read()).permute(2, 0, 1) / 255


@torch.inference_mode()
def detect(model: nn.Module, dataset: Dataset) -> dict[str, Detections]:
    """Detects in each image by itself."""
    model.eval()
    found = {}
    for example in dataset:
        (result,) = model([_tensor(example)])
        # RetinaNet has a score for the background, too, though no target is of it.
        rows = result["labels"] > 0
        boxes, scores, labels = (result[name][rows].numpy() for name in ("boxes", "scores", "labels"))
        found[example.image_id] = Detections.of(boxes, scores, labels - 1, dataset.classes)
    return found


def _select(dataset: Dataset, file: Path | None) -> Dataset:
    """The images whose ids a file lists, one a line; without a file all."""
    if file is None:
        return dataset
    ids = file.read_text().split()
    examples = {example.image_id: example for example in dataset}
    unknown = [image_id for image_id in ids if image_id not in examples]
    if unknown or not ids:
        problem = f"{unknown[0]!r} is not an image of the split {dataset.split}" if unknown else "no ids"
        raise InputError(f"{file}: {problem}; list ids of that split, one a line")
    return replace(dataset, examples=tuple(examples[image_id] for image_id in ids))


def _draw(dataset: Dataset, count: int | None, seed: int) -> Dataset:
    """Random images, in the order of the split; None: all."""
    if count is None:
        return dataset
    rows = sorted(np.random.default_rng(seed).permutation(len(dataset))[:count].tolist())
    return replace(dataset, examples=tuple(dataset[row] for row in rows))


def _arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    default = Settings()
    parser.add_argument("--model", choices=("fasterrcnn", "retinanet"), default=default.model)
    parser.add_argument("--seconds", type=float, required=True, help="of training")
    parser.add_argument("--clock", choices=tuple(_CLOCKS), default="cpu", help="cpu: the process's time")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, help="random training images; default: all")
    parser.add_argument("--ids", type=Path, help="file of training image ids, one a line, to choose from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--test-split", default="test")
    parser.add_argument("--test-ids", type=Path, help="file of image ids to test on, one a line")
    parser.add_argument("--limit", type=int, help="only the first test images")
    parser.add_argument("--voc-root", default=None)
    parser.add_argument("--out", type=Path, help="JSON file of the figures")
    parser.add_argument("--optimizer", choices=("sgd", "adamw"), default=default.optimizer)
    for name in ("short_side", "channels", "width", "frozen", "batch"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(default, name))
    for name in ("rate", "backbone_rate", "decay", "warm_up"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=getattr(default, name))
    return parser.parse_args(given)


def main() -> None:
    """Trains, detects, prints the mAP and writes the figures."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    settings = Settings(**{name: getattr(arguments, name) for name in vars(Settings())})
    images = load_dataset("voc2007", "train", root=arguments.voc_root)
    images = _draw(_select(images, arguments.ids), arguments.images, arguments.seed)
    test = load_dataset("voc2007", arguments.test_split, root=arguments.voc_root)
    test = _select(test, arguments.test_ids).head(arguments.limit)
    clock = _CLOCKS[arguments.clock]
    model = build(settings, len(images.classes))
    steps, seconds = train(model, images, settings, arguments.seconds, clock)
    start = clock()
    result = evaluate_voc(test, detect(model, test))
    figures = {
        "map_11point": result.map_11point,
        "ap_11point": {
            name: figures.ap_11point for name, figures in result.by_class.items() if figures.ground_truths
        },
        "seconds": seconds,
        "clock": arguments.clock,
        "threads": arguments.threads,
        "steps": steps,
        "epochs": steps * settings.batch / len(images),
        "detection_seconds": clock() - start,
        "images": [example.image_id for example in images],
        "test_images": len(test),
        "settings": vars(settings),
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=1) + "\n")
    print(
        f"{settings.model}: mAP {100 * result.map_11point:.1f} on {len(test)} images; {steps} steps, "
        f"{figures['epochs']:.1f} epochs of {len(images)} images in {seconds:.0f} s ({arguments.clock})"
    )


if __name__ == "__main__":
    main()

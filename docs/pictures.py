"""Makes the pictures of these pages from the built-in sample: ``python docs/pictures.py``, about two minutes.

What is trained for them is kept in ``runs/docs-pictures``, and a second call uses it.
"""

from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike
from PIL import Image as Pillow

from sppnet import Detections, Detector, Example, load_dataset, read_image
from sppnet.common.arrays import FloatArray, Image
from sppnet.detection.detection_settings import DetectionSettings
from sppnet.detection.features.extractor import FeatureMap, SPPExtractor
from sppnet.detection.features.projection import project
from sppnet.eval import box_iou
from sppnet.proposals import SelectiveSearch

PICTURES = Path(__file__).resolve().parent / "pictures"
WORK = Path("runs/docs-pictures")
IMAGE_ID = "100005"
CLASS = "ring"
_GREY, _GREEN, _RED = "#d0d0d0", "#00d000", "#ff3030"
_PANEL = 3.4  # inches


def main() -> None:
    """Trains on the sample and makes every picture."""
    detector = _detector()
    test = load_dataset("sample", "test")
    example = next(example for example in test if example.image_id == IMAGE_ID)
    image = read_image(example.path)
    boxes = detector.engine.propose(image)
    extractor = detector.extractor
    assert isinstance(extractor, SPPExtractor)
    (feature_map,) = extractor.prepare(image)
    label = detector.classes.index(CLASS)
    target = example.boxes[example.labels.tolist().index(label)]
    best = boxes[box_iou([target], boxes)[0].argmax()]

    _save(proposals_picture(image, boxes, example), "proposals.png")
    _save(channels_picture(feature_map), "channels.png")
    _save(pyramid_picture(image, feature_map, best, extractor), "pyramid.png")
    scores = _scores(detector, feature_map, boxes)
    _save(scores_picture(image, boxes, scores, detector.classes), "scores.png")
    _save(suppression_picture(image, detector, feature_map, boxes, label), "suppression.png")
    _write(detections_picture(image, detector), "detections.png")


def _detector() -> Detector:
    if (WORK / "model" / "model.json").exists():
        return Detector.load(WORK / "model")
    detector = Detector.fit(load_dataset("sample", "train"), folder=WORK)
    detector.save(WORK / "model")
    return detector


def proposals_picture(image: Image, boxes: FloatArray, example: Example) -> Figure:
    """The image; the segments of one strategy; proposals, in green those that cover the objects best."""
    figure, panels = _panels(3, image)
    grouped = next(SelectiveSearch("single").hierarchies(image))
    colours = np.random.default_rng(5).integers(40, 256, (grouped.labels.max() + 1, 3)).astype(np.uint8)
    panels[0].imshow(image)
    panels[0].set_title("the image")
    panels[1].imshow(colours[grouped.labels])
    panels[1].set_title(f"{grouped.labels.max() + 1} segments of one strategy")
    panels[2].imshow(image)
    panels[2].set_title(f"100 of {len(boxes):,} proposals")
    for box in boxes[:100]:
        _outline(panels[2], box, _GREY, 0.4)
    for row in box_iou(example.boxes, boxes):
        _outline(panels[2], boxes[row.argmax()], _GREEN, 2)
    return figure


def channels_picture(feature_map: FeatureMap) -> Figure:
    """The channels that vary most over the image."""
    values = feature_map.values
    order = np.argsort(-values.std(axis=(0, 1)))[:6]
    height, width = values.shape[:2]
    figure = Figure(figsize=(9, 4.7), layout="constrained")
    for panel, channel in zip(figure.subplots(2, 3).ravel(), np.sort(order), strict=True):
        panel.imshow(values[:, :, channel], cmap="viridis")
        panel.set_title(f"channel {channel}: {width} × {height} cells", fontsize=9)
        panel.set_axis_off()
    return figure


def pyramid_picture(
    image: Image, feature_map: FeatureMap, box: FloatArray, extractor: SPPExtractor
) -> Figure:
    """A proposal, and its window on one channel of the map with the bins of each pyramid level."""
    values, settings = feature_map.values, extractor.settings
    geometry = extractor.network.geometry
    (window,) = project(
        box[None], feature_map.factor, geometry, values.shape[:2], settings.projection
    ).tolist()
    left, top, right, bottom = window
    inside = values[top:bottom, left:right].mean(axis=(0, 1))
    channel = values[:, :, int(np.argmax(inside - values.mean(axis=(0, 1))))]
    figure = Figure(figsize=(12, 2.4), layout="constrained")
    widths = [1.45, 1.45] + [1.0] * len(settings.levels)
    panels = figure.subplots(1, len(widths), width_ratios=widths)
    panels[0].imshow(image)
    _outline(panels[0], box, _GREEN, 2)
    panels[0].set_title("a proposal", fontsize=9)
    panels[1].imshow(channel, cmap="viridis")
    _outline(panels[1], window, _GREEN, 2)
    panels[1].set_title(f"its window: {right - left} × {bottom - top} cells", fontsize=9)
    for panel, level in zip(panels[2:], settings.levels, strict=True):
        panel.imshow(channel[top:bottom, left:right], cmap="viridis")
        for row in range(level):
            for column in range(level):
                # A bin reaches from floor(i w / n) to ceil((i + 1) w / n); drawn are its even parts.
                size = (right - left) / level, (bottom - top) / level
                corner = column * size[0] - 0.5, row * size[1] - 0.5
                panel.add_patch(Rectangle(corner, *size, fill=False, edgecolor="white", linewidth=1.2))
        panel.set_title(
            f"level {level}: {level} × {level} bins" if level > 1 else "level 1: 1 bin", fontsize=9
        )
    for panel in panels:
        panel.set_axis_off()
    return figure


def _scores(detector: Detector, feature_map: FeatureMap, boxes: FloatArray) -> FloatArray:
    """The score of each proposal for each class, float32 (N, C)."""
    pooled = detector.extractor.extract([feature_map], boxes)
    return detector.head.score(pooled.features)[pooled.rows]


def scores_picture(image: Image, boxes: FloatArray, scores: FloatArray, classes: Sequence[str]) -> Figure:
    """The 40 best proposals for each of two classes, the brighter the better."""
    names = [CLASS, "fish"]
    figure, panels = _panels(2, image)
    limits = {"vmin": -1.3, "vmax": 0.0}
    for panel, name in zip(panels, names, strict=True):
        column = scores[:, classes.index(name)]
        panel.imshow(image // 3)
        order = np.argsort(column)[-40:]
        for index in order:
            value = np.clip((column[index] - limits["vmin"]) / (limits["vmax"] - limits["vmin"]), 0, 1)
            _outline(panel, boxes[index], (value, value * 0.9, 1 - value), 1)
        panel.set_title(f"“{name}”: scores up to {column.max():.2f}")
    return figure


def suppression_picture(
    image: Image, detector: Detector, feature_map: FeatureMap, boxes: FloatArray, label: int
) -> Figure:
    """One class: what scores well, what remains after suppression, and after box regression."""
    figure, panels = _panels(3, image)
    least = -1.0
    everything = replace(detector, settings=DetectionSettings(nms_iou=1.0, max_per_class=len(boxes)))
    raw, _ = everything.score([feature_map], boxes)
    kept, deltas = detector.score([feature_map], boxes)
    moved = detector.regress(kept, deltas, image.shape[:2])
    stages = {"proposals with a score above -1": raw, "after suppression": kept, "after regression": moved}
    for panel, (title, detections) in zip(panels, stages.items(), strict=True):
        shown = detections.filter(least, [label])
        panel.imshow(image)
        for box in shown.boxes:
            _outline(panel, box, _RED if detections is raw else _GREEN, 0.8 if detections is raw else 2)
        panel.set_title(f"{title}: {len(shown)}")
    return figure


def detections_picture(image: Image, detector: Detector) -> Image:
    """The detections of the image, drawn at twice its size."""
    detections = detector.predict(image, "f1")
    double = np.asarray(cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC), np.uint8)
    doubled = Detections(detections.boxes * 2, detections.scores, detections.labels, detections.classes)
    return doubled.draw(double)


def _panels(count: int, image: Image) -> tuple[Figure, list[Axes]]:
    height, width = image.shape[:2]
    figure = Figure(figsize=(_PANEL * count, _PANEL * height / width + 0.3), layout="constrained")
    panels = list(figure.subplots(1, count))
    for panel in panels:
        panel.set_axis_off()
        panel.title.set_fontsize(10)
    return figure, panels


def _outline(panel: Axes, box: ArrayLike, colour: str | tuple[float, float, float], width: float) -> None:
    left, top, right, bottom = np.asarray(box, float).tolist()
    # A panel's pixel 0 reaches from -0.5 to 0.5.
    panel.add_patch(
        Rectangle(
            (left - 0.5, top - 0.5), right - left, bottom - top,
            fill=False, edgecolor=colour, linewidth=width,
        )
    )  # fmt: skip


def _save(figure: Figure, name: str) -> None:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=100, facecolor="white")
    _write(np.asarray(Pillow.open(buffer).convert("RGB")), name)


def _write(picture: Image, name: str) -> None:
    """Writes a picture with 256 colours: with all, the sample's noise makes the files four times as large."""
    PICTURES.mkdir(exist_ok=True)
    path = PICTURES / name
    Pillow.fromarray(picture).quantize(256, dither=Pillow.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()

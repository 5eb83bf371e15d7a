"""Prints the scores of detections."""

from collections.abc import Mapping

from sppnet.cli.terminal import console, say
from sppnet.common.text import percent
from sppnet.data import Dataset
from sppnet.eval import VOCResult, class_table


def print_scores(
    dataset: Dataset, voc: VOCResult, voc_proposed: VOCResult | None, coco: Mapping[str, float] | None
) -> None:
    """Prints average precisions of each class, their means, and COCO's figures.

    Args:
        dataset: the images.
        voc: VOC's figures.
        voc_proposed: VOC's figures without box regression; None: there are none.
        coco: COCO's figures; None: there are none.
    """
    if not voc.counted_classes:
        say(f"nothing to score: no object that counts is annotated in {dataset.name} {dataset.split}")
        return
    title = f"{dataset.name} {dataset.split}, {len(dataset)} images, IoU {voc.iou_threshold}, AP in %"
    console.print(class_table(voc, title))
    say(f"mAP, 11-point: {percent(voc.map_11point)}; area: {percent(voc.map_area)}")
    if voc_proposed is not None:
        say(
            f"the same without box regression: {percent(voc_proposed.map_11point)}; "
            f"{percent(voc_proposed.map_area)}"
        )
    if coco is None:
        return
    figures = ", ".join(f"{name} {percent(coco[name])}" for name in ("AP", "AP50", "AP75", "AR_100"))
    say(f"COCO's figures of the same (difficult as crowd): {figures}")

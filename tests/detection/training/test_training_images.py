"""Mirrored images in training, against images that were mirrored on disk."""

from dataclasses import replace

import cv2
import numpy as np

from sppnet.data import Dataset
from sppnet.data.images import read_image
from sppnet.detection.backbones import build_network
from sppnet.detection.features.extractor import SPPExtractor
from sppnet.detection.training import TrainingData
from sppnet.detection.training.training_images import mirror_boxes, training_images
from sppnet.proposals import ProposalCache


def test_mirrored_regions_are_those_of_the_mirrored_file(tiny_train, tiny_settings, tmp_path):
    example = tiny_train[0]
    path = tmp_path / "mirrored.png"
    cv2.imwrite(str(path), read_image(example.path)[:, ::-1, ::-1])
    left, top, right, bottom = example.boxes.T
    boxes = np.stack([110 - right, top, 110 - left, bottom], axis=1)
    on_disk = replace(example, image_id="mirrored", path=path, boxes=boxes)
    extractor = SPPExtractor(build_network("alexnet", "random"), tiny_settings.features)

    with ProposalCache(tmp_path / "proposals.sqlite", tiny_settings.proposals) as cache:

        def regions(example, with_proposals, mirrored):
            dataset = Dataset("tiny", "train", tiny_train.classes, (example,))
            data = TrainingData(dataset, tiny_settings.proposals, cache, tmp_path / "maps", 10**9)
            store = extractor.store(data.maps, data.map_bytes)
            (image,) = training_images(data, extractor, store, [0], with_proposals, mirrored)
            return image

        plain, mirrored = regions(example, [0], False), regions(example, [0], True)
        twin = regions(on_disk, [], False)
    np.testing.assert_array_equal(mirrored.example.boxes, boxes)
    np.testing.assert_array_equal(mirror_boxes(mirrored.boxes, 110), plain.boxes)
    objects = slice(len(boxes))
    np.testing.assert_array_equal(
        mirrored.pooled.features[mirrored.pooled.rows[objects]], twin.pooled.features[twin.pooled.rows]
    )
    assert not np.array_equal(
        mirrored.pooled.features[mirrored.pooled.rows[objects]],
        plain.pooled.features[plain.pooled.rows[objects]],
    )

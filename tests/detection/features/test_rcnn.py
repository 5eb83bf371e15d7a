"""R-CNN's extractor: the warp against a slow reference, vectors against crops made by hand."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sppnet.common.errors import InputError
from sppnet.detection.backbones import build_network
from sppnet.detection.features.extractor import SPPExtractor
from sppnet.detection.features.pooling import spatial_pyramid_pool
from sppnet.detection.features.rcnn import RCNNExtractor, make_extractor, warp
from sppnet.detection.features.settings import FeatureSettings
from sppnet.detection.runs.run import Run
from sppnet.detection.runs.split_detection import detect_split
from sppnet.detection.training.presets import make_settings
from sppnet.proposals import ProposalCache

FILL = np.array([-7.0, 300.0, 0.25], np.float32)


@pytest.fixture(scope="module")
def network():
    return build_network("alexnet", "random")


def nearest(value):
    """Rounds to whole numbers, halves up."""
    return (2 * value + 1) // 2


def slow_warp(image, box, size, padding, fill):
    """Warps pixel by pixel, with exact fractions up to the interpolation."""
    spans = []
    for low, high in ((box[0], box[2]), (box[1], box[3])):
        low, high = Fraction(float(low)), Fraction(float(high))
        centre, reach = (low + high) / 2, (high - low) / 2 * Fraction(size, size - 2 * padding)
        first, last = nearest(centre - reach), nearest(centre + reach)
        spans.append((first, max(last, first + 1)))
    result = np.empty((size, size, 3))
    result[:] = fill
    axes = []
    for (first, last), limit in zip(spans, (image.shape[1], image.shape[0]), strict=True):
        low, high = max(first, 0), min(last, limit)
        start = nearest(Fraction(low - first) * size / (last - first))
        stop = nearest(Fraction(high - first) * size / (last - first))
        mapped = {}
        for pixel in range(start, stop):
            # The middle of the pixel, in coordinates of the part of the image that fills these pixels.
            position = (pixel - start + Fraction(1, 2)) * (high - low) / (stop - start) - Fraction(1, 2)
            position = min(max(position, 0), high - low - 1)
            below = int(position)
            mapped[pixel] = low + below, low + min(below + 1, high - low - 1), float(position - below)
        axes.append(mapped)
    for x, (left, right, wx) in axes[0].items():
        for y, (top, bottom, wy) in axes[1].items():
            upper = image[top, left] * (1 - wx) + image[top, right] * wx
            lower = image[bottom, left] * (1 - wx) + image[bottom, right] * wx
            result[y, x] = upper * (1 - wy) + lower * wy
    return result


BOXES = {
    "inside": (12, 8, 30, 19),
    "tall": (14, 3, 17, 27),
    "whole image": (0, 0, 40, 30),
    "corner": (0, 0, 9, 6),
    "other corner": (33, 21, 40, 30),
    "one pixel": (20, 15, 21, 16),
    "one pixel in the corner": (39, 29, 40, 30),
    "one column": (5, 0, 6, 30),
    "fractions": (3.25, 4.5, 17.75, 9.0),
    "less than a pixel": (10.3, 10.3, 10.4, 10.4),
}


@pytest.mark.parametrize("padding", [0, 2, 5])
@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES.keys())
def test_warp_equals_the_slow_one(box, padding):
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.float32)
    box = np.array(box, np.float32)
    warped = warp(image, box, 24, padding, FILL)
    assert warped.shape == (24, 24, 3)
    assert warped.dtype == np.float32
    np.testing.assert_allclose(warped, slow_warp(image, box, 24, padding, FILL), atol=0.02)


def test_warps_of_random_boxes_equal_the_slow_ones():
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (25, 33, 3)).astype(np.float32)
    for _ in range(25):
        corner = rng.integers(0, (32, 24))
        box = np.concatenate([corner, rng.integers(corner + 1, (34, 26))]).astype(np.float32)
        np.testing.assert_allclose(
            warp(image, box, 20, 3, FILL), slow_warp(image, box, 20, 3, FILL), atol=0.02
        )


def test_context_of_16_pixels_around_195():
    """A box of 227 - 2 x 16 pixels is not resized: its warp is a crop of the image."""
    image = np.random.default_rng(2).integers(0, 256, (300, 320, 3)).astype(np.float32)
    warped = warp(image, np.array([40, 60, 235, 255], np.float32), 227, 16, FILL)
    np.testing.assert_array_equal(warped, image[44:271, 24:251])


def test_pixels_outside_the_image_are_filled():
    image = np.random.default_rng(3).integers(0, 256, (200, 220, 3)).astype(np.float32)
    warped = warp(image, np.array([0, 5, 195, 200], np.float32), 227, 16, FILL)
    np.testing.assert_array_equal(warped[:, :16], np.broadcast_to(FILL, (227, 16, 3)))
    np.testing.assert_array_equal(warped[-16:], np.broadcast_to(FILL, (16, 227, 3)))
    # Eleven rows above are filled, because five of the sixteen lie in the image.
    np.testing.assert_array_equal(warped[:11, 16:], np.broadcast_to(FILL, (11, 211, 3)))
    np.testing.assert_array_equal(warped[11:211, 16:], image[:, :211])


@pytest.mark.parametrize("box", [(50, 5, 60, 15), (-20, 0, -10, 10), (0, 40, 5, 45)], ids=str)
def test_a_box_off_the_image_is_all_filled(box):
    image = np.zeros((30, 40, 3), np.float32)
    warped = warp(image, np.array(box, np.float32), 24, 0, FILL)
    np.testing.assert_array_equal(warped, np.broadcast_to(FILL, (24, 24, 3)))


def test_vectors_are_those_of_crops_made_by_hand(network):
    """For boxes that need no resizing, vectors are R-CNN's pool5 of crops that pass the network."""
    image = np.random.default_rng(4).integers(0, 256, (260, 280, 3)).astype(np.uint8)
    extractor = make_extractor(network, FeatureSettings(mode="rcnn", levels=(6,)))
    assert isinstance(extractor, RCNNExtractor)
    boxes = np.array([[30, 20, 225, 215], [64, 48, 259, 243]], np.float32)
    pooled = extractor.extract(extractor.prepare(image), boxes)
    assert extractor.length == pooled.features.shape[1] == 9216
    for row, (left, top) in zip(pooled.rows, ((14, 4), (48, 32)), strict=True):
        by_hand = network.feature_map(image[top : top + 227, left : left + 227])
        assert by_hand.shape == (256, 13, 13)
        pool5 = F.max_pool2d(by_hand, 3, 2)
        np.testing.assert_allclose(
            pooled.features[row], pool5.permute(1, 2, 0).flatten().numpy(), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("to_bgr", [False, True])
def test_the_mean_is_zero_to_the_network(network, monkeypatch, to_bgr):
    """Beyond the border the normalised input is 0, for any order of the network's channels."""
    image = np.full((40, 40, 3), 255, np.uint8)
    extractor = RCNNExtractor(network, FeatureSettings(mode="rcnn", levels=(1,), crop=64))
    seen = []
    monkeypatch.setattr(network, "normalise", replace(network.normalise, to_bgr=to_bgr))

    def forward(batch, bfloat16):
        seen.append(batch)
        return torch.zeros(1, 256, 1, 1)

    monkeypatch.setattr(network, "forward", forward)
    extractor.extract(extractor.prepare(image), np.array([[0, 0, 20, 20]], np.float32))
    (batch,) = seen
    assert batch.shape == (1, 3, 64, 64)
    assert batch[0, :, :16].abs().max() < 1e-5
    assert batch[0, :, 20:, 20:].min() > 1


def test_many_regions_in_batches_equal_each_alone(network):
    rng = np.random.default_rng(5)
    image = rng.integers(0, 256, (90, 120, 3)).astype(np.uint8)
    corner = rng.integers(0, (100, 70), (70, 2))
    boxes = np.concatenate([corner, corner + rng.integers(2, 20, (70, 2))], axis=1).astype(np.float32)
    boxes[50] = boxes[3]
    settings = FeatureSettings(mode="rcnn", levels=(2, 1), crop=71, crop_padding=4)
    extractor = make_extractor(network, settings)
    prepared = extractor.prepare(image)
    pooled = extractor.extract(prepared, boxes)
    assert pooled.rows[50] == pooled.rows[3]
    assert len(pooled.features) < 70
    mean = np.array(network.normalise.mean, np.float32)
    for index in (0, 3, 31, 33, 69):
        alone = extractor.extract(prepared, boxes[index : index + 1]).features[0]
        np.testing.assert_allclose(pooled.features[pooled.rows[index]], alone, rtol=1e-4, atol=1e-4)
        with torch.inference_mode():
            crop = warp(image.astype(np.float32), boxes[index], 71, 4, mean)
            values = network(network.normalise(crop))[0].permute(1, 2, 0).contiguous().numpy()
        whole = np.array([[0, 0, *values.shape[1::-1]]], np.int32)
        by_hand = spatial_pyramid_pool(values, whole, (2, 1))[0]
        np.testing.assert_allclose(by_hand, alone, rtol=1e-4, atol=1e-4)
    assert set(extractor.clock.seconds) == {"resize", "convolution", "pooling"}


def test_no_regions(network):
    extractor = make_extractor(network, FeatureSettings(mode="rcnn", levels=(6,)))
    pooled = extractor.extract(
        extractor.prepare(np.zeros((30, 30, 3), np.uint8)), np.zeros((0, 4), np.float32)
    )
    assert pooled.features.shape == (0, 9216)
    assert len(pooled.rows) == 0


def test_spp_stays_the_default(network):
    assert type(make_extractor(network, FeatureSettings())) is SPPExtractor


def test_nothing_is_stored(network, tmp_path):
    """Stored maps of SPP-net, of the same network and scales, are not used for R-CNN."""
    image = np.random.default_rng(6).integers(0, 256, (70, 70, 3)).astype(np.uint8)
    spp = make_extractor(network, FeatureSettings(scales=(70,)))
    spp.store(tmp_path, 10**9).get("digest", lambda: spp.prepare(image))
    rcnn = make_extractor(network, FeatureSettings(scales=(70,), mode="rcnn"))
    store = rcnn.store(tmp_path, 10**9)
    before = sorted(tmp_path.rglob("*"))
    for _ in range(2):
        np.testing.assert_array_equal(store.get("digest", lambda: rcnn.prepare(image)), image)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("values", "match"),
    [({"mode": "fast"}, "spp or rcnn"), ({"crop": 32}, "leave room"), ({"crop_padding": -1}, "leave room")],
    ids=str,
)
def test_bad_settings(values, match):
    with pytest.raises(InputError, match=match):
        FeatureSettings(**values)


def test_training_and_detection_take_it(tiny_settings, tiny_train, tiny_test, tmp_path):
    """A whole run with a small variant of the preset; the saved model gives the same detections."""
    rcnn = make_settings("rcnn", changes=["features.crop = 71", "features.crop_padding = 5"])
    settings = replace(
        rcnn, network=tiny_settings.network, proposals=replace(tiny_settings.proposals, max_proposals=12)
    )
    with ProposalCache(tmp_path / "proposals.sqlite", settings.proposals) as cache:
        run = Run(tmp_path / "run", settings, cache, tmp_path / "maps")
        run.claim("tiny", "digest")
        detector = run.train(tiny_train, run.build(), lambda *_: None)
        loaded = run.load()
        assert isinstance(loaded.extractor, RCNNExtractor)
        assert loaded.extractor.settings == settings.features
        regressed, proposed = detect_split(run, loaded, tiny_test, lambda *_: None)
    example = tiny_test[0]
    direct = detector.detect(example.path)
    np.testing.assert_allclose(direct.scores, regressed[example.image_id].scores, rtol=1e-3, atol=1e-3)
    assert sum(map(len, proposed.values())) > 0
    assert not (tmp_path / "maps").exists()

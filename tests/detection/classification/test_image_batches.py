"""Batches of images: crops, flips and colours against slow references, order, processes, bad files."""

from collections import Counter
from dataclasses import replace
from itertools import count

import cv2
import numpy as np
import pytest
import torch

from sppnet.data.image_folder import open_image_folder
from sppnet.data.images import read_image
from sppnet.detection.backbones.normalisation import IMAGENET, RELEASED
from sppnet.detection.classification.classifier import ClassifierSettings
from sppnet.detection.classification.image_batches import (
    Request,
    centre_requests,
    epoch_requests,
    epoch_steps,
    read_batches,
    shifted,
)
from sppnet.detection.classification.pretraining_settings import PretrainingSettings
from sppnet.detection.classification.views import ViewSettings, make_views

SIZE, SHORT, SMALL = 32, 36, 24
SETTINGS = PretrainingSettings(
    ClassifierSettings(size=SIZE), short_side=SHORT, small_size=SMALL, size_schedule="alternating", batch=4
)
PLAIN = replace(SETTINGS, flip=False, colour=0.0)


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """Images of noise in three classes; the first two need no resizing, the third is plain gray."""
    folder = tmp_path_factory.mktemp("noise")
    rng = np.random.default_rng(0)
    sizes = [(36, 41), (47, 36), (36, 36), (72, 90), (51, 33), (36, 36), (60, 50), (40, 80)]
    for number, size in enumerate(sizes):
        image = rng.integers(0, 256, (*size, 3), np.uint8)
        path = folder / "abc"[number // 3] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), image if number != 2 else np.full_like(image, 128))
    return open_image_folder(folder)


def read(noise, requests, settings=SETTINGS, workers=0):
    (batch,) = read_batches(noise, [requests], settings, workers)
    assert batch.errors == ()
    return batch.images.numpy()


def square(image, top, left):
    return image[top : top + SIZE, left : left + SIZE]


@pytest.mark.parametrize("index", [0, 1])
def test_the_centre_or_a_corner(noise, index):
    image = read_image(noise.paths[index])
    height, width = image.shape[:2]
    down, right = height - SIZE, width - SIZE
    starts = [(down // 2, right // 2), (0, 0), (0, right), (down, 0), (down, right)]
    expected = [square(image, *start).tobytes() for start in starts]
    crops = read(noise, [Request(index, SIZE, epoch) for epoch in range(300)], PLAIN)
    counts = Counter(crop.tobytes() for crop in crops)
    assert counts.keys() == set(expected)
    # All are equally likely: each comes 60 times, with a deviation of 7.
    assert all(30 < times < 90 for times in counts.values())


def test_any_position(noise):
    """All 5 x 10 positions come, including the last one, and no other."""
    image = read_image(noise.paths[0])
    expected = {square(image, top, left).tobytes() for top in range(5) for left in range(10)}
    requests = [Request(0, SIZE, epoch) for epoch in range(700)]
    crops = read(noise, requests, replace(PLAIN, crop="anywhere"))
    assert {crop.tobytes() for crop in crops} == expected


@pytest.mark.parametrize("index", range(8))
def test_the_centre_to_test_on_is_that_of_the_views(noise, index):
    image = read_image(noise.paths[index])
    (views,) = make_views("centre", *image.shape[:2], ViewSettings(SIZE, SHORT, (SHORT,)))
    resized = cv2.resize(image, (views.width, views.height))
    left, top, _, _ = views.boxes[0].astype(int)
    # The settings have all changes of training; for tests none is made.
    (crop,) = read(noise, [Request(index, SIZE)])
    np.testing.assert_array_equal(crop, square(resized, top, left))


@pytest.mark.parametrize("crop", ["corners", "anywhere"])
def test_the_small_input_is_the_large_one_resized(noise, crop):
    settings = replace(PLAIN, crop=crop)
    large = read(noise, [Request(3, SIZE, epoch) for epoch in range(20)], settings)
    small = read(noise, [Request(3, SMALL, epoch) for epoch in range(20)], settings)
    assert small.shape == (20, SMALL, SMALL, 3)
    for large_crop, small_crop in zip(large, small, strict=True):
        np.testing.assert_array_equal(small_crop, cv2.resize(large_crop, (SMALL, SMALL)))


def test_half_are_mirrored(noise):
    requests = [Request(4, SIZE, epoch) for epoch in range(300)]
    plain, flipped = read(noise, requests, PLAIN), read(noise, requests, replace(PLAIN, flip=True))
    mirrored = 0
    for crop, maybe_mirrored in zip(plain, flipped, strict=True):
        same = np.array_equal(crop, maybe_mirrored)
        assert same or np.array_equal(crop[:, ::-1], maybe_mirrored)
        mirrored += not same
    assert 115 < mirrored < 185


def test_colours_shift_along_the_principal_axes(noise):
    """A gray crop shifts as a whole, mostly to other grays, by the amounts of the paper's source."""
    settings = replace(PLAIN, colour=0.1)
    crops = read(noise, [Request(2, SIZE, epoch) for epoch in range(1000)], settings).astype(float)
    assert (crops == crops[:, :1, :1]).all()
    shifts = crops[:, 0, 0] - 128
    axes = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    along = (shifts @ axes).std(axis=0)
    # Krizhevsky's 0.1 times the axes' lengths for pixels from 0 to 255, and 0.29 from rounding.
    expected = np.hypot(0.1 * 255 * np.array([0.2175, 0.0188, 0.0045]), 12**-0.5)
    np.testing.assert_allclose(along, expected, rtol=0.1)
    assert np.abs(shifts.mean(axis=0)).max() < 0.5


def test_shifted_pixel_by_pixel():
    image = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    shift = np.array([30.4, -0.6, -250.0])
    expected = [
        [[min(max(round(int(pixel[c]) + shift[c]), 0), 255) for c in range(3)] for pixel in row]
        for row in image
    ]
    np.testing.assert_array_equal(shifted(image, shift), expected)


def test_crops_follow_from_seed_epoch_and_image_alone(noise):
    requests = [Request(index, SIZE, epoch) for epoch in range(3) for index in range(8)]
    alone = np.concatenate([read(noise, [request]) for request in reversed(requests)])[::-1]
    np.testing.assert_array_equal(read(noise, requests), alone)
    other = read(noise, requests, replace(SETTINGS, seed=1))
    assert (other != alone).any(axis=(1, 2, 3)).sum() > 20
    assert (alone[8:16] != alone[:8]).any(axis=(1, 2, 3)).sum() > 6


def test_processes_make_no_difference(noise):
    """Other processes give the same batches, in order; random states of this process do not change."""
    requests = [
        batch for epoch in range(2) for batch in epoch_requests(SETTINGS, len(noise), epoch)
    ] + centre_requests(SETTINGS, len(noise))
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    alone, helped = (list(read_batches(noise, requests, SETTINGS, workers)) for workers in (0, 2))
    assert torch.equal(torch.random.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert [batch.images.shape[1] for batch in alone] == [32, 32, 24, 24, 32, 32]
    for batch, read_ahead, batch_requests in zip(alone, helped, requests, strict=True):
        assert len(batch.images) == 4
        assert torch.equal(batch.images, read_ahead.images)
        expected = [noise.labels[request.index] for request in batch_requests]
        assert batch.labels.tolist() == read_ahead.labels.tolist() == expected


@pytest.mark.timeout(60)
def test_processes_start_while_opencv_has_threads_here(noise):
    """A forked process does not have OpenCV's threads; ending them there would wait for ever."""
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(4)
        # The image is large enough for OpenCV to start its threads.
        cv2.resize(np.zeros((2000, 2000, 3), np.uint8), (1500, 1500), interpolation=cv2.INTER_CUBIC)
        batches = list(read_batches(noise, [[Request(0, SIZE)], [Request(1, SIZE)]], SETTINGS, 2))
        assert [len(batch.images) for batch in batches] == [1, 1]
        assert cv2.getNumThreads() == 4
    finally:
        cv2.setNumThreads(threads)


def test_requests_are_taken_as_batches_are_read(noise):
    batches = read_batches(noise, ([Request(0, SIZE, epoch)] for epoch in count()), PLAIN, 0)
    assert next(batches).images.shape == next(batches).images.shape == (1, SIZE, SIZE, 3)


@pytest.mark.parametrize("workers", [0, 1])
def test_images_that_cannot_be_read(tmp_path, workers):
    (tmp_path / "a").mkdir()
    for name, size in (("good", (40, 50)), ("long", (20, 340))):
        cv2.imwrite(str(tmp_path / "a" / f"{name}.png"), np.zeros((*size, 3), np.uint8))
    (tmp_path / "a" / "broken.png").write_bytes(b"no image")
    folder = open_image_folder(tmp_path)
    requests = [[Request(index, SIZE) for index in (0, 1, 2)], [Request(0, SIZE)]]
    first, second = read_batches(folder, requests, PLAIN, workers)
    assert (len(first.images), first.labels.tolist(), len(first.errors)) == (1, [0], 2)
    assert "broken.png: not an image" in first.errors[0]
    assert "long.png: 340x20 pixels: over 16 times" in first.errors[1]
    assert (len(second.images), len(second.labels), len(second.errors)) == (0, 0, 1)


@pytest.mark.parametrize("normalise", [IMAGENET, RELEASED], ids=["rgb", "bgr"])
def test_inputs_are_those_of_the_network(noise, normalise):
    (batch,) = read_batches(noise, [[Request(index, SIZE) for index in range(5)]], PLAIN, 0)
    inputs = batch.inputs(normalise)
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    for image, values in zip(batch.images, inputs, strict=True):
        torch.testing.assert_close(values, normalise(image.numpy())[0])


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("images", [22, 20, 4, 3])
def test_an_epoch_shows_every_image_once_but_for_the_rest(images, ranks):
    whole = epoch_requests(SETTINGS, images, 5)
    assert len(whole) == epoch_steps(SETTINGS, images) == max(1, images // 4)
    indices = [request.index for batch in whole for request in batch]
    assert len(set(indices)) == len(indices) == min(images, 4 * len(whole))
    assert set(indices) <= set(range(images))
    assert {(request.side, request.epoch) for batch in whole for request in batch} == {(SMALL, 5)}
    shares = [epoch_requests(SETTINGS, images, 5, rank, ranks) for rank in range(ranks)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert {request for part in parts for request in part} == set(batch)
        sizes = [len(part) for part in parts]
        assert sum(sizes) == len(batch)
        assert max(sizes) - min(sizes) <= 1


def test_each_epoch_has_an_order_of_its_own():
    def order(epoch, **changes):
        batches = epoch_requests(replace(SETTINGS, **changes), 40, epoch)
        return [request.index for batch in batches for request in batch]

    assert sorted(order(0)) == list(range(40))
    assert order(3) == order(3)
    assert order(0) != list(range(40))
    assert len({tuple(order(0)), tuple(order(1)), tuple(order(0, seed=1))}) == 3


@pytest.mark.parametrize("ranks", [1, 2, 12])
def test_every_centre_is_tested_once(ranks):
    shares = [centre_requests(SETTINGS, 10, rank, ranks) for rank in range(ranks)]
    requests = [request for share in shares for batch in share for request in batch]
    assert sorted(request.index for request in requests) == list(range(10))
    assert {(request.side, request.epoch) for request in requests} == {(SIZE, None)}
    assert all(1 <= len(batch) <= 4 for share in shares for batch in share)

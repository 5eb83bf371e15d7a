"""OpenCV's Selective Search with the paper's settings: boxes, ranking, and one result from one seed."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from scenes import as_set, scene

from sppnet.common.errors import InputError
from sppnet.proposals import OpenCVSelectiveSearch
from sppnet.proposals.engine import canonical_json, method_digest

ALL = OpenCVSelectiveSearch(max_proposals=1_000_000)


def area(boxes):
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


@pytest.fixture(scope="module")
def image():
    return scene(0)


@pytest.fixture(scope="module")
def boxes(image):
    proposals = ALL.propose(image)
    assert len(proposals) > 30
    return proposals


def test_form(image, boxes):
    height, width = image.shape[:2]
    assert boxes.dtype == np.float32
    assert boxes.shape == (len(boxes), 4)
    np.testing.assert_array_equal(boxes, np.rint(boxes))
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= (width, height)).all()
    assert len(as_set(boxes)) == len(boxes)
    assert (boxes[:, 2:] - boxes[:, :2] >= 20).all()


def test_the_whole_image_is_a_proposal(image, boxes):
    # The top of every hierarchy; it also shows that right and bottom are exclusive.
    assert (0, 0, image.shape[1], image.shape[0]) in as_set(boxes)


def test_defaults_are_the_fast_mode_of_the_paper():
    engine = OpenCVSelectiveSearch()
    assert engine.colour_spaces == ("hsv", "lab")
    assert engine.ks == (50, 100)
    assert (engine.sigma, engine.min_side, engine.max_proposals) == (0.8, 20, 2000)


def test_one_seed_one_result(image, boxes):
    np.testing.assert_array_equal(ALL.propose(image), boxes)


def test_the_seed_changes_nothing_but_the_order(image, boxes):
    reordered = replace(ALL, seed=1).propose(image)
    assert as_set(reordered) == as_set(boxes)
    assert not np.array_equal(reordered, boxes)


def test_opencvs_own_random_state_has_no_part(image, boxes):
    cv2.setRNGSeed(12345)
    np.testing.assert_array_equal(ALL.propose(image), boxes)


def test_max_proposals_keeps_the_best(image, boxes):
    np.testing.assert_array_equal(replace(ALL, max_proposals=7).propose(image), boxes[:7])


def test_min_side_drops_and_does_nothing_else(image, boxes):
    fine = replace(ALL, min_side=8).propose(image)
    assert (fine[:, 2:] - fine[:, :2]).min() < 20
    assert as_set(fine[((fine[:, 2:] - fine[:, :2]) >= 20).all(axis=1)]) == as_set(boxes)


def test_large_proposals_come_early(boxes):
    half = len(boxes) // 2
    assert area(boxes[:half]).mean() > 1.5 * area(boxes[half:]).mean()


def test_ranking_is_random_times_position_by_area(boxes):
    """Ranks by RND x i from the set of boxes, where i is the position by area from the largest."""
    canonical = sorted(as_set(boxes))
    by_area = sorted(canonical, key=lambda box: -(box[2] - box[0]) * (box[3] - box[1]))
    random = np.random.default_rng(ALL.seed).random(len(by_area))
    value = {box: random[index] * (index + 1) for index, box in enumerate(by_area)}
    assert [tuple(box) for box in boxes.tolist()] == sorted(by_area, key=value.__getitem__)


def test_more_groupings_find_more(image, boxes):
    fewer = replace(ALL, colour_spaces=("hsv",), ks=(100,)).propose(image)
    assert as_set(fewer) < as_set(boxes)


@pytest.mark.parametrize(
    "view",
    [lambda image: image[:, ::-1], lambda image: image[::2], lambda image: np.asfortranarray(image)],
    ids=["mirrored", "every_second_row", "fortran"],
)
def test_images_that_are_not_contiguous(image, view):
    np.testing.assert_array_equal(ALL.propose(view(image)), ALL.propose(np.ascontiguousarray(view(image))))


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 300), (3, 500), (19, 400)], ids=lambda side: str(side)
)
def test_nothing_in_an_image_with_a_side_below_the_least(height, width):
    proposals = OpenCVSelectiveSearch().propose(scene(0, 60, 520)[:height, :width])
    assert proposals.shape == (0, 4)
    assert proposals.dtype == np.float32


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 300), (4, 300), (4, 4), (300, 5), (20, 20)])
def test_narrow_images_without_a_least_side(height, width):
    proposals = replace(ALL, min_side=1).propose(
        np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    )
    assert (proposals[:, 2:] <= (width, height)).all()
    assert (proposals >= 0).all()


@pytest.mark.parametrize("value", [0, 128, 255])
def test_one_colour(value):
    image = np.full((64, 80, 3), value, np.uint8)
    assert as_set(ALL.propose(image)) <= {(0, 0, 80, 64)}


def test_a_long_strip_is_not_searched_at_its_own_size():
    # OpenCV turns the image by 45 degrees for the texture: work grows with the square of the long side, and
    # without max_side this takes a minute. At 1,000 pixels the strip is 2 pixels high, too narrow to search.
    strip = np.ascontiguousarray(scene(3, 60, 10_000, 30)[:20])
    assert OpenCVSelectiveSearch().propose(strip).shape == (0, 4)
    # At 200 pixels the other one is 10 pixels high.
    strip = np.ascontiguousarray(scene(3, 60, 1000, 30)[:50])
    proposals = OpenCVSelectiveSearch(max_side=200).propose(strip)
    assert (0, 0, 1000, 50) in as_set(proposals)
    assert (proposals[:, 2:] <= (1000, 50)).all()
    assert (proposals % 5 == 0).all()


def test_large_images_are_searched_smaller_and_their_boxes_scaled_back():
    small = scene(4, 60, 90)
    large = np.ascontiguousarray(small.repeat(3, axis=0).repeat(3, axis=1))
    proposals = replace(ALL, max_side=90, min_side=60).propose(large)
    # Averaging 3 x 3 equal pixels gives back the small image exactly.
    assert as_set(proposals) == {tuple(3 * edge for edge in box) for box in as_set(ALL.propose(small))}
    assert as_set(replace(ALL, max_side=270).propose(large)) == as_set(ALL.propose(large))


@pytest.mark.parametrize(("height", "width"), [(150, 101), (101, 150), (64, 149)])
def test_boxes_scaled_back_are_inside_and_distinct(height, width):
    proposals = replace(ALL, max_side=70, min_side=5).propose(scene(6, height, width))
    assert len(proposals) > 10
    assert (proposals >= 0).all()
    assert (proposals[:, 2:] <= (width, height)).all()
    assert (0, 0, width, height) in as_set(proposals)
    assert len(as_set(proposals)) == len(proposals)
    assert (proposals[:, 2:] - proposals[:, :2] >= 5).all()
    np.testing.assert_array_equal(proposals, np.rint(proposals))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"colour_spaces": ("rgb",)}, "hsv"),
        ({"colour_spaces": ()}, "colour_spaces"),
        ({"ks": ()}, "ks"),
        ({"ks": (50, 0)}, "ks"),
        ({"sigma": 0.0}, "sigma"),
        ({"min_side": 0}, "min_side"),
        ({"max_proposals": 0}, "max_proposals"),
        ({"max_side": 0}, "max_side"),
    ],
)
def test_bad_settings(values, named):
    with pytest.raises(InputError, match=named):
        OpenCVSelectiveSearch(**values)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"ks": (50,)},
        {"sigma": 0.5},
        {"min_side": 21},
        {"max_proposals": 9},
        {"max_side": 99},
        {"colour_spaces": ("lab",)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_setting_is_in_the_digest(change):
    assert method_digest(replace(ALL, **change)) != method_digest(ALL)
    assert method_digest(replace(ALL)) == method_digest(ALL)


def test_the_digest_knows_the_version(monkeypatch):
    before = method_digest(ALL)
    monkeypatch.setattr(cv2, "__version__", "0.0")
    assert method_digest(ALL) != before


def test_canonical_json():
    assert canonical_json({"b": [1, 2.5], "a": None}) == '{"a":null,"b":[1,2.5]}'

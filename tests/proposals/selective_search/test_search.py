"""Selective Search as a whole: modes, ranking, settings, refused input, one result from one seed."""

import itertools
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import pytest
from scenes import as_set, scene

from sppnet.common.errors import InputError
from sppnet.proposals.engine import canonical_json, method_digest, settings_of
from sppnet.proposals.selective_search import MODES, SelectiveSearch, Strategy, search
from sppnet.proposals.selective_search.colour import COLOUR_SPACES, to_colour_space
from sppnet.proposals.selective_search.grouping import Similarities, group
from sppnet.proposals.selective_search.regions import colour_bins, measure, texture_bins
from sppnet.proposals.selective_search.segmentation import segment, sorted_edges

ALL = SelectiveSearch("fast", max_proposals=None)
ONE = (Strategy("rgb", "CTSF", 40),)


def sides(boxes):
    return boxes[:, 2:] - boxes[:, :2]


@pytest.fixture(scope="module")
def image():
    return scene(0)


@pytest.fixture(scope="module")
def boxes(image):
    proposals = ALL.propose(image)
    assert len(proposals) > 50
    return proposals


def ranked_by_hand(engine, image):
    """Ranks all boxes by RND x position from the top; drops small boxes, duplicates, then the last boxes."""
    rng = np.random.default_rng(engine.seed)
    drawn = []
    for grouped in engine.hierarchies(image):
        all_boxes = grouped.hierarchy.boxes.tolist()
        for index, box in enumerate(all_boxes):
            position = len(all_boxes) - index
            drawn.append((rng.random() * position, len(drawn), tuple(box)))
    kept = []
    for _, _, (x1, y1, x2, y2) in sorted(drawn):
        box = (x1, y1, x2, y2)
        if min(x2 - x1, y2 - y1) >= engine.min_side and box not in kept:
            kept.append(box)
    return kept if engine.max_proposals is None else kept[: engine.max_proposals]


@pytest.mark.parametrize(
    "engine",
    [
        SelectiveSearch(),
        SelectiveSearch("single", seed=7),
        SelectiveSearch("fast", min_side=1, max_proposals=None),
        SelectiveSearch("hue/F/50 rgi/CT/30 c/S/30", max_proposals=25, min_side=8, seed=3, sigma=0),
    ],
    ids=["default", "single", "all", "mixed"],
)
def test_ranked_before_equal_boxes_are_dropped(image, engine):
    assert [tuple(box) for box in engine.propose(image).tolist()] == ranked_by_hand(engine, image)


def test_hierarchies_are_the_parts_put_together(image):
    engine = SelectiveSearch("hsv/CTSF/50 lab/TSF/30 hsv/CT/90 hsv/S/50 intensity/F/30", sigma=1.1)
    seen = []
    for grouped in engine.hierarchies(image):
        space, letters, k = grouped.strategy.colour_space, grouped.strategy.similarities, grouped.strategy.k
        seen.append(grouped.strategy)
        colours = to_colour_space(image, space)
        labels = segment(sorted_edges(colours, 1.1), k, k)
        np.testing.assert_array_equal(grouped.labels, labels)
        regions = measure(labels, colour_bins(colours), texture_bins(colours))
        used = Similarities("C" in letters, "T" in letters, "S" in letters, "F" in letters)
        expected = group(regions, used)
        np.testing.assert_array_equal(grouped.hierarchy.merges, expected.merges)
        np.testing.assert_array_equal(grouped.hierarchy.boxes, expected.boxes)
        assert grouped.hierarchy.boxes[-1].tolist() == [0, 0, 120, 90]
    assert len(seen) == 5
    assert set(map(str, seen)) == set(engine.strategies.split())
    # Strategies that share a segmentation follow each other.
    runs = [key for key, _ in itertools.groupby(seen, lambda strategy: (strategy.colour_space, strategy.k))]
    assert len(runs) == len(set(runs)) == 4


def test_form(image, boxes):
    height, width = image.shape[:2]
    assert boxes.dtype == np.float32
    assert boxes.shape == (len(boxes), 4)
    np.testing.assert_array_equal(boxes, np.rint(boxes))
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= (width, height)).all()
    assert len(as_set(boxes)) == len(boxes)
    assert (sides(boxes) >= 20).all()
    # The top of every hierarchy; it also shows that right and bottom are exclusive.
    assert (0, 0, width, height) in as_set(boxes)
    np.testing.assert_array_equal(ALL(image), boxes)


def test_it_finds_a_square():
    image = np.full((80, 100, 3), 60, np.uint8)
    image[20:60, 30:75] = (200, 60, 60)
    assert as_set(SelectiveSearch("single", sigma=0).propose(image)) == {(0, 0, 100, 80), (30, 20, 75, 60)}


def test_large_proposals_come_early(boxes):
    area = sides(boxes).prod(axis=1)
    half = len(boxes) // 2
    assert area[:half].mean() > 1.5 * area[half:].mean()


# --- one seed, one result


def test_one_seed_one_order(image, boxes):
    np.testing.assert_array_equal(ALL.propose(image), boxes)
    cv2.setRNGSeed(99)
    np.random.seed(99)  # noqa: NPY002
    np.testing.assert_array_equal(ALL.propose(image), boxes)


def test_the_seed_changes_nothing_but_the_order(image, boxes):
    reordered = replace(ALL, seed=1).propose(image)
    assert as_set(reordered) == as_set(boxes)
    assert not np.array_equal(reordered, boxes)


def test_threads_propose_the_same_boxes(image, boxes):
    with ThreadPoolExecutor(4) as pool:
        for proposals in pool.map(ALL.propose, [image] * 8):
            np.testing.assert_array_equal(proposals, boxes)


def test_threads_on_different_images():
    engine = SelectiveSearch("fast", min_side=4)
    images = [scene(seed, 40 + seed, 60 - seed) for seed in range(6)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(engine.propose, images))
    for image, proposals in zip(images, results, strict=True):
        np.testing.assert_array_equal(proposals, engine.propose(image))


def test_picklable(image, boxes):
    engine = pickle.loads(pickle.dumps(ALL))  # noqa: S301
    assert engine == ALL
    assert hash(engine) == hash(ALL)
    np.testing.assert_array_equal(engine.propose(image), boxes)
    chosen = SelectiveSearch(ONE)
    assert pickle.loads(pickle.dumps(chosen)) == chosen  # noqa: S301


# --- settings


def test_min_side_drops_and_does_nothing_else(image, boxes):
    fine = replace(ALL, min_side=5).propose(image)
    assert sides(fine).min() < 20
    np.testing.assert_array_equal(fine[(sides(fine) >= 20).all(axis=1)], boxes)


def test_min_side_that_nothing_has(image):
    for engine in (replace(ALL, min_side=91), replace(ALL, min_side=10**12)):
        proposals = engine.propose(image)
        assert proposals.shape == (0, 4)
        assert proposals.dtype == np.float32


@pytest.mark.parametrize("most", [1, 7, 10**12])
def test_max_proposals_keeps_the_best(image, boxes, most):
    np.testing.assert_array_equal(replace(ALL, max_proposals=most).propose(image), boxes[:most])


def test_sigma_is_used(image, boxes):
    assert as_set(replace(ALL, sigma=2.0).propose(image)) != as_set(boxes)


def test_max_pixels_leaves_smaller_images_alone(image, boxes):
    for most in (None, 90 * 120):
        np.testing.assert_array_equal(replace(ALL, max_pixels=most).propose(image), boxes)


def test_a_larger_image_is_searched_smaller_and_its_boxes_are_scaled_back():
    small = scene(4, 60, 90)
    large = np.ascontiguousarray(small.repeat(3, axis=0).repeat(3, axis=1))
    # Averaging 3 x 3 equal pixels gives back the small image exactly.
    proposals = replace(ALL, max_pixels=60 * 90, min_side=60).propose(large)
    np.testing.assert_array_equal(proposals, 3 * ALL.propose(small))


@pytest.mark.parametrize(("height", "width"), [(150, 101), (101, 150), (64, 149), (30, 400)])
@pytest.mark.parametrize("most", [3000, 701])
def test_boxes_scaled_back_are_inside_and_distinct(height, width, most):
    searched = []

    class Recorded(SelectiveSearch):
        def hierarchies(self, image):
            searched.append(image.shape[:2])
            return super().hierarchies(image)

    proposals = Recorded("fast", max_pixels=most, min_side=5).propose(scene(6, height, width))
    ((searched_height, searched_width),) = searched
    assert 0.8 * most <= searched_height * searched_width <= 1.1 * most
    assert searched_height / searched_width == pytest.approx(height / width, rel=0.1)
    assert (proposals >= 0).all()
    assert (proposals[:, 2:] <= (width, height)).all()
    assert (0, 0, width, height) in as_set(proposals)
    assert len(as_set(proposals)) == len(proposals)
    assert (sides(proposals) >= 5).all()
    np.testing.assert_array_equal(proposals, np.rint(proposals))


@pytest.mark.parametrize(("height", "width"), [(1, 500), (500, 1), (7, 31)])
def test_the_least_max_pixels(height, width):
    proposals = SelectiveSearch("single", max_pixels=1, min_side=1).propose(
        scene(1, 520, 520)[:height, :width]
    )
    assert (0, 0, width, height) in as_set(proposals)
    assert (proposals[:, 2:] <= (width, height)).all()


def test_more_strategies_find_more(image, boxes):
    fewer = SelectiveSearch("hsv/CTSF/50", max_proposals=None).propose(image)
    assert as_set(fewer) < as_set(boxes)


@pytest.mark.parametrize("space", COLOUR_SPACES)
def test_every_colour_space_can_be_searched(image, space):
    proposals = SelectiveSearch((Strategy(space, "CTSF", 30),), min_side=1).propose(image)
    assert (0, 0, 120, 90) in as_set(proposals)
    assert len(proposals) > 3


# --- modes and strategies


def test_modes_of_the_paper():
    """Uijlings et al., Table 4."""
    assert {mode: len(strategies) for mode, strategies in MODES.items()} == {
        "single": 1,
        "fast": 8,
        "quality": 80,
    }
    expected = {
        "single": [("hsv",), ("CTSF",), (100,)],
        "fast": [("hsv", "lab"), ("CTSF", "TSF"), (50, 100)],
        "quality": [
            ("hsv", "lab", "rgi", "hue", "intensity"),
            ("CTSF", "TSF", "F", "S"),
            (50, 100, 150, 300),
        ],
    }
    for mode, parts in expected.items():
        assert {(s.colour_space, s.similarities, s.k) for s in MODES[mode]} == set(itertools.product(*parts))
    assert SelectiveSearch().strategies == "fast"


def test_all_of_the_quality_mode_run():
    small = scene(2, 24, 30)
    grouped = list(SelectiveSearch("quality").hierarchies(small))
    strategies = [tree.strategy for tree in grouped]
    assert sorted(map(str, strategies)) == sorted(map(str, MODES["quality"]))


def test_text_mode_and_strategies_mean_the_same(image):
    single = SelectiveSearch("single")
    for same in (SelectiveSearch("hsv/CTSF/100"), SelectiveSearch((Strategy("hsv", "CTSF", 100),))):
        assert same.parameters() == single.parameters()
        np.testing.assert_array_equal(same.propose(image), single.propose(image))
    two = SelectiveSearch(" hsv/CTSF/50   lab/F/100 ")
    assert (
        two.parameters()
        == SelectiveSearch((Strategy.parse("hsv/CTSF/50"), Strategy("lab", "F", 100))).parameters()
    )


@pytest.mark.parametrize("strategy", MODES["quality"][::7], ids=str)
def test_a_strategy_can_be_written_and_read(strategy):
    assert Strategy.parse(str(strategy)) == strategy


def test_parameters_are_json_and_name_every_field():
    parameters = SelectiveSearch("quality").parameters()
    assert json.loads(canonical_json(parameters)) == parameters
    fields = {"strategies", "sigma", "min_side", "max_pixels", "max_proposals", "seed"}
    assert set(settings_of(parameters)) == fields


def test_every_change_of_a_setting_is_another_method():
    engines = [
        SelectiveSearch(),
        SelectiveSearch("quality"),
        SelectiveSearch("single"),
        SelectiveSearch("hsv/CTSF/101"),
        SelectiveSearch("hsv/CTF/100"),
        SelectiveSearch("lab/CTSF/100"),
        SelectiveSearch(sigma=0.9),
        SelectiveSearch(min_side=19),
        SelectiveSearch(max_pixels=999_999),
        SelectiveSearch(max_pixels=None),
        SelectiveSearch(max_proposals=1999),
        SelectiveSearch(max_proposals=None),
        SelectiveSearch(seed=1),
    ]
    assert len({method_digest(engine) for engine in engines}) == len(engines)
    assert method_digest(SelectiveSearch()) == method_digest(SelectiveSearch("fast"))


# --- small and odd images

SMALL = SelectiveSearch("fast", min_side=1)


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 2), (2, 1), (2, 2), (1, 300), (300, 1), (3, 200), (200, 5)]
)
def test_narrow_images(height, width):
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    proposals = SMALL.propose(image)
    assert (0, 0, width, height) in as_set(proposals)
    assert (proposals >= 0).all()
    assert (proposals[:, 2:] <= (width, height)).all()
    assert (sides(proposals) >= 1).all()
    assert [tuple(box) for box in proposals.tolist()] == ranked_by_hand(SMALL, image)
    assert SelectiveSearch().propose(image).shape == (0, 4)


def test_two_pixels_apart():
    """Even two pixels are below the least segment, k."""
    image = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    assert SMALL.propose(image).tolist() == [[0, 0, 2, 1]]
    apart = SelectiveSearch((Strategy("rgb", "S", 1),), sigma=0, min_side=1).propose(image)
    assert as_set(apart) == {(0, 0, 2, 1), (0, 0, 1, 1), (1, 0, 2, 1)}


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (200, 30, 90)])
def test_one_colour(colour):
    image = np.empty((64, 80, 3), np.uint8)
    image[:] = colour
    engine = SelectiveSearch(tuple(Strategy(space, "CTSF", 1) for space in COLOUR_SPACES))
    assert as_set(engine.propose(image)) == {(0, 0, 80, 64)}


@pytest.mark.parametrize(
    "view",
    [
        lambda image: image[::2, ::3],
        lambda image: image[5:60, 7:99],
        lambda image: image.transpose(1, 0, 2),
        lambda image: image[::-1],
        lambda image: image[:, ::-1],
        lambda image: image[..., ::-1],
        np.asfortranarray,
        lambda image: np.broadcast_to(image[:, :1], image.shape),
        lambda image: np.dstack([image, image[..., :1]])[..., :3],
    ],
    ids=["steps", "crop", "transposed", "flipped", "mirrored", "bgr", "fortran", "broadcast", "alpha_cut"],
)
@pytest.mark.parametrize("most", [None, 1500], ids=["whole", "shrunk"])
def test_any_strides_and_read_only(image, view, most):
    engine = SelectiveSearch(ONE, min_side=1, max_pixels=most)
    seen = view(image.copy())
    copy = seen.copy("C")
    seen.flags.writeable = False
    np.testing.assert_array_equal(engine.propose(seen), engine.propose(copy))
    np.testing.assert_array_equal(seen, copy)


def test_the_image_is_not_written_to(image):
    before = image.copy()
    ALL.propose(image)
    np.testing.assert_array_equal(image, before)


# --- refusals


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (np.zeros((8, 9, 3), np.float32), r"float32 \(8, 9, 3\), not uint8"),
        (np.zeros((8, 9, 3), np.float64), "float64"),
        (np.zeros((8, 9, 3), bool), "bool"),
        (np.zeros((8, 9, 3), np.int8), "int8"),
        (np.zeros((8, 9, 3), np.uint16), "uint16"),
        (np.zeros((8, 9, 4), np.uint8), r"\(8, 9, 4\).*drop alpha"),
        (np.zeros((8, 9, 1), np.uint8), r"\(8, 9, 1\).*grey"),
        (np.zeros((8, 9), np.uint8), r"\(8, 9\).*grey"),
        (np.zeros((1, 3, 8, 9), np.uint8), r"\(1, 3, 8, 9\)"),
        (np.zeros((3, 8, 9), np.uint8), r"\(3, 8, 9\)"),
        (np.zeros((0, 9, 3), np.uint8), "9 x 0 pixels is empty"),
        (np.zeros((8, 0, 3), np.uint8), "0 x 8 pixels is empty"),
        (np.zeros((8, 9, 0), np.uint8), r"\(8, 9, 0\)"),
        (np.zeros(0, np.uint8), r"\(0,\)"),
        ([[[0, 0, 0]]], "list"),
        (None, "NoneType"),
        ("image.jpg", "str"),
    ],
)
def test_values_that_are_not_images(bad, named):
    for method in (SMALL.propose, SMALL, lambda image: list(SMALL.hierarchies(image))):
        with pytest.raises(InputError, match=named):
            method(bad)


def test_more_pixels_than_can_be_searched():
    enormous = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (1 << 14, (1 << 14) + 1, 3))
    with pytest.raises(InputError, match=r"16385 x 16384 pixels.*max_pixels"):
        SelectiveSearch(max_pixels=None).propose(enormous)


def test_the_limit_is_on_the_pixels_that_are_searched(image, monkeypatch):
    monkeypatch.setattr(search, "MAX_SEARCHED_PIXELS", 3000)
    assert len(SelectiveSearch(max_pixels=2500).propose(image))
    with pytest.raises(InputError, match="max_pixels"):
        SelectiveSearch().propose(image)


@pytest.mark.parametrize("name", ["min_side", "max_pixels", "max_proposals", "seed"])
@pytest.mark.parametrize("value", [-1, 1.5, 20.0, float("nan"), float("inf"), True, "20", np.int64(20), [20]])
def test_bad_whole_numbers(name, value):
    with pytest.raises(InputError, match=f"{name} = "):
        SelectiveSearch(**{name: value})


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"min_side": 0}, "min_side = 0: must be a whole number of at least 1"),
        ({"max_pixels": 0}, "max_pixels = 0"),
        ({"max_proposals": 0}, "max_proposals = 0"),
        ({"min_side": None}, "min_side = None"),
        ({"seed": None}, "seed = None"),
        ({"sigma": -0.1}, "sigma = -0.1: must be a number from 0 to 100"),
        ({"sigma": 100.1}, "sigma = 100.1"),
        ({"sigma": float("nan")}, "sigma = nan"),
        ({"sigma": float("inf")}, "sigma = inf"),
        ({"sigma": "0.8"}, "sigma = '0.8'"),
        ({"sigma": None}, "sigma = None"),
        ({"sigma": True}, "sigma = True"),
        ({"sigma": np.float32(0.8)}, "sigma = "),
        ({"strategies": "slow"}, "'slow'.*single, fast, quality"),
        ({"strategies": "Fast"}, "'Fast'.*single, fast, quality"),
        ({"strategies": "fast lab/F/50"}, "'fast'"),
        ({"strategies": "xyz/F/50"}, "'xyz'.*hsv"),
        ({"strategies": "hsv/F"}, "'hsv/F'.*hsv/CTSF/50"),
        ({"strategies": "hsv/F/-5"}, "hsv/F/-5"),
        ({"strategies": "hsv/F/0"}, "k = 0"),
        ({"strategies": "hsv/F/50,lab/F/50"}, "hsv/F/50,lab/F/50"),
        ({"strategies": ""}, "at least one"),
        ({"strategies": "  "}, "at least one"),
        ({"strategies": ()}, "at least one"),
        ({"strategies": None}, "strategies = None"),
        ({"strategies": 8}, "strategies = 8"),
        ({"strategies": ("hsv/F/50",)}, "tuple of Strategy"),
        ({"strategies": Strategy("hsv", "F", 50)}, "tuple of Strategy"),
    ],
)
def test_bad_settings(values, named):
    with pytest.raises(InputError, match=named):
        SelectiveSearch(**values)


@pytest.mark.parametrize(
    "value", [0, -5, 1_000_001, 50.5, 50.0, float("nan"), float("inf"), "50", None, True]
)
def test_bad_thresholds(value):
    with pytest.raises(InputError, match=r"k = .*1 to 1,000,000"):
        Strategy("hsv", "CTSF", value)


@pytest.mark.parametrize("letters", ["", "CC", "CTSFC", "X", "CX", "ctsf", "C T", None, 5, ("C", "T"), ["C"]])
def test_bad_similarities(letters):
    with pytest.raises(InputError, match=r"similarities .*CTSF"):
        Strategy("hsv", letters, 50)


@pytest.mark.parametrize("space", ["", "HSV", "xyz", None, 3, ["hsv"]])
def test_bad_colour_spaces(space):
    with pytest.raises(InputError, match=r"colour space .*hsv"):
        Strategy(space, "CTSF", 50)


@pytest.mark.parametrize("values", [{"sigma": 0}, {"sigma": 100}, {"sigma": 1e-12}, {"seed": 10**30}])
def test_settings_at_their_limits(values):
    proposals = SelectiveSearch(ONE, min_side=1, **values).propose(scene(3, 30, 40))
    assert (0, 0, 40, 30) in as_set(proposals)


@pytest.mark.parametrize("k", [1, 1_000_000])
def test_thresholds_at_their_limits(k):
    proposals = SelectiveSearch((Strategy("rgb", "TS", k),), min_side=1).propose(scene(3, 30, 40))
    assert (len(proposals) == 1) == (k > 1)

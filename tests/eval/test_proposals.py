"""Measures of how well proposals cover objects: against plain loops, and by hand."""

import json
import math
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from sppnet.data.types import Dataset, Example
from sppnet.eval.proposal_report import abo_table, plot_proposals, proposal_table, proposals_dict
from sppnet.eval.proposals import ALL, BEST, best_overlaps, evaluate_proposals, log_counts

CLASSES = ("cat", "dog", "hat")


def make_example(boxes, labels=None, difficult=None, name="a"):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    count = len(boxes)
    labels = np.zeros(count, np.int64) if labels is None else np.array(labels, np.int64)
    flags = np.zeros(count, bool) if difficult is None else np.array(difficult, bool)
    return Example(name, Path(f"{name}.jpg"), 60, 60, boxes, labels, flags, np.zeros(count, bool))


def make_dataset(*examples, classes=CLASSES):
    return Dataset("made", "test", classes, examples)


def slow_overlap(a, b):
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def slow_figures(examples, proposals, count, difficult):
    """Computes recall at 0.5 and 0.7, average recall, MABO and ABO per class for a number of proposals."""
    by_class = {label: [] for label in range(len(CLASSES))}
    for example, boxes in zip(examples, proposals, strict=True):
        for box, label, hard in zip(
            example.boxes.tolist(), example.labels.tolist(), example.difficult, strict=True
        ):
            if difficult or not hard:
                best = max((slow_overlap(box, proposal) for proposal in boxes.tolist()[:count]), default=0)
                by_class[label].append(best)
    best = [value for values in by_class.values() for value in values]
    if not best:
        return [math.nan] * (4 + len(CLASSES))
    # The integral of recall over overlaps, as the area of its steps.
    steps = sorted({0.5, 1.0, *(value for value in best if 0.5 < value < 1)})
    area = sum(
        (high - low) * sum(value >= high for value in best) / len(best) for low, high in pairwise(steps)
    )
    abo = [sum(values) / len(values) if values else math.nan for values in by_class.values()]
    present = [value for value in abo if not math.isnan(value)]
    recall = [sum(value >= threshold for value in best) / len(best) for threshold in (0.5, 0.7)]
    return [*recall, 2 * area, sum(present) / len(present), *abo]


def figures(result, index):
    curves = (result.recall(0.5), result.recall(0.7), result.average_recall(), result.mabo(), *result.abo())
    return [curve[index] for curve in curves]


# With whole-numbered edges of few pixels, many boxes are equal, do not overlap, or overlap by exactly a half.
edges = st.tuples(*[st.integers(0, 5)] * 2, *[st.integers(1, 6)] * 2)
box = edges.map(lambda edge: (edge[0], edge[1], edge[0] + edge[2], edge[1] + edge[3]))
objects = st.lists(st.tuples(box, st.integers(0, len(CLASSES) - 1), st.booleans()), max_size=4)
images = st.lists(st.tuples(objects, st.lists(box, max_size=7)), min_size=1, max_size=4)


@given(images, st.booleans())
@settings(max_examples=150, deadline=None)
def test_against_plain_loops(made, difficult):
    examples = [
        make_example(*([list(part) for part in zip(*parts, strict=True)] or [[]])) for parts, _ in made
    ]
    proposals = [np.array(boxes, np.float32).reshape(-1, 4) for _, boxes in made]
    counts = [1, 2, 3, 5, ALL]
    result = evaluate_proposals(make_dataset(*examples), iter(proposals), counts, difficult)
    for index, count in enumerate(counts):
        expected = slow_figures(examples, proposals, count, difficult)
        np.testing.assert_allclose(figures(result, index), expected, atol=1e-12)


def random_boxes(rng, count):
    corner = rng.integers(0, 300, (count, 2))
    return np.concatenate([corner, corner + rng.integers(5, 200, (count, 2))], axis=1).astype(np.float32)


def test_many_proposals_against_plain_loops():
    rng = np.random.default_rng(0)
    examples = [
        make_example(random_boxes(rng, 3), rng.integers(0, 3, 3), rng.random(3) < 0.3, str(index))
        for index in range(8)
    ]
    proposals = [random_boxes(rng, int(rng.integers(0, 400))) for _ in examples]
    result = evaluate_proposals(make_dataset(*examples), proposals)
    assert result.counts.tolist() == log_counts().tolist()
    for count in (1, 10, 100, BEST, ALL):
        expected = slow_figures(examples, proposals, count, False)
        np.testing.assert_allclose(figures(result, result.at(count)), expected, atol=1e-12)


def test_figures_by_hand():
    # The best proposals overlap the cat by 1/2, then 1, and the dog by 0, then 1/4.
    example = make_example([(0, 0, 10, 10), (10, 0, 20, 20)], [0, 1])
    proposals = np.array([(0, 0, 10, 5), (0, 0, 10, 10), (10, 0, 20, 5)])
    result = evaluate_proposals(make_dataset(example), [proposals], [1, 2, 3, ALL])
    np.testing.assert_array_equal(result.overlaps, [[0.5, 1, 1, 1], [0, 0, 0.25, 0.25]])
    np.testing.assert_array_equal(result.recall(0.5), [0.5, 0.5, 0.5, 0.5])
    np.testing.assert_array_equal(result.recall(0.7), [0, 0.5, 0.5, 0.5])
    np.testing.assert_array_equal(result.average_recall(), [0, 0.5, 0.5, 0.5])
    np.testing.assert_array_equal(result.abo()[:2], result.overlaps)
    np.testing.assert_array_equal(result.mabo(), [0.25, 0.5, 0.625, 0.625])


def test_mabo_is_over_classes_and_not_objects():
    example = make_example([(0, 0, 10, 10)] * 3 + [(20, 20, 30, 30)], [0, 0, 0, 1])
    result = evaluate_proposals(make_dataset(example), [[(0, 0, 10, 10)]], [1])
    assert result.mabo() == [0.5]
    assert result.recall(0.5) == [0.75]
    assert result.class_recall(0.5) == [0.5]


def test_one_proposal_may_cover_two_objects():
    example = make_example([(0, 0, 10, 10), (0, 0, 10, 10)], [0, 1])
    assert evaluate_proposals(make_dataset(example), [[(0, 0, 10, 10)]], [1]).recall(1) == [1]


def test_difficult_objects():
    example = make_example([(0, 0, 10, 10), (20, 20, 30, 30)], [0, 0], [False, True])
    proposals = [[(0, 0, 10, 10)]]
    assert evaluate_proposals(make_dataset(example), proposals, [1]).recall(0.5) == [1]
    assert evaluate_proposals(make_dataset(example), proposals, [1], difficult=True).recall(0.5) == [0.5]


def test_images_without_objects_or_proposals():
    empty, boxes = np.zeros((0, 4)), [(0, 0, 10, 10)]
    examples = [make_example([], name="a"), make_example(boxes, name="b"), make_example(boxes, name="c")]
    result = evaluate_proposals(make_dataset(*examples), [boxes, empty, boxes], [1, 7])
    np.testing.assert_array_equal(result.recall(0.5), [0.5, 0.5])
    assert result.proposals_per_image.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    "examples", [(), (make_example([]),), (make_example([(0, 0, 9, 9)], difficult=[True]),)]
)
def test_nothing_to_find(examples):
    result = evaluate_proposals(make_dataset(*examples), [[(0, 0, 10, 10)]] * len(examples), [1, ALL])
    assert np.isnan(figures(result, 0)).all()
    assert result.abo().shape == (3, 2)


def test_figures_never_fall_with_more_proposals():
    rng = np.random.default_rng(1)
    result = evaluate_proposals(make_dataset(make_example(random_boxes(rng, 20))), [random_boxes(rng, 500)])
    assert (np.diff(result.overlaps, axis=1) >= 0).all()
    assert 0 < result.mabo()[0] < result.mabo()[-1] < 1


def test_best_overlaps_takes_the_given_number_of_proposals():
    proposals = [(0, 0, 10, 5), (0, 0, 10, 10)]
    np.testing.assert_array_equal(
        best_overlaps([(0, 0, 10, 10)], proposals, np.array([1, 2, 9])), [[0.5, 1, 1]]
    )


@pytest.mark.parametrize("number", [0, 2])
def test_proposals_of_other_images(number):
    with pytest.raises(ValueError, match="zip"):
        evaluate_proposals(make_dataset(make_example([(0, 0, 9, 9)])), [np.zeros((0, 4))] * number)


@pytest.mark.parametrize("counts", [[], [0, 1], [2, 1], [1, 1], [[1]]])
def test_bad_counts(counts):
    with pytest.raises(ValueError, match="ascend"):
        evaluate_proposals(make_dataset(make_example([(0, 0, 9, 9)])), [np.zeros((0, 4))], counts)


def test_log_counts():
    counts = log_counts()
    assert counts[0] == 1
    assert {10, 100, 1000, BEST, 10_000, ALL} <= set(counts.tolist())
    assert (np.diff(counts) > 0).all()
    assert len(counts) < 70


@pytest.fixture
def results():
    rng = np.random.default_rng(2)
    examples = [make_example(random_boxes(rng, 4), [0, 0, 1, 1], name=str(index)) for index in range(5)]
    return {
        name: evaluate_proposals(make_dataset(*examples), [random_boxes(rng, count) for _ in examples])
        for name, count in (("few", 30), ("many", 3000), ("none", 0))
    }


def text(table):
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_table(results):
    lines = {line.split("│")[1].strip(): line for line in text(proposal_table(results, "title")).splitlines()
             if line.count("│") > 3}  # fmt: skip
    many = results["many"]
    best, last = (100 * many.mabo()[many.at(count)] for count in (BEST, ALL))
    assert best < last
    assert f"{best:.1f}/{last:.1f}" in lines["many"]
    assert "3,000" in lines["many"]
    assert "0.0/0.0" in lines["none"]


def test_abo_table(results):
    shown = text(abo_table(results))
    many = results["many"]
    assert f"{100 * many.abo()[1, many.at(BEST)]:.1f}" in shown
    assert "–" in next(line for line in shown.splitlines() if "hat" in line)


def test_json(results):
    content = json.loads(json.dumps(proposals_dict(results["many"]), allow_nan=False))
    assert (content["images"], content["objects"], content["mean_windows"]) == (5, 20, 3000)
    assert content["counts"][-1] is None
    index = content["counts"].index(BEST)
    assert content["curves"]["MABO"][index] == pytest.approx(results["many"].mabo()[index], abs=1e-6)
    assert set(content["abo"]["hat"]) == {None}
    assert len(content["abo"]["cat"]) == len(content["counts"])


def test_plot_draws_a_line_for_each_method(results, tmp_path):
    plot_proposals(tmp_path / "all.png", results)
    plot_proposals(tmp_path / "single.png", {"few": results["few"]})
    both, single = (cv2.imread(str(tmp_path / f"{name}.png")) for name in ("all", "single"))
    assert both.shape == single.shape
    # matplotlib's second colour.
    orange = np.array((0x0E, 0x7F, 0xFF))
    assert (np.abs(both - orange.astype(int)).max(axis=2) < 8).sum() > 200
    assert (np.abs(single - orange.astype(int)).max(axis=2) < 8).sum() == 0

"""Combining runs: suppression over the union, against a slow reference; and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from sppnet.cli import app as cli_module
from sppnet.common.errors import InputError
from sppnet.data.types import Detections
from sppnet.detection.experiments.combine import combine, combine_runs, read_part
from sppnet.detection.nms import DetectionSettings
from sppnet.detection.runs.run import Run
from sppnet.eval import evaluate_voc, read_voc_detections, write_voc_detections
from sppnet.proposals import ProposalCache, SelectiveSearch


def some(rng, count, classes=3):
    """Random detections with many overlaps, distinct scores, grouped by class, best first."""
    corner = rng.integers(0, 30, (count, 2))
    boxes = np.concatenate([corner, corner + rng.integers(4, 30, (count, 2))], axis=1).astype(np.float32)
    labels = np.sort(rng.integers(0, classes, count))
    scores = rng.permutation(count * 10)[:count].astype(np.float32) / 7 - 3
    order = np.lexsort((-scores, labels))
    return Detections(boxes[order], scores[order], labels[order])


def iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def slow_union(parts, overlap, most):
    """{(label, score, box)} of the boxes that no better one of their class overlaps, one after the other."""
    everything = [
        (int(label), float(score), tuple(map(float, box)))
        for part in parts
        for box, score, label in zip(part.boxes, part.scores, part.labels, strict=True)
    ]
    kept = []
    for label, score, box in sorted(everything, key=lambda one: -one[1]):
        mine = [other for other in kept if other[0] == label]
        if len(mine) < most and all(iou(box, other[2]) <= overlap for other in mine):
            kept.append((label, score, box))
    return kept


def as_set(found):
    return {
        (int(label), float(score), tuple(map(float, box)))
        for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True)
    }


@pytest.mark.parametrize(("overlap", "most"), [(0.3, 100), (0.5, 100), (0.3, 4), (0.0, 100)])
@pytest.mark.parametrize("models", [2, 3])
def test_the_union_is_suppressed(overlap, most, models):
    rng = np.random.default_rng(models)
    parts = [{"a": some(rng, 40), "b": some(rng, 25)} for _ in range(models)]
    combined = combine(parts, ["a", "b"], DetectionSettings(nms_iou=overlap, max_per_class=most))
    for image_id, found in combined.items():
        slow = slow_union([part[image_id] for part in parts], overlap, most)
        assert len(slow) == len(found) < 40 * models
        assert as_set(found) == set(slow)
        order = np.lexsort((-found.scores, found.labels))
        np.testing.assert_array_equal(order, np.arange(len(found)))


def test_classes_and_images_do_not_meet():
    one = Detections(np.array([[0, 0, 9, 9]], np.float32), np.ones(1, np.float32), np.array([0]))
    other = replace(one, labels=np.array([1]))
    combined = combine([{"a": one}, {"a": other, "b": one}], ["a", "b", "c"])
    assert [len(combined[image_id]) for image_id in "abc"] == [2, 1, 0]


def test_a_sure_box_of_one_model_drops_the_others():
    box = np.array([[0, 0, 20, 20]], np.float32)
    sure = Detections(box, np.array([2], np.float32), np.array([0]))
    unsure = Detections(box + 1, np.array([1], np.float32), np.array([0]))
    for parts in ([{"a": sure}, {"a": unsure}], [{"a": unsure}, {"a": sure}]):
        assert as_set(combine(parts, ["a"])["a"]) == as_set(sure)


def test_ranks_do_not_change_with_the_scale_of_scores():
    rng = np.random.default_rng(5)
    parts = [{"a": some(rng, 30), "b": some(rng, 20)} for _ in range(2)]
    # A growing function of each score, such as another penalty brings about.
    squashed = {key: replace(one, scores=one.scores / 64 + 5) for key, one in parts[1].items()}
    plain = combine(parts, ["a", "b"], scores="rank")
    other = combine([parts[0], squashed], ["a", "b"], scores="rank")
    raw = combine([parts[0], squashed], ["a", "b"])
    for image_id, found in plain.items():
        assert as_set(found) == as_set(other[image_id])
        assert {box for _, _, box in as_set(raw[image_id])} != {box for _, _, box in as_set(found)}


def test_ranks_are_places_in_the_list_of_the_class():
    apart = np.array([[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]], np.float32)
    part = {
        "a": Detections(apart, np.array([5, 1, 8], np.float32), np.array([0, 0, 1])),
        "b": Detections(apart[:1], np.array([3], np.float32), np.array([0])),
    }
    ranked = combine([part], ["a", "b"], scores="rank")
    assert ranked["a"].scores.tolist() == [-1, -3, -1]
    assert ranked["b"].scores.tolist() == [-2]


@pytest.fixture
def runs(tmp_path, tiny_test, monkeypatch):
    """Two runs' folders with detections: the one good at bars, the other at squares; and the new run."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    with ProposalCache(tmp_path / "cache.sqlite", SelectiveSearch()) as cache:
        made = []
        for name, good in (("first", 0), ("second", 1)):
            found = {}
            for example in tiny_test:
                shift = np.where(example.labels == good, 0, 15)[:, None]
                scores = np.where(example.labels == good, 2.0, 1.0) + rng.random(len(shift)) / 10
                order = np.argsort(example.labels)
                boxes = (example.boxes + shift).astype(np.float32)
                found[example.image_id] = Detections(
                    boxes[order], scores[order].astype(np.float32), example.labels[order]
                )
            run = Run(tmp_path / "runs" / name, None, cache, tmp_path / "maps")
            run.write_detections(tiny_test, found, found)
            made.append(run)
        yield [run.folder for run in made], Run(tmp_path / "runs" / "new", None, cache, tmp_path / "maps")


def test_runs_are_combined(runs, tiny_test):
    folders, new = runs
    table = combine_runs(folders, tiny_test, new, DetectionSettings())
    rows = list(zip(*(column._cells for column in table.columns), strict=True))
    assert [row[0] for row in rows] == ["first", "second", "combination of 2"]
    # Each finds one class of two; together they find both, and the moved boxes are worse than the right ones.
    assert [row[1] for row in rows] == ["50.0", "50.0", "100.0"]
    written = read_voc_detections(new.detections, tiny_test.classes, "test")
    assert evaluate_voc(tiny_test, written).map_11point == 1
    metrics = json.loads((new.folder / "metrics.json").read_text())
    assert metrics["map_11point"] == metrics["settings"]["without_regression"]["map_11point"] == 1
    assert metrics["settings"]["run"]["combined"] == [str(folder) for folder in folders]
    assert (new.folder / "precision_recall.png").is_file()
    # A combination is a run like any other.
    assert new.read_detections(tiny_test)[0].keys() == written.keys()
    again = replace(new, folder=new.folder.with_name("again"))
    combine_runs([new.folder, folders[0]], tiny_test, again, DetectionSettings())
    assert json.loads((again.folder / "metrics.json").read_text())["map_11point"] == 1


def test_interrupted_it_is_made_again(runs, tiny_test, monkeypatch):
    def stop(*_args):
        raise KeyboardInterrupt

    folders, new = runs
    with monkeypatch.context() as patch:
        patch.setattr("sppnet.detection.runs.run.write_metrics", stop)
        with pytest.raises(KeyboardInterrupt):
            combine_runs(folders, tiny_test, new, DetectionSettings())
    assert not (new.folder / "metrics.json").exists()
    combine_runs(folders, tiny_test, new, DetectionSettings())
    assert json.loads((new.folder / "metrics.json").read_text())["map_11point"] == 1


def test_another_run_is_not_overwritten(runs, tiny_test):
    folders, new = runs
    (new.folder / "model").mkdir(parents=True)
    (new.folder / "settings.toml").write_text("images = 'others'\n")
    with pytest.raises(InputError, match=r"settings\.toml.*RUN name"):
        combine_runs(folders, tiny_test, new, DetectionSettings())
    assert not new.detections.exists()


def test_plain_folders_of_files_do(runs, tiny_test, tmp_path):
    folders, new = runs
    found = read_part(folders[1], tiny_test).refined
    write_voc_detections(tmp_path / "files", found, tiny_test.classes, "test", "comp4")
    table = combine_runs([folders[0], tmp_path / "files"], tiny_test, new, DetectionSettings())
    assert table.columns[1]._cells[2] == "100.0"
    # No windows before regression in plain files, so none of the combination.
    assert table.columns[3]._cells == ["50.0", "–", "–"]
    assert not (new.detections / "windows").exists()
    refined, found = new.read_detections(tiny_test)
    assert found is None
    result, windows = new.score(tiny_test, refined, found)
    assert (result.map_11point, windows) == (1, None)


def test_what_is_refused(runs, tiny_test, tmp_path):
    folders, new = runs

    def refused(match, dataset=tiny_test, of=folders, run=new):
        with pytest.raises(InputError, match=match):
            combine_runs(of, dataset, run, DetectionSettings())
        assert not new.folder.exists()

    refused("at least two", of=folders[:1])
    refused("each of them once", of=[folders[0], folders[0]])
    refused("another name", run=replace(new, folder=folders[0]))
    refused(r"no detections of the split 'test'", of=[folders[0], tmp_path / "gone"])
    refused(r"no detections of the split 'val'", replace(tiny_test, split="val"))
    refused(r"other classes.*'circle'", replace(tiny_test, classes=("bar", "circle")))
    refused(r"other classes.*'extra'", replace(tiny_test, classes=(*tiny_test.classes, "extra")))
    listed = folders[1] / "detections" / "images.txt"
    ids = listed.read_text()
    listed.write_text(ids.split()[0] + "\n")
    refused(rf"other images than tiny test, {len(tiny_test)} images")
    # Without a list of images, an image that the data set lacks gives it away.
    listed.unlink()
    refused("which tiny test lacks", tiny_test.head(2))
    file = folders[1] / "detections" / "comp4_det_test_bar.txt"
    file.write_text(file.read_text() + "9999 1.0 1 1 10 10\n")
    refused("'9999', which tiny test lacks")
    file.write_text("1000 nan 1 1 10 10\n")
    refused(r"comp4_det_test_bar\.txt, line 1")
    file.unlink()
    refused(r"other classes.*'bar'")


def test_the_command(runs, tiny_voc, tiny_test, monkeypatch):
    monkeypatch.delenv("VOC_ROOT", raising=False)
    monkeypatch.setattr(cli_module.console, "_width", 250)

    def call(*arguments):
        return CliRunner().invoke(
            cli_module.app, ["combine", *map(str, arguments), "--dataset", str(tiny_voc)]
        )

    result = call("first", "runs/second")
    assert result.exit_code == 0, result.output
    assert "combination of 2" in result.output
    assert (runs[1].folder.parent / "first+second" / "metrics.json").is_file()
    # With an image left out by one of them, only if that is asked for.
    found = read_part(runs[0][1], tiny_test.head(3)).refined
    Run(runs[1].folder.parent / "fewer", None, runs[1].cache, runs[1].maps).write_detections(
        tiny_test.head(2), {one.image_id: found[one.image_id] for one in tiny_test.head(2)}, None
    )
    assert call("first", "fewer").exit_code == 2
    both = Run(runs[1].folder.parent / "less", None, runs[1].cache, runs[1].maps)
    both.write_detections(
        tiny_test.head(2), {one.image_id: found[one.image_id] for one in tiny_test.head(2)}, None
    )
    result = call("less", "fewer", "--skip-errors")
    assert result.exit_code == 0, result.output
    assert "2 images" in result.output
    # One that looked at more images counts with those that all looked at.
    result = call("first", "fewer", "--skip-errors", "--run", "both")
    assert result.exit_code == 0, result.output
    assert "2 images" in result.output
    assert (runs[1].folder.parent / "both" / "detections" / "images.txt").read_text().split() == [
        one.image_id for one in tiny_test.head(2)
    ]
    result = call("first", "third")
    assert result.exit_code == 2
    assert "third" in result.output

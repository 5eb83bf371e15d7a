"""Combined runs: suppression over the union, against a slow reference; and errors."""

import json
from dataclasses import replace

import numpy as np
import pytest
from command import call

from sppnet.common.errors import InputError
from sppnet.data.detections import Detections
from sppnet.detection.detection_settings import DetectionSettings
from sppnet.detection.experiments.combine import combine, combine_runs, read_part
from sppnet.detection.runs.detection_files import RunDetections, read_detections, write_detections
from sppnet.detection.runs.run import Run
from sppnet.detection.runs.scoring import score_run
from sppnet.eval import evaluate_voc, read_voc_detections, write_voc_detections
from sppnet.proposals import ProposalCache, SelectiveSearch


def random_detections(rng, count, classes=3):
    """Makes detections with many overlaps and distinct scores, grouped by class, best first."""
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


def rows_of(detections):
    """Returns rows of label, score and box, as tuples."""
    return [(label, score, tuple(box.tolist())) for box, score, label in detections]


def slow_union(parts, nms_iou, max_per_class):
    """Suppresses one box after the other; returns the remaining boxes as `rows_of` does."""
    kept = []
    rows = [row for part in parts for row in rows_of(part)]
    for label, score, box in sorted(rows, key=lambda row: -row[1]):
        rivals = [row for row in kept if row[0] == label]
        if len(rivals) < max_per_class and all(iou(box, row[2]) <= nms_iou for row in rivals):
            kept.append((label, score, box))
    return kept


@pytest.mark.parametrize(
    ("nms_iou", "max_per_class"), [(0.3, 100), (0.5, 100), (0.3, 4), (0.0, 100)], ids=str
)
@pytest.mark.parametrize("models", [2, 3])
def test_the_union_is_suppressed(nms_iou, max_per_class, models):
    rng = np.random.default_rng(models)
    parts = [{"a": random_detections(rng, 40), "b": random_detections(rng, 25)} for _ in range(models)]
    combined = combine(parts, ["a", "b"], DetectionSettings(nms_iou=nms_iou, max_per_class=max_per_class))
    for image_id, detections in combined.items():
        slow = slow_union([part[image_id] for part in parts], nms_iou, max_per_class)
        assert len(slow) == len(detections) < 40 * models
        assert set(rows_of(detections)) == set(slow)
        order = np.lexsort((-detections.scores, detections.labels))
        np.testing.assert_array_equal(order, np.arange(len(detections)))


def test_classes_and_images_do_not_meet():
    first = Detections(np.array([[0, 0, 9, 9]], np.float32), np.ones(1, np.float32), np.array([0]))
    second = replace(first, labels=np.array([1]))
    combined = combine([{"a": first}, {"a": second, "b": first}], ["a", "b", "c"])
    assert [len(combined[image_id]) for image_id in "abc"] == [2, 1, 0]


def test_a_sure_box_of_one_model_drops_an_unsure_one_of_another():
    box = np.array([[0, 0, 20, 20]], np.float32)
    sure = Detections(box, np.array([2], np.float32), np.array([0]))
    unsure = Detections(box + 1, np.array([1], np.float32), np.array([0]))
    for parts in ([{"a": sure}, {"a": unsure}], [{"a": unsure}, {"a": sure}]):
        assert rows_of(combine(parts, ["a"])["a"]) == rows_of(sure)


def test_ranks_do_not_change_with_the_range_of_scores():
    rng = np.random.default_rng(5)
    parts = [{"a": random_detections(rng, 30), "b": random_detections(rng, 20)} for _ in range(2)]
    # Each score is replaced by an increasing function of it, as with another penalty of the SVMs.
    squashed = {
        image_id: replace(detections, scores=detections.scores / 64 + 5)
        for image_id, detections in parts[1].items()
    }
    plain = combine(parts, ["a", "b"], scores="rank")
    ranked = combine([parts[0], squashed], ["a", "b"], scores="rank")
    as_is = combine([parts[0], squashed], ["a", "b"])
    for image_id, detections in plain.items():
        assert rows_of(detections) == rows_of(ranked[image_id])
        boxes, as_is_boxes = ({box for _, _, box in rows_of(part)} for part in (detections, as_is[image_id]))
        assert as_is_boxes != boxes


def test_ranks_are_counted_within_a_class_over_all_images():
    apart = np.array([[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]], np.float32)
    part = {
        "a": Detections(apart, np.array([5, 1, 8], np.float32), np.array([0, 0, 1])),
        "b": Detections(apart[:1], np.array([3], np.float32), np.array([0])),
    }
    ranked = combine([part], ["a", "b"], scores="rank")
    assert ranked["a"].scores.tolist() == [-1, -3, -1]
    assert ranked["b"].scores.tolist() == [-2]


def test_another_comparison_of_scores_is_refused():
    with pytest.raises(InputError, match="scores 'ranks': choose as-is or rank"):
        combine([], [], scores="ranks")


@pytest.fixture
def runs(tmp_path, tiny_test, monkeypatch):
    """Two folders with detections, of which one is good at bars and one at squares, and the new run."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    with ProposalCache(tmp_path / "cache.sqlite", SelectiveSearch()) as cache:
        folders = []
        for name, good in (("first", 0), ("second", 1)):
            detections = {}
            for example in tiny_test:
                shift = np.where(example.labels == good, 0, 15)[:, None]
                scores = np.where(example.labels == good, 2.0, 1.0) + rng.random(len(shift)) / 10
                order = np.argsort(example.labels)
                boxes = (example.boxes + shift).astype(np.float32)
                detections[example.image_id] = Detections(
                    boxes[order], scores[order].astype(np.float32), example.labels[order]
                )
            run = Run(tmp_path / "runs" / name, None, cache, tmp_path / "maps")
            write_detections(run, tiny_test, RunDetections(detections, detections))
            folders.append(run.folder)
        yield folders, Run(tmp_path / "runs" / "new", None, cache, tmp_path / "maps")


def columns_of(table):
    """Returns the cells of a table, column by column."""
    return [list(column.cells) for column in table.columns]


def test_runs_are_combined(runs, tiny_test):
    folders, new = runs
    names, figures, *_ = columns_of(combine_runs(folders, tiny_test, new, DetectionSettings()))
    assert names == ["first", "second", "combination of 2"]
    # Each run is right about one of two classes; together they are right about both, because shifted boxes
    # score lower.
    assert figures == ["50.0", "50.0", "100.0"]
    written = read_voc_detections(new.detections, tiny_test.classes, "test")
    assert evaluate_voc(tiny_test, written).map_11point == 1
    metrics = json.loads((new.folder / "metrics.json").read_text())
    assert metrics["map_11point"] == metrics["settings"]["without_regression"]["map_11point"] == 1
    assert metrics["settings"]["run"]["combined"] == [str(folder) for folder in folders]
    assert (new.folder / "precision_recall.png").is_file()
    # A combination is a run like any other run.
    assert read_detections(new, tiny_test).regressed.keys() == written.keys()
    again = replace(new, folder=new.folder.with_name("again"))
    combine_runs([new.folder, folders[0]], tiny_test, again, DetectionSettings())
    assert json.loads((again.folder / "metrics.json").read_text())["map_11point"] == 1
    # The table shows none of COCO's figures, which would take most of the time.
    assert "coco" not in json.loads((new.folder / "metrics.json").read_text())


def test_interrupted_it_is_made_again(runs, tiny_test, monkeypatch):
    def stop(*_args):
        raise KeyboardInterrupt

    folders, new = runs
    with monkeypatch.context() as patch:
        patch.setattr("sppnet.detection.runs.scoring.metrics_dict", stop)
        with pytest.raises(KeyboardInterrupt):
            combine_runs(folders, tiny_test, new, DetectionSettings())
    assert not (new.folder / "metrics.json").exists()
    combine_runs(folders, tiny_test, new, DetectionSettings())
    assert json.loads((new.folder / "metrics.json").read_text())["map_11point"] == 1


def test_another_run_is_not_overwritten(runs, tiny_test):
    folders, new = runs
    (new.folder / "model").mkdir(parents=True)
    (new.folder / "settings.toml").write_text("images = 'other'\n")
    with pytest.raises(InputError, match=r"settings\.toml.*RUN name"):
        combine_runs(folders, tiny_test, new, DetectionSettings())
    assert not new.detections.exists()


def test_plain_folders_of_files_are_combined_too(runs, tiny_test, tmp_path):
    folders, new = runs
    detections = read_part(folders[1], tiny_test).detections.regressed
    write_voc_detections(tmp_path / "files", detections, tiny_test.classes, "test", "comp4")
    table = combine_runs([folders[0], tmp_path / "files"], tiny_test, new, DetectionSettings())
    columns = columns_of(table)
    assert columns[1][2] == "100.0"
    # Plain files have no detections before box regression, so the combination has none either.
    assert columns[3] == ["50.0", "–", "–"]
    assert not (new.detections / "windows").exists()
    read = read_detections(new, tiny_test)
    assert read.proposed is None
    scores = score_run(new, tiny_test, read)
    assert (scores.voc.map_11point, scores.voc_proposed) == (1, None)


def test_runs_that_cannot_be_combined_are_refused(runs, tiny_test, tmp_path):
    folders, new = runs

    def refused(match, dataset=tiny_test, folders=folders, run=new):
        with pytest.raises(InputError, match=match):
            combine_runs(folders, dataset, run, DetectionSettings())
        assert not new.folder.exists()

    refused("at least two", folders=folders[:1])
    refused("each of them once", folders=[folders[0], folders[0]])
    refused("another name", run=replace(new, folder=folders[0]))
    refused(r"no detections of the split 'test'", folders=[folders[0], tmp_path / "gone"])
    refused(r"no detections of the split 'val'", replace(tiny_test, split="val"))
    refused(r"other classes.*'circle'", replace(tiny_test, classes=("bar", "circle")))
    refused(r"other classes.*'extra'", replace(tiny_test, classes=(*tiny_test.classes, "extra")))
    listed = folders[1] / "detections" / "images.txt"
    ids = listed.read_text()
    listed.write_text(ids.split()[0] + "\n")
    refused(rf"other images than tiny test, {len(tiny_test)} images")
    # Without a list of images, detections of an image that the data set lacks are refused.
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
    folders, new = runs
    few = tiny_test.head(2)

    def combined(*arguments):
        return call("combine", *arguments, "--dataset", tiny_voc)

    def write_few(name):
        regressed = read_part(folders[1], few).detections.regressed
        run = Run(new.folder.parent / name, None, new.cache, new.maps)
        write_detections(run, few, RunDetections(regressed, None))

    result = combined("first", "runs/second")
    assert result.exit_code == 0, result.output
    assert "combination of 2" in result.output
    assert (new.folder.parent / "first+second" / "metrics.json").is_file()
    # If a run has not detected in all images, the runs are combined only on request.
    write_few("fewer")
    assert combined("first", "fewer").exit_code == 2
    write_few("less")
    result = combined("less", "fewer", "--skip-errors")
    assert result.exit_code == 0, result.output
    assert "2 images" in result.output
    # If a run has more images, the images that are in all runs are used.
    result = combined("first", "fewer", "--skip-errors", "--run", "both")
    assert result.exit_code == 0, result.output
    assert "2 images" in result.output
    listed = (new.folder.parent / "both" / "detections" / "images.txt").read_text().split()
    assert listed == [example.image_id for example in few]
    result = combined("first", "third")
    assert result.exit_code == 2
    assert "third" in result.output

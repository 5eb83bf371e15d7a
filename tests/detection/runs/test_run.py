"""A run's folder: its settings, its files, and going on where it was stopped."""

import json
import shutil
import tomllib
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import tomli_w
from safetensors.numpy import load_file

from sppnet.common.errors import InputError
from sppnet.common.locks import lock
from sppnet.common.progress import quiet
from sppnet.data.images import read_image
from sppnet.detection.detector import Detector
from sppnet.detection.heads import SVMHead
from sppnet.detection.runs.detection_files import read_detections, write_detections
from sppnet.detection.runs.run import Run
from sppnet.detection.runs.scoring import score_run
from sppnet.detection.runs.split_detection import detect_split
from sppnet.detection.training.presets import CalibrationSettings
from sppnet.eval import read_voc_detections
from sppnet.proposals import ProposalCache


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The folder that keeps the model between tests; the first test fills it."""
    return tmp_path_factory.mktemp("model")


@pytest.fixture
def run(tmp_path, tiny_settings, tiny_train, trained):
    with ProposalCache(tmp_path / "proposals.sqlite", tiny_settings.proposals) as cache:
        run = Run(tmp_path / "run", tiny_settings, cache, tmp_path / "maps")
        run.claim("tiny train", "digest")
        if not (trained / "model.json").exists():
            run.train(tiny_train, run.build(), quiet).save(trained)
        shutil.copytree(trained, run.model, dirs_exist_ok=True)
        yield run


@dataclass(frozen=True, eq=False)
class StoppingHead(SVMHead):
    """SVMs that stop the program after ``most`` images; ``scored`` gets the number of vectors of each."""

    most: int = 0
    scored: list[int] = field(default_factory=list)

    def score(self, features):
        if len(self.scored) == self.most:
            raise KeyboardInterrupt
        self.scored.append(len(features))
        return super().score(features)


def stopping(run, images):
    """The run's detector, with a head that stops after so many images."""
    detector = Detector.load(run.model)
    head = detector.head
    return replace(detector, head=StoppingHead(head.weights, head.bias, head.norm_factor, images))


def check_equal(first, second):
    assert first.keys() == second.keys()
    for image_id in first:
        for name in ("boxes", "scores", "labels"):
            np.testing.assert_array_equal(getattr(first[image_id], name), getattr(second[image_id], name))


def by_hand(detector, example):
    """The detections of an image with maps of float16: a run rounds them, stored or not."""
    maps = [
        replace(feature_map, values=feature_map.values.astype(np.float16).astype(np.float32))
        for feature_map in detector.extractor.prepare(read_image(example.path))
    ]
    return detector.detect(example.path, prepared=maps)


def test_claim_writes_the_settings(run, tiny_settings):
    content = tomllib.loads((run.folder / "settings.toml").read_text())
    assert content["images"] == "tiny train"
    assert content["features"]["scales"] == list(tiny_settings.features.scales)
    run.claim("tiny train", "digest")


def test_claim_with_other_settings_names_the_difference(run, tiny_settings):
    other = replace(
        run, settings=replace(tiny_settings, detection=replace(tiny_settings.detection, min_score=0.25))
    )
    with pytest.raises(InputError, match=r"min_score = -1\.5.*min_score = 0\.25.*RUN name"):
        other.claim("tiny train", "digest")
    assert "-1.5" in (run.folder / "settings.toml").read_text()


@pytest.mark.parametrize("done", ["model-softmax", "model-fc7", "detections-fc6"])
def test_finetuning_settings_may_change_until_there_are_layers(run, tiny_settings, done):
    def wider(width):
        return replace(
            run, settings=replace(tiny_settings, finetuning=replace(tiny_settings.finetuning, width=width))
        )

    # Detections of pooled windows at other precision do not depend on them.
    (run.folder / "detections-bf16").mkdir()
    # Stopped, or ended in an error that asks for other settings.
    (run.folder / "training-softmax").mkdir()
    wider(77).claim("tiny train", "digest")
    content = tomllib.loads((run.folder / "settings.toml").read_text())
    assert content["finetuning"]["width"] == 77
    (run.folder / done).mkdir()
    wider(77).claim("tiny train", "digest")
    with pytest.raises(InputError, match=r"width = 77.*width = 78"):
        wider(78).claim("tiny train", "digest")


def test_files_of_weights_count_by_their_content(run, tiny_settings, tmp_path):
    for name, part in (("network", "network"), ("layers", "finetuning")):
        file = tmp_path / f"{name}.safetensors"
        file.write_bytes(b"some")
        settings = replace(tiny_settings, **{part: replace(getattr(tiny_settings, part), weights=str(file))})
        other = replace(run, folder=tmp_path / name, settings=settings)
        other.claim("tiny train", "digest")
        (other.folder / "model-softmax").mkdir()
        other.claim("tiny train", "digest")
        file.write_bytes(b"other")
        with pytest.raises(InputError, match=r"weights_digest = .*RUN name"):
            other.claim("tiny train", "digest")


def test_a_wrong_name_of_weights_claims_no_run(run, tiny_settings, tmp_path):
    for part in ("network", "finetuning"):
        settings = replace(tiny_settings, **{part: replace(getattr(tiny_settings, part), weights="gone")})
        with pytest.raises(InputError, match="gone: no such file of weights"):
            replace(run, folder=tmp_path / "new", settings=settings).claim("tiny train", "digest")
        assert not (tmp_path / "new").exists()


def test_claim_with_other_images(run):
    with pytest.raises(InputError, match=r"tiny train.*tiny val"):
        run.claim("tiny val", "other")


@pytest.mark.parametrize("change", ["", "something = 1\n"], ids=["cut", "longer"])
def test_claim_of_an_edited_file(run, change):
    file = run.folder / "settings.toml"
    text = file.read_text()
    file.write_text(text + change if change else text[: len(text) // 2])
    with pytest.raises(InputError) as error:
        run.claim("tiny train", "digest")
    assert "''" not in str(error.value), "it does not name the difference"


def test_claim_of_a_file_of_another_encoding(run):
    file = run.folder / "settings.toml"
    file.write_bytes(file.read_bytes() + b"# \xe9\n")
    with pytest.raises(InputError, match=r"settings\.toml, line \d+: .*not UTF-8"):
        run.claim("tiny train", "digest")


def test_claim_in_a_folder_that_cannot_be(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="check the folder"):
        replace(run, folder=tmp_path / "file" / "run").claim("tiny train", "digest")


def test_load(run, tmp_path):
    assert run.load().classes == ("bar", "square")
    assert replace(run, folder=tmp_path / "other").load() is None


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
@pytest.mark.parametrize("kept", [None, 0, 0.5])
def test_a_model_that_is_cut_or_lacks_a_file_counts_as_not_trained(run, caplog, name, kept):
    (run.folder / "training").mkdir()
    file = run.model / name
    if kept is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    assert run.load() is None
    # Without a description there has never been a model.
    if (name, kept) != ("model.json", None):
        (message,) = caplog.messages
        assert str(file) in message
        assert "counts as not trained yet" in message
    # From there training goes on.
    assert (run.folder / "training").exists()


def test_a_model_whose_weights_are_damaged_counts_as_not_trained(run, caplog):
    file = run.model / "model.safetensors"
    whole = file.read_bytes()
    for position in (0, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        assert run.load() is None
    file.write_bytes(whole)
    assert run.load() is not None


def test_a_description_that_was_edited_is_not_trained_over(run):
    file = run.model / "model.json"
    file.write_text(file.read_text().replace('"min_score": -1.5', '"min_score": -1.0'))
    with pytest.raises(InputError, match=r"altered since it was saved; restore it, or delete .*model and"):
        run.load()


def test_empty_settings_are_written_again_unless_there_is_a_model(run, caplog):
    file = run.folder / "settings.toml"
    whole = file.read_text()
    file.write_text("")
    with pytest.raises(InputError, match=r"settings\.toml: empty or cut, so the models"):
        run.claim("tiny train", "digest")
    shutil.rmtree(run.model)
    run.claim("tiny train", "digest")
    assert file.read_text() == whole
    assert "empty or cut" in caplog.text


def test_load_removes_the_work_folder_that_a_kill_left(run):
    (run.folder / "training").mkdir()
    run.load()
    assert not (run.folder / "training").exists()


def test_training_keeps_its_figures_and_leaves_no_work(run, tiny_train):
    run.train(tiny_train, run.build(), quiet)
    figures = json.loads((run.folder / "times.json").read_text())
    assert figures["training_seconds"] > 0
    # A Python with torch takes more than 0.1 GB.
    assert 0.1 < figures["training_peak_gb"] < 64
    assert not (run.folder / "training").exists()


def test_detections_are_those_of_the_detector(run, tiny_test):
    detector = Detector.load(run.model)
    regressed, proposed = detect_split(run, detector, tiny_test, quiet)
    assert list(regressed) == [example.image_id for example in tiny_test]
    for example in tiny_test:
        check_equal({"": regressed[example.image_id]}, {"": by_hand(detector, example)})
    assert sum(map(len, proposed.values())) >= sum(map(len, regressed.values())) > 0
    assert not (run.folder / "partial").exists()


def test_the_folder(run, tiny_test):
    detections = detect_split(run, Detector.load(run.model), tiny_test, quiet)
    score_run(run, tiny_test, detections)
    names = {str(file.relative_to(run.folder)) for file in run.folder.rglob("*") if file.is_file()}
    assert names >= {
        "settings.toml", "metrics.json", "times.json", "precision_recall.png", "detections/coco.json",
        "detections/comp3_det_test_bar.txt", "detections/comp3_det_test_square.txt",
        "detections/windows/comp3_det_test_bar.txt", "detections/windows/comp3_det_test_square.txt",
        "model/model.json", "model/model.safetensors",
    }  # fmt: skip
    times = json.loads((run.folder / "times.json").read_text())
    assert times["detection_images"] == 3
    assert {"detection_convolution_seconds", "detection_svm_seconds", "detection_seconds"} <= times.keys()
    written = read_voc_detections(run.detections, tiny_test.classes, "test")
    for image_id, read in written.items():
        np.testing.assert_allclose(np.sort(read.scores), np.sort(detections.regressed[image_id].scores))


def test_metrics_say_what_probabilities_are_worth(run, tiny_test):
    detector = Detector.load(run.model)
    scores = score_run(run, tiny_test, detect_split(run, detector, tiny_test, quiet)).calibration
    metrics = json.loads((run.folder / "metrics.json").read_text())["calibration"]
    assert metrics["test"]["precision"] == scores.test.precision
    assert metrics["test"]["ground_truths"] == 5
    assert metrics["held_out"]["recall"] == scores.held_out.recall > 0
    assert metrics["held_out"]["ground_truths"] == 11
    errors = metrics["expected_calibration_error"]
    assert errors == {"sigmoid": scores.sigmoid.error, "calibrated": scores.calibrated.error}
    assert (run.folder / "reliability.png").read_bytes()[1:4] == b"PNG"
    shown = [detector.shown(detector.predict(example.path)) for example in tiny_test]
    assert abs(sum(map(len, shown)) - scores.test.detections) <= 1, "one may be on a difficult object"
    assert "precision" in str(scores)


def test_without_calibration_the_model_is_the_same(run, tiny_train, tiny_settings, tiny_test, tmp_path):
    bare = replace(
        run,
        folder=tmp_path / "bare",
        settings=replace(tiny_settings, calibration=CalibrationSettings(enabled=False)),
    )
    bare.claim("tiny train", "digest")
    detector = bare.train(tiny_train, bare.build(), quiet)
    assert detector.calibration is None
    before, after = (load_file(model / "model.safetensors") for model in (bare.model, run.model))
    assert {name.split(".")[0] for name in after.keys() - before.keys()} == {"calibration"}
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)
    scores = score_run(bare, tiny_test, detect_split(bare, detector, tiny_test, quiet))
    assert scores.calibration is None
    assert "calibration" not in json.loads((bare.folder / "metrics.json").read_text())
    assert not (bare.folder / "reliability.png").exists()


def test_a_run_of_before_calibration_is_claimed_by_the_defaults(run, tiny_settings):
    file = run.folder / "settings.toml"
    settings = tomllib.loads(file.read_text())
    del settings["calibration"]
    file.write_text(tomli_w.dumps(settings))
    run.claim("tiny train", "digest")
    assert tomllib.loads(file.read_text()) == settings
    other = replace(run, settings=replace(tiny_settings, calibration=CalibrationSettings(folds=5)))
    with pytest.raises(InputError, match="RUN name"):
        other.claim("tiny train", "digest")


def test_a_stop_in_calibration_does_not_train_again(run, tiny_train, tmp_path):
    new = replace(run, folder=tmp_path / "new")
    stages = []

    def stop(stage, done, total):
        stages.append(stage)
        if (stage, done) == ("calibration", 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        new.train(tiny_train, new.build(), stop)
    assert not new.trained
    assert "mining" in stages
    stages.clear()
    new.train(tiny_train, new.build(), lambda stage, done, total: stages.append(stage))
    assert set(stages) == {"calibration"}
    expected, tensors = (load_file(model / "model.safetensors") for model in (run.model, new.model))
    assert tensors.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(tensors[name], array)


def test_results_have_the_ids_of_a_coco_file(run, tiny_test):
    images = {example.image_id: 500 + 7 * index for index, example in enumerate(tiny_test)}
    dataset = replace(tiny_test, category_ids=(3, 90), image_ids=images)
    regressed, _ = detect_split(run, Detector.load(run.model), dataset, quiet)
    rows = json.loads((run.detections / "coco.json").read_text())
    expected = [(images[name], (3, 90)[label]) for name, part in regressed.items() for label in part.labels]
    assert [(row["image_id"], row["category_id"]) for row in rows] == expected
    assert {category for _, category in expected} == {3, 90}


@pytest.mark.parametrize("after", [0, 1, 2])
def test_detection_goes_on_where_it_stopped(run, tiny_test, tmp_path, after):
    unbroken = replace(run, folder=tmp_path / "unbroken")
    Detector.load(run.model).save(unbroken.model)
    expected = detect_split(unbroken, Detector.load(run.model), tiny_test, quiet)

    with pytest.raises(KeyboardInterrupt):
        detect_split(run, stopping(run, after), tiny_test, quiet)
    assert not run.detections.exists()

    again = stopping(run, 1000)
    seen = []
    resumed = detect_split(run, again, tiny_test, lambda *progress: seen.append(progress))
    assert len(again.head.scored) == 3 - after
    assert seen[0] == ("detection", after, 3)
    assert seen[-1] == ("detection", 3, 3)
    for part, unbroken_part in zip(resumed, expected, strict=True):
        check_equal(part, unbroken_part)


def test_a_full_disk_in_detection_is_named(run, tiny_test, monkeypatch):
    detector = Detector.load(run.model)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        with pytest.raises(InputError, match=r"partial.*No space left on device; free some space"):
            detect_split(run, detector, tiny_test, quiet)
    assert not run.detections.exists()
    detect_split(run, detector, tiny_test, quiet)


@pytest.mark.parametrize("damage", [b"", b"no archive", None], ids=["empty", "other", "cut"])
def test_damaged_partial_results_are_made_again(run, tiny_test, monkeypatch, damage):
    def stop(*_):
        raise KeyboardInterrupt

    detector = Detector.load(run.model)
    with monkeypatch.context() as patch:
        patch.setattr("sppnet.detection.runs.split_detection.write_detections", stop)
        with pytest.raises(KeyboardInterrupt):
            detect_split(run, detector, tiny_test, quiet)
    first = next((run.folder / "partial").rglob("*.npz"))
    first.write_bytes(first.read_bytes()[:100] if damage is None else damage)
    (run.folder / "times.json").write_text("")
    seen = []
    regressed, _ = detect_split(run, detector, tiny_test, lambda *progress: seen.append(progress))
    assert seen[0] == ("detection", 2, 3)
    check_equal(regressed, {example.image_id: by_hand(detector, example) for example in tiny_test})
    run.record(detection_seconds=1)
    assert json.loads((run.folder / "times.json").read_text()) == {"detection_seconds": 1}


def test_two_processes_at_one_run(run, tiny_train, tiny_test):
    with open(run.folder / ".lock", "w") as file:
        lock(file)
        for work in (
            lambda: run.train(tiny_train, run.build(), quiet),
            lambda: detect_split(run, Detector.load(run.model), tiny_test, quiet),
        ):
            with pytest.raises(InputError, match=r"another process is at work.*another RUN name"):
                work()
    detect_split(run, Detector.load(run.model), tiny_test, quiet)


def test_images_without_annotations_have_no_mean(run, tiny_test):
    none, names = np.zeros(0, np.int64), ("boxes", "labels", "difficult", "truncated")
    bare = replace(
        tiny_test,
        examples=tuple(
            replace(example, **{name: getattr(example, name)[none] for name in names})
            for example in tiny_test
        ),
    )
    detections = detect_split(run, Detector.load(run.model), bare, quiet)
    result = score_run(run, bare, detections).voc
    assert np.isnan(result.map_11point)
    metrics = json.loads((run.folder / "metrics.json").read_text())
    assert metrics["settings"]["without_regression"] == {"map_11point": None, "map_area": None}


def test_a_list_of_images_that_is_no_text(run, tiny_test):
    detect_split(run, Detector.load(run.model), tiny_test, quiet)
    (run.detections / "images.txt").write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"images\.txt, line 1: .*not UTF-8"):
        read_detections(run, tiny_test)


def test_partial_results_of_another_model_are_not_used(run, tiny_test):
    with pytest.raises(KeyboardInterrupt):
        detect_split(run, stopping(run, 1), tiny_test, quiet)
    other = Detector.load(run.model)
    other = replace(other, head=replace(other.head, bias=other.head.bias + np.float32(1)))
    other.save(run.model)
    regressed, _ = detect_split(run, other, tiny_test, quiet)
    check_equal({"": regressed[tiny_test[0].image_id]}, {"": by_hand(other, tiny_test[0])})


def test_partial_results_of_another_split_are_not_used(run, tiny_test, tiny_train):
    """Stopped on one split, started on another of the same run: images keep their own detections."""
    detector = Detector.load(run.model)
    with pytest.raises(KeyboardInterrupt):
        detect_split(run, stopping(run, 2), tiny_train, quiet)
    regressed, _ = detect_split(run, detector, tiny_test, quiet)
    for example in tiny_test:
        check_equal({"": regressed[example.image_id]}, {"": by_hand(detector, example)})


def test_detections_are_read_again(run, tiny_test):
    written = detect_split(run, Detector.load(run.model), tiny_test, quiet)
    for read_part, written_part in zip(read_detections(run, tiny_test), written, strict=True):
        assert {name: len(detections) for name, detections in read_part.items()} == {
            name: len(detections) for name, detections in written_part.items() if len(detections)
        }


def test_names_of_files_tell_the_data_of_the_weights(run, tiny_settings, tiny_test):
    detections = detect_split(run, Detector.load(run.model), tiny_test, quiet)
    network = replace(tiny_settings.network, weights="")
    other = replace(run, settings=replace(tiny_settings, network=network))
    write_detections(other, tiny_test, detections)
    names = {file.name[:9] for file in run.detections.rglob("comp*.txt")}
    assert names == {"comp4_det"}
    assert read_detections(other, tiny_test).regressed.keys() == detections.regressed.keys()


def test_detections_of_other_images_are_refused(run, tiny_test):
    with pytest.raises(InputError, match="no detections there"):
        read_detections(run, tiny_test)
    detect_split(run, Detector.load(run.model), tiny_test, quiet)
    with pytest.raises(InputError, match="other images than tiny test, 2 images"):
        read_detections(run, tiny_test.head(2))


def test_other_classes_are_refused(run, tiny_test):
    other = replace(tiny_test, classes=("bar", "circle"))
    with pytest.raises(InputError, match=r"circle.*trained on bar, square"):
        detect_split(run, Detector.load(run.model), other, quiet)


def test_a_broken_image_stops_and_keeps_the_others(run, tiny_test, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    examples = (*tiny_test[:2], replace(tiny_test[2], path=bad))
    with pytest.raises(InputError, match=r"bad\.png"):
        detect_split(run, Detector.load(run.model), replace(tiny_test, examples=examples), quiet)
    assert len(list((run.folder / "partial").rglob("*.npz"))) == 2


def test_record_keeps_earlier_figures(run):
    run.record(first=1.23456, second=0)
    run.record(second=2)
    figures = json.loads((run.folder / "times.json").read_text())
    assert (figures["first"], figures["second"]) == (1.235, 2)


def test_times_that_cannot_be_written_end_no_training(run, caplog):
    file = run.folder / "times.json"
    file.unlink(missing_ok=True)
    file.mkdir()
    run.record(seconds=1)
    file.rmdir()
    file.write_text('{"seconds": NaN}')
    run.record(other_seconds=1)
    assert [f"{file}: cannot be written" in message for message in caplog.messages] == [True, True]

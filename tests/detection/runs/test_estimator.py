"""`sppnet.Detector`: fit, predict, save and load, as a user writes them."""

import pickle
from dataclasses import asdict, replace

import cv2
import numpy as np
import pytest
from PIL import Image as PIL

from sppnet import Detections, Detector, InputError, evaluate_voc, load_dataset
from sppnet.data import read_image
from sppnet.detection.training.presets import PRESETS, settings_by_name

SMALL = {
    "network": {"name": "alexnet", "weights": "random"},
    "features": {"scales": (96,), "levels": (2, 1)},
    "proposals.max_proposals": 60,
}


@pytest.fixture(scope="module")
def fitted(tiny_voc):
    """A detector, and the stages that its training told."""
    stages = []
    detector = Detector.fit(
        load_dataset(tiny_voc, "train"),
        preset="paper-1scale",
        jobs=1,
        progress=lambda stage, done, total: stages.append(stage),
        **SMALL,
    )
    return detector, stages


def test_fit_tells_its_progress(fitted):
    detector, stages = fitted
    assert type(detector) is Detector
    assert detector.classes == ("bar", "square")
    assert list(dict.fromkeys(stages)) == [
        "proposals (train)", "feature norm", "convolution", "mining", "final training", "calibration",
    ]  # fmt: skip
    assert "alexnet" in repr(detector)
    assert "2 classes" in repr(detector)


def test_predict_takes_files_arrays_and_pil_images(fitted, tiny_test, tmp_path):
    detector, _ = fitted
    path = tiny_test[0].path
    image = read_image(path)
    expected = detector.predict(image)
    assert isinstance(expected, Detections)
    assert len(expected) > 0
    for source in (path, str(path), PIL.fromarray(image), PIL.fromarray(image).convert("RGBA")):
        np.testing.assert_array_equal(detector.predict(source).boxes, expected.boxes)
    assert "bar" in repr(expected) or "square" in repr(expected)
    gray = tmp_path / "gray.png"
    cv2.imwrite(str(gray), image[:, :, 0])
    assert isinstance(detector.predict(gray), Detections)


def test_predict_of_many(fitted, tiny_test):
    detector, _ = fitted
    paths = [example.path for example in tiny_test]
    seen = []
    listed = detector.predict(paths, progress=lambda stage, done, total: seen.append((stage, done, total)))
    assert [len(detections) > 0 for detections in listed] == [True] * 3
    assert seen == [("detection", done, 3) for done in (1, 2, 3)]
    by_id = detector.predict(tiny_test, workers=1)
    assert list(by_id) == [example.image_id for example in tiny_test]
    for detections, alone in zip(by_id.values(), listed, strict=True):
        np.testing.assert_array_equal(detections.labels, alone.labels)
    assert evaluate_voc(tiny_test, by_id).map_11point > 0
    assert detector.predict([]) == []


def test_scores_are_probabilities(fitted, tiny_test):
    detector, _ = fitted
    for example in tiny_test:
        detections = detector.predict(example.path)
        raw = detector.predict(example.path, raw_scores=True)
        assert ((detections.scores >= 0) & (detections.scores <= 1)).all()
        expected = detector.calibration.probabilities(raw.scores, raw.labels)
        np.testing.assert_array_equal(detections.scores, expected)
        np.testing.assert_array_equal(raw.scores, detector.detect(example.path).scores)
        np.testing.assert_array_equal(detections.boxes, raw.boxes)
        for label in range(2):
            assert (np.diff(detections.scores[detections.labels == label]) <= 0).all()
        for threshold in ("f1", "precision:0.9", 0.3):
            least = detector.calibration.thresholds(threshold)
            shown = detector.predict(example.path, threshold)
            kept = detections.scores >= least[detections.labels]
            np.testing.assert_array_equal(shown.boxes, detections.boxes[kept])
            np.testing.assert_array_equal(shown.boxes, detector.shown(detections, threshold).boxes)
            raw_shown = detector.predict([example.path], threshold, raw_scores=True, workers=1)[0]
            np.testing.assert_allclose(raw_shown.scores, raw.scores[kept], atol=1e-4)
    np.testing.assert_array_equal(detector.working_thresholds, detector.thresholds("f1"))
    with pytest.raises(InputError, match="f2"):
        detector.predict(tiny_test[0].path, "f2")


def test_probabilities_change_no_figure(fitted, tiny_test):
    detector, _ = fitted
    results = [
        evaluate_voc(tiny_test, detector.predict(tiny_test, raw_scores=raw, workers=1))
        for raw in (True, False)
    ]
    assert results[0].map_11point == results[1].map_11point > 0


def test_without_calibration_scores_stay_raw(fitted, tiny_test):
    bare = replace(fitted[0], calibration=None)
    path = tiny_test[0].path
    detections = bare.predict(path)
    np.testing.assert_array_equal(detections.scores, bare.detect(path).scores)
    assert bare.working_thresholds.tolist() == [-0.75, -0.75]
    assert len(bare.predict(path, "f1")) == (detections.scores >= -0.75).sum()
    assert len(bare.predict(path, -1.25)) == (detections.scores >= -1.25).sum()
    with pytest.raises(InputError, match="no calibration; train it again"):
        bare.predict(path, "precision:0.9")


def test_predict_names_the_bad_file(fitted, tmp_path):
    detector, _ = fitted
    with pytest.raises(InputError, match=r"gone\.jpg"):
        detector.predict([tmp_path / "gone.jpg"])
    with pytest.raises(InputError, match="of type int"):
        detector.predict(3)


@pytest.mark.parametrize(
    "boxes",
    [[[20, 20, 70, 60]], np.array([[20, 20, 70, 60]]), np.array([[20, 20, 70, 60]], np.float64)],
    ids=["list", "int64", "float64"],
)
def test_proposals_of_any_number_type(fitted, tiny_test, boxes):
    detector, _ = fitted
    expected = detector.detect(tiny_test[0].path, np.array([[20, 20, 70, 60]], np.float32))
    np.testing.assert_array_equal(detector.detect(tiny_test[0].path, boxes).scores, expected.scores)


@pytest.mark.parametrize("boxes", [[[np.nan, 0, 9, 9]], [[1, 2, 3]], "boxes", [1, 2, 3, 4]])
def test_proposals_that_are_no_boxes(fitted, tiny_test, boxes):
    detector, _ = fitted
    with pytest.raises(InputError, match="proposals"):
        detector.detect(tiny_test[0].path, boxes)


def test_it_can_be_saved_loaded_and_sent_to_another_process(fitted, tiny_test, tmp_path):
    detector, _ = fitted
    expected = detector.predict(tiny_test[0].path)
    detector.save(tmp_path / "model")
    sent = pickle.loads(pickle.dumps(detector))  # noqa: S301 (made in this line)
    for copy in (Detector.load(tmp_path / "model"), sent):
        assert type(copy) is Detector
        detections = copy.predict(tiny_test[0].path)
        np.testing.assert_array_equal(detections.boxes, expected.boxes)
        np.testing.assert_array_equal(detections.scores, expected.scores)


def test_a_folder_keeps_the_work(tiny_train, tmp_path):
    """A second fit with the same folder loads the model of the first."""
    first = Detector.fit(tiny_train, "paper-1scale", folder=tmp_path, jobs=1, **SMALL)
    stages = []
    second = Detector.fit(
        tiny_train,
        "paper-1scale",
        folder=tmp_path,
        jobs=1,
        progress=lambda stage, done, total: stages.append(stage),
        **SMALL,
    )
    assert stages == []
    np.testing.assert_array_equal(first.head.weights, second.head.weights)


def test_settings_by_short_name_table_or_both():
    default = PRESETS["default"]
    wanted = (480, 688)
    for values in ({"scales": wanted}, {"features": {"scales": wanted}}, {"features.scales": wanted}):
        changed = settings_by_name(default, values)
        assert changed.features.scales == wanted
        assert asdict(changed) | {"features": None} == asdict(default) | {"features": None}
    assert settings_by_name(default, {"boxes": "published"}).boxes == "published"


@pytest.mark.parametrize("dataset", ["sample", []])
def test_only_a_data_set_can_be_fitted(dataset):
    with pytest.raises(InputError, match="open one with load_dataset"):
        Detector.fit(dataset)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scale": (480,)}, "unknown setting 'scale'; did you mean 'scales'"),
        ({"seed": 3}, "'seed' is in several tables"),
        ({"features": {"scale": (480,)}}, "unknown key 'scale'"),
        ({"feature.scales": (480,)}, "unknown key 'feature'"),
        ({"scales": "480"}, "must be of type tuple"),
        ({"features": 5}, "features is a table of settings"),
        ({"features": 5, "scales": (480,)}, "'features' is given as a table and as a value"),
        ({"scales": (480,), "features": 5}, "'features' is given as a table and as a value"),
        ({"engine": "own", "engine.name": "own"}, "'engine' is given as a table and as a value"),
    ],
)
def test_wrong_settings_are_named(values, message):
    with pytest.raises(InputError, match=message):
        settings_by_name(PRESETS["default"], values)

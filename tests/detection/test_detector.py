"""The detector: its detections, its folder on disk, and bad input."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file

from sppnet.common.errors import InputError
from sppnet.common.files import file_digest
from sppnet.detection.backbones import build_network
from sppnet.detection.calibration import Calibration
from sppnet.detection.detection_settings import DetectionSettings
from sppnet.detection.detector import Detector
from sppnet.detection.features.extractor import SPPExtractor
from sppnet.detection.features.settings import FeatureSettings
from sppnet.detection.heads import SoftmaxHead, SVMHead
from sppnet.detection.model_files import read_calibration
from sppnet.eval.calibration import MatchedDetections
from sppnet.proposals import SelectiveSearch
from sppnet.svm import BoxRegressors, apply_deltas

CLASSES = ("cat", "dog", "nothing at all")
ENGINE = SelectiveSearch(max_proposals=80, seed=5)


def make_detector(regression=True, network="alexnet"):
    settings = FeatureSettings(scales=(96,), levels=(3, 1), projection="released")
    extractor = SPPExtractor(build_network(network, "random", seed=3), settings)
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 1, (3, extractor.length)).astype(np.float32)
    weights[:2] -= weights[:2].mean(axis=1, keepdims=True)
    weights[2] = 0
    head = SVMHead(weights, np.array([0.1, -0.1, -9], np.float32), 0.05)
    deltas = rng.normal(0, 0.02, (3, 4, extractor.length)).astype(np.float32)
    regressors = BoxRegressors(deltas, np.full((3, 4), 0.05, np.float32), 0.05) if regression else None
    origin = {"dataset": "test", "images": 3}
    detection = DetectionSettings(0.4, 9, -1.2)
    return Detector(CLASSES, extractor, head, regressors, detection, ENGINE, origin)


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(1)
    blocks = np.kron(rng.integers(0, 256, (4, 5, 3)), np.ones((25, 25, 1)))
    return (blocks + rng.normal(0, 8, blocks.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def detector():
    return make_detector()


@pytest.fixture
def saved(detector, tmp_path):
    detector.save(tmp_path / "model")
    return tmp_path / "model"


def check_same(first, second):
    for name in ("boxes", "scores", "labels"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


@pytest.mark.parametrize("regression", [True, False], ids=["regression", "no_regression"])
def test_form_of_detections(image, regression):
    detections = make_detector(regression).detect(image)
    count = len(detections)
    assert count > 3
    types = detections.boxes.dtype, detections.scores.dtype, detections.labels.dtype
    assert types == (np.float32, np.float32, np.int64)
    assert detections.boxes.shape == (count, 4)
    height, width = image.shape[:2]
    assert (detections.boxes >= 0).all()
    assert (detections.boxes <= (width, height, width, height)).all()
    assert (detections.boxes[:, 2:] > detections.boxes[:, :2]).all()
    assert (np.diff(detections.labels) >= 0).all()
    assert set(detections.labels.tolist()) <= {0, 1}
    assert detections.scores.min() > -1.2
    for label in set(detections.labels.tolist()):
        rows = detections.labels == label
        assert rows.sum() <= 9
        assert (np.diff(detections.scores[rows]) <= 0).all()
        boxes = detections.boxes[rows].tolist()
        assert all(iou(a, b) <= 0.4 + 1e-6 for i, a in enumerate(boxes) for b in boxes[:i])


def test_scores_are_those_computed_by_hand(image):
    """Without regression: each detection is a proposal with the margin of its own vector."""
    detector = make_detector(regression=False)
    proposals = ENGINE.propose(image)
    maps = detector.extractor.prepare(image)
    for box, score, label in detector.detect(image):
        assert box.tolist() in proposals.tolist()
        vector = detector.extractor.extract(maps, box[None]).features[0].astype(np.float64)
        expected = 0.05 * vector @ detector.head.weights[label] + detector.head.bias[label]
        np.testing.assert_allclose(score, expected, atol=1e-4)


def test_regression_moves_boxes_and_keeps_scores(image, detector):
    maps = detector.extractor.prepare(image)
    proposed, deltas = detector.score(maps, ENGINE.propose(image))
    assert deltas.shape == (len(proposed), 4)
    for delta, box, label in zip(deltas, proposed.boxes, proposed.labels, strict=True):
        vector = 0.05 * detector.extractor.extract(maps, box[None]).features[0].astype(np.float64)
        np.testing.assert_allclose(
            delta, detector.regressors.weights[label] @ vector + detector.regressors.bias[label], atol=1e-4
        )
    height, width = image.shape[:2]
    moved = np.clip(apply_deltas(proposed.boxes, deltas), 0, [width, height, width, height])
    regressed = detector.regress(proposed, deltas, (height, width))
    assert 0 < len(regressed) <= len(proposed)
    for box, score, label in regressed:
        (row,) = np.flatnonzero((proposed.scores == score) & (proposed.labels == label))[:1]
        np.testing.assert_allclose(box, moved[row], atol=1e-3)
        assert np.abs(box - proposed.boxes[row]).max() > 0.1


def test_given_proposals_and_maps_change_nothing(image, detector):
    check_same(
        detector.detect(image),
        detector.detect(image, ENGINE.propose(image), detector.extractor.prepare(image)),
    )


def test_a_path_its_text_and_the_array_give_the_same(image, detector, tmp_path):
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), image[:, :, ::-1])
    expected = detector.detect(image)
    check_same(detector.detect(path), expected)
    check_same(detector.detect(str(path)), expected)


def test_an_array_that_is_not_contiguous(image, detector):
    check_same(detector.detect(image[:, ::-1]), detector.detect(np.ascontiguousarray(image[:, ::-1])))


def test_clock_names_the_stages(image):
    detector = make_detector()
    detector.detect(image)
    assert list(detector.clock.seconds) == [
        "decode", "proposals", "convolution", "pooling", "svm", "nms", "regression",
    ]  # fmt: skip
    assert min(detector.clock.seconds.values()) >= 0


@pytest.mark.parametrize("regression", [True, False], ids=["regression", "no_regression"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 200), (19, 90), (3, 3)])
def test_images_too_small_for_any_proposal(regression, height, width):
    detections = make_detector(regression).detect(np.zeros((height, width, 3), np.uint8))
    assert len(detections) == 0
    assert detections.boxes.shape == (0, 4)


@pytest.mark.parametrize("value", [0, 127, 255])
def test_an_image_of_one_colour(detector, value):
    detections = detector.detect(np.full((60, 70, 3), value, np.uint8))
    assert (detections.boxes <= (70, 60, 70, 60)).all()


def test_no_proposals(image, detector):
    assert len(detector.detect(image, np.zeros((0, 4), np.float32))) == 0


def test_boxes_that_leave_the_image_are_dropped(image):
    """A regressor that moves all boxes to the left of the image leaves no detection, and no warning."""
    detector = make_detector()
    bias = np.zeros((3, 4), np.float32)
    bias[:, 0] = -1000
    detector = replace(detector, regressors=replace(detector.regressors, bias=bias))
    assert len(detector.detect(image)) == 0


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((10, 10), np.uint8),
        np.zeros((10, 10, 4), np.uint8),
        np.zeros((3, 10, 10), np.uint8),
        np.zeros((10, 10, 3), np.float32),
        np.zeros((0, 10, 3), np.uint8),
        np.zeros((1, 10, 10, 3), np.uint8),
    ],
    ids=["gray", "alpha", "channels_first", "float", "empty", "batch"],
)
def test_arrays_that_are_no_images(detector, bad):
    with pytest.raises(InputError, match="give uint8"):
        detector.detect(bad)


@pytest.mark.parametrize("content", [None, b"", b"no image"])
def test_files_that_are_no_images(detector, tmp_path, content):
    path = tmp_path / "bad.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.jpg"):
        detector.detect(path)


@pytest.mark.parametrize("regression", [True, False], ids=["regression", "no_regression"])
@pytest.mark.parametrize("network", ["alexnet", "zf5"])
def test_saved_and_loaded_it_detects_the_same(image, tmp_path, regression, network):
    detector = make_detector(regression, network)
    detector.save(tmp_path / "model")
    loaded = Detector.load(tmp_path / "model")
    check_same(loaded.detect(image), detector.detect(image))
    assert loaded.classes == CLASSES
    assert loaded.settings == detector.settings
    assert loaded.extractor.settings == detector.extractor.settings
    assert loaded.engine.parameters() == ENGINE.parameters()
    assert loaded.origin == detector.origin
    assert (loaded.regressors is None) == (not regression)


def test_scores_worth_showing(detector):
    softmax = SoftmaxHead(np.zeros((4, 8), np.float32), np.zeros(4, np.float32))
    assert detector.working_score == -0.75
    assert Detector(CLASSES, detector.extractor, softmax).working_score == 0


def test_a_calibration_is_saved_and_changes_no_other_tensor(image, detector, saved, tmp_path):
    held_out = MatchedDetections(
        np.array([0.9, 0.2], np.float32), np.array([2, 0]), np.array([True, False]), np.array([1, 0, 2])
    )
    calibration = Calibration(np.array([0.5]), np.ones((3, 2)), np.array([-1.0, 0.0, 1.0]), held_out)
    calibrated = replace(detector, calibration=calibration)
    calibrated.save(tmp_path)
    before, after = (load_file(folder / "model.safetensors") for folder in (saved, tmp_path))
    assert after.keys() - before.keys() == calibration.tensors().keys()
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)
    loaded = Detector.load(tmp_path)
    check_same(loaded.calibrated(loaded.detect(image)), calibrated.calibrated(detector.detect(image)))
    for name, array in calibration.tensors().items():
        np.testing.assert_array_equal(loaded.calibration.tensors()[name], array)
        np.testing.assert_array_equal(read_calibration(tmp_path).tensors()[name], array)
    assert Detector.load(saved).calibration is None
    assert read_calibration(saved) is None
    assert read_calibration(tmp_path / "nothing") is None
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"model\.safetensors: not the file"):
        read_calibration(tmp_path)


def test_half_precision_takes_half_the_space_and_hardly_changes_scores(image, detector, saved, tmp_path):
    detector.save(tmp_path / "half", half=True)
    whole, half = ((folder / "model.safetensors").stat().st_size for folder in (saved, tmp_path / "half"))
    assert 0.4 < half / whole < 0.6
    boxes = np.array([[0, 0, 60, 60], [20, 10, 90, 80]], np.float32)
    loaded = Detector.load(tmp_path / "half")
    assert loaded.head.weights.dtype == np.float32
    vectors = detector.extractor.extract(detector.extractor.prepare(image), boxes).features
    rounded = loaded.extractor.extract(loaded.extractor.prepare(image), boxes).features
    np.testing.assert_allclose(loaded.head.score(rounded), detector.head.score(vectors), rtol=0.01, atol=0.01)


def test_half_precision_keeps_the_calibration_and_numbers_that_are_too_large(detector, tmp_path):
    held_out = MatchedDetections(
        np.array([0.123456789], np.float32), np.array([1]), np.array([True]), np.array([0, 1, 0])
    )
    calibration = Calibration(np.array([1 / 3]), np.full((3, 2), 1 / 7), np.zeros(3), held_out)
    bias = np.array([0.1, 1e6, 0], np.float32)
    large = replace(detector, head=replace(detector.head, bias=bias), calibration=calibration)
    large.save(tmp_path, half=True)
    loaded = Detector.load(tmp_path)
    np.testing.assert_array_equal(loaded.head.bias, bias)
    for name, array in calibration.tensors().items():
        np.testing.assert_array_equal(loaded.calibration.tensors()[name], array)


def test_the_folder_holds_two_files_and_nothing_private(saved):
    assert sorted(file.name for file in saved.iterdir()) == ["model.json", "model.safetensors"]
    description = json.loads((saved / "model.json").read_text())
    assert description["classes"] == list(CLASSES)
    assert str(saved) not in (saved / "model.json").read_text()


def test_saving_replaces_a_model(saved):
    make_detector(regression=False).save(str(saved))
    assert Detector.load(str(saved)).regressors is None


def rewrite(saved, **changes):
    description = json.loads((saved / "model.json").read_text())
    del description["digest"]
    for key, value in changes.items():
        if value is None:
            del description[key]
        else:
            description[key] = value
    (saved / "model.json").write_text(json.dumps(description))


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_missing_file(saved, name):
    (saved / name).unlink()
    with pytest.raises(InputError, match=f"{name}.*missing"):
        Detector.load(saved)


def test_no_folder(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        Detector.load(tmp_path / "nowhere")


def test_an_altered_description(saved):
    text = (saved / "model.json").read_text()
    assert '"nms_iou": 0.4' in text
    (saved / "model.json").write_text(text.replace('"nms_iou": 0.4', '"nms_iou": 0.5'))
    with pytest.raises(InputError, match=r"model\.json: altered"):
        Detector.load(saved)


@pytest.mark.parametrize("index", [100, -1], ids=["header", "last_number"])
def test_altered_weights(saved, index):
    path = saved / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[index] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.safetensors.*not the file"):
        Detector.load(saved)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
@pytest.mark.parametrize("fraction", [0, 0.5, 0.99])
def test_a_truncated_file(saved, name, fraction):
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(InputError, match="model"):
        Detector.load(saved)


@pytest.mark.parametrize("text", ["[]", "3", '"text"', "null", "{}", "\x00"], ids=repr)
def test_a_description_that_is_other_json(saved, text):
    (saved / "model.json").write_text(text)
    with pytest.raises(InputError, match="model"):
        Detector.load(saved)


def test_a_description_that_is_no_text(saved):
    (saved / "model.json").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InputError, match="cannot be read"):
        Detector.load(saved)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 99},
        {"format": None},
        {"classes": None},
        {"network": None},
        {"network": {"name": "no such network"}},
        {"network": {"name": "vgg16", "pca": None}},
        {"network": []},
        {"features": {"scalse": [96]}},
        {"features": {"scales": [0]}},
        {"features": 7},
        {"scale": "large"},
        {"scale": None},
        {"detection": {"nms_iou": 7.0}},
        {"detection": None},
        {"proposals": {"engine": "sorcery"}},
        {"proposals": {"engine": "opencv", "ks": "many"}},
        {"proposals": {"engine": "selective-search", "strategies": "many"}},
        {"proposals": {"engine": "selective-search", "ks": [50]}},
        {"proposals": {}},
        {"model.safetensors": None},
        {"scale": float("inf")},
        {"scale": 10**400},
        {"regression_scale": float("nan")},
        {"features": {"scales": [float("inf")]}},
        {"features": {"scales": [10**400]}},
        {"network": {"name": "efficientnet_lite0", "pca": 1, "channels": [10**12], "taps": [[16, 1e400, 1]]}},
        {"classes": [1, 2, 3]},
        {"classes": "cat"},
        {"origin": [], "detection": {"nms_iou": [[[]]]}},
    ],
    ids=lambda changes: "-".join(f"{key}_{value}"[:40] for key, value in changes.items()),
)
def test_a_damaged_description(saved, changes):
    rewrite(saved, **changes)
    with pytest.raises(InputError, match="model"):
        Detector.load(saved)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"format":' * 101 + "1" + "}" * 101, '{"format": ' + "1" * 5000]
)
def test_a_description_that_no_program_wrote(saved, text):
    (saved / "model.json").write_text(text)
    with pytest.raises(InputError, match=r"model\.json: cannot be read as JSON"):
        Detector.load(saved)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_folder_in_place_of_a_file(saved, name):
    (saved / name).unlink()
    (saved / name).mkdir()
    with pytest.raises(InputError, match=str(saved)):
        Detector.load(saved)


def with_tensors(saved, **changes):
    tensors = load_tensors(saved / "model.safetensors")
    tensors |= {name: change(tensors[name]) for name, change in changes.items()}
    save_file(tensors, saved / "model.safetensors")
    rewrite(saved, **{"model.safetensors": file_digest(saved / "model.safetensors")})


@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: tensor.to(torch.float8_e4m3fn),
        lambda tensor: tensor.to(torch.float8_e5m2),
        lambda tensor: tensor.bfloat16(),
        lambda tensor: tensor[:1].clone(),
        lambda tensor: tensor * torch.inf,
        lambda tensor: tensor.flatten(),
    ],
    ids=["float8", "other-float8", "bfloat16", "shape", "infinite", "flat"],
)
@pytest.mark.parametrize("name", ["svm.weights", "regression.weights"])
def test_tensors_of_another_form(saved, name, change):
    with_tensors(saved, **{name: change})
    with pytest.raises(InputError, match=str(saved)):
        Detector.load(saved)


def test_weights_of_eight_bits(saved):
    names = load_tensors(saved / "model.safetensors")
    name = next(name for name in names if name.startswith("network.") and name.endswith(".weight"))
    with_tensors(saved, **{name: lambda tensor: tensor.to(torch.float8_e4m3fn)})
    with pytest.raises(InputError, match=r"model\.json: .*float8_e4m3fn; weights must be floating point"):
        Detector.load(saved)


def test_fewer_classes_than_svms(saved):
    rewrite(saved, classes=["cat"])
    with pytest.raises(InputError, match="model"):
        Detector.load(saved)


def test_another_pyramid_than_the_svms(saved):
    rewrite(saved, features={"scales": [96], "levels": [6, 3, 2, 1]})
    with pytest.raises(InputError, match="model"):
        Detector.load(saved)


def test_nothing_is_unpickled(saved, tmp_path):
    class Touch:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    weights = saved / "model.safetensors"
    weights.write_bytes(pickle.dumps(Touch()))
    rewrite(saved, **{"model.safetensors": file_digest(weights)})
    with pytest.raises(InputError, match="cannot be read"):
        Detector.load(saved)
    assert not (tmp_path / "executed").exists()


def test_a_folder_that_cannot_be_made(detector, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        detector.save(tmp_path / "file" / "model")


BOXES = [[20, 20, 90, 90], [0, 0, 125, 100]]


@pytest.mark.parametrize(
    "boxes",
    [np.array(BOXES, np.float64), np.array(BOXES), np.array(BOXES, np.uint8), BOXES, torch.tensor(BOXES)],
    ids=["float64", "int64", "uint8", "list", "tensor"],
)
def test_proposals_of_any_type(image, detector, boxes):
    check_same(detector.detect(image, boxes), detector.detect(image, np.array(BOXES, np.float32)))


@pytest.mark.parametrize(
    "boxes",
    [
        [[np.nan, 0, 9, 9]], [[0, 0, np.inf, 9]], [[0, 0, 1e30, 9]], [[10**400, 0, 1, 1]], [[0, 1], [1]],
        [[None] * 4], "all", [1, 2, 3, 4], np.ones((2, 4), bool), np.ones((2, 4), complex),
    ],
    ids=["nan", "inf", "far", "digits", "ragged", "none", "text", "flat", "bool", "complex"],
)  # fmt: skip
def test_proposals_that_are_no_boxes(image, detector, boxes):
    with pytest.raises(InputError, match=r"proposals.*give (finite )?boxes \(N, 4\), xyxy, in pixels"):
        detector.detect(image, boxes)


def test_a_pil_image(image, detector):
    check_same(detector.predict(Image.fromarray(image)), detector.predict(image))


@pytest.mark.parametrize("source", ["a\0b.jpg", "a" * 5000 + ".jpg", b"a.jpg", None, {}], ids=type)
def test_sources_that_are_no_image(detector, source):
    for images in (source, [source]):
        with pytest.raises(InputError, match=r"check the path|an image of type"):
            detector.predict(images)

"""The commands classify-svm (VOC's protocol) and classify-svm-folder (Caltech101's), stored vectors."""

import json
import re
import shutil

import cv2
import numpy as np
import pytest
from command import call, words
from torch import nn

from sppnet.data import load_voc
from sppnet.data.image_folder import open_image_folder
from sppnet.detection.backbones import build_network
from sppnet.detection.classification.classifier import Classifier, ClassifierSettings
from sppnet.detection.classification.image_features import ImageFeatureExtractor, ImageFeatureSettings
from sppnet.detection.classification.linear_svm import fit_folder, fit_voc, split_images
from sppnet.detection.features.parallel import one_a_core
from sppnet.eval import classification_dict, evaluate_voc_classification, image_labels

ZF5 = ["--backbone", "zf5", "--weights", "random", "--scale", 48]
SPLITS = ["--per-class", 4, "--test-per-class", 3, "--splits", 2]


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    """Four classes of eight images each, that colours tell apart, but for the last two, which are alike."""
    folder = tmp_path_factory.mktemp("sets") / "coloured"
    rng = np.random.default_rng(0)
    colours = {"blue": (0, 0, 200), "green": (0, 200, 0), "red": (200, 0, 0), "rouge": (200, 0, 0)}
    for name, colour in colours.items():
        (folder / name).mkdir(parents=True)
        for number in range(8):
            image = np.clip(np.array(colour) + rng.integers(0, 56, (30, 40, 3)), 0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / name / f"{number}.png"), image[:, :, ::-1])
    return folder


def vectors_of(paths, settings):
    """As the command computes them: convolution rounds by the number of threads."""
    extractor = ImageFeatureExtractor(build_network("zf5", "random"), settings)
    vectors = np.stack([vector for _, vector in one_a_core(extractor, paths)])
    return vectors.astype(np.float16).astype(np.float32)


def figures(work):
    """The figures in the only file of them, and its part about the run."""
    (file,) = work.glob("runs/*/classification.json")
    written = json.loads(file.read_text())
    return written, written.pop("about")


def no_convolution(monkeypatch):
    def never(self, image):
        raise AssertionError("a vector was computed")

    monkeypatch.setattr(ImageFeatureExtractor, "__call__", never)


def test_voc_on_the_sample(work, monkeypatch):
    monkeypatch.setattr("sppnet.data.sample.SIZES", {"train": 9, "test": 6})
    result = call("classify-svm", *ZF5, "--limit", 8, "--view", "warp")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("data set: sample (built in")
    first, about = figures(work)
    assert (work / "runs" / "svm-sample-zf5-warp-48-conv" / "classification.json").is_file()
    assert (about["dataset"], about["train"], about["test"]) == ("sample", ["train", 8], ["test", 6])
    assert (about["weights"], about["vectors"]["settings"]["view"]) == ("random", "warp")

    splits = [load_voc(work / "datasets" / "sample", split).head(8) for split in ("train", "test")]
    settings = ImageFeatureSettings("warp", (48,))
    train, test = (vectors_of([example.path for example in split], settings) for split in splits)
    fit = fit_voc(train, image_labels(splits[0]))
    expected = evaluate_voc_classification(image_labels(splits[1]), fit.svms.score(test), splits[1].classes)
    assert {name: first[name] for name in classification_dict(expected)} == classification_dict(expected)
    assert first["tried"][f"{first['cost']:g}"] == max(first["tried"].values())
    match = re.search(r"mAP, 11-point: ([\d.]+); area: ([\d.]+)", result.output)
    assert match, result.output
    assert match.groups() == (f"{100 * first['map_11point']:.1f}", f"{100 * first['map_area']:.1f}")

    no_convolution(monkeypatch)
    again = call("classify-svm", *ZF5, "--limit", 8, "--view", "warp")
    assert again.exit_code == 0
    assert figures(work)[0] == first


def test_caltechs_protocol_on_a_folder(work, coloured, monkeypatch):
    arguments = ["classify-svm-folder", "--data", coloured, *ZF5, *SPLITS, "--scale", 40]
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    first, about = figures(work)
    assert (work / "runs" / "svm-coloured-zf5-full-48-40-conv").is_dir()
    assert (about["data"], about["per_class"], about["test_per_class"]) == (str(coloured), 4, 3)

    images = open_image_folder(coloured)
    vectors = vectors_of(images.paths, ImageFeatureSettings("full", (48, 40)))
    by_class = np.zeros(4)
    for seed, split in enumerate(first["splits"]):
        train, test = split_images(images.labels, images.classes, 4, 3, seed)
        fit = fit_folder(vectors[train], images.labels[train], 4)
        right = fit.svms.score(vectors[test]).argmax(axis=1) == images.labels[test]
        assert (split["seed"], split["cost"]) == (seed, fit.cost)
        assert split["accuracy"] == pytest.approx(right.mean())
        by_class += right.reshape(4, 3).mean(axis=1) / 2
    accuracies = [split["accuracy"] for split in first["splits"]]
    assert len(accuracies) == 2
    assert list(first["classes"]) == ["blue", "green", "red", "rouge"]
    np.testing.assert_allclose(list(first["classes"].values()), by_class)
    assert first["accuracy"] == pytest.approx(np.mean(accuracies))
    assert first["standard_deviation"] == pytest.approx(np.std(accuracies, ddof=1))
    assert first["classes"]["blue"] == first["classes"]["green"] == 1
    assert 0 < first["classes"]["red"] + first["classes"]["rouge"] < 2
    assert f"accuracy: {100 * first['accuracy']:.1f}, standard deviation" in result.output

    no_convolution(monkeypatch)
    assert call(*arguments).exit_code == 0
    assert figures(work)[0] == first


def test_a_run_keeps_its_settings(work, coloured):
    command = ["classify-svm-folder", "--data", coloured, *ZF5, *SPLITS, "--splits", 1, "--run", "short"]
    assert call(*command).exit_code == 0
    kept = figures(work)
    result = call(*command, "--per-class", 2)
    assert result.exit_code == 2
    assert "another RUN name" in words(result)
    assert figures(work) == kept
    assert call(*command).exit_code == 0


def test_one_split_has_no_deviation(work, coloured):
    call("classify-svm-folder", "--data", coloured, *ZF5, *SPLITS, "--splits", 1, "--run", "short")
    written, _ = figures(work)
    assert (written["standard_deviation"], len(written["splits"])) == (0, 1)
    assert (work / "runs" / "short" / "features").is_dir()


def test_fully_connected_layers_of_a_classifier(work, coloured):
    settings = ClassifierSettings("zf5", (2, 1), size=48, width=8)
    classifier = Classifier(("a", "b"), settings)
    nn.init.normal_(classifier.fc6.weight, std=0.01)
    classifier.save(work / "model")
    arguments = ["classify-svm-folder", "--data", coloured, *SPLITS, "--scale", 48, "--feature-gb", 0]
    result = call(*arguments, "--classifier", work / "model", "--layer", "fc7")
    assert result.exit_code == 0, result.output
    written, about = figures(work)
    assert 0.25 < written["accuracy"] <= 1
    assert about["classifier"] == str(work / "model")
    assert about["vectors"]["classifier"]["levels"] == [2, 1]
    (run,) = (work / "runs").iterdir()
    assert run.name == "svm-coloured-zf5-full-48-fc7"
    assert not (run / "features").exists()


def test_feature_levels_are_fitted_before_vectors_are_named(work, coloured, monkeypatch):
    """A second run finds the vectors of a network of several maps; on other images they are others."""
    calls = []

    def fit_feature_levels(self, paths, folder):
        calls.append((paths, folder))
        nn.init.constant_(self.network.feature_levels.weights, len(paths))

    monkeypatch.setattr(ImageFeatureExtractor, "fit_feature_levels", fit_feature_levels)
    arguments = [
        "classify-svm-folder", "--data", coloured, *ZF5, "--per-class", 2, "--test-per-class", 1,
        "--run", "levels",
    ]  # fmt: skip
    for images in (5, 6):
        monkeypatch.setattr("sppnet.detection.experiments.image_svms.FEATURE_LEVEL_IMAGES", images)
        call(*arguments)
        assert len(set(calls[-1][0])) == images
        assert calls[-1][0] == sorted(calls[-1][0])
        assert calls[-1][1].parts == ("runs", "levels", "taps")
    stored = len(list((work / "runs" / "levels" / "features").iterdir()))
    no_convolution(monkeypatch)
    assert call(*arguments).exit_code == 0
    assert calls[-1] == calls[-2]
    assert stored == len(list((work / "runs" / "levels" / "features").iterdir())) == 2


def test_a_bad_image_is_named(work, coloured):
    shutil.copytree(coloured, work / "set")
    broken = work / "set" / "red" / "3.png"
    broken.write_bytes(b"no image")
    result = call(
        "classify-svm-folder", "--data", work / "set", *ZF5, "--per-class", 7, "--test-per-class", 9
    )
    assert result.exit_code == 2
    assert f"error: {broken}: not an image" in result.output
    assert not list(work.glob("runs/*/classification.json"))


def test_wrong_options(work, coloured, monkeypatch):
    monkeypatch.setattr("sppnet.data.sample.SIZES", {"train": 3, "test": 1})
    (work / "empty").mkdir()
    for name in ("train", "val"):
        (work / "splits" / name / "class").mkdir(parents=True)
    folder = ["classify-svm-folder", "--data", coloured, *ZF5]
    trained = ["classify-svm", "--classifier", "model"]
    for arguments, message in (
        ([*trained, "--backbone", "zf5"], "either --classifier, or --backbone"),
        ([*trained, "--weights", "random"], "either --classifier, or --backbone"),
        (trained, "missing; model is no complete classifier"),
        ([*folder, "--limit", 5], "No such option: --limit"),
        ([*folder, "--dataset", "sample"], "No such option: --dataset"),
        ([*folder, "--train-split", "train"], "No such option: --train-split"),
        ([*folder, "--test-split", "val"], "No such option: --test-split"),
        (["classify-svm", *ZF5, "--splits", 3], "No such option: --splits"),
        (["classify-svm", *ZF5, "--data", coloured], "No such option: --data"),
        (["classify-svm-folder", *ZF5], "Missing option '--data'"),
        ([*folder, "--per-class", 8], "class 'blue': 8 images, 8 of them to train on"),
        (["classify-svm-folder", *ZF5, "--data", "empty"], "empty: has no folders of classes"),
        (
            ["classify-svm-folder", *ZF5, "--data", "splits"],
            "splits: holds splits, not classes; this command makes its own splits: give",
        ),
        ([*trained, "--level", 6], "--level is for --backbone"),
        (["classify-svm", *ZF5, "--level", 0], "levels (0,): give at least one, each at least 1"),
        (["classify-svm", *ZF5, "--layer", "fc6"], "layer fc6: zf5 has convolutions only"),
        (["classify-svm", *ZF5, "--scale", 0], "at least 1 pixel"),
        (["classify-svm", *ZF5, "--view", "side"], "'side' is not one of 'crop', 'full', 'warp'"),
        (["classify-svm", *ZF5], "3 training images; linear SVMs need at least 4"),
    ):
        result = call(*arguments)
        assert result.exit_code == 2, arguments
        assert message in words(result), arguments
    assert not list(work.glob("runs/*/classification.json"))

"""The commands classify and test-classifier: images, labelled sets, bad files, a stop."""

import csv
import errno
import json
import os
import re

import cv2
import numpy as np
import pytest
import torch
from command import call, words
from torch import nn

from sppnet.data import read_image
from sppnet.detection.classification.classifier import Classifier, ClassifierSettings
from sppnet.detection.classification.view_testing import ViewTester
from sppnet.detection.classification.views import ViewSettings

CLASSES = tuple("abcdefg")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two saved classifiers of seven classes, random layers of AlexNet, and a third without SPP."""
    folder = tmp_path_factory.mktemp("models")
    for name, seed, levels in (("first", 0, (2, 1)), ("second", 1, (2, 1)), ("plain", 0, ())):
        settings = ClassifierSettings("alexnet", levels, size=64, width=8, seed=seed)
        classifier = Classifier(CLASSES, settings)
        nn.init.normal_(classifier.fc8.weight, generator=torch.Generator().manual_seed(seed))
        classifier.save(folder / name)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Eight images, a list, and their scores by the first model."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(8):
        coarse = rng.integers(0, 256, (3, 4, 3), np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), cv2.resize(coarse, (96, 80)))
    (folder / "list.txt").write_text("no image")
    return folder


def scores(models, photos, *names, **settings):
    tester = ViewTester([Classifier.load(models / name) for name in names], **settings)
    return {file.name: tester.scores(read_image(file)) for file in sorted(photos.glob("*.png"))}


@pytest.fixture
def labelled(models, photos, tmp_path):
    """The photos in folders of the class that the first model sees in them, but for the first photo."""
    folder = tmp_path / "labelled"
    for number, (name, row) in enumerate(scores(models, photos, "first").items()):
        # Second to the right class, so a top-1 error and no top-5 error.
        label = int(np.argsort(-row)[1]) if number == 0 else int(row.argmax())
        path = folder / CLASSES[label] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((photos / name).read_bytes())
    return folder


def test_images(models, photos, tmp_path):
    result = call("classify", models / "first", "--images", photos, "--output", tmp_path / "out")
    assert result.exit_code == 0
    written = json.loads((tmp_path / "out" / "top5.json").read_text())
    expected = scores(models, photos, "first")
    assert [entry["image"] for entry in written] == [str(photos / name) for name in expected]
    for entry, row in zip(written, expected.values(), strict=True):
        order = np.argsort(-row)[:5]
        assert [best["class"] for best in entry["classes"]] == [CLASSES[label] for label in order]
        np.testing.assert_allclose([best["score"] for best in entry["classes"]], row[order], atol=1e-4)
        assert f"{entry['image']}: {CLASSES[order[0]]} {100 * row[order[0]]:.1f}, " in result.output
    assert re.search(r"8 images, [\d.]+ per second", result.output)


def test_averages_models_and_takes_settings(models, photos, tmp_path):
    arguments = ["--views", "multi+full", "--set", "scales = [64, 80]", "--from", "crops"]
    call(
        "classify", models / "first", models / "second", "--images", photos / "3.png", *arguments,
        "--output", tmp_path,
    )  # fmt: skip
    (written,) = json.loads((tmp_path / "top5.json").read_text())
    sizes = ViewSettings(64, 73, (64, 80))
    expected = scores(models, photos, "first", "second", views="multi+full", settings=sizes, source="crops")
    averages = [best["score"] for best in written["classes"]]
    np.testing.assert_allclose(averages, np.sort(expected["3.png"])[::-1][:5], atol=1e-4)


def test_labelled_set(models, labelled, tmp_path):
    result = call("test-classifier", models / "first", "--labelled", labelled, "--output", tmp_path / "out")
    assert result.exit_code == 0
    assert "top-1 error: 12.5; top-5: 0.0" in result.output
    written = json.loads((tmp_path / "out" / "classification.json").read_text())
    assert written["images"] == 8
    assert written["top1_error"] == 1 / 8
    assert written["settings"]["views"] == "ten"
    with (tmp_path / "out" / "confusion.csv").open(newline="") as file:
        rows = np.array([row[1:] for row in csv.reader(file)][1:], int)
    assert rows.sum() == 8
    assert rows.trace() == 7
    assert (tmp_path / "out" / "confusion.png").stat().st_size > 1000


def test_check_of_maps_against_crops(models, photos):
    result = call("classify", models / "first", "--images", photos, "--check-crops", 3, "--limit", 4)
    assert "views ten, 3 images: maps against crops" in words(result)
    assert "4 images, " in result.output


def test_without_a_pyramid_crops_are_taken(models, photos, tmp_path):
    result = call("classify", models / "plain", "--images", photos / "0.png", "--output", tmp_path)
    assert result.exit_code == 0
    (written,) = json.loads((tmp_path / "top5.json").read_text())
    expected = scores(models, photos, "plain", source="crops")["0.png"]
    assert written["classes"][0]["score"] == pytest.approx(float(expected.max()), abs=1e-4)
    result = call("classify", models / "plain", "--images", photos, "--from", "maps")
    assert result.exit_code == 2
    assert "without a pyramid" in result.output


def test_bad_files_are_named_and_the_others_kept(models, labelled, tmp_path):
    broken = labelled / "a" / "broken.png"
    broken.parent.mkdir(exist_ok=True)
    broken.write_bytes(b"no image")
    for flags, code in ((), 2), (["--skip-errors"], 0):
        result = call(
            "test-classifier", models / "first", "--labelled", labelled, "--output", tmp_path, *flags
        )
        assert result.exit_code == code
        assert f"1 of 9 images left out, the first: {broken}: not an image" in result.output
        written = json.loads((tmp_path / "classification.json").read_text())
        assert (written["images"], written["settings"]["skipped"]) == (8, 1)
        # The comparison of maps with crops comes upon it, too.
        checked = call(
            "test-classifier", models / "first", "--labelled", labelled, "--check-crops", 9, *flags
        )
        assert checked.exit_code == code
        assert ("8 images: maps against crops" in words(checked)) == (code == 0)


def test_a_stopped_test_goes_on(models, labelled, tmp_path, monkeypatch):
    whole = ViewTester.scores_of_files

    def stopped(self, files):
        yield from list(whole(self, files))[:3]
        raise KeyboardInterrupt

    arguments = ["test-classifier", models / "first", "--labelled", labelled]
    call(*arguments, "--output", tmp_path / "unbroken")
    monkeypatch.setattr(ViewTester, "scores_of_files", stopped)
    result = call(*arguments)
    assert (result.exit_code, "after 3 of 8 images; with --output" in result.output) == (130, True)
    result = call(*arguments, "--output", tmp_path / "out")
    assert (result.exit_code, "after 3 of 8 images; the same command" in result.output) == (130, True)
    assert not (tmp_path / "out" / "classification.json").exists()

    asked = []

    def counted(self, files):
        asked.append(len(files))
        return whole(self, files)

    monkeypatch.setattr(ViewTester, "scores_of_files", counted)
    result = call(*arguments, "--output", tmp_path / "out")
    assert "3 images were scored before" in result.output
    for name in ("classification.json", "confusion.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()
    # Other views, another classifier and a changed image are scored again; unchanged images are not.
    call(*arguments, "--output", tmp_path / "out", "--views", "centre")
    call("test-classifier", models / "second", "--labelled", labelled, "--output", tmp_path / "out")
    changed = next(labelled.rglob("*.png"))
    cv2.imwrite(str(changed), np.zeros((80, 96, 3), np.uint8))
    call(*arguments, "--output", tmp_path / "out")
    assert asked == [5, 8, 8, 1]


def test_a_file_that_is_no_store_is_named(models, photos, tmp_path):
    store = tmp_path / "scores.sqlite"
    store.write_bytes(b"not a database " * 100)
    result = call("classify", models / "first", "--images", photos, "--output", tmp_path)
    assert result.exit_code == 2
    assert "scores.sqlite: scores cannot be kept there" in result.output


def test_a_disk_without_locks_is_named(models, photos, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.lockf", fail)
    result = call("classify", models / "first", "--images", photos, "--output", tmp_path / "nfs")
    assert result.exit_code == 2
    assert "nfs: this file system has no file locks" in result.output
    assert "--output" in result.output


def test_wrong_options(models, photos, labelled, tmp_path):
    (labelled / "zebra").mkdir()
    (tmp_path / "empty").mkdir()
    for command, arguments, message in (
        ("classify", [], "Missing option '--images'"),
        ("test-classifier", [], "Missing option '--labelled'"),
        ("classify", ["--images", photos, "--labelled", labelled], "No such option: --labelled"),
        ("test-classifier", ["--labelled", labelled], "zebra: no class of this name"),
        ("classify", ["--images", tmp_path / "empty"], "empty: the folder has no images"),
        ("classify", ["--images", photos, "--set", "size = 300"], "view size 300"),
    ):
        result = call(command, models / "first", *arguments)
        assert result.exit_code == 2, arguments
        assert message in words(result)
    assert "missing" in call("classify", tmp_path, "--images", photos).output

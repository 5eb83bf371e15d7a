"""The commands pretrain and data crops: from the built-in sample to a classifier for classify."""

import json
import shutil
import tomllib

import pytest
import torch
from command import call, words

from sppnet.data.image_folder import open_image_folder
from sppnet.detection.backbones import build_network
from sppnet.detection.backbones.weights import RANDOM
from sppnet.detection.classification.classifier import Classifier, ClassifierSettings
from sppnet.detection.classification.pretraining import pretrain

# Called by the run that the command opens.
PRETRAIN = "sppnet.detection.classification.pretraining_run.pretrain"
TINY = """
short_side = 36
size_schedule = "alternating"
small_size = 24
epochs = [1, 1]
rates = [0.01, 0.001]
batch = 3

[classifier]
size = 32
width = 16
levels = [2, 1]
"""


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    """The folder of crops that data crops writes from a smaller sample, and the results of three calls."""
    folder = tmp_path_factory.mktemp("crops")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sppnet.data.sample.SIZES", {"train": 8, "test": 4})
        patch.chdir(folder)
        result = call("data", "crops", folder / "objects", "--dataset", "sample")
        again = call("data", "crops", folder / "objects", "--dataset", "sample")
        same = call("data", "crops", "other", "--dataset", "sample", "--test-split", "train")
    return folder / "objects", result, again, same


@pytest.fixture
def photos(crops, tmp_path, monkeypatch):
    """A copy of a few classes of `crops` in the working folder, with tiny.toml beside it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(TINY)
    for name in open_image_folder(crops[0] / "train").classes[:5]:
        for split in ("train", "val"):
            if (crops[0] / split / name).exists():
                shutil.copytree(crops[0] / split / name, tmp_path / "photos" / split / name)
    return tmp_path / "photos"


@pytest.fixture
def pretrain_calls(monkeypatch):
    """The arguments of each call of the library's `pretrain`, which is replaced and trains nothing."""
    calls = []

    def record(train, val, settings, folder, progress, report, **options):
        calls.append({"train": train, "val": val, "settings": settings, "folder": folder} | options)

    monkeypatch.setattr(PRETRAIN, record)
    return calls


def test_crops_of_the_sample(crops):
    folder, result, again, same = crops
    assert result.exit_code == 0, result.output
    train, val = (open_image_folder(folder / name) for name in ("train", "val"))
    assert f"train: {len(train)} objects" in result.output
    assert f"val: {len(val)} objects" in result.output
    assert len(train) > len(val) >= 4
    assert again.exit_code == 2
    assert "there is something already" in words(again)
    assert same.exit_code == 2
    assert "split train: to train and to test on" in words(same)


def test_from_images_to_a_classifier(photos, tmp_path):
    command = ("pretrain", "--data", photos, "--run", "tiny", "--config", "tiny.toml", "--workers", 0)
    result = call(*command)
    assert result.exit_code == 0, result.output
    train = open_image_folder(photos / "train")
    val = open_image_folder(photos / "val", train.classes)
    printed = words(result)
    assert f"train: {len(train)} images of {len(train.classes)} classes in" in printed
    assert f"val: {len(val)} images in" in printed
    assert "epoch 1 of 2: size 32, rate 0.01, loss " in printed
    assert "epoch 2 of 2: size 24, rate 0.001, loss " in printed
    assert "top-5 100.0 %" in printed
    run = tmp_path / "runs" / "tiny"
    classifier = Classifier.load(run / "classifier")
    assert classifier.classes == train.classes
    assert classifier.settings == ClassifierSettings("zf5", (2, 1), size=32, width=16)
    history = json.loads((run / "history.json").read_text())
    assert [epoch["size"] for epoch in history["epochs"]] == [32, 24]
    assert not (run / "training").exists()

    tested = call(
        "test-classifier", run / "classifier", "--labelled", photos / "val", "--views", "centre",
        "--output", tmp_path / "out",
    )  # fmt: skip
    assert tested.exit_code == 0, tested.output
    written = json.loads((tmp_path / "out" / "classification.json").read_text())
    assert written["images"] == len(val)

    before = (run / "classifier" / "classifier.safetensors").stat()
    # A kill between writing and cleaning up leaves this folder.
    (run / "training").mkdir()
    again = call(*command)
    assert again.exit_code == 0
    assert "(trained before)" in again.output
    assert "epoch 1" not in again.output
    assert not (run / "training").exists()
    assert (run / "classifier" / "classifier.safetensors").stat() == before
    refused = call(*command, "--set", "seed = 3")
    assert refused.exit_code == 2
    assert "the run has 'seed = 0', not 'seed = 3'" in refused.output
    (photos / "train" / train.classes[0] / "more.jpg").write_bytes(train.paths[0].read_bytes())
    assert "another RUN name" in words(call(*command))


def test_continues_after_a_stop(photos, tmp_path, monkeypatch):
    steps = []

    def stopped(train, val, settings, folder, progress, report, **options):
        def stop(stage, done, total):
            progress(stage, done, total)
            if stage == "training":
                steps.append(done)
                if len(steps) == 3:
                    raise KeyboardInterrupt

        return pretrain(train, val, settings, folder, stop, report, checkpoint_seconds=0, **options)

    monkeypatch.setattr(PRETRAIN, stopped)
    options = ("--run", "tiny", "--config", "tiny.toml", "--workers", 0)
    command = ("pretrain", "--data", photos / "train", *options)
    result = call(*command)
    assert result.exit_code == 130
    assert "the same command goes on from here" in words(result)
    assert (tmp_path / "runs" / "tiny" / "training").exists()
    assert call(*command).exit_code == 0
    total = 2 * (len(open_image_folder(photos / "train")) // 3)
    assert total >= 6
    # The training was stopped before step 3 was in the checkpoint, so step 3 is done twice.
    assert steps == [1, 2, 3, *range(3, total + 1)]
    assert not (tmp_path / "runs" / "tiny" / "training").exists()


def test_images_that_cannot_be_read(photos):
    (photos / "train" / open_image_folder(photos / "train").classes[0] / "bad.png").write_bytes(b"no image")
    # One batch, so that the image is in it.
    count = len(open_image_folder(photos / "train"))
    options = ("--config", "tiny.toml", "--set", f"batch = {count}", "--workers", 0)
    command = ("pretrain", "--data", photos, *options)
    result = call(*command)
    assert result.exit_code == 2
    assert "bad.png: not an image" in result.output
    assert "--skip-errors" in result.output
    skipped = call(*command, "--skip-errors")
    assert skipped.exit_code == 0, skipped.output
    assert skipped.output.count("1 images left out") == 2


def test_the_run_that_is_trained(photos, pretrain_calls, tmp_path, monkeypatch):
    assert call("pretrain", "--data", photos).exit_code == 0
    first = pretrain_calls.pop()
    assert (first["train"].folder, first["val"].folder) == (photos / "train", photos / "val")
    assert str(first["folder"]) == "runs/photos-zf5-paper"
    assert first["settings"].total_epochs == 70
    assert (first["weights"], first["skip_errors"]) == (RANDOM, False)
    with (tmp_path / "runs" / "photos-zf5-paper" / "settings.toml").open("rb") as file:
        written = tomllib.load(file)
    assert (written["classifier"]["network"], written["epochs"]) == ("zf5", [40, 20, 10])

    # A folder of classes has no images to test on; --val gives them.
    monkeypatch.chdir(photos / "train")
    options = ("--network", "overfeat7", "--preset", "modern", "--set", "label_smoothing = 0.2")
    refused = call("pretrain", "--data", ".", *options)
    assert refused.exit_code == 2
    assert "warmup_steps 500: of" in words(refused)
    options = (*options, "--set", "warmup_steps = 9")
    assert call("pretrain", "--data", ".", *options).exit_code == 0
    second = pretrain_calls.pop()
    assert second["val"] is None
    assert str(second["folder"]) == "runs/train-overfeat7-modern"
    assert (second["settings"].classifier.network, second["settings"].label_smoothing) == ("overfeat7", 0.2)
    shutil.rmtree(photos / "train" / "runs")
    assert call("pretrain", "--data", ".", "--val", photos / "val", "--run", "../../b").exit_code == 0
    assert pretrain_calls.pop()["val"].folder == photos / "val"


def test_folders_beside_the_splits_are_passed_over(photos, pretrain_calls):
    (photos / ".cache").mkdir()
    (photos / "test").mkdir()
    assert call("pretrain", "--data", photos).exit_code == 0
    assert pretrain_calls.pop()["train"].folder == photos / "train"


def test_a_class_named_train_is_a_class(photos, pretrain_calls):
    shutil.rmtree(photos / "val")
    classes = open_image_folder(photos / "train")
    for name in ("boat", "ship"):
        (photos / name).mkdir()
        shutil.copy(classes.paths[0], photos / name / "1.jpg")
    refused = call("pretrain", "--data", photos)
    assert refused.exit_code == 2
    assert "train/ holds folders" in refused.output
    for name in classes.classes:
        shutil.rmtree(photos / "train" / name)
    shutil.copy(photos / "boat" / "1.jpg", photos / "train")
    assert call("pretrain", "--data", photos).exit_code == 0
    assert pretrain_calls.pop()["train"].classes == ("boat", "ship", "train")


def test_a_part_of_each_class_is_held_out(photos, pretrain_calls):
    first, second = open_image_folder(photos / "train").classes[:2]
    small = photos.parent / "small"
    for name in (first, second):
        (small / name).mkdir(parents=True)
        for number in range(8):
            (small / name / f"{number}.jpg").write_bytes(bytes(number + 1))
    assert call("pretrain", "--data", small, "--hold-out", 0.25).exit_code == 0
    train, val = (pretrain_calls[0][name] for name in ("train", "val"))
    assert [(part.labels == label).sum() for part in (train, val) for label in (0, 1)] == [6, 6, 2, 2]
    assert not {*train.paths} & {*val.paths}
    # Refused: another part in the same run, two sources of test images, and a class of one image.
    assert call("pretrain", "--data", small, "--hold-out", 0.5).exit_code == 2
    for folder, message in (
        (photos, "leave --hold-out away"),
        (small, "0.25 of each class cannot be held out"),
    ):
        for number in range(1, 8):
            (small / first / f"{number}.jpg").unlink(missing_ok=True)
        result = call("pretrain", "--data", folder, "--hold-out", 0.25)
        assert result.exit_code == 2
        assert message in words(result)


def test_a_single_class_is_refused(photos, pretrain_calls):
    result = call("pretrain", "--data", photos.parent)
    assert result.exit_code == 2
    assert "one class" in result.output
    result = call("pretrain", "--data", photos, "--set", "classifier.network = 'overfeat7'")
    assert result.exit_code == 2
    assert "--network overfeat7" in result.output
    assert not pretrain_calls


def test_images_that_are_trained_on_and_tested_on(photos, pretrain_calls):
    result = call("pretrain", "--data", photos / "train", "--val", photos / "train")
    assert result.exit_code == 0, result.output
    count = len(open_image_folder(photos / "train"))
    assert f"warning: {count} of the {count} images" in result.output


def test_weights_to_start_from(photos, pretrain_calls, tmp_path):
    Classifier(("a",), ClassifierSettings("zf5", (1,), width=1)).save(tmp_path)
    file = tmp_path / "classifier.safetensors"
    assert call("pretrain", "--data", photos, "--weights", file).exit_code == 0
    assert pretrain_calls.pop()["weights"] == str(file)
    # Refused: another start in the same run. Without --weights the start is "random".
    assert call("pretrain", "--data", photos).exit_code == 2
    assert call("pretrain", "--data", photos, "--weights", "random", "--run", "b").exit_code == 0
    assert call("pretrain", "--data", photos, "--run", "b").exit_code == 0
    assert [arguments["weights"] for arguments in pretrain_calls] == [RANDOM, RANDOM]


def test_the_weights_that_come_with_zf5_to_start_from(photos, tmp_path):
    """One step at a rate near 0 leaves them as they were."""
    (tmp_path / "short.toml").write_text(TINY.replace("[1, 1]", "[1]").replace("[0.01, 0.001]", "[1e-9]"))
    result = call("pretrain", "--data", photos, "--config", "short.toml", "--weights", "own", "--run", "zf")
    assert result.exit_code == 0, result.output
    trained = Classifier.load(tmp_path / "runs" / "zf" / "classifier").network
    for name, value in build_network("zf5").state_dict().items():
        torch.testing.assert_close(trained.state_dict()[name], value, rtol=0, atol=1e-5)


def test_wrong_options(photos, tmp_path):
    (photos / "val" / "zebra").mkdir()
    alone = ("--data", photos / "train")
    for arguments, message in (
        (("--data", "absent"), "absent: no such folder"),
        (("--data", photos), "zebra: no class of this name"),
        ((*alone, "--preset", "best"), "no preset 'best'"),
        ((*alone, "--network", "resnet18"), "network 'resnet18': choose one of zf5"),
        ((*alone, "--set", "rate = 1"), "did you mean 'rates'"),
        ((*alone, "--set", "short_side = 200"), "short_side 200: give at least classifier.size"),
        ((*alone, "--weights", "absent.safetensors"), "absent.safetensors: no such file of weights"),
        ((*alone, "--network", "convnet5", "--weights", "own"), "convnet5: has no weights of its own"),
    ):
        result = call("pretrain", *arguments)
        assert result.exit_code == 2
        assert message in words(result)
    # No refused command has made the folder of a run.
    assert not (tmp_path / "runs").exists()


def test_the_command_leaves_random_states_alone(photos):
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    call("pretrain", "--data", photos / "train", "--config", "tiny.toml", "--workers", 0)
    assert torch.equal(torch.rand(2), expected)


def test_images_are_read_by_one_process_a_core(photos, pretrain_calls, monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    call("pretrain", "--data", photos, "--config", "tiny.toml")
    (arguments,) = pretrain_calls
    assert arguments["workers"] == 1

"""Training classifiers on a tiny folder: schedules, continuing after a stop, averages, several processes."""

import json
import os
import socket
import subprocess
import sys
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from sppnet.common.checkpoint import Checkpoint
from sppnet.common.distributed import Group, join_group
from sppnet.common.errors import InputError
from sppnet.common.progress import quiet
from sppnet.data.image_folder import open_image_folder
from sppnet.detection.backbones.build import CHAINS
from sppnet.detection.backbones.normalisation import RELEASED
from sppnet.detection.classification import pretraining
from sppnet.detection.classification.classifier import Classifier, ClassifierSettings
from sppnet.detection.classification.image_batches import epoch_side
from sppnet.detection.classification.pretraining import pretrain
from sppnet.detection.classification.pretraining_settings import PretrainingSettings, pretraining_preset

TINY = PretrainingSettings(
    ClassifierSettings("zf5", (2, 1), size=32, width=16), short_side=36, small_size=24,
    size_schedule="alternating", epochs=(2, 1), rates=(0.01, 0.001), batch=4,
)  # fmt: skip
CLASSES = {"grass": (60, 160, 40), "sky": (80, 120, 220)}


def toy_layers():
    """Stands for zf5: takes the same pixels, but computes in milliseconds."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 8, 5, stride=2), relu1=nn.ReLU(), conv2=nn.Conv2d(8, 12, 3), relu2=nn.ReLU()
        )
    )


@pytest.fixture(autouse=True)
def _toy(monkeypatch):
    monkeypatch.setitem(CHAINS, "zf5", (toy_layers, RELEASED))


class Killed(BaseException):
    """Stands for Ctrl-C or a kill at a chosen moment."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Images of noise in two colours: 7 images of each class to learn from, 3 to test on."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for split, count in (("train", 7), ("val", 3)):
        for name, colour in CLASSES.items():
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                noise = rng.integers(-40, 41, (36, 40 + number, 3))
                image = (np.array(colour) + noise).clip(0, 255).astype(np.uint8)
                cv2.imwrite(str(folder / split / name / f"{number}.png"), image[:, :, ::-1])
    return folder


@pytest.fixture
def learn(photos, tmp_path):
    """Trains in a new folder; with a given ``folder`` it continues where it stopped.

    Returns the classifier, the epochs and the steps.
    """

    def run(folder="a", settings=TINY, stop=None, val="val", workers=0, **options):
        epochs, steps, tests = [], [], []

        def progress(stage, done, total):
            if stage == "testing":
                assert 0 <= done < total
                tests.append(done)
                return
            if done == stop:
                raise Killed
            steps.append((stage, done, total))

        tested = open_image_folder(photos / val) if val else None
        train = open_image_folder(photos / "train")
        classifier = pretrain(
            train, tested, settings, tmp_path / folder, progress, epochs.append, workers=workers, **options
        )
        assert tests.count(0) == (len(epochs) if val else 0)
        return classifier, epochs, steps

    return run


def figures(epoch):
    """Returns the epoch without its times."""
    return replace(epoch, images_per_second=0.0, waiting=0.0)


def check_same(first, second):
    expected = second.tensors()
    assert first.tensors().keys() == expected.keys()
    for name, tensor in first.tensors().items():
        assert torch.equal(tensor, expected[name]), name


def test_presets_are_the_papers_and_a_modern_one():
    zf5 = pretraining_preset("paper", "zf5")
    assert zf5.total_epochs == 70
    assert (zf5.rates, zf5.resized_side, zf5.classifier.size) == ((0.01, 0.001, 0.0001), 256, 224)
    smaller = replace(zf5, classifier=replace(zf5.classifier, size=112))
    assert (smaller.resized_side, replace(smaller, short_side=130).resized_side) == (128, 130)
    assert (zf5.crop, zf5.flip, zf5.colour, zf5.classifier.dropout) == ("corners", True, 0.1, 0.5)
    for network in ("convnet5", "overfeat5", "overfeat7"):
        preset = pretraining_preset("paper", network)
        assert (preset.total_epochs, preset.classifier.network) == (90, network)
    modern = pretraining_preset("modern", "overfeat7")
    assert (modern.size_schedule, modern.small_size, modern.decay) == ("alternating", 180, "cosine")
    assert min(modern.label_smoothing, modern.average, modern.warmup_steps) > 0
    with pytest.raises(InputError, match="no preset 'best'; choose one of paper, modern"):
        pretraining_preset("best", "zf5")
    with pytest.raises(InputError, match="network 'resnet18'"):
        pretraining_preset("paper", "resnet18")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": "middle"}, "crop 'middle': choose corners or anywhere"),
        ({"size_schedule": "both"}, "size_schedule 'both'"),
        ({"decay": "linear"}, "decay 'linear'"),
        ({"short_side": 31}, "short_side 31: give at least classifier.size, 32"),
        ({"small_size": 33}, "small_size 33"),
        ({"small_size": 0}, "small_size 0"),
        ({"classifier": replace(TINY.classifier, levels=())}, "without SPP there is one size"),
        ({"epochs": (2,)}, "give as many of both"),
        ({"epochs": (2, 0)}, "none below 1 epoch"),
        ({"epochs": (), "rates": ()}, "give as many of both"),
        ({"decay": "cosine"}, "with decay = 'cosine' give one"),
        ({"rates": (0.01, 0.0)}, "must be positive"),
        ({"batch": 0}, "must be positive"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"label_smoothing": -0.1}, "label_smoothing is -0.1"),
        ({"average": 1.0}, "average is 1.0"),
        ({"colour": -1.0}, "colour is -1.0"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"seed": -1}, "seed is -1"),
    ],
    ids=str,
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        replace(TINY, **changes)


def test_one_size_needs_no_pyramid_and_no_small_size():
    replace(TINY, size_schedule="single", small_size=500, classifier=replace(TINY.classifier, levels=()))


def test_rates_in_steps():
    thrice = replace(TINY, epochs=(2, 3, 1), rates=(0.01, 0.001, 0.0001))
    assert [thrice.rate(step, 3) for step in range(18)] == [0.01] * 6 + [0.001] * 9 + [0.0001] * 3
    warm = replace(TINY, warmup_steps=4)
    assert [warm.rate(step, 3) for step in range(5)] == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01])


def test_rates_along_a_cosine():
    cosine = replace(TINY, decay="cosine", epochs=(4,), rates=(0.2,))
    rates = [cosine.rate(step, 5) for step in range(20)]
    assert rates == pytest.approx([0.1 * (1 + np.cos(np.pi * step / 20)) for step in range(20)])


def test_sizes_by_epoch():
    assert [epoch_side(replace(TINY, size_schedule="single"), epoch) for epoch in range(3)] == [32] * 3
    assert [epoch_side(TINY, epoch) for epoch in range(5)] == [32, 24, 32, 24, 32]
    sides = [epoch_side(replace(TINY, size_schedule="random"), epoch) for epoch in range(400)]
    assert (min(sides), max(sides)) == (24, 32)
    # The 9 sizes are equally likely: each comes 44 times, with a deviation of 6.
    counts = np.bincount(sides)[24:]
    assert counts.min() > 20
    assert counts.max() < 70
    other = [epoch_side(replace(TINY, size_schedule="random", seed=1), epoch) for epoch in range(400)]
    assert sides != other


def test_learns(learn, tmp_path):
    settings = replace(TINY, classifier=replace(TINY.classifier, dropout=0.1), epochs=(8, 2))
    made, epochs, steps = learn(settings=settings)
    assert [(epoch.number, epoch.size) for epoch in epochs] == [(n, (24, 32)[n % 2]) for n in range(1, 11)]
    assert [epoch.rate for epoch in epochs] == [0.01] * 8 + [0.001] * 2
    # 14 images make 3 complete batches of 4.
    assert steps == [("training", step, 30) for step in range(1, 31)]
    assert epochs[-1].loss < 0.5 * epochs[0].loss
    assert epochs[-1].val_loss < 0.5 * np.log(2)
    assert (epochs[-1].top1, epochs[-1].top5) == (1.0, 1.0)
    written = json.loads((tmp_path / "a" / "history.json").read_text())
    assert (written["images"], written["classes"]) == (14, list(CLASSES))
    assert [epoch["loss"] for epoch in written["epochs"]] == [epoch.loss for epoch in epochs]
    check_same(Classifier.load(tmp_path / "a" / "classifier"), made)
    assert not made.training


def test_steps_are_those_of_a_plain_loop(learn, photos):
    """Two steps without random changes, and with images of the crop's size, equal autograd by hand."""
    settings = replace(
        TINY, classifier=replace(TINY.classifier, dropout=0.0), epochs=(2,), rates=(0.01,),
        batch=14, flip=False, colour=0.0, crop="anywhere", short_side=32, size_schedule="single",
        label_smoothing=0.2,
    )  # fmt: skip
    train = open_image_folder(photos / "train")
    square = photos / "square"
    for path in train.paths:
        image = cv2.imread(str(path))
        file = square / path.relative_to(train.folder)
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), cv2.resize(image, (32, 32)))
    train = open_image_folder(square)
    expected = Classifier(train.classes, settings.classifier)
    # The pixels have 58 times the deviation that weights are initialised for.
    spread = 255 * (0.229 + 0.224 + 0.225) / 3
    with torch.no_grad():
        expected.network.layers.conv1.weight /= spread
    images = torch.stack(
        [torch.from_numpy(cv2.imread(str(path)).astype(np.float32) - 128) for path in train.paths]
    )
    labels = torch.from_numpy(train.labels)
    targets = 0.8 * torch.nn.functional.one_hot(labels, 2) + 0.1
    moments = {name: torch.zeros_like(parameter) for name, parameter in expected.named_parameters()}
    losses = []
    for _ in range(2):
        logits = expected(images.permute(0, 3, 1, 2))
        loss = -(targets * logits.log_softmax(1)).sum(1).mean()
        losses.append(loss.item())
        expected.zero_grad()
        loss.backward()
        with torch.no_grad():
            for name, parameter in expected.named_parameters():
                decays = parameter.ndim > 1
                factor = spread**2 if parameter.shape[1:2] == (3,) else 1
                gradient = parameter.grad + 5e-4 * decays * factor * parameter
                moments[name] = 0.9 * moments[name] + gradient
                parameter -= 0.01 / factor * moments[name]
    folder = photos / "plain"
    epochs = []
    made = pretrain(train, None, settings, folder, quiet, epochs.append, workers=0)
    assert [epoch.loss for epoch in epochs] == pytest.approx(losses, rel=1e-4)
    assert epochs[0].val_loss is None
    start = Classifier(train.classes, settings.classifier)
    start.network.layers.conv1.weight.data /= spread
    for name, value in expected.tensors().items():
        moved = float((value - start.tensors()[name]).norm())
        assert float((made.tensors()[name] - value).norm()) < 1e-2 * moved, name


@pytest.mark.parametrize("workers", [0, 2])
def test_goes_on_in_the_middle_of_an_epoch_as_if_unbroken(learn, workers):
    """Dropout, colours, flips, order, sizes and the average equal those of an unbroken run."""
    settings = replace(TINY, average=0.9, size_schedule="random")
    unbroken, epochs, _ = learn("unbroken", settings)
    for stop in (2, 6):
        with pytest.raises(Killed):
            learn("broken", settings, stop, workers=workers, checkpoint_seconds=0)
    made, later, steps = learn("broken", settings, workers=workers)
    # The checkpoint does not have the step at which the training was stopped.
    assert [done for _, done, _ in steps] == [6, 7, 8, 9]
    assert list(map(figures, later)) == list(map(figures, epochs[1:]))
    check_same(made, unbroken)


def test_the_written_history_is_whole_after_a_stop(learn, tmp_path):
    with pytest.raises(Killed):
        learn(stop=8, checkpoint_seconds=0)
    learn()
    written = json.loads((tmp_path / "a" / "history.json").read_text())
    assert [epoch["number"] for epoch in written["epochs"]] == [1, 2, 3]


def test_a_checkpoint_of_other_settings_is_not_used(learn, tmp_path):
    with pytest.raises(Killed):
        learn(stop=5, checkpoint_seconds=0)
    _, _, steps = learn(settings=replace(TINY, label_smoothing=0.1, epochs=(1, 1)))
    assert steps[0] == ("training", 1, 6)
    # A checkpoint with other starting weights is not used either.
    Classifier(CLASSES, replace(TINY.classifier, seed=3)).save(tmp_path)
    _, _, steps = learn(weights=tmp_path / "classifier.safetensors")
    assert steps[0] == ("training", 1, 9)


def test_the_seed_makes_it(learn):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    short = replace(TINY, epochs=(1,), rates=(0.01,))
    first, other = learn("a", short)[0], learn("b", replace(short, seed=1))[0]
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(6)
    check_same(learn("c", short)[0], first)
    assert not torch.equal(first.fc6.weight, other.fc6.weight)


def test_moving_average(learn, monkeypatch):
    """The average is tested and saved; each step has the weight that follows from the settings."""
    seen = []
    original = pretraining.AveragedModel.update_parameters

    def update(self, model):
        original(self, model)
        seen.append(model.fc8.weight.detach().clone())

    monkeypatch.setattr(pretraining.AveragedModel, "update_parameters", update)
    made, epochs, _ = learn(settings=replace(TINY, average=0.4))
    assert len(seen) == 9
    expected = seen[0]
    for step, present in enumerate(seen[1:], start=1):
        kept = min(0.4, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * present
    torch.testing.assert_close(made.fc8.weight.detach(), expected)
    assert not torch.allclose(made.fc8.weight, seen[-1])
    plain = learn("plain")[1]
    assert [epoch.loss for epoch in epochs] == [epoch.loss for epoch in plain]
    assert epochs[-1].val_loss != plain[-1].val_loss


def test_validation_is_that_of_the_saved_classifier(learn, photos):
    made, epochs, _ = learn(settings=replace(TINY, epochs=(1,), rates=(1e-4,), batch=5))
    val = open_image_folder(photos / "val")
    losses, best = [], []
    for path, label in zip(val.paths, val.labels, strict=True):
        image = cv2.imread(str(path))[:, :, ::-1]  # Its height is short_side already.
        top, left = (image.shape[0] - 32) // 2, (image.shape[1] - 32) // 2
        crop = image[top : top + 32, left : left + 32]
        with torch.inference_mode():
            scores = made(made.network.normalise(crop)).log_softmax(1)[0]
        losses.append(-float(scores[label]))
        best.append(int(scores.argmax()) == label)
    assert epochs[-1].val_loss == pytest.approx(np.mean(losses), rel=1e-4)
    assert (epochs[-1].top1, epochs[-1].top5) == (np.mean(best), 1.0)


def test_convolutions_from_a_file(learn, tmp_path):
    Classifier(CLASSES, replace(TINY.classifier, seed=3)).save(tmp_path)
    made, _, _ = learn(
        settings=replace(TINY, epochs=(1,), rates=(1e-9,)), weights=tmp_path / "classifier.safetensors"
    )
    torch.testing.assert_close(
        made.network.layers.state_dict(), Classifier.load(tmp_path).network.layers.state_dict()
    )


def test_images_that_cannot_be_read(learn, photos, tmp_path):
    """Bad images are named; with ``skip_errors`` they are left out of training and tests, and counted."""
    whole = learn("whole")[1]
    broken = [photos / "train" / "grass" / "0.png", photos / "val" / "sky" / "2.png"]
    kept = [path.read_bytes() for path in broken]
    try:
        for path in broken:
            path.write_bytes(b"no image")
        with pytest.raises(InputError, match=r"grass.0\.png: not an image.*--skip-errors"):
            learn("named")
        # With batches of 5, the bad validation image is a batch of its own, which is then empty.
        plain = replace(TINY.classifier, levels=())
        settings = replace(
            TINY, size_schedule="single", classifier=plain, epochs=(1,), rates=(1e-9,), batch=5
        )
        epoch = learn("left out", settings, skip_errors=True)[1][0]
        losses = learn("left out", replace(settings, colour=0.0), skip_errors=True)[1][0]
    finally:
        for path, data in zip(broken, kept, strict=True):
            path.write_bytes(data)
    # An epoch of 2 batches of 5 has 10 of the 14 images.
    assert epoch.skipped in (1, 2)
    assert epoch.val_loss is not None
    # At chance, each image's loss is about log 2; an image that is left out does not count as 0.
    assert losses.loss == pytest.approx(np.log(2), rel=0.05)
    assert whole[0].skipped == 0


# No dropout, because each process draws its own. A batch of 5 is shared as 3 and 2.
ALIKE = replace(TINY, classifier=replace(TINY.classifier, dropout=0.0), batch=5, average=0.5)


def take_part(photos, folder):
    """Trains as one of several processes: stops after the fourth step, then continues.

    Returns tensors and figures.
    """

    def stop(stage, done, total):
        if done == 5:
            raise Killed

    def run(progress):
        train, val = (open_image_folder(photos / name) for name in ("train", "val"))
        arguments = train, val, ALIKE, folder / "run", progress, epochs.append
        return pretrain(*arguments, workers=group.rank, group=group, checkpoint_seconds=0)

    epochs = []
    with pytest.MonkeyPatch.context() as patch, join_group() as group:
        patch.setitem(CHAINS, "zf5", (toy_layers, RELEASED))
        with pytest.raises(Killed):
            run(stop)
        group.wait()
        made = run(quiet)
    return tensors_of(made, epochs)


def tensors_of(made, epochs):
    figures = torch.tensor([[epoch.loss, epoch.val_loss, epoch.top1, epoch.skipped] for epoch in epochs])
    return {name: tensor.contiguous() for name, tensor in made.tensors().items()} | {"figures": figures}


_SECOND = """
import sys
from pathlib import Path
from safetensors.torch import save_file
from test_pretraining import take_part

photos, folder = map(Path, sys.argv[1:])
save_file(take_part(photos, folder), folder / "second.safetensors")
"""


@pytest.mark.timeout(200)
def test_two_processes_make_the_steps_of_one(learn, photos, tmp_path, monkeypatch):
    """Two processes (gloo, stopped in between) give one process's figures and weights, up to rounding."""
    expected = tensors_of(*learn("alone", ALIKE)[:2])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The variables that torchrun sets. This process is the first of the two, because importing libraries in a
    # new process takes longer than the training.
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    here = Path(__file__)
    second_only = {
        "RANK": "1", "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{here.parents[2] / 'helpers'}{os.pathsep}{here.parent}",
    }  # fmt: skip
    command = [sys.executable, "-c", _SECOND, photos, tmp_path]
    process = subprocess.Popen(command, env=os.environ | shared | second_only, stderr=subprocess.PIPE)
    for name, value in (shared | {"RANK": "0"}).items():
        monkeypatch.setenv(name, value)
    try:
        first = take_part(photos, tmp_path)
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors.decode()
    finally:
        process.kill()
    second = load_file(tmp_path / "second.safetensors")
    for name, value in expected.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-6)
    written = json.loads((tmp_path / "run" / "history.json").read_text())
    assert [epoch["number"] for epoch in written["epochs"]] == [1, 2, 3]


def test_fewer_images_than_processes(learn):
    with pytest.raises(InputError, match="a batch of 4 images for 5 processes"):
        learn(group=Group(0, 5))


def test_rates_too_high_are_named(learn):
    with pytest.raises(InputError, match=r"step \d+: the loss is not finite; give lower rates"):
        learn(settings=replace(TINY, rates=(1e6, 1e6)))


def test_nothing_to_test_on_can_be_read(learn, photos):
    for name in CLASSES:
        (photos / "unreadable" / name).mkdir(parents=True)
        (photos / "unreadable" / name / "0.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="unreadable: none of its images can be read"):
        learn(val="unreadable", skip_errors=True)


def test_a_full_disk_is_named(learn, monkeypatch):
    def save(*_):
        raise OSError(28, "No space left on device", "net.fc6.weight.npy")

    monkeypatch.setattr(Checkpoint, "save", save)
    with pytest.raises(InputError, match=r"net\.fc6\.weight\.npy: No space left.*free some space"):
        learn(checkpoint_seconds=0)

"""Fine-tuning end to end on a tiny data set: going on after a stop, snapshots, several processes."""

import os
import socket
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sppnet.common.errors import InputError
from sppnet.detection.backbones import build_network
from sppnet.detection.features.extractor import FeatureExtractor
from sppnet.detection.training import TrainingData, finetuning
from sppnet.detection.training.finetuning import finetune, split_images
from sppnet.detection.training.finetuning_settings import FineTuningSettings
from sppnet.detection.training.validation import Score
from sppnet.proposals import ProposalCache

SCALE = 0.05
TINY = FineTuningSettings(
    width=24, batch=16, proposals_per_image=16, draw_steps=7, steps=(20,), rates=(3e-3,), validation=0.34,
    validate_every=4,
)  # fmt: skip


class Killed(BaseException):
    """Stands for Ctrl-C or a kill at a chosen moment."""


@pytest.fixture
def tune(tiny_train, tiny_settings, tmp_path, monkeypatch):
    """Fine-tunes in a folder of its own; the same ``place`` goes on where it stopped."""
    monkeypatch.setattr(finetuning, "_CHECKPOINT_SECONDS", 0)

    def run(place="a", stop=None, dataset=tiny_train, seen=None, **changes):
        def progress(stage, done, total):
            if seen is not None:
                seen.append((stage, done, total))
            if (stage, done) == stop:
                raise Killed

        settings = replace(tiny_settings, finetuning=replace(TINY, **changes))
        extractor = FeatureExtractor(build_network("alexnet", "random"), settings.features)
        with ProposalCache(tmp_path / "proposals.sqlite", settings.proposals) as cache:
            data = TrainingData(dataset, settings.proposals, cache, tmp_path / "maps", 10**9)
            return finetune(data, extractor, SCALE, settings, tmp_path / place, progress)

    return run


def tensors(tuned):
    return tuned.layers.tensors() | {"fc8": torch.from_numpy(tuned.head.weights)}


def check_same(first, second):
    assert first.history == second.history
    assert first.step == second.step
    one, other = tensors(first), tensors(second)
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def test_learns(tune):
    seen = []
    tuned = tune(seen=seen, steps=(60,), validate_every=20)
    assert [score.step for score in tuned.history] == [20, 40, 60]
    assert tuned.history[-1].loss < 0.8 * np.log(3)
    assert [done for stage, done, _ in seen if stage == "fine-tuning"] == list(range(1, 61))
    assert {stage for stage, _, _ in seen} > {"fine-tuning", "windows for validation, draw 0"}


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
@pytest.mark.parametrize("stop", [("fine-tuning", 3), ("fine-tuning", 9), ("fine-tuning", 14)])
def test_goes_on_as_if_unbroken(tune, optimiser, stop):
    unbroken = tune("a", optimiser=optimiser)
    with pytest.raises(Killed):
        tune("b", stop=stop, optimiser=optimiser)
    seen = []
    check_same(tune("b", seen=seen, optimiser=optimiser), unbroken)
    # The step at which it was stopped was not in the checkpoint yet.
    assert next(done for stage, done, _ in seen if stage == "fine-tuning") == stop[1]


def test_held_out_images_without_objects_choose_nothing(tune, tiny_train):
    _, held_out = split_images(tiny_train, TINY)
    nothing = np.zeros(0)
    examples = [
        replace(one, boxes=nothing.reshape(0, 4), labels=nothing.astype(np.int64), difficult=nothing > 0)
        if place in held_out else one
        for place, one in enumerate(tiny_train.examples)
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"held-out images.*finetuning\.validation"):
        tune(dataset=replace(tiny_train, examples=tuple(examples)), negative_iou_range=(0.0, 0.5))


def test_divergence_is_named_and_not_kept(tune, tmp_path):
    with pytest.raises(InputError, match=r"diverged at step \d+; lower finetuning\.rates"):
        tune(optimiser="sgd", rates=(1e30,))
    # The next try starts from what was finite.
    assert tune().history[-1].loss < 10


def test_a_checkpoint_of_other_settings_is_not_used(tune):
    with pytest.raises(Killed):
        tune(stop=("fine-tuning", 9))
    seen = []
    tune(seen=seen, dropout=0.4)
    assert ("fine-tuning", 1, 20) in seen


def test_seeds(tune):
    first, other = tune("a"), tune("b", seed=1)
    assert not torch.equal(first.layers.factors[0][0], other.layers.factors[0][0])


def test_the_chosen_snapshot_is_the_one_with_the_best_score(tune, monkeypatch):
    """The weights are those of the step whose validation was best, not the last."""
    losses = iter([0.9, 0.3, 0.5, 0.3, 0.4])

    def validate(net, read, mine, labels, classes, step, group):
        return Score(step, next(losses), 0.5, 0.5)

    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "validate", validate)
        tuned = tune(choose="loss", decay="steps")
    # Of equals the first.
    assert (tuned.step, len(tuned.history)) == (8, 5)
    shorter = tune("b", steps=(8,), choose="loss", decay="steps", validate_every=8)
    assert torch.equal(shorter.layers.factors[0][0], tuned.layers.factors[0][0])


@pytest.mark.parametrize("count", [2, 3, 10, 101])
def test_held_out_images_are_none_of_the_others(tiny_train, count):
    images = replace(tiny_train, examples=tuple(tiny_train.examples[i % 6] for i in range(count)))
    train, held_out = split_images(images, FineTuningSettings(validation=0.1))
    assert sorted(train + held_out) == list(range(count))
    assert len(held_out) == max(1, round(0.1 * count))


def test_training_and_validation_see_their_own_images(tune, tiny_train, monkeypatch):
    drawn = {}
    original = finetuning.WindowSampler.draw

    def draw(self, images, number, per_image, augment):
        drawn[number] = set(images), augment
        return original(self, images, number, per_image, augment)

    monkeypatch.setattr(finetuning.WindowSampler, "draw", draw)
    tune()
    assert drawn.keys() == {0, 1, 2, 3}
    assert drawn[1] == drawn[2] == drawn[3]
    assert not drawn[0][0] & drawn[1][0]
    assert (drawn[0][1], drawn[1][1]) == (False, True)


def test_layers_from_a_file(tune, tmp_path):
    """They are where training begins: after one step at a rate of almost 0 they are still there."""
    rng = np.random.default_rng(0)
    shapes = {"fc6.weight": (24, 1280), "fc6.bias": (24,), "fc7.weight": (24, 24), "fc7.bias": (24,)}
    state = {
        name: torch.from_numpy(rng.normal(0, 0.05, shape).astype(np.float32))
        for name, shape in shapes.items()
    }
    save_file(state, tmp_path / "fc.safetensors")
    tuned = tune(weights=str(tmp_path / "fc.safetensors"), steps=(1,), rates=(1e-12,))
    for layer, name in enumerate(("fc6", "fc7")):
        torch.testing.assert_close(tuned.layers.factors[layer][0], state[f"{name}.weight"])
        torch.testing.assert_close(tuned.layers.biases[layer], state[f"{name}.bias"])


def test_fc6_alone_from_a_file(tune, tmp_path):
    """fc7 is then that of the seed."""
    weights = torch.from_numpy(np.random.default_rng(0).normal(0, 0.05, (24, 1280)).astype(np.float32))
    save_file({"fc6.weight": weights, "fc6.bias": torch.ones(24)}, tmp_path / "fc.safetensors")
    tuned = tune("a", weights=str(tmp_path / "fc.safetensors"), steps=(1,), rates=(1e-12,))
    plain = tune("b", steps=(1,), rates=(1e-12,))
    torch.testing.assert_close(tuned.layers.factors[0][0], weights)
    torch.testing.assert_close(tuned.layers.biases[0], torch.ones(24))
    torch.testing.assert_close(tuned.layers.factors[1][0], plain.layers.factors[1][0])


def test_vectors_come_at_the_scale_that_was_asked_for(tune, tiny_train):
    """With the scale in fc6, the layers take vectors as the extractor gives them."""
    tuned = tune(steps=(1,), rates=(1e-12,), initialisation="gaussian", inputs="scaled")
    weights = tuned.layers.factors[0][0]
    assert float(weights.std()) == pytest.approx(0.01 * SCALE, rel=0.05)


def test_standardised_inputs(tune, monkeypatch):
    """What a sample of the drawn windows says goes into fc6: its mean input gives fc6 its bias alone."""
    read = []
    original = finetuning.WindowFile.fill

    def fill(self, sampler, windows, scale, progress):
        original(self, sampler, windows, scale, progress)
        read.append(self.read(np.arange(len(windows))))

    monkeypatch.setattr(finetuning.WindowFile, "fill", fill)
    plain = tune("a", steps=(1,), rates=(1e-12,), inputs="scaled")
    tuned = tune("b", steps=(1,), rates=(1e-12,), inputs="standardised")
    vectors = read[-1]
    weights = tuned.layers.factors[0][0].numpy()
    deviation = vectors.std(axis=0) + 0.1 * vectors.std(axis=0).mean()
    np.testing.assert_allclose(weights * deviation, plain.layers.factors[0][0], rtol=1e-3, atol=1e-6)
    at_mean = weights @ (vectors.mean(axis=0) / SCALE) + tuned.layers.biases[0].numpy()
    np.testing.assert_allclose(at_mean, 0, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 10**6}, "width 1000000.*memory_gb is 4.0"),
        ({"disk_gb": 1e-5}, "disk_gb is 1e-05"),
        ({"weights": "absent.safetensors"}, "absent.safetensors"),
    ],
    ids=["memory", "disk", "weights"],
)
def test_bad_settings(tune, changes, message):
    with pytest.raises(InputError, match=message):
        tune(**changes)


def test_a_bound_on_disk_means_fewer_windows(tune, monkeypatch):
    counts = []
    original = finetuning.WindowSampler.draw

    def draw(self, images, number, per_image, augment):
        counts.append(per_image)
        return original(self, images, number, per_image, augment)

    monkeypatch.setattr(finetuning.WindowSampler, "draw", draw)
    # 6 images, 10 windows of 1,280 numbers of 2 bytes.
    tune(disk_gb=6 * 10.5 * 1280 * 2 / 1e9, steps=(1,))
    assert counts == [10, 10]


def test_one_image_is_too_few(tune, tiny_train):
    with pytest.raises(InputError, match="1 images; fine-tuning takes 2"):
        tune(dataset=tiny_train.head(1))


def test_no_object(tune, tiny_train):
    empty = tuple(
        replace(one, boxes=one.boxes[:0], labels=one.labels[:0], difficult=one.difficult[:0])
        for one in tiny_train
    )
    with pytest.raises(InputError, match="no window overlaps an object"):
        tune(dataset=replace(tiny_train, examples=empty))


def test_a_full_disk_is_named(tune, monkeypatch):
    def fill(*_):
        raise OSError(28, "No space left on device", "windows.f16")

    monkeypatch.setattr(finetuning.WindowFile, "fill", fill)
    with pytest.raises(InputError, match=r"windows\.f16: No space left.*free some space"):
        tune()


_WORKER = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from safetensors.torch import save_file
from sppnet.data import load_voc
from sppnet.detection.features.extractor import FeatureExtractor, FeatureSettings
from sppnet.detection.training.finetuning_settings import FineTuningSettings
from sppnet.detection.backbones import build_network
from sppnet.detection.training.presets import PRESETS
from sppnet.common.distributed import join_group
from sppnet.detection.training import TrainingData, finetuning
from sppnet.proposals import ProposalCache, SelectiveSearch

class Stop(BaseException):
    pass

def stop(stage, done, total):
    if (stage, done) == ("fine-tuning", 6):
        raise Stop

torch.set_num_threads(1)
voc, folder = Path(sys.argv[1]), Path(sys.argv[2])
settings = replace(
    PRESETS["paper-1scale"], features=FeatureSettings(scales=(96,), levels=(2, 1)),
    proposals=SelectiveSearch(max_proposals=60),
    finetuning=FineTuningSettings(
        width=24, batch=16, proposals_per_image=16, draw_steps=7, steps=(12,), rates=(3e-3,), validation=0.34,
        validate_every=4, dropout=0.0, disk_gb=1.6e-4,
    ),
)
finetuning._CHECKPOINT_SECONDS = 0
extractor = FeatureExtractor(build_network("alexnet", "random"), settings.features)
with join_group() as group:
    cache = ProposalCache(folder / f"proposals-{group.rank}.sqlite", settings.proposals)
    data = TrainingData(load_voc(voc, "train"), settings.proposals, cache, folder / "maps", 10**9)
    arguments = data, extractor, 0.05, settings, folder / "work"
    try:
        finetuning.finetune(*arguments, stop, group)
    except Stop:
        group.wait()
    tuned = finetuning.finetune(*arguments, lambda *_: None, group)
    found = tuned.layers.tensors() | {"fc8": torch.from_numpy(tuned.head.weights)}
    found["losses"] = torch.tensor([one.loss for one in tuned.history])
    save_file(found, folder / f"{group.rank}-of-{group.size}.safetensors")
"""


@pytest.mark.timeout(500)
def test_two_processes_make_the_steps_of_one(tiny_voc, tmp_path, tune):
    """Over gloo on this machine, stopped in between: the weights are those of one process, up to rounding."""
    script = tmp_path / "worker.py"
    script.write_text(_WORKER)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # What torchrun sets for each process; its own start-up would take longer than the training.
    shared = os.environ | {
        "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, script, tiny_voc, tmp_path],
            env=shared | {"RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    try:
        # The disk bounds the windows of both together to those of one, 10 of an image.
        alone = tune("alone", steps=(12,), dropout=0.0, disk_gb=1.6e-4)
        for process in processes:
            _, errors = process.communicate(timeout=400)
            assert process.returncode == 0, errors.decode()
    finally:
        for process in processes:
            process.kill()
    first, second = (load_file(tmp_path / f"{rank}-of-2.safetensors") for rank in range(2))
    expected = tensors(alone) | {"losses": torch.tensor([one.loss for one in alone.history])}
    for name, value in expected.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, rtol=1e-3, atol=1e-5)

"""Fine-tuning end to end on a tiny data set: continuing after a stop, snapshots, several processes."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sppnet.common.distributed import join_group
from sppnet.common.errors import InputError
from sppnet.common.progress import quiet
from sppnet.data import load_voc
from sppnet.detection.backbones import build_network
from sppnet.detection.features.extractor import SPPExtractor
from sppnet.detection.features.settings import FeatureSettings
from sppnet.detection.training import PRESETS, TrainingData, finetuning
from sppnet.detection.training.finetuning import finetune, split_images
from sppnet.detection.training.finetuning_settings import FineTuningSettings
from sppnet.detection.training.validation import Score
from sppnet.proposals import ProposalCache, SelectiveSearch

NORM_FACTOR = 0.05
TINY = FineTuningSettings(
    width=24, batch=16, proposals_per_image=16, draw_steps=7, steps=(20,), rates=(3e-3,), validation=0.34,
    validate_every=4,
)  # fmt: skip


class Killed(BaseException):
    """Stands for Ctrl-C or a kill at a chosen moment."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder that keeps proposals and feature maps for all tests."""
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture
def tune(tiny_train, tiny_settings, tmp_path, prepared):
    """Fine-tunes in a folder of its own; the same ``folder`` goes on where it stopped."""

    def run(folder="a", stop=None, dataset=tiny_train, seen=None, checkpoint_seconds=1000.0, **changes):
        def progress(stage, done, total):
            if seen is not None:
                seen.append((stage, done, total))
            if (stage, done) == stop:
                raise Killed

        settings = replace(tiny_settings, finetuning=replace(TINY, **changes))
        extractor = SPPExtractor(build_network("alexnet", "random"), settings.features)
        with ProposalCache(prepared / "proposals.sqlite", settings.proposals) as cache:
            data = TrainingData(dataset, settings.proposals, cache, prepared / "maps", 10**9)
            return finetune(
                data, extractor, NORM_FACTOR, settings, tmp_path / folder, progress,
                checkpoint_seconds=checkpoint_seconds,
            )  # fmt: skip

    return run


def tensors(tuned):
    return tuned.layers.tensors() | {"fc8": torch.from_numpy(tuned.head.weights)}


def check_same(first, second):
    assert first.history == second.history
    assert first.step == second.step
    tensors_of_second = tensors(second)
    assert tensors(first).keys() == tensors_of_second.keys()
    for name, tensor in tensors(first).items():
        assert torch.equal(tensor, tensors_of_second[name]), name


def test_learns(tune):
    seen = []
    tuned = tune(seen=seen, steps=(60,), validate_every=20)
    assert [score.step for score in tuned.history] == [20, 40, 60]
    assert tuned.history[-1].loss < 0.8 * np.log(3)
    assert [done for stage, done, _ in seen if stage == "fine-tuning"] == list(range(1, 61))
    assert {stage for stage, _, _ in seen} > {"fine-tuning", "regions for validation, draw 0"}


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_goes_on_as_if_unbroken(tune, optimiser):
    """Stopped in each of the three draws."""
    unbroken = tune("unbroken", optimiser=optimiser)
    for stop in (3, 9, 14):
        folder = f"stopped at {stop}"
        with pytest.raises(Killed):
            tune(folder, stop=("fine-tuning", stop), optimiser=optimiser, checkpoint_seconds=0)
        seen = []
        check_same(tune(folder, seen=seen, optimiser=optimiser), unbroken)
        # The step at which it was stopped was not in the checkpoint yet.
        assert next(done for stage, done, _ in seen if stage == "fine-tuning") == stop


def without_objects(example):
    return replace(
        example, boxes=example.boxes[:0], labels=example.labels[:0], difficult=example.difficult[:0]
    )


def test_held_out_images_without_objects_choose_nothing(tune, tiny_train):
    _, held_out = split_images(tiny_train, TINY)
    examples = [
        without_objects(example) if index in held_out else example
        for index, example in enumerate(tiny_train.examples)
    ]
    with pytest.raises(InputError, match=r"held-out images.*finetuning\.validation"):
        tune(dataset=replace(tiny_train, examples=tuple(examples)), negative_iou_range=(0.0, 0.5))


def test_divergence_is_named_and_not_kept(tune, tmp_path):
    messages = []
    for _ in range(2):
        with pytest.raises(InputError, match=r"diverged at step \d+; lower finetuning\.rates") as error:
            tune(optimiser="sgd", rates=(1e30,), checkpoint_seconds=0)
        messages.append(str(error.value))
    # The second try went on from before that step.
    assert messages[0] == messages[1]
    assert tune().history[-1].loss < 10


def test_divergence_is_named_at_a_validation_too(tune):
    with pytest.raises(InputError, match=r"diverged at step 1; lower finetuning\.rates"):
        tune(optimiser="sgd", rates=(1e30,), steps=(1,), validate_every=1)


def test_a_checkpoint_of_other_settings_is_not_used(tune):
    with pytest.raises(Killed):
        tune(stop=("fine-tuning", 9), checkpoint_seconds=0)
    seen = []
    tune(seen=seen, dropout=0.4)
    assert ("fine-tuning", 1, 20) in seen


def test_seeds(tune):
    first, other = tune("a"), tune("b", seed=1)
    assert not torch.equal(first.layers.factors[0][0], other.layers.factors[0][0])


def test_the_chosen_snapshot_is_the_one_with_the_best_score(tune, monkeypatch):
    """The weights are those of the step whose validation was best, not the last."""
    losses = iter([0.9, 0.3, 0.5, 0.3, 0.4])

    def validate(net, held_out, step, group):
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
    original = finetuning.RegionSampler.draw

    def draw(self, images, number, per_image, augment):
        drawn[number] = set(images), augment
        return original(self, images, number, per_image, augment)

    monkeypatch.setattr(finetuning.RegionSampler, "draw", draw)
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


def test_the_norm_factor_becomes_part_of_fc6(tune):
    """So that the layers take vectors as the extractor gives them."""
    tuned = tune(steps=(1,), rates=(1e-12,), initialisation="gaussian", inputs="scaled")
    weights = tuned.layers.factors[0][0]
    assert float(weights.std()) == pytest.approx(0.01 * NORM_FACTOR, rel=0.05)


def test_standardised_inputs(tune, monkeypatch):
    """Mean and deviation of the drawn vectors become part of fc6, which gives 0 for the mean vector."""
    filled = []
    original = finetuning.VectorFile.fill

    def fill(self, sampler, regions, norm_factor, progress):
        original(self, sampler, regions, norm_factor, progress)
        filled.append(self.read(np.arange(len(regions))))

    monkeypatch.setattr(finetuning.VectorFile, "fill", fill)
    plain = tune("a", steps=(1,), rates=(1e-12,), inputs="scaled")
    tuned = tune("b", steps=(1,), rates=(1e-12,), inputs="standardised")
    vectors = filled[-1]
    weights = tuned.layers.factors[0][0].numpy()
    deviation = vectors.std(axis=0) + 0.1 * vectors.std(axis=0).mean()
    np.testing.assert_allclose(weights * deviation, plain.layers.factors[0][0], rtol=1e-3, atol=1e-6)
    at_mean = weights @ (vectors.mean(axis=0) / NORM_FACTOR) + tuned.layers.biases[0].numpy()
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


def test_a_bound_on_disk_means_fewer_regions(tune, monkeypatch):
    counts = []
    original = finetuning.RegionSampler.draw

    def draw(self, images, number, per_image, augment):
        counts.append(per_image)
        return original(self, images, number, per_image, augment)

    monkeypatch.setattr(finetuning.RegionSampler, "draw", draw)
    # 6 images, 10 regions of 1,280 numbers of 2 bytes.
    tune(disk_gb=6 * 10.5 * 1280 * 2 / 1e9, steps=(1,))
    assert counts == [10, 10]


def test_one_image_is_too_few(tune, tiny_train):
    with pytest.raises(InputError, match="1 images; fine-tuning takes 2"):
        tune(dataset=tiny_train.head(1))


def test_no_object(tune, tiny_train):
    empty = tuple(without_objects(example) for example in tiny_train)
    with pytest.raises(InputError, match="no region overlaps an object"):
        tune(dataset=replace(tiny_train, examples=empty))


def test_a_full_disk_is_named(tune, monkeypatch):
    def fill(*_):
        raise OSError(28, "No space left on device", "training.f16")

    monkeypatch.setattr(finetuning.VectorFile, "fill", fill)
    with pytest.raises(InputError, match=r"training\.f16: No space left.*free some space"):
        tune()


# Without dropout, which each process draws for itself. The disk bounds the regions of an image to 10.
ALIKE = replace(TINY, steps=(12,), dropout=0.0, disk_gb=1.6e-4)


def take_part(voc, folder):
    """Fine-tunes as one of several processes: stops at the sixth step, then goes on. Returns the tensors."""

    def stop(stage, done, total):
        if (stage, done) == ("fine-tuning", 6):
            raise Killed

    settings = replace(
        PRESETS["paper-1scale"], features=FeatureSettings(scales=(96,), levels=(2, 1)),
        proposals=SelectiveSearch(max_proposals=60), finetuning=ALIKE,
    )  # fmt: skip
    extractor = SPPExtractor(build_network("alexnet", "random"), settings.features)
    with (
        join_group() as group,
        ProposalCache(folder / f"proposals-{group.rank}.sqlite", settings.proposals) as cache,
    ):
        data = TrainingData(load_voc(voc, "train"), settings.proposals, cache, folder / "maps", 10**9)
        arguments = data, extractor, NORM_FACTOR, settings, folder / "work"
        with pytest.raises(Killed):
            finetune(*arguments, stop, group, checkpoint_seconds=0)
        group.wait()
        tuned = finetune(*arguments, quiet, group, checkpoint_seconds=0)
    return with_losses(tuned)


def with_losses(tuned):
    return tensors(tuned) | {"losses": torch.tensor([score.loss for score in tuned.history])}


_SECOND = """
import sys
from pathlib import Path
from safetensors.torch import save_file
from test_finetuning import take_part

voc, folder = map(Path, sys.argv[1:])
save_file(take_part(voc, folder), folder / "second.safetensors")
"""


@pytest.mark.timeout(500)
def test_two_processes_make_the_steps_of_one(tiny_voc, tmp_path, tune, monkeypatch):
    """Over gloo on this machine, stopped in between: the weights are those of one process, up to rounding."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The variables that torchrun sets. This process is the first one: libraries take longer to import than
    # the training takes.
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    here = Path(__file__)
    second_only = {
        "RANK": "1", "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{here.parents[2] / 'helpers'}{os.pathsep}{here.parent}",
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", _SECOND, tiny_voc, tmp_path],
        env=os.environ | shared | second_only,
        stderr=subprocess.PIPE,
    )
    try:
        expected = with_losses(tune("alone", steps=ALIKE.steps, dropout=ALIKE.dropout, disk_gb=ALIKE.disk_gb))
        for name, value in (shared | {"RANK": "0"}).items():
            monkeypatch.setenv(name, value)
        first = take_part(tiny_voc, tmp_path)
        _, errors = process.communicate(timeout=400)
        assert process.returncode == 0, errors.decode()
    finally:
        process.kill()
    second = load_file(tmp_path / "second.safetensors")
    for name, value in expected.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, rtol=1e-3, atol=1e-5)

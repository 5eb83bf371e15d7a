"""Distilling, on a tiny data set with a random AlexNet as teacher."""

import json
import math
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sppnet.common.errors import InputError
from sppnet.common.files import file_digest
from sppnet.common.progress import quiet
from sppnet.detection.backbones import build_network
from sppnet.detection.backbones.build import CHAINS
from sppnet.detection.backbones.normalisation import RELEASED
from sppnet.detection.backbones.zf5 import WithinChannelLRN
from sppnet.detection.distillation import distill
from sppnet.detection.distillation.distill import Distilling, learned_digest, sources_digests
from sppnet.detection.distillation.distill_run import DistillRun
from sppnet.detection.distillation.settings import DistillSettings
from sppnet.detection.distillation.student import INPUT_SCALE, Student

SETTINGS = DistillSettings(
    teachers=("alexnet=random 96",), scales=(96,), crop=90, border=0, batch=2, steps=20, warmup=3, rate=2e-3,
    bfloat16=False, statistics_images=3, validation=0.3, snapshot_every=10,
)  # fmt: skip


def toy_layers():
    """Stands for zf5: has layers of the same kinds, and takes milliseconds."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 8, 7, stride=4, padding=1), relu1=nn.ReLU(),
            norm1=WithinChannelLRN(size=3, alpha=5e-5), pool1=nn.MaxPool2d(3, stride=2, ceil_mode=True),
            conv2=nn.Conv2d(8, 24, 3, stride=2, padding=1), relu2=nn.ReLU(),
        )
    )  # fmt: skip


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(CHAINS, "zf5", (toy_layers, RELEASED))


class Stopped(Exception):
    pass


def run(dataset, folder, settings=SETTINGS, stop_at=None, **options):
    """The network, the validations, and the weights kept at each."""
    kept = {}

    def progress(stage, done, total):
        if stage == "distilling" and done == stop_at:
            raise Stopped

    job = distilling(dataset, folder, settings, kept.__setitem__, progress, **options)
    network, points = job.run()
    return network, points, kept


def keep_nothing(step, weights):
    pass


def distilling(dataset, folder, settings, keep=keep_nothing, progress=quiet, **options):
    return Distilling(
        dataset, settings, folder / "maps", int(1e9), folder / "work", progress, keep, **options
    )


def test_more_and_more_of_the_teachers_maps_is_explained(tiny_train, tmp_path):
    network, points, kept = run(tiny_train, tmp_path)
    assert [point.step for point in points] == [10, 20] == list(kept)
    first, last = (point.explained[0][0] for point in points)
    assert last > max(first, 0.1)
    # The result is the network for pixels as they come, without the adapter.
    fresh = build_network("zf5", "random")
    fresh.layers.load_state_dict(kept[20])
    torch.testing.assert_close(network.layers.state_dict(), fresh.layers.state_dict(), rtol=0, atol=0)


@pytest.mark.usefixtures("toy")
def test_batch_normalisation_becomes_part_of_the_convolutions(tiny_train, tmp_path):
    image = torch.rand(1, 3, 90, 90) * 200 - 100
    expected = []

    @torch.no_grad()
    def keep(_step, _weights):
        expected.append(job.student.eval().layers(image / INPUT_SCALE))

    job = distilling(tiny_train, tmp_path, replace(SETTINGS, steps=10), keep)
    network, _ = job.run()
    with torch.inference_mode():
        torch.testing.assert_close(network.layers(image), expected[0], rtol=1e-4, atol=1e-4)
    assert set(network.layers.state_dict()) == set(build_network("zf5", "random").layers.state_dict())


@pytest.mark.usefixtures("toy")
def test_what_is_explained_is_relative_to_the_targets_spread(tiny_train, tmp_path, monkeypatch):
    class Blind(Student):
        def forward(self, images):
            return [0 * maps for maps in super().forward(images)]

    monkeypatch.setattr(distill, "Student", Blind)
    _, points, _ = run(tiny_train, tmp_path, replace(SETTINGS, steps=2))
    # A network that gives 0 everywhere, the channels' mean, explains nothing, however the images' spread may
    # differ.
    assert points[-1].explained == ((0.0,),)


@pytest.mark.usefixtures("toy")
def test_targets_have_mean_0_and_variance_1_at_all_scales_together(tiny_train, tmp_path):
    settings = replace(SETTINGS, scales=(96, 160), teachers=("alexnet=random 96 160",))
    job = distilling(tiny_train, tmp_path, settings)
    job.crops.fit_standards(quiet)
    targets = torch.stack([job.crops.sample(number)[1][0] for number in range(40)])
    assert abs(float(targets.mean())) < 0.2
    assert float(targets.var()) == pytest.approx(1, abs=0.5)


def test_from_weights_it_starts_as_the_network_that_they_make(tiny_train, tmp_path):
    before = build_network("zf5", "random", seed=5).layers.state_dict()
    file = tmp_path / "zf5.safetensors"
    save_file(before, file)
    settings = replace(SETTINGS, start=str(file), steps=1, rate=1e-9)
    job = distilling(tiny_train, tmp_path, settings)
    job.crops.fit_standards(quiet)
    job.student.set_norms(torch.cat([job.crops.sample(number)[0] for number in range(4)]))
    torch.testing.assert_close(job.student.weights(), before, rtol=1e-4, atol=1e-5)
    network, _, _ = run(tiny_train, tmp_path, settings)
    image = torch.rand(1, 3, 90, 90) * 200 - 100
    with torch.inference_mode():
        maps = [net.layers(image).flatten() for net in (build_network("zf5", file), network)]
    assert torch.corrcoef(torch.stack(maps))[0, 1] > 0.9


@pytest.mark.usefixtures("toy")
def test_labels_can_be_taught_beside_a_network(tiny_train, tmp_path):
    settings = replace(SETTINGS, teachers=(*SETTINGS.teachers, "labels"))
    _, points, _ = run(tiny_train, tmp_path, settings)
    assert [len(levels) for levels in points[-1].explained] == [1, 1]
    assert points[-1].explained[1][0] > points[0].explained[1][0]


@pytest.mark.usefixtures("toy")
def test_it_goes_on_after_a_stop_to_the_same_weights(tiny_train, tmp_path):
    settings = replace(SETTINGS, teachers=(*SETTINGS.teachers, "labels"))
    whole, points, _ = run(tiny_train, tmp_path / "whole", settings)
    with pytest.raises(Stopped):
        run(tiny_train, tmp_path / "broken", settings, stop_at=14, checkpoint_seconds=0)
    again, later, kept = run(tiny_train, tmp_path / "broken", settings)
    assert list(kept) == [20]
    torch.testing.assert_close(again.layers.state_dict(), whole.layers.state_dict(), rtol=0, atol=0)
    assert [(point.step, point.explained) for point in later] == [
        (point.step, point.explained) for point in points
    ]


@pytest.mark.usefixtures("toy")
def test_a_teacher_of_other_weights_is_another(tiny_train, tmp_path):
    """Its file has the same name as before."""
    file = tmp_path / "my teacher.safetensors"
    settings = replace(SETTINGS, teachers=(SETTINGS.teachers[0].replace("=random", f"={file}"),), steps=4)
    digests = []
    for seed in (0, 1):
        save_file(dict(build_network("alexnet", "random", seed=seed).layers.state_dict()), file)
        with pytest.raises(Stopped):
            run(tiny_train, tmp_path / "broken", settings, stop_at=3, checkpoint_seconds=0)
        digests.append(sources_digests(settings))
    assert digests[0] != digests[1]
    _, (*_, last), _ = run(tiny_train, tmp_path / "broken", settings)
    _, (*_, expected), _ = run(tiny_train, tmp_path / "whole", settings)
    assert last.explained == expected.explained


def test_annotations_count_only_where_they_teach(tiny_train, tmp_path):
    first = tiny_train[0]
    moved = replace(tiny_train, examples=(replace(first, boxes=first.boxes + 1), *tiny_train[1:]))
    (tmp_path / "other.png").write_bytes(first.path.read_bytes() + b"0")
    other = replace(first, path=tmp_path / "other.png")
    changed = replace(tiny_train, examples=(other, *tiny_train[1:]))
    labels = replace(SETTINGS, teachers=("labels",))
    assert learned_digest(moved, SETTINGS) == learned_digest(tiny_train, SETTINGS)
    assert learned_digest(moved, labels) != learned_digest(tiny_train, labels)
    assert learned_digest(changed, SETTINGS) != learned_digest(tiny_train, SETTINGS)


@pytest.mark.usefixtures("toy")
def test_random_state_outside_is_left_alone(tiny_train, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(tiny_train, tmp_path, replace(SETTINGS, steps=2))
    torch.testing.assert_close(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teachers": ()}, "at least one teacher"),
        ({"crop": 100}, "none below the crop's side, 100"),
        ({"steps": 0}, "steps is 0; give at least 1"),
        ({"network": "efficientnet_lite0"}, "only a plain chain"),
        ({"network": "alexnet"}, "only a plain chain"),
        ({"network": "convnet5", "start": "own"}, "convnet5: has no weights of its own"),
        ({"seed": -1}, "seed is -1"),
        ({"border": 3}, "border leaves none"),
        ({"teachers": ("nonet 96",)}, "nonet"),
    ],
)
def test_wrong_settings_are_named(tiny_train, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        run(tiny_train, tmp_path, replace(SETTINGS, **change))


@pytest.mark.usefixtures("toy")
def test_a_loss_that_is_not_finite_is_named(tiny_train, tmp_path):
    with pytest.raises(InputError, match="step 2: the loss is not finite; give a lower rate"):
        run(tiny_train, tmp_path, replace(SETTINGS, rate=1e30, warmup=1))


@pytest.mark.usefixtures("toy")
def test_figures_of_a_last_step_that_are_not_finite_are_written(tiny_train, tmp_path):
    settings = replace(SETTINGS, rate=1e30, warmup=1, steps=1, snapshot_every=1)
    training = DistillRun(tmp_path / "run", settings)
    points = training.run(tiny_train, tmp_path / "maps", int(1e9))
    assert points is not None
    assert not math.isfinite(points[0].explained[0][0])
    written = json.loads(training.history.read_text())
    assert [point["step"] for point in written["points"]] == [1]
    assert training.run(tiny_train, tmp_path / "maps", int(1e9)) is None


def test_what_was_not_written_whole_counts_as_not_trained(tmp_path, caplog):
    training = DistillRun(tmp_path, SETTINGS)
    assert not training.trained
    training.weights.write_bytes(b"weights")
    # Version 0.1.0 wrote a list, without a digest.
    for text in ('[{"step": 1}]', json.dumps({"weights_digest": file_digest(training.weights)})):
        training.history.write_text(text)
        assert training.trained
    assert not caplog.messages
    training.weights.write_bytes(b"weightt")
    assert not training.trained
    for text in ("", '[{"step": ', "{}", "1"):
        training.history.write_text(text)
        assert not training.trained
    assert all("history.json: cut, or zf5.safetensors" in message for message in caplog.messages)
    assert len(caplog.messages) == 5


def test_own_weights_to_start_from(tiny_train, tmp_path):
    job = distilling(tiny_train, tmp_path, replace(SETTINGS, start="own"))
    packaged = build_network("zf5").layers.state_dict()
    torch.testing.assert_close(
        job.student.weights()["conv5.weight"], packaged["conv5.weight"], rtol=1e-3, atol=1e-3
    )


def test_too_few_images_are_named(tiny_train, tmp_path):
    with pytest.raises(InputError, match="1 images are too few to learn from"):
        run(tiny_train.head(1), tmp_path)

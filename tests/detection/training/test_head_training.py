"""All heads in the folder of one run: the commands, the saved detectors, and their scores."""

import re
import shutil
import tomllib
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from command import call

from benchmarks.detector import app as detector_benchmark
from sppnet.common.distributed import Group
from sppnet.common.errors import InputError
from sppnet.data import load_voc
from sppnet.data.images import read_image
from sppnet.detection.detector import Detector
from sppnet.detection.heads import SoftmaxHead, SVMHead
from sppnet.detection.training import HEADS, TrainingData
from sppnet.detection.training.head_training import train_layer_svms
from sppnet.detection.training.layered_extractor import LayeredExtractor
from sppnet.detection.training.presets import make_settings
from sppnet.proposals import ProposalCache

TUNED = [
    "--backbone", "alexnet", "--weights", "random", "--preset", "paper-1scale",
    "--set", "features = {scales = [96], levels = [2, 1]}", "--set", "proposals.max_proposals = 60",
    "--set", "finetuning = {optimiser = 'adamw', inputs = 'centred', width = 32, rates = [0.003],"
    " steps = [80], decay = 'cosine', batch = 16, proposals_per_image = 16, draw_steps = 40,"
    " validate_every = 40, validation = 0.2, weight_decay = 0.01}",
    # Less memory: a smaller store of negatives is faster.
    "--set", "training.memory_gb = 2.5",
]  # fmt: skip


def figure(output):
    """The mAP that a command printed, with box regression."""
    return float(re.search(r"mAP, 11-point: ([\d.]+);", output)[1])


@pytest.fixture(scope="module")
def finished(tiny_voc, tmp_path_factory):
    """A folder in which every head was trained and has detected; the results of the commands, by head."""
    folder = tmp_path_factory.mktemp("heads")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("VOC_ROOT", raising=False)
        printed = {"finetune": call("finetune", "--dataset", tiny_voc, "--run", "tiny", "--jobs", 1, *TUNED)}
        for head in HEADS:
            printed[head] = call(
                "detect", "--dataset", tiny_voc, "--run", "tiny", "--jobs", 1, "--head", head, *TUNED
            )
    return folder, printed


@pytest.fixture
def work(finished, monkeypatch):
    """The folder of the run in `finished`."""
    monkeypatch.chdir(finished[0])
    monkeypatch.delenv("VOC_ROOT", raising=False)
    return finished[0] / "runs" / "tiny"


def test_finetune_prints_the_validations(finished):
    result = finished[1]["finetune"]
    assert result.exit_code == 0, result.output
    assert "(chosen)" in result.output
    assert result.output.count("\nmodel: ") == 2
    assert result.output.splitlines()[-1] == "written: runs/tiny/model-softmax"


@pytest.mark.parametrize("head", HEADS)
def test_every_head_detects(finished, head):
    folder, printed = finished
    result = printed[head]
    assert result.exit_code == 0, result.output
    # The objects are plain; a random network's features tell them apart.
    assert figure(result.output) > 20
    suffix = "" if head == "pool5" else f"-{head}"
    for name in (f"model{suffix}", f"detections{suffix}", f"metrics{suffix}.json", f"times{suffix}.json"):
        assert (folder / "runs" / "tiny" / name).exists(), name
    # Parts that another head had trained were not trained again.
    assert result.output.count("\nmodel: ") == 1
    assert not list((folder / "runs" / "tiny").glob("training*"))


def test_eval_takes_a_head(finished, tiny_voc, work):
    for head in HEADS:
        result = call(
            "eval", "--dataset", tiny_voc, "--run", "tiny", "--head", head, "--preset", "paper-1scale"
        )
        assert figure(result.output) == figure(finished[1][head].output)


def test_unknown_heads(tiny_voc, work):
    result = call("eval", "--dataset", tiny_voc, "--run", "tiny", "--head", "fc8")
    assert result.exit_code == 2
    assert "'fc8' is not one of 'pool5', 'fc6', 'fc7', 'softmax'" in result.stderr
    result = call("eval", "--dataset", tiny_voc, "--run", "tiny", "--fc-rank", 3)
    assert result.exit_code == 2
    assert "fc_rank 3" in result.stderr


def test_truncated_layers_detect_beside_the_whole_ones(tiny_voc, work):
    result = call(
        "detect", "--dataset", tiny_voc, "--run", "tiny", "--jobs", 1, "--head", "fc7", "--fc-rank", 8, *TUNED
    )
    assert result.exit_code == 0, result.output
    assert (work / "detections-fc7-rank8" / "coco.json").exists()
    assert not (work / "model-fc7-rank8").exists()


def test_bfloat16_detects_beside_float32(tiny_voc, work):
    arguments = "--dataset", tiny_voc, "--run", "tiny", "--preset", "paper-1scale", "--bfloat16"
    result = call("detect", "--jobs", 1, *arguments, *TUNED)
    assert result.exit_code == 0, result.output
    exact, rounded = ((work / f"detections{suffix}" / "coco.json").read_text() for suffix in ("", "-bf16"))
    assert exact != rounded
    again = call("eval", *arguments)
    assert figure(again.output) == figure(result.output)


def test_bfloat16_changes_convolutions_and_layers(work):
    detector = Detector.load(work / "model-softmax")
    assert {tensor.dtype for tensor in detector.layers.tensors().values()} == {torch.float32}
    detector = detector.approximated(bfloat16=True)
    assert detector.extractor.settings.bfloat16
    assert {tensor.dtype for tensor in detector.layers.tensors().values()} == {torch.bfloat16}


def test_bench_times_a_head(work, tiny_voc, monkeypatch):
    for kernel in ("bench_pooling", "bench_same_convolution", "bench_bfloat16"):
        monkeypatch.setattr(f"benchmarks.detector.{kernel}", lambda: "")
    options = ("--dataset", tiny_voc, "--run", "tiny", "--limit", 2, "--head", "softmax", "--fc-rank", 4)
    result = call(*options, app=detector_benchmark)
    assert result.exit_code == 0, result.output
    assert re.search(r"│ fc +│", result.output)
    assert "2 images, proposals included" in result.output


def test_heads_are_combined_by_name(work, tiny_voc):
    arguments = ("--dataset", tiny_voc, "--scores", "rank")
    result = call("combine", "tiny:softmax", "runs/tiny:fc7", *arguments)
    assert result.exit_code == 0, result.output
    assert "tiny-softmax" in result.output
    assert "runs/tiny-softmax+tiny-fc7" in result.output
    assert call("combine", "tiny", "tiny:pool5", *arguments).exit_code == 2


def test_heads_share_everything_but_the_head(work):
    detectors = {
        head: Detector.load(work / ("model" if head == "pool5" else f"model-{head}")) for head in HEADS
    }
    pool5, softmax = detectors["pool5"], detectors["softmax"]
    assert pool5.layers is None
    assert [len(detectors[head].layers.biases) for head in ("fc6", "fc7", "softmax")] == [1, 2, 2]
    assert isinstance(softmax.head, SoftmaxHead)
    assert softmax.settings.min_score == pytest.approx(np.log(0.01 / 0.99))
    for head in ("fc6", "fc7"):
        detector = detectors[head]
        assert isinstance(detector.head, SVMHead)
        assert detector.head.weights.shape == (2, 32)
        assert detector.settings == pool5.settings
        assert torch.equal(detector.layers.factors[0][0], softmax.layers.factors[0][0])
        # Each layer has another norm factor, which brings its vectors to a mean norm of 20.
        assert detector.head.norm_factor != pool5.head.norm_factor
    for detector in detectors.values():
        np.testing.assert_array_equal(detector.regressors.weights, pool5.regressors.weights)
        assert detector.regressors.norm_factor == pytest.approx(pool5.regressors.norm_factor)


@pytest.mark.parametrize("head", ["fc6", "fc7", "softmax"])
def test_scores_equal_scores_computed_by_hand(tiny_voc, work, head):
    detector = Detector.load(work / f"model-{head}")
    image = read_image(load_voc(tiny_voc, "test")[0].path)
    maps = detector.extractor.prepare(image)
    detections, deltas = detector.score(maps, detector.engine.propose(image))
    assert len(detections) > 0
    for (box, score, label), delta in zip(detections, deltas, strict=True):
        pooled = detector.extractor.extract(maps, box[None]).features[0].astype(np.float64)
        vector = pooled
        for (weights,), bias in zip(detector.layers.factors, detector.layers.biases, strict=True):
            vector = np.maximum(weights.numpy() @ vector + bias.numpy(), 0)
        values = detector.head.weights @ vector * detector.head.norm_factor + detector.head.bias
        if head == "softmax":
            powers = np.exp(values - values.max())
            values = np.log(powers / (powers.sum() - powers))
        assert score == pytest.approx(values[label], abs=2e-3)
        # Box regression uses the pooled features, whatever the head.
        regressed = detector.regressors.weights[label] @ (pooled * detector.regressors.norm_factor)
        np.testing.assert_allclose(delta, regressed + detector.regressors.bias[label], atol=1e-3)


def test_the_folder_of_the_run_has_its_settings(work):
    content = tomllib.loads((work / "settings.toml").read_text())
    assert content["finetuning"]["width"] == 32
    origin = Detector.load(work / "model-fc6").origin
    assert origin["head"] == "fc6"
    assert [entry["step"] for entry in origin["finetuning"]["history"]] == [40, 80]


def test_a_damaged_layer_is_named(work, tmp_path):
    shutil.copytree(work / "model-fc7", tmp_path / "model")
    detector = Detector.load(tmp_path / "model")
    layers = detector.layers
    broken = type(layers)(((layers.factors[0][0][:, 1:],), layers.factors[1]), layers.biases)
    replace(detector, layers=broken).save(tmp_path / "model")
    with pytest.raises(InputError, match=r"model\.json: fc6 takes 1279 numbers, not 1280"):
        Detector.load(tmp_path / "model")
    softmax = SoftmaxHead(np.zeros((2, 32), np.float32), np.zeros(2, np.float32))
    replace(detector, layers=layers.first(1), head=softmax).save(tmp_path / "model")
    with pytest.raises(InputError, match="the softmax head is for 1 classes and 32 numbers, not 2 and 32"):
        Detector.load(tmp_path / "model")


def test_svms_need_layers(work, tmp_path):
    pool5, tuned = Detector.load(work / "model"), Detector.load(work / "model-softmax")
    for detector, head in ((pool5, "fc7"), (tuned, "softmax")):
        with pytest.raises(InputError, match="fine-tune it first"):
            train_layer_svms(None, detector, head, None, tmp_path, None)


def test_svms_on_other_layers_with_the_same_settings_are_trained_from_the_beginning(tiny_voc, work, tmp_path):
    """A checkpoint of mining belongs to the layers that it began with."""
    tuned, dataset = Detector.load(work / "model-softmax"), load_voc(tiny_voc, "train")
    settings = make_settings("paper-1scale", None, TUNED[7::2], {"name": "alexnet", "weights": "random"})
    seen = []

    def progress(stage, done, _total):
        seen.append((stage, done))
        if len(seen) > 1 and seen[-2] == ("mining", 4) and not finish:
            raise KeyboardInterrupt

    with ProposalCache(tmp_path / "proposals.sqlite", settings.proposer) as cache:
        data = TrainingData(dataset, settings.proposer, cache, tmp_path / "maps", 10**9)
        for change, first, finish in ((1.0, 0, False), (1.0, 4, True), (1.5, 0, True)):
            layers = tuned.layers
            biases = tuple(change * bias for bias in layers.biases)
            tuned = replace(tuned, layers=replace(layers, biases=biases))
            with nullcontext() if finish else pytest.raises(KeyboardInterrupt):
                train_layer_svms(data, tuned, "fc7", settings, tmp_path / "work", progress, 0)
            assert next(done for stage, done in seen if stage == "mining") == first
            seen.clear()


def test_the_layered_extractor_passes_pooled_vectors_through_the_layers(tiny_voc, work):
    detector = Detector.load(work / "model-fc7")
    layered = LayeredExtractor(detector.extractor, detector.layers)
    image = read_image(load_voc(tiny_voc, "test")[0].path)
    maps = layered.prepare(image)
    boxes = detector.engine.propose(image)[:9]
    plain, deep = detector.extractor.extract(maps, boxes), layered.extract(maps, boxes)
    assert layered.length == deep.features.shape[1] == 32
    np.testing.assert_array_equal(deep.features, detector.layers(plain.features))
    np.testing.assert_array_equal(deep.rows, plain.rows)


def test_several_processes_need_a_trained_run(tiny_voc, tmp_path, monkeypatch):
    """Under torchrun only fine-tuning is shared between the processes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VOC_ROOT", raising=False)
    monkeypatch.setattr("sppnet.common.distributed.join_group", lambda: nullcontext(Group(0, 2)))
    result = call("finetune", "--dataset", tiny_voc, "--run", "tiny", "--jobs", 1, *TUNED)
    assert result.exit_code == 2
    assert "run 'sppnet train' first" in result.stderr

"""R-CNN and SPP-net compared on a tiny data set: training, accuracy, the table."""

import json
import tomllib
from dataclasses import replace

import numpy as np
import pytest
from command import call

from sppnet.common.errors import InputError
from sppnet.common.progress import quiet
from sppnet.data.images import read_image
from sppnet.detection.detector import Detector
from sppnet.detection.experiments.rcnn_comparison import (
    FIVE_SCALES,
    ONE_SCALE,
    RCNN,
    Compared,
    Sizes,
    compare,
    first_proposals,
    methods,
)
from sppnet.detection.experiments.rcnn_comparison_table import comparison_table
from sppnet.detection.experiments.stage_times import FC
from sppnet.detection.features.rcnn import RCNNExtractor
from sppnet.detection.runs.run import Run
from sppnet.detection.training.presets import PRESETS
from sppnet.proposals import OpenCVSelectiveSearch, ProposalCache, image_key

SIZES = Sizes(train_images=4, train_proposals=12, test_images=2, test_proposals=20, timed_images=1)
FOLDERS = {RCNN: "rcnn", ONE_SCALE: "spp-1scale", FIVE_SCALES: "spp-5scale"}


def no_layers(inputs):
    """Stands for layers that take no time."""
    return lambda vectors: None


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder that outlives a test, so that the tests train once."""
    return tmp_path_factory.mktemp("compare")


@pytest.fixture
def small_presets(monkeypatch):
    """Gives the preset of five scales scales that take no time."""
    five = PRESETS["paper-5scale"]
    small = replace(five, features=replace(five.features, scales=(64, 72, 80, 96, 112)))
    monkeypatch.setattr(
        "sppnet.detection.experiments.rcnn_comparison.PRESETS", PRESETS | {"paper-5scale": small}
    )


@pytest.fixture
def base(kept, tiny_settings, small_presets):
    settings = replace(tiny_settings, features=replace(tiny_settings.features, crop=71, crop_padding=5))
    with ProposalCache(kept / "proposals.sqlite", settings.proposals) as cache:
        yield Run(kept / "run", settings, cache, kept / "maps")


def rows_of(table):
    return list(zip(*(column.cells for column in table.columns), strict=True))


def cells(table, name):
    (row,) = [row for row in rows_of(table) if row[0] == name]
    return row[1:]


def test_all_methods_in_one_comparison(base, tiny_train, tiny_test):
    stages, vectors = [], []

    def report(stage, done, total):
        stages.append(stage)

    figures, proposals = compare(tiny_train, tiny_test, base, SIZES, report, lambda inputs: vectors.append)
    assert [method.name for method in figures] == [RCNN, ONE_SCALE, FIVE_SCALES]
    assert any(stage == "R-CNN: mining" for stage in stages)
    boxes = base.cache.get(image_key(tiny_test[0]))
    assert proposals == len(boxes) > SIZES.test_proposals
    for method in figures:
        for seconds in (method.seconds, method.cpu_seconds):
            parts = sum(value for stage, value in seconds.items() if stage not in ("all", FC))
            assert 0 < parts <= seconds["all"] * 1.01
            assert seconds["convolution"] > 0
            assert seconds[FC] >= 0
        assert 0 <= method.map_proposed <= 1

    detectors = {name: Detector.load(base.folder / folder / "model") for name, folder in FOLDERS.items()}
    # The layers take one vector to warm up, and then those of all proposals.
    for detector, warm, timed in zip(detectors.values(), vectors[::2], vectors[1::2], strict=True):
        image = read_image(tiny_test[0].path)
        pooled = detector.extractor.extract(detector.extractor.prepare(image), boxes)
        np.testing.assert_array_equal(timed, pooled.features)
        assert len(warm) == 1
    assert [timed.shape[1] for timed in vectors[1::2]] == [36 * 256, 5 * 256, 5 * 256]
    assert vectors[1].shape[0] <= len(boxes)

    for name, detector in detectors.items():
        assert isinstance(detector.extractor, RCNNExtractor) == (name == RCNN)
        assert detector.extractor.settings == methods(base.settings)[name].features
        assert detector.origin["images"] == 4
        metrics = json.loads((base.folder / FOLDERS[name] / "metrics.json").read_text())
        assert metrics["settings"]["images"] == 2
    assert len({detector.extractor.settings.levels for detector in detectors.values()}) == 2

    # Again: nothing is trained or detected, the accuracy is the same.
    stages.clear()
    again, _ = compare(tiny_train, tiny_test, base, SIZES, report, no_layers)
    assert set(stages) == {"times"}
    assert [method.map_regressed for method in again] == [method.map_regressed for method in figures]


def test_another_number_of_test_proposals_is_another_comparison(base, tiny_train, tiny_test):
    """The model would be the same, but the detections in the folder are of 20 proposals an image."""
    compare(tiny_train, tiny_test, base, SIZES, quiet, no_layers)
    with pytest.raises(InputError, match=r"of 20 windows', not .* of 19 windows'; give another RUN name"):
        compare(tiny_train, tiny_test, base, replace(SIZES, test_proposals=19), quiet, no_layers)
    # Nor with other settings of fine-tuning, which a run may change as long as none of its layers is tuned.
    settings = replace(base.settings, finetuning=replace(base.settings.finetuning, seed=9))
    other = replace(base, settings=settings)
    with pytest.raises(InputError, match="of 19 windows"):
        compare(tiny_train, tiny_test, other, replace(SIZES, test_proposals=19), quiet, no_layers)
    # Folders of earlier versions have this sentence, by its letters.
    content = tomllib.loads((base.folder / "rcnn" / "settings.toml").read_text())
    assert content["images"] == "tiny train, 4 images; detection: test, 2 images of 20 windows"


def test_interrupted_it_keeps_finished_methods(base, tiny_train, tiny_test, tmp_path):
    base = replace(base, folder=tmp_path / "run")
    stages = []

    def stop(stage, done, total):
        if stage == f"{ONE_SCALE}: mining" and done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(tiny_train, tiny_test, base, SIZES, stop, no_layers)
    before = (base.folder / "rcnn" / "metrics.json").read_text()
    figures, _ = compare(
        tiny_train, tiny_test, base, SIZES, lambda stage, *_: stages.append(stage), no_layers
    )
    assert not any(stage.startswith(RCNN) for stage in stages)
    assert {stage.partition(":")[0] for stage in stages} == {ONE_SCALE, FIVE_SCALES, "times"}
    assert json.loads(before)["map_11point"] == figures[0].map_regressed


def test_methods_differ_in_features_only(tiny_settings):
    by_name = methods(tiny_settings)
    assert len({replace(settings, features=tiny_settings.features) for settings in by_name.values()}) == 1
    assert by_name[RCNN].features.levels == (6,)
    assert by_name[ONE_SCALE].features.scales == (96,)
    assert by_name[FIVE_SCALES].features.scales == (480, 576, 688, 864, 1200)


@pytest.mark.parametrize("engine", ["own", "opencv"])
def test_first_proposals_are_those_of_an_engine_with_this_bound(tiny_settings, tiny_test, tmp_path, engine):
    settings = replace(tiny_settings, engine=engine, opencv=OpenCVSelectiveSearch(max_proposals=60))
    with ProposalCache(tmp_path / "p.sqlite", settings.proposer) as cache:
        bounded = first_proposals(tiny_test, Run(tmp_path, settings, cache, tmp_path), 15)
        for example in tiny_test:
            expected = bounded.settings.proposer.propose(read_image(example.path))
            assert len(expected) == 15
            np.testing.assert_array_equal(bounded.cache.get(image_key(example)), expected)
        bounded.cache.close()


def test_more_proposals_than_the_engine_gives_are_all_of_them(tiny_settings, tiny_test, tmp_path):
    """No entry of the cache may have fewer boxes than its method gives."""
    with ProposalCache(tmp_path / "p.sqlite", tiny_settings.proposer) as cache:
        run = Run(tmp_path, tiny_settings, cache, tmp_path)
        assert first_proposals(tiny_test, run, 10**6).settings == tiny_settings
        imported = replace(run, settings=replace(tiny_settings, boxes="published"))
        with pytest.raises(InputError, match=r"boxes .published.: .*leave boxes out"):
            first_proposals(tiny_test, imported, 9)


def test_other_test_images_are_detected_in(base, tiny_train, tiny_test):
    compare(tiny_train, tiny_test, base, SIZES, quiet, no_layers)
    swapped = replace(tiny_test, examples=tiny_test.examples[::-1])
    stages = []
    compare(tiny_train, swapped, base, SIZES, lambda stage, *_: stages.append(stage), no_layers)
    assert f"{ONE_SCALE}: detection" in stages


def test_the_table_divides_and_keeps_to_figures_that_the_paper_states():
    def compared(name, convolution, whole):
        stages = ("resize or warp", "convolution", "pooling", "SVM + NMS", "box regression", "all")
        seconds = dict.fromkeys(stages, 0.5) | {"convolution": convolution, FC: 0.3, "all": whole}
        return Compared(name, 0.3, float("nan"), seconds, seconds | {"convolution": 2 * convolution})

    figures = [compared(RCNN, 20.0, 22.0), compared(ONE_SCALE, 0.1, 0.5), compared(FIVE_SCALES, 1.0, 2.0)]
    table = comparison_table(figures, "title")
    assert cells(table, "convolution") == ("20.000", "0.100", "1.000", "14.37", "0.053", "0.293")
    assert cells(table, "R-CNN's convolution / its") == ("–", "200×", "20×", "–", "270×", "49×")
    # 20.3 / 0.4 and 20.3 / 1.3; the paper's totals are of convolution and fc.
    assert cells(table, "R-CNN's convolution + fc / its") == ("–", "51×", "16×", "–", "102×", "38×")
    assert cells(table, "R-CNN's all / its") == ("–", "44×", "11×", "–", "–", "–")
    # 40.3 / 0.5 and 40.3 / 2.3.
    assert [row[1:4] for row in rows_of(table) if row[0] == "the same, processor time"] == [
        ("–", "200×", "20×"), ("–", "81×", "18×"), ("–", "44×", "11×")
    ]  # fmt: skip
    assert cells(table, "mAP without box regression") == ("30.0", "30.0", "30.0", "–", "43.0", "44.9")
    assert cells(table, "mAP with box regression")[:3] == ("–", "–", "–")
    assert cells(table, FC) == ("0.300", "0.300", "0.300", "–", "0.089", "0.089")
    assert "time only" in FC
    assert "no part of our mAP" in table.caption
    # Reference, section 1.4: an AlexNet's time, derived totals and recalled figures are not the paper's here.
    printed = " ".join(cell for row in rows_of(table) for cell in row)
    assert not any(figure in printed for figure in ("8.96", "9.03", "14.46", "0.142", "0.382", "55.1"))
    assert "GPU" in table.caption


@pytest.mark.parametrize("name", ["train_images", "test_proposals", "timed_images"])
def test_sizes_must_be_positive(name):
    with pytest.raises(InputError, match=f"{name} is 0"):
        Sizes(**{name: 0})


def test_the_command(work, tiny_voc, small_presets):
    arguments = ["--dataset", tiny_voc, "--backbone", "alexnet", "--weights", "random", "--jobs", 1,
                 "--train-images", 2, "--train-proposals", 8, "--test-images", 2, "--test-proposals", 10,
                 "--timed-images", 1]  # fmt: skip
    for change in ("features.scales = [96]", "features.levels = [2, 1]", "features.crop = 71",
                   "proposals.max_proposals = 40"):  # fmt: skip
        arguments += ["--set", change]
    result = call("compare", *arguments)
    assert result.exit_code == 0, result.output
    assert "2 training images × 8 proposals" in result.output
    content = json.loads((work / "runs" / "compare-tiny-alexnet" / "compare.json").read_text())
    assert [method["name"] for method in content["methods"]] == [RCNN, ONE_SCALE, FIVE_SCALES]
    assert content["sizes"]["timed_images"] == 1
    assert all(method["seconds"]["all"] > 0 for method in content["methods"])
    # Random layers of the paper's width were timed, too.
    assert all(method["seconds"][FC] > 0 for method in content["methods"])

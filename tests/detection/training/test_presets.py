"""Constants of the presets, and settings from files and flags."""

import tomllib
from dataclasses import asdict, fields, is_dataclass

import pytest
import tomli_w

from sppnet.common.errors import InputError
from sppnet.common.settings import override
from sppnet.detection.training.presets import PRESETS, RunSettings, make_settings


def without_none(values):
    """Nested tables without their empty values, which TOML does not have."""
    return {
        name: without_none(value) if isinstance(value, dict) else value
        for name, value in values.items()
        if value is not None
    }


@pytest.mark.parametrize("name", PRESETS)
def test_presets_share_the_procedure(name):
    settings = PRESETS[name]
    # Paper and released code: pyramid levels, NMS, detections per class, least score; C, bias, weight of
    # positives; box regression from IoU 0.5; about 2,000 proposals with k = 50 and 100.
    rcnn = name == "rcnn"
    assert settings.features.levels == ((6,) if rcnn else (6, 3, 2, 1))
    # R-CNN warps each proposal to 227 x 227 pixels with 16 pixels of context.
    assert (settings.features.mode == "rcnn") == rcnn
    assert (settings.features.crop, settings.features.crop_padding) == (227, 16)
    assert settings.detection.nms_iou == 0.3
    assert settings.detection.max_per_class == 100
    assert settings.detection.min_score == -1.5
    # Ours is ten times that of the paper, chosen on held-out training images.
    assert settings.mining.solver.cost == (1e-2 if name == "default" else 1e-3)
    assert settings.mining.solver.bias_multiplier == 10
    assert settings.mining.solver.positive_weight == 2
    assert settings.mining.max_negative_iou == 0.3
    assert settings.mining.hard_threshold == -1.0001
    assert settings.mining.easy_threshold == -1.2
    assert settings.mining.retrain_after == 2000
    assert settings.training.norm_images == (50 if name == "default" else 200)
    assert settings.training.norm_proposals == 200
    assert settings.training.mirrored_positives == (name == "default")
    assert settings.training.cost_objects == (16 if name == "default" else 0)
    # R-CNN: IoU 0.6 and lambda 1,000.
    regression = (0.6, 1000) if rcnn or name.endswith("rcnn-regression") else (0.5, 4000)
    assert (settings.regression.min_iou, settings.regression.penalty) == regression
    proposals = settings.proposals
    assert (proposals.strategies, proposals.min_side, proposals.max_proposals) == ("fast", 20, 2000)


@pytest.mark.parametrize(
    ("name", "scales", "rule"),
    [
        ("paper-1scale", (688,), "paper"),
        ("paper-5scale", (480, 576, 688, 864, 1200), "paper"),
        ("released-1scale", (688,), "released"),
        ("released-5scale", (480, 576, 688, 874, 1200), "released"),
    ],
)
def test_presets_keep_the_differences_between_paper_and_released_code(name, scales, rule):
    settings = PRESETS[name]
    assert settings.features.scales == scales
    assert settings.features.projection == settings.features.scale_rule == rule
    # Paper: <= 0.3, near-duplicates dropped. Code: < 0.3, none dropped, difficult objects taken.
    assert settings.mining.negative_iou_inclusive == (rule == "paper")
    assert settings.mining.duplicate_iou == (0.7 if rule == "paper" else None)
    assert settings.training.difficult_positives == (rule == "released")
    # The paper does not state lambda; both presets have the released code's value.
    assert settings.regression.penalty == 4000


def test_changes_override_the_config_file(tmp_path):
    config = tmp_path / "config.toml"
    config.write_text("[features]\nscales = [480, 576]\nprojection = 'released'\n[training]\nmemory_gb = 3\n")
    settings = make_settings("paper-1scale", config, ["features.scales = [300]", "network.name = 'zf5'"])
    assert settings.features.scales == (300,)
    assert settings.features.projection == "released"
    assert settings.training.memory_gb == 3.0
    assert settings.network.name == "zf5"
    assert settings.mining == PRESETS["paper-1scale"].mining


def test_changes_are_made_together():
    """After each line alone the numbers of rates and steps would not agree."""
    changes = [
        "finetuning.rates = [0.1, 0.01]",
        "finetuning.steps = [7, 8]",
        "finetuning.decay = 'steps'",
        "finetuning = {width = 5, batch = 4}",
        "finetuning.width = 6",
    ]
    tuned = make_settings("default", None, changes).finetuning
    assert (tuned.rates, tuned.steps, tuned.width, tuned.batch) == ((0.1, 0.01), (7, 8), 6, 4)


def test_every_setting_can_be_given_as_toml():
    """The settings file that a run writes can be used as a config file for the same settings."""
    for settings in PRESETS.values():
        values = tomllib.loads(tomli_w.dumps(without_none(asdict(settings))))
        assert override(settings, values, "round trip") == settings


@pytest.mark.parametrize(
    ("preset", "changes", "named"),
    [
        ("papr-1scale", [], "did you mean 'paper-1scale'"),
        ("paper-1scale", ["features.scale = [1]"], r"--set features\.scale .*did you mean 'scales'"),
        ("paper-1scale", ["featres.scales = [1]"], "did you mean 'features'"),
        ("paper-1scale", ["features.scales = [0]"], "scales"),
        ("paper-1scale", ["features.scales = 688"], "scales must be of type tuple"),
        ("paper-1scale", ["features.scales = [688.5]"], "list of int"),
        ("paper-1scale", ["network.name = zf5"], "strings in quotes"),
        ("paper-1scale", ["nonsense"], "not TOML"),
        ("paper-1scale", ["proposals.strategies = ''"], "strategies"),
        ("paper-1scale", ["proposals.strategies = 'xyz/CTSF/50'"], "hsv"),
        ("paper-1scale", ["engine = 'matlab'"], "own or opencv"),
        ("paper-1scale", ["opencv.ks = []"], "ks"),
        ("paper-1scale", ["opencv.colour_spaces = ['rgb']"], "hsv"),
    ],
)
def test_bad_presets_and_changes(preset, changes, named):
    with pytest.raises(InputError, match=named):
        make_settings(preset, None, changes)


@pytest.mark.parametrize(
    "change",
    ["mining.solver.cost = -1.0", "mining.solver.tolerance = -1.0", "regression.penalty = -1.0"],
)
def test_values_out_of_range(change):
    with pytest.raises(InputError, match=change.split(".")[-1].split()[0]):
        make_settings("default", None, [change])


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", b"[features\n", b"[features]\nscalse = [1]\n"])
def test_bad_config_files(tmp_path, content):
    config = tmp_path / "config.toml"
    if content is not None:
        config.write_bytes(content)
    with pytest.raises(InputError, match=r"config\.toml"):
        make_settings("default", config)


def test_all_settings_are_frozen_dataclasses():
    def check(value):
        assert type(value).__dataclass_params__.frozen
        for field in fields(value):
            if is_dataclass(inner := getattr(value, field.name)):
                check(inner)

    check(RunSettings())

"""Overriding settings, and the presets' constants."""

import tomllib
from dataclasses import asdict, dataclass, field, fields, is_dataclass

import pytest
import tomli_w

from sppnet.common.errors import InputError
from sppnet.common.settings import override
from sppnet.detection.runs.run import _without_none
from sppnet.detection.training.presets import PRESETS, RunSettings, make_settings


@dataclass(frozen=True)
class Inner:
    size: float = 1.0
    names: tuple[str, ...] = ("a",)
    numbers: tuple[int, ...] = ()
    parts: tuple[float, ...] = (0.5,)


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    count: int = 3
    flag: bool = True
    limit: float | None = None
    title: str = "x"


def test_nested_values_are_replaced_and_the_others_stay():
    before = Outer()
    after = override(before, {"inner": {"size": 2.5}, "count": 4}, "test")
    assert after == Outer(Inner(2.5), 4)
    assert before == Outer()


def test_lists_become_tuples_and_whole_numbers_floats():
    values = {"names": ["b", "c"], "size": 2, "numbers": [1, 2], "parts": [0, 0.5]}
    after = override(Outer(), {"inner": values}, "test")
    assert after.inner == Inner(2.0, ("b", "c"), (1, 2), (0.0, 0.5))
    assert {type(one) for one in (after.inner.size, *after.inner.parts)} == {float}


def test_none_takes_any_plain_value():
    assert override(Outer(), {"limit": 0.5}, "test").limit == 0.5


def test_nothing_to_change():
    assert override(Outer(), {}, "test") == Outer()


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"cuont": 1}, r"here: unknown key 'cuont'; did you mean 'count'"),
        ({"inner": {"sise": 1.0}}, r"here: inner: unknown key 'sise'; did you mean 'size'"),
        ({"qqq": 1}, "unknown key 'qqq'; did you mean"),
        ({"count": "4"}, "count must be of type int"),
        ({"count": 4.5}, "count must be of type int"),
        ({"count": True}, "count must be of type int"),
        ({"flag": 1}, "flag must be of type bool"),
        ({"title": 1}, "title must be of type str"),
        ({"inner": {"size": "2"}}, "inner: size must be of type float"),
        ({"inner": {"size": True}}, "inner: size must be of type float"),
        ({"inner": {"names": "abc"}}, "inner: names must be of type tuple"),
        ({"inner": {"names": ["a", 1]}}, "inner: names must be a list of str"),
        ({"inner": {"parts": [0.5, "1"]}}, "inner: parts must be a list of float"),
        ({"inner": {"parts": [True]}}, "inner: parts must be a list of float"),
        ({"inner": 3}, "inner is a table"),
        ({"inner": {"size": float("-inf")}}, "inner: size must be finite"),
        ({"inner": {"parts": [0.5, float("nan")]}}, "inner: parts must be finite"),
    ],
)
def test_bad_values(values, named):
    with pytest.raises(InputError, match=named):
        override(Outer(), values, "here")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_share_the_procedure(name):
    settings = PRESETS[name]
    # Reference, section 1.2: levels, NMS, detections a class, least score; C, bias, weight of positives; box
    # regression from overlap 0.5; about 2,000 windows of k = 50 and 100.
    rcnn = name == "rcnn"
    assert settings.features.levels == ((6,) if rcnn else (6, 3, 2, 1))
    # R-CNN, section 1.3.
    assert (settings.features.mode == "rcnn") == rcnn
    assert (settings.features.crop, settings.features.crop_padding) == (227, 16)
    assert settings.detection.nms_iou == 0.3
    assert settings.detection.max_per_class == 100
    assert settings.detection.min_score == -1.5
    assert settings.mining.solver.cost == 1e-3
    assert settings.mining.solver.bias_multiplier == 10
    assert settings.mining.solver.positive_weight == 2
    assert settings.mining.max_negative_iou == 0.3
    assert settings.mining.hard_threshold == -1.0001
    assert settings.mining.easy_threshold == -1.2
    assert settings.mining.retrain_after == 2000
    assert (settings.training.norm_images, settings.training.norm_proposals) == (200, 200)
    # R-CNN, section 1.3: 0.6 and 1,000.
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
def test_paper_and_released_code_differ_as_they_do(name, scales, rule):
    settings = PRESETS[name]
    assert settings.features.scales == scales
    assert settings.features.projection == settings.features.scale_rule == rule
    # Paper: <= 0.3, near-duplicates dropped. Code: < 0.3, none dropped, difficult objects taken.
    assert settings.mining.negative_iou_inclusive == (rule == "paper")
    assert settings.mining.duplicate_iou == (0.7 if rule == "paper" else None)
    assert settings.training.difficult_positives == (rule == "released")
    # The paper does not say lambda; the code's serves both.
    assert settings.regression.penalty == 4000


def test_config_and_changes_in_their_order(tmp_path):
    config = tmp_path / "mine.toml"
    config.write_text("[features]\nscales = [480, 576]\nprojection = 'released'\n[training]\nmemory_gb = 3\n")
    settings = make_settings("paper-1scale", config, ["features.scales = [300]", "network.name = 'zf5'"])
    assert settings.features.scales == (300,)
    assert settings.features.projection == "released"
    assert settings.training.memory_gb == 3.0
    assert settings.network.name == "zf5"
    assert settings.mining == PRESETS["paper-1scale"].mining


def test_changes_are_made_at_once():
    """Each alone would leave as many rates as steps wrong."""
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
    """What a run writes down as its settings is a config file of the same settings."""
    for settings in PRESETS.values():
        values = tomllib.loads(tomli_w.dumps(_without_none(asdict(settings))))
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
    config = tmp_path / "mine.toml"
    if content is not None:
        config.write_bytes(content)
    with pytest.raises(InputError, match=r"mine\.toml"):
        make_settings("default", config)


def test_all_settings_are_frozen_dataclasses():
    def check(value):
        assert type(value).__dataclass_params__.frozen
        for one in fields(value):
            if is_dataclass(inner := getattr(value, one.name)):
                check(inner)

    check(RunSettings())

"""Engines rebuilt from stored parameters."""

import json

import pytest

from sppnet.common.errors import InputError
from sppnet.proposals import (
    ImportedBoxes,
    OpenCVSelectiveSearch,
    SelectiveSearch,
    Strategy,
    engine_from_parameters,
)
from sppnet.proposals.engine import method_digest

ENGINES = {
    "imported": ImportedBoxes("edge boxes"),
    "opencv": OpenCVSelectiveSearch(),
    "opencv_changed": OpenCVSelectiveSearch(
        ("lab",), (30, 70, 110), sigma=0.5, min_side=9, max_side=400, max_proposals=77, seed=5
    ),
    "opencv_whole_sigma": OpenCVSelectiveSearch(sigma=1),
    "fast": SelectiveSearch(),
    "quality": SelectiveSearch("quality"),
    "strategies": SelectiveSearch((Strategy("hue", "CT", 30), Strategy("c", "S", 7))),
    "changed": SelectiveSearch("single", sigma=0.3, min_side=3, max_pixels=5000, max_proposals=9, seed=8),
    "without_limits": SelectiveSearch(max_pixels=None, max_proposals=None),
    "whole_sigma": SelectiveSearch(sigma=1),
}


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_round_trip(engine):
    rebuilt = engine_from_parameters(engine.parameters(), "model.json")
    assert type(rebuilt) is type(engine)
    assert rebuilt.parameters() == engine.parameters()
    # The rebuilt engine has the same key, so the cache finds the boxes of the first engine.
    assert method_digest(rebuilt) == method_digest(engine)


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_round_trip_through_json(engine):
    stored = json.loads(json.dumps(engine.parameters()))
    assert method_digest(engine_from_parameters(stored, "model.json")) == method_digest(engine)


def test_text_of_strategies_is_the_mode():
    assert engine_from_parameters(SelectiveSearch("fast").parameters(), "").parameters() == (
        SelectiveSearch("fast").parameters()
    )


def test_missing_settings_have_their_defaults():
    assert engine_from_parameters({"engine": "selective-search", "seed": 3}, "") == SelectiveSearch(seed=3)
    assert engine_from_parameters({"engine": "opencv"}, "") == OpenCVSelectiveSearch()


def test_versions_are_ignored():
    parameters = SelectiveSearch().parameters() | {"revision": 99, "opencv": "0.0"}
    assert engine_from_parameters(parameters, "").parameters() == SelectiveSearch().parameters()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"engine": "edge-boxes"}, "unknown proposal engine 'edge-boxes'"),
        ({}, "unknown proposal engine None"),
        ({"engine": "selective-search", "colours": 3}, "unknown key 'colours'"),
        ({"engine": "opencv", "seeds": 3}, "unknown key 'seeds'; did you mean 'seed'"),
        ({"engine": "selective-search", "sigma": "0.8"}, "sigma must be of type float"),
        ({"engine": "selective-search", "max_windows": "7"}, "max_proposals = '7'"),
        ({"engine": "selective-search", "strategies": "slow"}, "'slow'"),
        ({"engine": "opencv", "sigma": -1.0}, "must be positive"),
        ({"engine": "imported", "name": " "}, "need a name"),
    ],
    ids=[
        "engine", "no_engine", "key", "opencv_key", "type", "optional_type", "strategies",
        "opencv_range", "name",
    ],
)  # fmt: skip
def test_bad_parameters_name_their_source(parameters, message):
    with pytest.raises(InputError, match=f"model.json: .*{message}"):
        engine_from_parameters(parameters, "model.json")

"""Overriding of settings, and checks of choices."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from sppnet.common.errors import InputError
from sppnet.common.settings import changed, check_choice, override


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
    at_most_100: float | None = None

    def __post_init__(self) -> None:
        if self.at_most_100 is not None and self.at_most_100 > 100:
            raise ValueError("over 100")


def test_nested_values_are_replaced_and_other_values_stay():
    before = Outer()
    after = override(before, {"inner": {"size": 2.5}, "count": 4}, "test")
    assert after == Outer(Inner(2.5), 4)
    assert before == Outer()


def test_lists_become_tuples_and_whole_numbers_floats():
    values = {"names": ["b", "c"], "size": 2, "numbers": [1, 2], "parts": [0, 0.5]}
    after = override(Outer(), {"inner": values}, "test")
    assert after.inner == Inner(2.0, ("b", "c"), (1, 2), (0.0, 0.5))
    assert {type(number) for number in (after.inner.size, *after.inner.parts)} == {float}


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
        ({"count": 2**63}, "count: a whole number is beyond 64 bits"),
        ({"inner": {"size": 10**400}}, "inner: size: a whole number is beyond 64 bits"),
        ({"inner": {"parts": [0.5, -(10**400)]}}, "inner: parts: a whole number is beyond 64 bits"),
        ({"title": ["x" * 10_000]}, r"title must be of type str, not \('x{198}\.\.\.$"),
        ({"at_most_100": "many"}, "here: a value has the wrong type .*; correct it"),
    ],
)
def test_bad_values(values, named):
    with pytest.raises(InputError, match=named):
        override(Outer(), values, "here")


@pytest.mark.parametrize("value", ["spp", "rcnn", 6])
def test_choices(value):
    check_choice("mode", value, Literal["spp", "rcnn", 6])


@pytest.mark.parametrize(
    ("value", "choices", "message"),
    [
        ("fast", Literal["spp", "rcnn", "yolo"], "mode 'fast': choose spp, rcnn or yolo"),
        ("fast", Literal["spp", "rcnn"], "mode 'fast': choose spp or rcnn"),
        ("fast", Literal["spp"], "mode 'fast': choose spp"),
        (None, Literal["spp"], "mode None: choose spp"),
        (["spp"], Literal["spp"], r"mode \['spp'\]: choose spp"),
    ],
)
def test_other_values_are_refused_and_the_choices_named(value, choices, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        check_choice("mode", value, choices)


@pytest.mark.parametrize("value", ["[" * 5000, "1" * 5000, "[1", "2020-13-41"])
def test_bad_lines_are_named(tmp_path, value):
    with pytest.raises(InputError, match=r"^--set count = .*not TOML") as caught:
        changed(Outer(), changes=[f"count = {value}"])
    assert len(str(caught.value)) < 500
    (tmp_path / "s.toml").write_text(f"count = {value}")
    with pytest.raises(InputError, match=r"s\.toml: not TOML"):
        changed(Outer(), tmp_path / "s.toml")

"""Names of classes, splits and images: which can be used, and their form in names of files."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sppnet.common.errors import InputError
from sppnet.data.names import check_names, file_parts, name_of_part, printable, text_lines

GOOD = (
    "cat",
    "$\\alpha$",
    "a_b^c$",
    "猫",
    "👩\u200d👩",
    "..",
    "CON",
    "a/b",
    "a\\b",
    "100%",
    "x" * 200,
    "#1",
    "A",
    "a",
)
BAD = [
    ("", "is empty"),
    (" \u3000", "has no characters but blanks"),
    ("a\nb", "has a control character"),
    ("a\x1b[31m", "has a control character"),
    ("a\u2029b", "has a control character"),
    ("\ud83d", "is not UTF-8"),
    (" a", "begins or ends with a blank"),
    ("a\u00a0", "begins or ends with a blank"),
]


def test_good_names():
    check_names("set", GOOD, "my split", GOOD)
    check_names("set")


@pytest.mark.parametrize(("name", "message"), BAD)
def test_bad_names(name, message):
    with pytest.raises(InputError, match=rf"^set: the class .* {message}; rename it"):
        check_names("set", ["cat", name])
    with pytest.raises(InputError, match=rf"^set: the image id .* {message}; rename it"):
        check_names("set", image_ids=["1", name])
    if name:
        with pytest.raises(InputError, match=rf"^set: the split .* {message}; rename it"):
            check_names("set", split=name)


def test_long_names():
    with pytest.raises(InputError, match=r"the class 'é.*é' is too long .* 222 bytes of at most 220"):
        check_names("set", ["é" * 109], "test")
    check_names("set", ["é" * 108], "test")
    # A slash becomes three characters.
    with pytest.raises(InputError, match="222 bytes of at most 220"):
        check_names("set", ["/" * 74])
    check_names("set", image_ids=[f"{'x' * 251}/{'x' * 251}"])
    with pytest.raises(InputError, match=r"the image id .* 252 bytes of at most 251"):
        check_names("set", image_ids=["a/" + "x" * 252])


def test_a_class_that_is_there_twice():
    with pytest.raises(InputError, match="the class 'é' is there 2 times"):
        check_names("set", ["a", "\u00e9", "e\u0301"])


@settings(deadline=None)
@given(st.lists(st.text(st.sampled_from("aAéÉ/\\%2F5. "), min_size=1, max_size=5), unique=True))
def test_parts_of_file_names_are_different_and_read_back(names):
    parts = file_parts(names)
    assert [name_of_part(part) for part in parts] == names
    assert len({part.lower() for part in parts}) == len(names)
    assert not any("/" in part for part in parts)


def test_usual_names_are_parts_of_file_names_as_they_are():
    names = ["aeroplane", "dining table", "Cat", "100% cotton", 'a "b": c?', "größe"]
    assert file_parts(names) == names


def test_printable():
    assert printable("Größe 猫 👩\u200d👩") == "Größe 猫 👩\u200d👩"
    assert printable("a\0b\n\udce9\u2028") == "a\\x00b\\n\\udce9\\u2028"


def test_lines():
    assert text_lines("a\nb\r\nc\rd\n") == ["a", "b", "c", "d"]
    assert text_lines("\ufeffa\x85b\u2028c\n\nd") == ["\ufeffa\x85b\u2028c", "", "d"]
    assert text_lines("") == []

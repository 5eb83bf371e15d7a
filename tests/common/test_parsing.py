"""Reading of JSON and TOML: every fault is an `InputError` that names the file."""

import pytest

from sppnet.common.errors import InputError
from sppnet.common.parsing import parse_toml, read_json, read_toml

DIGITS = "1" * 5000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "cannot be read as JSON", id="empty"),
        pytest.param('{"a": ', "cannot be read as JSON", id="cut"),
        pytest.param("[" * 100_000, "nested too deep", id="endless"),
        pytest.param("[" * 101 + "]" * 101, "more than 100 levels deep", id="deep"),
        pytest.param('{"a":' * 101 + "1" + "}" * 101, "more than 100 levels deep", id="deep-objects"),
        pytest.param(DIGITS, "4300 digits", id="digits"),
    ],
)
def test_bad_json(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=rf"a\.json: .*{message}.*; restore the file"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("reader", [read_json, lambda path: read_toml(path, "the list")])
def test_bad_files(tmp_path, reader):
    (tmp_path / "folder").mkdir()
    (tmp_path / "latin").write_bytes(b'a = "\xe9"')
    for name in ("folder", "latin", "missing"):
        with pytest.raises(InputError, match=rf"{name}.*: .*cannot be read"):
            reader(tmp_path / name)


def test_json_is_read(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": [1, null, "\xc3\xa9", Infinity]}')
    assert read_json(tmp_path / "a.json") == {"a": [1, None, "é", float("inf")]}
    (tmp_path / "a.json").write_text('["é"]', encoding="utf-16")
    assert read_json(tmp_path / "a.json") == ["é"]
    (tmp_path / "a.json").write_text("[" * 100 + "]" * 100)
    assert isinstance(read_json(tmp_path / "a.json"), list)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("a", "not TOML", id="no-value"),
        pytest.param("a = " + "[" * 100_000, "nested too deep", id="endless"),
        pytest.param("a = " + "[" * 100 + "]" * 100, "more than 100 levels deep", id="deep"),
        pytest.param(".".join("a" * 101) + " = 1", "more than 100 levels deep", id="dotted"),
        pytest.param(".".join("a" * 100_000) + " = 1", "over 100 dots in a line", id="long-key"),
        pytest.param("# no more\n" * 100_001, "too long", id="long"),
        pytest.param(f"a = {DIGITS}", "4300 digits", id="digits"),
        pytest.param("a = 2020-13-41", "not TOML", id="date"),
    ],
)
def test_bad_toml(tmp_path, text, message):
    with pytest.raises(InputError, match=rf"^--set: .*{message}"):
        parse_toml(text, "--set")
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(InputError, match=rf"a\.toml: .*{message}"):
        read_toml(tmp_path / "a.toml", "the settings")

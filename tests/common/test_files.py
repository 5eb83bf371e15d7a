"""Files: JSON, text files, atomic writing, locks."""

import errno
import json
import math
import os
import stat

import pytest

from sppnet.common.errors import InputError
from sppnet.common.files import atomic_path, only_process, partial_folder, read_text, write_json


class TestWriteJson:
    def test_values_come_back(self, tmp_path):
        value = {"map": 0.587, "classes": ["café", "犬"], "none": None, "nested": {"1": True}}
        path = tmp_path / "new" / "figures.json"
        write_json(path, value)
        assert json.loads(path.read_text(encoding="utf-8")) == value
        assert [file.name for file in path.parent.iterdir()] == ["figures.json"]

    @pytest.mark.parametrize(
        ("indent", "text"), [(None, '{"a": [1]}'), (1, '{\n "a": [\n  1\n ]\n}'), (0, '{\n"a": [\n1\n]\n}')]
    )
    def test_indent(self, tmp_path, indent, text):
        write_json(tmp_path / "a.json", {"a": [1]}, indent)
        assert (tmp_path / "a.json").read_text() == f"{text}\n"

    @pytest.mark.parametrize("number", [math.nan, math.inf])
    def test_numbers_that_strict_json_does_not_have(self, tmp_path, number):
        path = tmp_path / "a.json"
        write_json(path, [1])
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json(path, [number])
        assert json.loads(path.read_text()) == [1]
        write_json(path, [number], allow_nan=True)
        assert str(json.loads(path.read_text())) == str([number])

    def test_names_that_are_not_utf_8_are_escaped(self, tmp_path):
        name = os.fsdecode(b"caf\xe9.jpg")
        write_json(tmp_path / "a.json", {"image": name})
        assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"image": name}

    def test_other_values(self, tmp_path):
        with pytest.raises(TypeError, match="not JSON serializable"):
            write_json(tmp_path / "a.json", {"a": object()})
        assert list(tmp_path.iterdir()) == []


class TestReadText:
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
    def test_with_and_without_byte_order_mark(self, tmp_path, encoding):
        (tmp_path / "list.txt").write_text("bär\n", encoding=encoding)
        assert read_text(tmp_path / "list.txt", "the list") == "bär\n"

    def test_errors_name_file_and_line(self, tmp_path):
        with pytest.raises(InputError, match=r"none\.txt: the list cannot be read .*; check the path"):
            read_text(tmp_path / "none.txt", "the list")
        (tmp_path / "list.txt").write_bytes(b"a\nb\xe4r\n")
        with pytest.raises(InputError, match=r"list\.txt, line 2: the list cannot be read: it is not UTF-8"):
            read_text(tmp_path / "list.txt", "the list")


@pytest.mark.parametrize("name", ["猫" * 83 + "cccc.t", "a." + "b" * 253])
def test_names_as_long_as_the_file_system_takes(tmp_path, name):
    assert len(name.encode()) == 255
    write_json(tmp_path / name, 1)
    assert json.loads((tmp_path / name).read_text()) == 1


def write_half(path):
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt


def test_atomic_path_leaves_the_old_file_after_an_error(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_half(path)
    assert path.read_text() == "old"
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def fill_half(folder):
    with partial_folder(folder) as partial:
        (partial / "half").touch()
        raise KeyboardInterrupt


def test_a_file_has_the_mode_of_an_ordinary_one_whatever_replaced_it(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_path(tmp_path / "weights") as path:
            # As safetensors does.
            (tmp_path / "private").touch(mode=0o600)
            (tmp_path / "private").replace(path)
    finally:
        os.umask(before)
    assert (tmp_path / "weights").stat().st_mode & 0o777 == 0o640


def test_partial_folder_appears_when_it_is_complete(tmp_path):
    folder = tmp_path / "made"
    with pytest.raises(KeyboardInterrupt):
        fill_half(folder)
    assert list(tmp_path.iterdir()) == []
    with partial_folder(folder) as partial:
        (partial / "whole").touch()
        assert not folder.exists()
    assert [path.name for path in folder.iterdir()] == ["whole"]
    assert list(tmp_path.iterdir()) == [folder]


class DiskCalls:
    """Stands for the disk: what waits for it and what takes over a name, in order."""

    def __init__(self, monkeypatch):
        self.calls, replace = [], os.replace
        monkeypatch.setattr(os, "fsync", self.sync)
        monkeypatch.setattr(os, "sync", lambda: self.calls.append("all"), raising=False)

        def recorded(source, target):
            self.calls.append("replace")
            replace(source, target)

        monkeypatch.setattr(os, "replace", recorded)

    def sync(self, file):
        self.calls.append("folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "file")


@pytest.fixture
def disk(monkeypatch):
    return DiskCalls(monkeypatch)


class TestPowerCuts:
    def test_a_file_is_on_the_disk_before_its_name_and_its_name_before_the_end(self, tmp_path, disk):
        write_json(tmp_path / "a.json", [1])
        assert disk.calls == ["file", "replace", "folder"]

    def test_new_folders_are_on_the_disk_before_the_file(self, tmp_path, disk):
        write_json(tmp_path / "new" / "folder" / "a.json", [1])
        assert disk.calls == ["folder", "folder", "file", "replace", "folder"]

    def test_files_that_carry_a_checksum_need_no_waiting(self, tmp_path, disk):
        with atomic_path(tmp_path / "a", durable=False) as temporary:
            temporary.write_text("a")
        assert disk.calls == ["replace"]

    def test_all_files_of_a_folder_are_on_the_disk_before_its_name(self, tmp_path, disk):
        with partial_folder(tmp_path / "made") as partial:
            (partial / "a").touch()
        assert disk.calls == ["folder", "all", "replace", "folder"]

    def test_an_error_of_the_disk_leaves_the_old_file(self, tmp_path, monkeypatch):
        def fail(file):
            raise OSError(errno.EIO, "Input/output error")

        write_json(tmp_path / "a.json", [1])
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="Input/output"):
            write_json(tmp_path / "a.json", [2])
        assert json.loads((tmp_path / "a.json").read_text()) == [1]
        assert [file.name for file in tmp_path.iterdir()] == ["a.json"]

    def test_folders_that_cannot_be_synced_are_no_error(self, tmp_path, disk, monkeypatch):
        def sync(file):
            disk.sync(file)
            if disk.calls[-1] == "folder":
                raise OSError(errno.EINVAL, "Invalid argument")

        monkeypatch.setattr(os, "fsync", sync)
        write_json(tmp_path / "new" / "a.json", [1])
        assert disk.calls == ["folder", "file", "replace", "folder"]


def enter(folder):
    with only_process(folder):
        pass


def test_a_folder_is_for_one_process_at_a_time(tmp_path):
    # A lock belongs to an open file, so a second open file in this process stands for another process.
    with only_process(tmp_path / "run"), pytest.raises(InputError, match="run: another process is at work"):
        enter(tmp_path / "run")
    enter(tmp_path / "run")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file: .*; check the folder"):
        enter(tmp_path / "file")

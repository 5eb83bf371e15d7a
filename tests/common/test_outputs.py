"""Checks that results can be written."""

import os

import pytest

from sppnet.common.errors import InputError
from sppnet.common.outputs import check_output_file, check_output_folder


def test_what_can_be_written_is_not_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_output_folder(tmp_path / "new" / "folder")
    check_output_file(tmp_path / "new" / "file.json")
    check_output_file(tmp_path.relative_to(tmp_path) / "file.json")
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="file: is a file; give a folder to write to"):
        check_output_folder(tmp_path / "file" / "results")
    with pytest.raises(InputError, match="file: is a file; give a folder to write to"):
        check_output_file(tmp_path / "file" / "result.json")
    with pytest.raises(InputError, match="is a folder; give the name of a file to write to"):
        check_output_file(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match="link: is a file"):
        check_output_folder(tmp_path / "link")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_of_another_user(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="no files can be written there; give another folder"):
        check_output_folder(tmp_path / "new")

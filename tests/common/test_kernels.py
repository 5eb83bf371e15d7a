"""Where numba keeps the machine code of kernels."""

import importlib.util
import tempfile

import numba
import pytest

from sppnet.common.kernels import private_folder

_MODULE = """
from sppnet.common.kernels import kernel

@kernel()
def twice(number):
    return 2 * number
"""


@pytest.fixture
def unwritable(tmp_path, monkeypatch):
    """A module of a kernel in a folder that numba cannot write to, for a user whose home it cannot either."""
    # Files in the way, for the tests may run as root, who can write anywhere.
    (tmp_path / "module" / "__pycache__").parent.mkdir()
    (tmp_path / "module" / "__pycache__").touch()
    (tmp_path / "home").touch()
    (tmp_path / "module" / "kernels.py").write_text(_MODULE)
    for variable in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "module" / "kernels.py"


def kernel_of(file):
    """The kernel of a module, which is imported anew."""
    spec = importlib.util.spec_from_file_location("kernels", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.twice(21) == 42
    return module.twice


def test_code_is_kept_in_the_temporary_folder(unwritable, tmp_path):
    (folder,) = {kernel_of(unwritable).stats.cache_path for _ in range(2)}
    assert folder.startswith(str(tmp_path / "temporary" / "sppnet-kernels-"))
    (again,) = kernel_of(unwritable).stats.cache_hits.values()
    assert again == 1
    assert numba.config.CACHE_DIR == ""


def test_the_users_own_folder_wins(unwritable, tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "own"))
    assert kernel_of(unwritable).stats.cache_path.startswith(str(tmp_path / "own"))


def test_without_any_folder_kernels_work(unwritable, tmp_path, caplog):
    private_folder(tmp_path / "temporary").chmod(0o755)
    assert kernel_of(unwritable).stats.cache_path is None
    assert "NUMBA_CACHE_DIR" in caplog.text


def test_a_folder_that_others_can_write_to_is_refused(tmp_path):
    folder = private_folder(tmp_path)
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o770)
    assert private_folder(tmp_path) is None
    folder.chmod(0o700)
    assert private_folder(tmp_path) == folder


def test_a_link_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "other").mkdir(mode=0o700)
    name = private_folder(tmp_path).name
    (tmp_path / name).rmdir()
    (tmp_path / name).symlink_to(tmp_path / "other")
    assert private_folder(tmp_path) is None


@pytest.mark.parametrize(("mode", "is_taken"), [(0o777, False), (0o1777, True), (0o755, True)])
def test_the_parent_must_keep_others_from_renaming(tmp_path, mode, is_taken):
    tmp_path.chmod(mode)
    assert (private_folder(tmp_path) is not None) == is_taken


def test_a_parent_that_is_missing(tmp_path):
    assert private_folder(tmp_path / "missing") is None

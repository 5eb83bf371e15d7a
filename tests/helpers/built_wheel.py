"""The project's wheel, built once for all tests of a process, and programs in environments of their own."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command, **options):
    """Runs a program, which must succeed, and returns what it printed."""
    result = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=280, **options
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel file."""
    folder = tmp_path_factory.mktemp("wheel")
    # From a copy of what is committed or would be: a build in the tree would leave files there.
    names = run("git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    source = folder / "source"
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source)
    (built,) = folder.glob("sppnet-*.whl")
    return built


def new_environment(folder, wheel, package_folders):
    """Makes an environment with the wheel, not editable, and with the packages of some folders.

    Returns:
        its Python, and its folder of packages.
    """
    venv.create(folder, with_pip=False)
    (python,) = (folder / "bin").glob("python")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel)
    (packages,) = folder.glob("lib/python*/site-packages")
    # Of the paths in a .pth file, the .pth files are not read: this project's editable install is not there.
    (packages / "dependencies.pth").write_text("\n".join(map(str, package_folders)) + "\n")
    return python, packages

"""The wheel: one package, which works beside a user's own files of any name."""

import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[1]
_SCRIPT = """
import sppnet
from sppnet import Detections, Detector, InputError, SelectiveSearch, evaluate_voc, load_dataset
import sppnet.data, sppnet.eval, sppnet.svm, sppnet.proposals, sppnet.detection.detector
import data, eval, svm, detection, proposals
assert data.OWN and eval.OWN and svm.OWN and detection.OWN and proposals.OWN
print(sppnet.__file__, sppnet.__version__)
"""


def run(*command, **options):
    result = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=280, **options
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # From a copy of what is committed or would be: a build in the tree would leave files there.
    names = run("git", "-C", _ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    source = folder / "source"
    for name in filter(None, names.split("\0")):
        if (_ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((_ROOT / name).read_bytes())
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source)
    (built,) = folder.glob("sppnet-*.whl")
    return built


@pytest.mark.timeout(300)
def test_the_wheel_holds_one_package_and_all_its_modules(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"sppnet"}
    modules = {
        f"sppnet/{file.relative_to(_ROOT)}"
        for room in ("common", "data", "svm", "proposals", "eval", "detection")
        for file in (_ROOT / room).rglob("*.py")
    } | {str(file.relative_to(_ROOT)) for file in (_ROOT / "sppnet").rglob("*.py")}
    assert modules == {name for name in names if name.endswith(".py")}
    assert {"sppnet/py.typed", "sppnet/detection/backbones/zf5.safetensors"} <= set(names)


@pytest.mark.timeout(300)
def test_it_works_beside_files_and_folders_of_the_rooms_names(wheel, tmp_path):
    """Installed into a fresh environment, not editable; its dependencies are those of this environment."""
    venv.create(tmp_path / "env", with_pip=False)
    (python,) = (tmp_path / "env" / "bin").glob("python")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel)
    (packages,) = (tmp_path / "env").glob("lib/python*/site-packages")
    # Of the paths in a .pth file, the .pth files are not read: this project's editable install is not there.
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    own = tmp_path / "own"
    own.mkdir()
    for name in ("data", "eval"):
        (own / f"{name}.py").write_text("OWN = True\n")
    for name in ("detection", "svm", "proposals"):
        (own / name).mkdir()
        (own / name / "__init__.py").write_text("OWN = True\n")
    (own / "script.py").write_text(_SCRIPT)
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    printed = run(python, "script.py", cwd=own, env=environment)
    assert str(packages) in printed
    assert "sppnet" in run(tmp_path / "env" / "bin" / "sppnet", "--version", cwd=own, env=environment)

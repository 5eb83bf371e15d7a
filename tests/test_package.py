"""The wheel: one package, which works beside a user's own files of any name."""

import site
import zipfile

import pytest
from built_wheel import ROOT, new_environment, run

_SCRIPT = """
import sppnet
from sppnet import Detections, Detector, InputError, SelectiveSearch, evaluate_voc, load_dataset
import sppnet.data, sppnet.eval, sppnet.svm, sppnet.proposals, sppnet.detection.detector
import data, eval, svm, detection, proposals
assert data.OWN and eval.OWN and svm.OWN and detection.OWN and proposals.OWN
print(sppnet.__file__, sppnet.__version__)
"""


@pytest.mark.timeout(300)
def test_the_wheel_holds_one_package_and_all_its_modules(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"sppnet"}
    modules = {
        f"sppnet/{file.relative_to(ROOT)}"
        for room in ("common", "data", "svm", "proposals", "eval", "detection")
        for file in (ROOT / room).rglob("*.py")
    } | {str(file.relative_to(ROOT)) for file in (ROOT / "sppnet").rglob("*.py")}
    assert modules == {name for name in names if name.endswith(".py")}
    others = {"sppnet/py.typed", "sppnet/data/check.html", "sppnet/detection/backbones/zf5.safetensors"}
    assert others <= set(names)


@pytest.mark.timeout(300)
def test_it_works_beside_files_and_folders_of_the_rooms_names(wheel, tmp_path):
    """Installed into a fresh environment; its dependencies are those of this environment."""
    python, packages = new_environment(tmp_path / "env", wheel, site.getsitepackages())
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

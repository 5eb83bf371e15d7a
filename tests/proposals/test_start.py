"""`sppnet.proposals` starts without torch, and without libraries that only some of its functions need."""

import subprocess
import sys

import cv2
import numpy as np

_SCRIPT = """
import sys
from pathlib import Path
from types import SimpleNamespace

sys.modules["torch"] = None  # An import of it fails.
import sppnet.proposals.exchange
from sppnet.proposals import ProposalCache, SelectiveSearch, fill_cache

print(sorted({"dask", "distributed", "fsspec", "joblib", "scipy.io"} & sys.modules.keys()))
folder = Path(sys.argv[1])
engine = SelectiveSearch("single")
with ProposalCache(folder / "proposals.sqlite", engine) as cache:
    print(fill_cache([SimpleNamespace(image_id="gray", path=folder / "gray.png")], engine, cache))
"""


def test_without_torch_and_without_libraries_that_start_slowly(tmp_path):
    cv2.imwrite(str(tmp_path / "gray.png"), np.full((30, 40, 3), 128, np.uint8))
    result = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\nFillReport(cached=0, computed=1, errors={})\n"

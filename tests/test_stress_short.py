"""A short part of the stress campaign: a few damaged inputs for each reader, a few kills."""

import os
import subprocess
import sys
from pathlib import Path

_TESTS = Path(__file__).parent


def test_a_short_campaign_loses_nothing(tmp_path):
    # A process of its own: the campaign forks, which a process with threads, such as this one, must not do.
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(_TESTS / "helpers"),
        "HOME": str(tmp_path),
    }
    command = [sys.executable, _TESTS / "stress/campaign.py", "--parts", "fuzzing", "kills"]
    options = ["--inputs", "99", "--kills", "4", "--stages", "proposals", "SVMs and calibration"]
    done = subprocess.run(
        [*command, *options, "--kept", tmp_path / "lost"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "nothing lost"
    # 99 inputs; 4 kills, and a kill for each stage with a clock that jumps.
    assert done.stdout.split(" all ")[1].split()[:5] == ["│", "105", "│", "105", "│"]

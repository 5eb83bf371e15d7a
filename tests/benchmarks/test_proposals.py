"""The benchmark of Selective Search against other implementations."""

import json

import cv2
import numpy as np
import pytest
from command import call

from benchmarks.proposal_peers import Contender, alpacadb, chenjiexu, opencv_own_fast
from benchmarks.proposal_start import Start, measure_starts, starts_table
from benchmarks.proposals import app, faults, make_rows, quality_table, race, times_table
from sppnet.detection.experiments.proposal_evaluation import make_engine
from sppnet.eval.proposals import ALL, BEST


def returns(boxes, calls=None, name=""):
    def propose(image):
        if calls is not None:
            calls.append((name, len(image)))
        return np.array(boxes, np.float32).reshape(-1, 4)

    return lambda: propose


def fails(height):
    def propose(image):
        if image.shape[0] == height:
            raise ZeroDivisionError("not usable")
        return np.zeros((0, 4), np.float32)

    return lambda: propose


def images(count):
    return [lambda side=side: np.zeros((side, side, 3), np.uint8) for side in range(201, 201 + count)]


def test_race_takes_turns_and_stops_the_slow():
    calls = []
    contenders = [Contender(name, returns([], calls, name), name == "c") for name in "abc"]
    measured = race(images(3), contenders, slow_seconds=0)
    # 96 is the height of the image of the first run, which compiles. The slow contender gets one image.
    assert calls == [("a", 96), ("b", 96), ("c", 96), ("a", 201), ("b", 201), ("c", 201),
                     ("b", 202), ("a", 202), ("a", 203), ("b", 203)]  # fmt: skip
    assert [len(result.seconds) for result in measured.values()] == [3, 3, 1]
    assert all(seconds > 0 for result in measured.values() for seconds in result.seconds.values())


def test_race_names_failures():
    def absent():
        raise ModuleNotFoundError("No module named 'nothing'")

    contenders = [
        Contender("absent", absent),
        Contender("warm-up only", fails(96)),
        Contender("once", fails(202)),
    ]
    measured = race(images(3), contenders, 300)
    assert {name: (result.failed, result.fault) for name, result in measured.items()} == {
        "absent": (0, "ModuleNotFoundError: No module named 'nothing'"),
        "warm-up only": (0, ""),
        "once": (1, "ZeroDivisionError: not usable"),
    }
    assert [list(result.seconds) for result in measured.values()] == [[], [0, 1, 2], [0, 2]]


def test_rows(tiny_test):
    ground_truth = tiny_test[0].boxes
    contenders = [Contender("ours, fast", returns(ground_truth)), Contender("bad", fails(201)),
                  Contender("slow", returns(ground_truth), slow=True)]  # fmt: skip
    measured = race(images(3), contenders, 0)
    # This contender failed on every image.
    measured["bad"] = race(images(1), contenders[1:2], 0)["bad"]
    measured["ours, fast"].seconds = {0: 0.1, 1: 0.2, 2: 0.4}
    measured["slow"].seconds = {0: 0.3}
    ours, bad, slow = make_rows(tiny_test, measured)
    assert ours.cpu_ratio == 1
    assert (ours.median_seconds, ours.ratio, ours.mean_proposals) == (0.2, 1, 2)
    assert ours.p90_seconds == pytest.approx(0.36)
    assert (slow.images, slow.ratio) == (1, pytest.approx(3))
    # "slow" got only the image that has these boxes.
    assert slow.figures["MABO"] == (1, 1)
    assert ours.figures["MABO"][0] < 1
    assert bad.ratio is None
    assert faults([ours, bad, slow]) == ["bad: fails on 1 of 1 images: ZeroDivisionError: not usable"]
    assert times_table([ours, bad], "t").row_count == quality_table([ours, bad], "t").row_count == 2


def test_the_best_2000_and_all_differ(tiny_test):
    far = np.tile(np.array([[0, 0, 1, 1]], np.float32), (BEST, 1))
    contenders = [Contender("ours, fast", returns(np.concatenate([far, tiny_test[0].boxes])))]
    (row,) = make_rows(tiny_test.head(1), race(images(1), contenders, 0))
    assert row.figures["recall at IoU 0.5"] == (0, 1)
    assert row.mean_proposals == BEST + 2 < ALL


def test_the_command(work, tiny_voc, monkeypatch):
    starts = Start(1, 2, 3), Start(4, 5, 6)
    contenders = [
        Contender("ours, fast", lambda: make_engine("fast").propose),
        Contender("bad", fails(80)),
    ]
    monkeypatch.setattr("benchmarks.proposals.measure_starts", lambda image: starts)
    monkeypatch.setattr("benchmarks.proposals.CONTENDERS", contenders)
    result = call("--dataset", tiny_voc, "--limit", 2, "--output", "out/b.json", app=app)
    assert result.exit_code == 0, result.output
    assert "bad: fails on 2 of 2 images: ZeroDivisionError: not usable" in result.output
    content = json.loads((work / "out" / "b.json").read_text())
    assert [row["images"] for row in content["rows"]] == [2, 0]
    assert content["rows"][0]["mean_windows"] > 0
    assert content["starts"]["compiled_before"]["first_seconds"] == 5
    assert content["versions"]["numpy"] == np.__version__


def test_the_second_start_has_the_code_that_the_first_compiled():
    script = """
import json, os, pathlib, sys, numpy
store = pathlib.Path(os.environ["NUMBA_CACHE_DIR"])
print(json.dumps([store.exists(), int(os.environ["OMP_NUM_THREADS"]), len(numpy.load(sys.argv[1]))]))
store.mkdir(exist_ok=True)
"""
    starts = measure_starts(np.zeros((7, 5, 3), np.uint8), script)
    assert starts == (Start(0, 1, 7), Start(1, 1, 7))
    assert starts_table(starts).row_count == 2


def test_opencvs_own_fast_mode(tiny_test):
    image = cv2.imread(str(tiny_test[0].path))
    boxes = opencv_own_fast()(image)
    assert boxes.dtype == np.float32
    assert [0, 0, image.shape[1], image.shape[0]] in boxes.tolist()
    assert (boxes[:, 2:] - boxes[:, :2] >= 20).all()


@pytest.mark.parametrize(
    ("package", "load"),
    [("selectivesearch", alpacadb(100, 0.8, 100)), ("selective_search", chenjiexu("single", patched=True))],
)
def test_the_packages(package, load):
    pytest.importorskip(package)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3, 4, 3)).repeat(25, 0).repeat(25, 1) // 2 + rng.integers(
        0, 99, (75, 100, 3)
    )
    boxes = load()(image.astype(np.uint8))
    assert boxes.dtype == np.float32
    assert [0, 0, 100, 75] in boxes.tolist()
    assert len(np.unique(boxes, axis=0)) == len(boxes) > 5
    assert (boxes[:, 2:] > boxes[:, :2]).all()

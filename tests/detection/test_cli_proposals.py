"""The commands eval-proposals and bench-proposals, and what they are made of."""

import json
import shutil

import cv2
import numpy as np
import pytest
from command import call

from data import InputError
from detection import proposal_start
from detection.proposal_bench import faults, make_rows, quality_table, race, times_table
from detection.proposal_eval import ENGINES, make_engine
from detection.proposal_peers import Contender, alpacadb, chenjiexu, opencv_own_fast
from detection.proposal_start import Start, measure_starts, starts_table
from eval.proposals import ALL, BEST
from proposals import ProposalCache, exchange, fill_cache


@pytest.fixture
def no_plot(monkeypatch):
    """A second less for each run."""
    monkeypatch.setattr("detection.proposal_eval.plot_proposals", lambda path, results: None)


def write_truth(path, dataset, shift=0):
    boxes = {
        one.image_id: np.clip(one.boxes + np.float32(shift), 0, [one.width, one.height] * 2)
        for one in dataset
    }
    np.savez(path, **boxes)


def figure(folder, method, curve="MABO", place=-1):
    content = json.loads((folder / "proposals.json").read_text())
    return content["methods"][method]["curves"][curve][place]


def test_engines_and_files_side_by_side(work, tiny_voc, tiny_test):
    write_truth(work / "perfect.npz", tiny_test)
    write_truth(work / "shifted.npz", tiny_test, 3)
    result = call("eval-proposals", "--dataset", tiny_voc, "--jobs", 1, "--engine", "single",
                  "--boxes", "perfect.npz", "--boxes", "shifted.npz")  # fmt: skip
    assert result.exit_code == 0, result.output
    folder = work / "runs" / "proposals-tiny-test"
    assert [figure(folder, "perfect.npz", curve) for curve in ("MABO", "average recall")] == [1, 1]
    assert 0.5 < figure(folder, "shifted.npz") < 1
    assert 0 < figure(folder, "single", place=0) < figure(folder, "single")
    assert "100.0/100.0" in next(
        line for line in result.output.splitlines() if "perfect.npz" in line and "/" in line
    )
    assert cv2.imread(str(folder / "proposals.png")) is not None
    about = json.loads((folder / "proposals.json").read_text())
    assert about["engines"]["single"] == make_engine("single").parameters()
    assert (about["split"], about["difficult"]) == ("test", False)


def test_windows_are_kept_in_the_cache(work, tiny_voc, tiny_test, monkeypatch, no_plot):
    arguments = (
        "eval-proposals",
        "--dataset",
        tiny_voc,
        "--jobs",
        1,
        "--engine",
        "single",
        "--output",
        "out",
    )
    assert call(*arguments).exit_code == 0
    first = (work / "out" / "proposals.json").read_text()
    engine = make_engine("single")
    with ProposalCache(work / "cache" / "proposals.sqlite", engine) as cache:
        assert fill_cache(tiny_test, engine, cache).cached == 3

    def fail(*_):
        raise AssertionError("searched again")

    monkeypatch.setattr(type(engine), "propose", fail)
    assert call(*arguments).exit_code == 0
    assert (work / "out" / "proposals.json").read_text() == first


def test_difficult_objects_and_limit(work, tiny_voc, tiny_test, no_plot):
    write_truth(work / "perfect.npz", tiny_test)
    common = ("eval-proposals", "--dataset", tiny_voc, "--boxes", "perfect.npz", "--output", "out")
    for more, images, objects in (((), 3, 5), (("--difficult",), 3, 6), (("--limit", 1), 1, 2)):
        assert call(*common, *more).exit_code == 0
        method = json.loads((work / "out" / "proposals.json").read_text())["methods"]["perfect.npz"]
        assert (method["images"], method["objects"]) == (images, objects)


def test_max_windows_and_min_side(work, tiny_voc, no_plot):
    common = ("eval-proposals", "--dataset", tiny_voc, "--engine", "single", "--output", "out", "--jobs", 1)
    means = []
    for more in ((), ("--min-side", 5), ("--max-windows", 2)):
        assert call(*common, *more).exit_code == 0
        content = json.loads((work / "out" / "proposals.json").read_text())
        means.append(content["methods"]["single"]["mean_windows"])
    assert means[2] == 2 < means[0] < means[1]


def test_bad_arguments(work, tiny_voc, tiny_test):
    write_truth(work / "part.npz", tiny_test.head(2))
    for arguments, named in (
        (("--engine", "fats"), "fast"),
        (("--boxes", "gone.mat"), "gone.mat"),
        (("--boxes", "part.npz"), "'1002'"),
        (("--split", "tset"), "test"),
    ):
        result = call("eval-proposals", "--dataset", tiny_voc, *arguments)
        assert result.exit_code == 2
        assert named in result.output
        assert not (work / "runs").exists()


def test_a_broken_image(work, tiny_voc, no_plot):
    copy = work / "copy"
    shutil.copytree(tiny_voc, copy)
    (copy / "JPEGImages" / "1001.png").write_bytes(b"no image")
    arguments = ("eval-proposals", "--dataset", copy, "--engine", "single", "--jobs", 1)
    result = call(*arguments)
    assert result.exit_code == 2
    assert "1001.png" in result.output
    assert call(*arguments, "--skip-errors").exit_code == 0
    content = json.loads((work / "runs" / "proposals-copy-test" / "proposals.json").read_text())
    assert content["methods"]["single"]["images"] == 2


@pytest.mark.parametrize("name", ENGINES)
def test_all_windows_begin_with_the_best(name, tiny_test):
    image = cv2.imread(str(tiny_test[0].path))
    every, few = make_engine(name, None, 8).propose(image), make_engine(name, 5, 8).propose(image)
    assert len(every) > 5
    np.testing.assert_array_equal(every[:5], few)
    assert (every[:, 2:] - every[:, :2] >= 8).all()


def test_boxes_with_fractions_are_read_but_not_cached(tmp_path, tiny_test):
    write_truth(tmp_path / "half.npz", tiny_test, 0.5)
    boxes = exchange.read_boxes(tmp_path / "half.npz", tiny_test)
    np.testing.assert_array_equal(boxes["1000"][:, 0], tiny_test[0].boxes[:, 0] + 0.5)
    with (
        ProposalCache(tmp_path / "c.sqlite", make_engine("single")) as cache,
        pytest.raises(InputError, match=r"half\.npz: image 1000: boxes are not whole"),
    ):
        exchange.import_boxes(tmp_path / "half.npz", tiny_test, cache)


def fixed(boxes, begun=None, name=""):
    def propose(image):
        if begun is not None:
            begun.append((name, len(image)))
        return np.array(boxes, np.float32).reshape(-1, 4)

    return lambda: propose


def breaks(at):
    def propose(image):
        if image.shape[0] == at:
            raise ZeroDivisionError("of no use")
        return np.zeros((0, 4), np.float32)

    return lambda: propose


def pictures(count):
    return [lambda side=side: np.zeros((side, side, 3), np.uint8) for side in range(201, 201 + count)]


def test_race_takes_turns_and_stops_the_slow():
    begun = []
    contenders = [Contender(name, fixed([], begun, name), name == "c") for name in "abc"]
    measured = race(pictures(3), contenders, slow_seconds=0)
    # 96 is the height of the picture to warm up with. The slow one gets its one image.
    assert begun == [("a", 96), ("b", 96), ("c", 96), ("a", 201), ("b", 201), ("c", 201),
                     ("b", 202), ("a", 202), ("a", 203), ("b", 203)]  # fmt: skip
    assert [len(own.seconds) for own in measured.values()] == [3, 3, 1]
    assert all(second > 0 for own in measured.values() for second in own.seconds.values())


def test_race_names_what_fails():
    def absent():
        raise ModuleNotFoundError("No module named 'nothing'")

    contenders = [
        Contender("absent", absent),
        Contender("warm-up only", breaks(96)),
        Contender("once", breaks(202)),
    ]
    measured = race(pictures(3), contenders, 300)
    assert {name: (own.failed, own.fault) for name, own in measured.items()} == {
        "absent": (0, "ModuleNotFoundError: No module named 'nothing'"),
        "warm-up only": (0, ""),
        "once": (1, "ZeroDivisionError: of no use"),
    }
    assert [list(own.seconds) for own in measured.values()] == [[], [0, 1, 2], [0, 2]]


def test_rows(tiny_test):
    truth = tiny_test[0].boxes
    contenders = [Contender("ours, fast", fixed(truth)), Contender("bad", breaks(201)),
                  Contender("slow", fixed(truth), slow=True)]  # fmt: skip
    measured = race(pictures(3), contenders, 0)
    # It failed always.
    measured["bad"] = race(pictures(1), contenders[1:2], 0)["bad"]
    measured["ours, fast"].seconds = {0: 0.1, 1: 0.2, 2: 0.4}
    measured["slow"].seconds = {0: 0.3}
    ours, bad, slow = make_rows(tiny_test, measured)
    assert ours.cpu_ratio == 1
    assert (ours.median_seconds, ours.ratio, ours.mean_windows) == (0.2, 1, 2)
    assert ours.p90_seconds == pytest.approx(0.36)
    assert (slow.images, slow.ratio) == (1, pytest.approx(3))
    # The one image that it was given has these very boxes; the others have not.
    assert slow.figures["MABO"] == (1, 1)
    assert ours.figures["MABO"][0] < 1
    assert bad.ratio is None
    assert faults([ours, bad, slow]) == ["bad: fails on 1 of 1 images: ZeroDivisionError: of no use"]
    assert times_table([ours, bad], "t").row_count == quality_table([ours, bad], "t").row_count == 2


def test_the_best_2000_and_all_differ(tiny_test):
    far = np.tile(np.array([[0, 0, 1, 1]], np.float32), (BEST, 1))
    contenders = [Contender("ours, fast", fixed(np.concatenate([far, tiny_test[0].boxes])))]
    (row,) = make_rows(tiny_test.head(1), race(pictures(1), contenders, 0))
    assert row.figures["recall at IoU 0.5"] == (0, 1)
    assert row.mean_windows == BEST + 2 < ALL


def test_the_command(work, tiny_voc, monkeypatch):
    starts = Start(1, 2, 3), Start(4, 5, 6)
    monkeypatch.setattr("detection.proposal_bench.measure_starts", lambda image: starts)
    monkeypatch.setattr(
        "detection.proposal_bench.bench_proposals.__defaults__",
        (
            *(lambda done, total: None,),
            [
                Contender("ours, fast", lambda: make_engine("fast").propose),
                Contender("bad", breaks(80)),
            ],
        ),
    )
    result = call("bench-proposals", "--dataset", tiny_voc, "--limit", 2, "--output", "out/b.json")
    assert result.exit_code == 0, result.output
    assert "bad: fails on 2 of 2 images: ZeroDivisionError: of no use" in result.output
    content = json.loads((work / "out" / "b.json").read_text())
    assert [row["images"] for row in content["rows"]] == [2, 0]
    assert content["starts"]["compiled_before"]["first_seconds"] == 5
    assert content["versions"]["numpy"] == np.__version__


def test_the_second_start_has_what_the_first_compiled(monkeypatch):
    script = """
import json, os, pathlib, sys, numpy
store = pathlib.Path(os.environ["NUMBA_CACHE_DIR"])
print(json.dumps([store.exists(), int(os.environ["OMP_NUM_THREADS"]), len(numpy.load(sys.argv[1]))]))
store.mkdir(exist_ok=True)
"""
    monkeypatch.setattr(proposal_start, "_START", script)
    starts = measure_starts(np.zeros((7, 5, 3), np.uint8))
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
    [("selectivesearch", alpacadb(100, 0.8, 100)), ("selective_search", chenjiexu("single", mended=True))],
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

"""Filling the cache: resumed, in parallel, interrupted, killed."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import fsspec
import joblib
import numpy as np
import pytest
from toy_engine import ToyEngine

from sppnet.common.errors import InputError
from sppnet.proposals import Key, OpenCVSelectiveSearch, ProposalCache, fill_cache, image_key, propose_cached
from sppnet.proposals.source import ImageSource, shared_file

# With this path the engine's module has the same plain name here and in other processes.
_ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(Path(__file__).resolve().parents[1] / "helpers"),
    "OMP_NUM_THREADS": "1",
}


class File(NamedTuple):
    image_id: str
    path: Path


@dataclass(frozen=True)
class CountingEngine:
    """Proposes one box that depends on the image; counts its calls; raises ``error`` at call ``stop_at``."""

    calls: list
    stop_at: int = -1
    error: type = KeyboardInterrupt

    def propose(self, image):
        if len(self.calls) == self.stop_at:
            raise self.error("stopped by the test")
        self.calls.append(1)
        return np.array([[0, 0, image.shape[1], int(image[0, 0, 0]) + 1]], np.float32)

    def parameters(self):
        return {"engine": "counting"}


@pytest.fixture
def files(tmp_path):
    written = []
    for number in range(6):
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), np.full((30, 40, 3), 10 * number, np.uint8))
        written.append(File(str(number), path))
    return written


@pytest.fixture
def cache(tmp_path):
    with ProposalCache(tmp_path / "proposals.sqlite", CountingEngine([])) as opened:
        yield opened


def content(files, cache):
    return [None if (boxes := cache.get(image_key(file))) is None else boxes.tolist() for file in files]


def expected(files):
    return [[[0, 0, 40, 10 * number + 1]] for number in range(len(files))]


def test_fills_all_and_reports(files, cache):
    steps = []
    report = fill_cache(files, CountingEngine([]), cache, progress=lambda *step: steps.append(step))
    assert (report.cached, report.computed, report.errors) == (0, 6, {})
    assert content(files, cache) == expected(files)
    assert steps == [(done, 6) for done in range(7)]


def test_a_second_time_computes_nothing(files, cache):
    fill_cache(files, CountingEngine([]), cache)
    steps = []
    report = fill_cache(files, CountingEngine([], 0), cache, progress=lambda *step: steps.append(step))
    assert (report.cached, report.computed) == (6, 0)
    assert steps == [(done, 6) for done in range(7)]


def test_only_the_missing_are_computed(files, cache):
    fill_cache(files[1:3], CountingEngine([]), cache)
    engine = CountingEngine([])
    report = fill_cache(files, engine, cache)
    assert (report.cached, report.computed, len(engine.calls)) == (2, 4, 4)
    assert content(files, cache) == expected(files)


def test_a_changed_image_is_computed_again(files, cache):
    fill_cache(files, CountingEngine([]), cache)
    cv2.imwrite(str(files[2].path), np.full((30, 40, 3), 200, np.uint8))
    report = fill_cache(files, CountingEngine([]), cache)
    assert (report.cached, report.computed) == (5, 1)
    assert content(files, cache)[2] == [[0, 0, 40, 201]]


def test_bad_images_are_named_and_the_others_done(files, cache):
    files[1].path.write_bytes(files[1].path.read_bytes()[:40])
    files[3].path.unlink()
    files[4].path.write_text("no image")
    steps = []
    report = fill_cache(files, CountingEngine([]), cache, progress=lambda *step: steps.append(step))
    assert steps == [(done, 6) for done in range(7)]
    assert report.computed == 3
    assert report.errors.keys() == {"1", "3", "4"}
    for image_id, error in report.errors.items():
        assert f"{image_id}.png" in error
    done = [files[number] for number in (0, 2, 5)]
    assert None not in content(done, cache)


def test_parallel_gives_the_same_boxes_as_serial(tmp_path):
    rng = np.random.default_rng(0)
    files = []
    for number in range(4):
        path = tmp_path / f"{number}.png"
        cv2.imwrite(
            str(path), np.kron(rng.integers(0, 256, (3, 4, 3)), np.ones((20, 20, 1))).astype(np.uint8)
        )
        files.append(File(str(number), path))
    engine = OpenCVSelectiveSearch()
    results = []
    for jobs in (1, 2):
        with ProposalCache(tmp_path / f"{jobs}.sqlite", engine) as cache:
            assert fill_cache(files, engine, cache, jobs).computed == 4
            results.append(content(files, cache))
    assert results[0] == results[1]
    assert min(len(boxes) for boxes in results[0]) > 3


def test_another_backend_by_parallel_config(files, cache):
    with joblib.parallel_config(backend="threading"):
        assert fill_cache(files, CountingEngine([]), cache, jobs=2).computed == 6
    assert content(files, cache) == expected(files)


def test_boxes_computed_before_an_interruption_are_kept(files, cache):
    with pytest.raises(KeyboardInterrupt):
        fill_cache(files, CountingEngine([], 4), cache)
    assert content(files, cache) == [*expected(files)[:4], None, None]
    engine = CountingEngine([])
    assert fill_cache(files, engine, cache).cached == 4
    assert len(engine.calls) == 2


def test_an_engine_that_fails_is_named_and_does_not_stop_the_others(files, cache):
    # Its count of calls stays at two, so it fails for all following images.
    report = fill_cache(files, CountingEngine([], 2, RuntimeError), cache)
    assert report.computed == 2
    assert report.errors.keys() == {"2", "3", "4", "5"}
    assert "2.png" in report.errors["2"]
    assert "stopped by the test" in report.errors["2"]
    assert content(files, cache)[:2] == expected(files)[:2]


def test_interrupted_in_the_progress(files, cache):
    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill_cache(files, CountingEngine([]), cache, progress=stop)
    assert content(files, cache)[:3] == expected(files)[:3]


def test_a_full_disk_keeps_the_earlier_entries(files, cache, full_disk):
    def progress(done, total):
        if done == 2:
            full_disk(max(file.stat().st_size for file in cache.path.parent.iterdir()))

    @dataclass(frozen=True)
    class Large(CountingEngine):
        def propose(self, image):
            box = super().propose(image)
            return box if len(self.calls) <= 2 else np.repeat(box, 5000, axis=0)

    with pytest.raises(InputError, match="free some space"):
        fill_cache(files, Large([]), cache, progress=progress, commit_seconds=0)
    full_disk(None)
    assert content(files, cache) == [*expected(files)[:2], None, None, None, None]


_FILLING = """
import sys
from pathlib import Path
from typing import NamedTuple
from sppnet.proposals import ProposalCache, fill_cache
from toy_engine import ToyEngine

class File(NamedTuple):
    image_id: str
    path: Path

folder, calls = map(Path, sys.argv[1:])
files = [File(path.stem, path) for path in sorted(folder.glob("*.png"))]
engine = ToyEngine(str(calls), holds=frozenset({30}))
with ProposalCache(folder / "proposals.sqlite", engine) as cache:
    fill_cache(files, engine, cache, commit_seconds=0)
"""


def test_a_killed_process_loses_no_committed_boxes(files, tmp_path):
    (tmp_path / "calls").mkdir()
    engine = ToyEngine(str(tmp_path / "calls"))
    with ProposalCache(tmp_path / "undisturbed.sqlite", engine) as cache:
        fill_cache(files, engine, cache)
        undisturbed = content(files, cache)
    # The process waits at the fourth image, so that it is killed in the middle of its work.
    process = subprocess.Popen(
        [sys.executable, "-c", _FILLING, str(tmp_path), str(tmp_path / "calls")], env=_ENVIRONMENT
    )
    with ProposalCache(tmp_path / "proposals.sqlite", engine) as cache:
        try:
            deadline = time.monotonic() + 120
            while len(cache.present()) < 3:
                assert process.poll() is None, "the process ended by itself"
                assert time.monotonic() < deadline, "three images were never stored"
                time.sleep(0.02)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert process.returncode == -signal.SIGKILL
    with ProposalCache(tmp_path / "proposals.sqlite", engine) as cache:
        assert content(files, cache) == [*undisturbed[:3], None, None, None]
        report = fill_cache(files, engine, cache)
        assert (report.cached, report.computed) == (3, 3)
        assert content(files, cache) == undisturbed


def test_image_key(files):
    key = image_key(files[0])
    assert key.image_id == "0"
    assert len(key.image_digest) == 64
    with pytest.raises(InputError, match=r"gone\.png"):
        image_key(File("gone", files[0].path.with_name("gone.png")))


def test_propose_cached(files, cache):
    engine = CountingEngine([])
    image = np.full((30, 40, 3), 7, np.uint8)
    for _ in range(2):
        np.testing.assert_array_equal(
            propose_cached(image_key(files[0]), lambda: image, engine, cache), [[0, 0, 40, 8]]
        )
    assert len(engine.calls) == 1
    assert cache.missing([Key("0", image_key(files[0]).image_digest)]) == []


def test_work_begins_before_all_files_are_hashed(files, cache):
    events = []

    class Watched:
        """An example that records when its path is read."""

        def __init__(self, file):
            self.image_id, self._path = file

        @property
        def path(self):
            events.append(self._path.name)
            return self._path

    examples = [Watched(file) for file in files]
    fill_cache(examples, CountingEngine([]), cache, progress=lambda done, total: events.append(done))
    assert events[0] == 0
    assert events.index(1) < events.index("5.png")


def test_an_image_listed_twice_is_computed_once(files, cache):
    engine = CountingEngine([])
    steps = []
    report = fill_cache([*files, files[0]], engine, cache, progress=lambda *step: steps.append(step))
    assert (report.cached, report.computed, len(engine.calls)) == (1, 6, 6)
    assert steps[-1] == (7, 7)


def test_a_file_that_changes_after_it_was_hashed_is_not_stored(files, cache, tmp_path):
    class ChangingSource(ImageSource):
        """Changes a file after it was hashed and before it is read."""

        def locate(self, path):
            if path == files[2].path:
                cv2.imwrite(str(path), np.full((30, 40, 3), 200, np.uint8))
            return super().locate(path)

    source = ChangingSource(tmp_path, tmp_path.as_uri())
    report = fill_cache(files, CountingEngine([]), cache, source=source)
    assert report.computed == 5
    assert report.errors.keys() == {"2"}
    assert re.search(r"2\.png.*just changed", report.errors["2"])
    assert content(files, cache)[2] is None
    assert fill_cache(files, CountingEngine([]), cache).computed == 1
    assert content(files, cache)[2] == [[0, 0, 40, 201]]


def test_an_engine_of_another_version_than_the_cache(files, cache):
    with pytest.raises(InputError, match="other versions"):
        fill_cache(files, OpenCVSelectiveSearch(), cache)
    assert content(files, cache) == [None] * 6


def test_a_killed_local_worker(files, tmp_path):
    engine = ToyEngine(str(tmp_path), deadly=30)
    with (
        ProposalCache(tmp_path / "proposals.sqlite", engine) as cache,
        pytest.raises(InputError, match=r"worker process was killed.*fewer JOBS"),
    ):
        fill_cache(files, engine, cache, jobs=2)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_images_from_a_url(files, cache, tmp_path, kind):
    (tmp_path / "away" / "set").mkdir(parents=True)
    for file in files:
        file.path.rename(tmp_path / "away" / "set" / file.path.name)
    archive = shutil.make_archive(str(tmp_path / "images"), "zip", tmp_path / "away")
    folder = (tmp_path / "away").as_uri()
    url = folder if kind == "folder" else f"zip://::file://{archive}"
    # The files in this folder are hashed; the files at the URL are read.
    (tmp_path / "here" / "set").mkdir(parents=True)
    here = [File(file.image_id, tmp_path / "here" / "set" / file.path.name) for file in files]
    for file in here:
        shutil.copy(tmp_path / "away" / "set" / file.path.name, file.path)
    here.append(File("outside", shutil.copy(here[0].path, tmp_path / "outside.png")))
    report = fill_cache(here, CountingEngine([]), cache, source=ImageSource(tmp_path / "here", url))
    assert content(here[:6], cache) == expected(here[:6])
    assert report.errors.keys() == {"outside"}
    assert "outside.png" in report.errors["outside"]
    (tmp_path / "away" / "set" / "0.png").unlink()
    with pytest.raises(InputError, match=r"0\.png: cannot be read"):
        ImageSource(tmp_path / "here", folder).locate(here[0].path).read()


def test_a_url_whose_package_is_missing(tmp_path):
    fsspec.register_implementation("toycloud", "no_such_package.FileSystem", errtxt="install no_such_package")
    with pytest.raises(InputError, match=r"toycloud://bucket: a\.png.*install no_such_package"):
        ImageSource(tmp_path, "toycloud://bucket").locate(tmp_path / "a.png").read()


def test_workers_get_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shared_file(Path("a/b.png")).name == str(tmp_path / "a" / "b.png")
    assert ImageSource(Path("a"), "s3://x").locate(tmp_path / "a" / "b.png") == ("s3://x", "b.png")

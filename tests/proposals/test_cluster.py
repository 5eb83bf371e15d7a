"""Filling the cache on a real Dask cluster of processes, through deaths on every side."""

import contextlib
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from toy_engine import ToyEngine
from typer.testing import CliRunner

from sppnet.common.errors import InputError
from sppnet.data import write_voc
from sppnet.data.types import Dataset, Example
from sppnet.proposals import OpenCVSelectiveSearch, ProposalCache, fill_cache, image_key
from sppnet.proposals.cluster import dask_cluster
from sppnet.proposals.source import ImageSource

# The engine's module is found by its plain name here and in the workers alike.
_TESTS = Path(__file__).resolve().parents[1]
_ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(_TESTS / "helpers"),
    "OMP_NUM_THREADS": "1",
    # An image is given up after the second worker that it kills.
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
}
_IMAGES = 12


class File(NamedTuple):
    image_id: str
    path: Path


class Cluster:
    """A scheduler, and worker processes of one thread each that nobody starts again."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{port}"
        self.workers = []
        self.scheduler = self._start(
            "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard", "--no-jupyter"
        )

    def _start(self, *arguments):
        with open(self.folder / f"{arguments[0]}.log", "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dask", *arguments],
                env=_ENVIRONMENT, stdout=log, stderr=log, cwd=self.folder,
            )  # fmt: skip

    def want_workers(self, count):
        """Replaces dead workers, so that ``count`` are connected."""
        from distributed import Client

        self.workers = [one for one in self.workers if one.poll() is None]
        for _ in range(count - len(self.workers)):
            self.workers.append(
                self._start(
                    "worker", self.address, "--host", "127.0.0.1", "--nthreads", "1", "--no-nanny",
                    "--no-dashboard", "--death-timeout", "60", "--local-directory", str(self.folder),
                )
            )  # fmt: skip
        with Client(self.address, timeout=30, set_as_default=False) as client:
            client.wait_for_workers(count, timeout=60)

    def stop(self):
        for process in [*self.workers, self.scheduler]:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.stop()


@pytest.fixture
def cluster(running):
    running.want_workers(3)
    return running


@pytest.fixture
def files(tmp_path):
    (tmp_path / "images").mkdir()
    made = []
    for number in range(_IMAGES):
        path = tmp_path / "images" / f"{number}.png"
        cv2.imwrite(str(path), np.full((30, 40, 3), number, np.uint8))
        made.append(File(str(number), path))
    return made


@pytest.fixture
def calls(tmp_path):
    folder = tmp_path / "calls"
    folder.mkdir()
    return folder


def called(calls):
    """(first pixel, process id) of each call of the engine."""
    return [tuple(map(int, file.name.split("-")[:2])) for file in calls.iterdir() if "-" in file.name]


def rows(path):
    """All that is in a cache, byte by byte."""
    with closing(sqlite3.connect(path, timeout=60)) as db:
        return db.execute("SELECT * FROM proposals ORDER BY image_id").fetchall()


def by_one_process(files, engine, path):
    with ProposalCache(path, engine) as cache:
        fill_cache(files, engine, cache, jobs=1)
    return rows(path)


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "never came"
        time.sleep(0.02)


@contextlib.contextmanager
def in_background(work):
    """Runs ``work`` in a thread; its result is in the list when the block has ended."""
    results = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()
    yield results
    thread.join(90)
    assert not thread.is_alive(), "the work does not end"


def fill(files, engine, path, address, **options):
    with ProposalCache(path, engine) as cache, dask_cluster(address):
        return fill_cache(files, engine, cache, **options)


def test_a_killed_worker_costs_nothing(cluster, files, calls, tmp_path):
    expected = by_one_process(files, ToyEngine(str(calls)), tmp_path / "one.sqlite")
    here = set(called(calls))
    engine = ToyEngine(str(calls), frozenset(range(_IMAGES)))
    path = tmp_path / "many.sqlite"

    def busy():
        """Process id of each worker, and the image that it holds."""
        return {process: pixel for pixel, process in set(called(calls)) - here}

    with in_background(lambda: fill(files, engine, path, cluster.address)) as reports:
        wait_until(lambda: len(busy()) == 3)
        victim = cluster.workers[0]
        held = busy()[victim.pid]
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        (calls / "go").touch()
    (report,) = reports
    assert (report.cached, report.computed, report.errors) == (0, _IMAGES, {})
    assert rows(path) == expected
    # The image that the dead worker held was computed by another one.
    assert len({process for pixel, process in set(called(calls)) - here if pixel == held}) == 2


_COORDINATOR = """
import sys
from pathlib import Path
import sppnet.proposals.fill
from sppnet.proposals import ProposalCache, fill_cache
from sppnet.proposals.cluster import dask_cluster
from toy_engine import ToyEngine
from typing import NamedTuple

class File(NamedTuple):
    image_id: str
    path: Path

if __name__ == "__main__":
    folder, calls, path, address, held = sys.argv[1:]
    sppnet.proposals.fill._COMMIT_SECONDS = 0.0
    engine = ToyEngine(calls, frozenset(map(int, held.split(","))))
    files = sorted(Path(folder).glob("*.png"), key=lambda file: int(file.stem))
    with ProposalCache(path, engine) as cache, dask_cluster(address):
        fill_cache([File(file.stem, file) for file in files], engine, cache)
"""


def test_a_killed_coordinator_goes_on_where_it_was(cluster, files, calls, tmp_path):
    engine = ToyEngine(str(calls))
    expected = by_one_process(files, engine, tmp_path / "one.sqlite")
    for file in calls.iterdir():
        file.unlink()
    path = tmp_path / "many.sqlite"
    # Two images wait, so that the run is surely not over when it is killed; one worker does all others.
    held = {10, 11}
    arguments = [files[0].path.parent, calls, path, cluster.address, ",".join(map(str, held))]
    coordinator = subprocess.Popen(
        [sys.executable, "-c", _COORDINATOR, *map(str, arguments)], env=_ENVIRONMENT, cwd=tmp_path
    )
    try:
        wait_until(lambda: coordinator.poll() is not None or (path.exists() and has_rows(path, 10)))
        assert coordinator.poll() is None, "the coordinator ended by itself"
    finally:
        coordinator.send_signal(signal.SIGKILL)
        coordinator.wait()
    before = rows(path)
    assert {int(row[0]) for row in before} == set(range(_IMAGES)) - held
    # Images that the dead run had held are let go, whether the cluster still computes them or not.
    (calls / "go").touch()
    report = fill(files, engine, path, cluster.address)
    assert (report.cached, report.computed, report.errors) == (10, 2, {})
    assert rows(path) == expected
    pixels = [pixel for pixel, _ in called(calls)]
    assert all(pixels.count(int(row[0])) == 1 for row in before), "what was stored was computed again"


def has_rows(path, count):
    try:
        return len(rows(path)) == count
    except sqlite3.OperationalError:  # the table is not there yet
        return False


def test_a_corrupt_image_is_named_and_the_others_are_done(cluster, files, calls, tmp_path):
    engine = ToyEngine(str(calls))
    files[4].path.write_bytes(files[4].path.read_bytes()[:50])
    files[5].path.write_text("no image")
    expected = by_one_process(files, engine, tmp_path / "one.sqlite")
    path = tmp_path / "many.sqlite"
    seen = []
    report = fill(files, engine, path, cluster.address, progress=lambda *both: seen.append(both))
    assert report.computed == _IMAGES - 2
    assert report.errors.keys() == {"4", "5"}
    assert all(f"{image_id}.png" in fault for image_id, fault in report.errors.items())
    assert rows(path) == expected
    assert len(expected) == _IMAGES - 2
    assert seen == [(done, _IMAGES) for done in range(_IMAGES + 1)]
    # Mended, it is all that is left to do.
    cv2.imwrite(str(files[4].path), np.full((30, 40, 3), 4, np.uint8))
    again = fill(files, engine, path, cluster.address)
    assert (again.cached, again.computed, again.errors.keys()) == (_IMAGES - 2, 1, {"5"})


def test_an_image_that_kills_its_workers_is_named_and_the_others_are_done(cluster, files, calls, tmp_path):
    path = tmp_path / "many.sqlite"

    # Dask suspects all images that a dead worker had, also those that only waited there: they go first.
    def progress(done, total):
        if done == total - 1:
            (calls / "go").touch()

    engine = ToyEngine(str(calls), frozenset({3}), deadly=3)
    report = fill(files, engine, path, cluster.address, progress=progress)
    assert report.computed == _IMAGES - 1
    assert report.errors.keys() == {"3"}
    assert "3.png" in report.errors["3"]
    assert "2 workers died" in report.errors["3"]
    assert [row[0] for row in rows(path)] == sorted(str(i) for i in range(_IMAGES) if i != 3)


def test_workers_compute_not_the_coordinator(cluster, files, calls, tmp_path):
    """Also with a single place in the cluster, of which joblib would make work in this process."""
    for worker in cluster.workers[1:]:
        worker.kill()
        worker.wait()
    fill(files[:3], ToyEngine(str(calls)), tmp_path / "many.sqlite", cluster.address)
    assert {process for _, process in called(calls)} == {cluster.workers[0].pid}


def test_selective_search_is_the_same_on_a_cluster(cluster, tmp_path):
    rng = np.random.default_rng(0)
    files = []
    for number in range(4):
        path = tmp_path / f"{number}.png"
        cells = rng.integers(0, 256, (4, 5, 3))
        cv2.imwrite(str(path), np.kron(cells, np.ones((16, 16, 1))).astype(np.uint8))
        files.append(File(str(number), path))
    engine = OpenCVSelectiveSearch(max_proposals=50)
    expected = by_one_process(files, engine, tmp_path / "one.sqlite")
    report = fill(files, engine, tmp_path / "many.sqlite", cluster.address)
    assert report.computed == 4
    assert rows(tmp_path / "many.sqlite") == expected
    assert min(row[3] for row in expected) > 3


def test_workers_read_from_a_url(cluster, files, calls, tmp_path):
    engine = ToyEngine(str(calls))
    away = tmp_path / "away"
    away.mkdir()
    for file in files:
        (away / file.path.name).write_bytes(file.path.read_bytes())
    # Another image under the same name, as of a copy that was not brought up to date.
    cv2.imwrite(str(away / "2.png"), np.full((30, 40, 3), 77, np.uint8))
    (away / "3.png").unlink()
    source = ImageSource(files[0].path.parent, away.as_uri())
    path = tmp_path / "many.sqlite"
    report = fill(files, engine, path, cluster.address, source=source)
    assert report.computed == _IMAGES - 2
    assert report.errors.keys() == {"2", "3"}
    assert "not the same" in report.errors["2"]
    assert "cannot be read" in report.errors["3"]
    assert all(away.as_uri() in fault for fault in report.errors.values())
    done = [file for file in files if file.image_id not in report.errors]
    assert rows(path) == by_one_process(done, engine, tmp_path / "one.sqlite")


def test_a_worker_of_another_version_is_refused(cluster, files, calls, tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_VERSION", "2")
    path = tmp_path / "many.sqlite"
    with pytest.raises(InputError, match=r"other versions.*'version': '1'"):
        fill(files, ToyEngine(str(calls)), path, cluster.address)
    assert rows(path) == []


def test_a_program_that_workers_do_not_have(cluster, files, tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text(
        "from toy_engine import ToyEngine\nclass Engine(ToyEngine): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    from only_here import Engine

    with pytest.raises(InputError, match=r"only_here.*install the same"):
        fill(files, Engine(str(tmp_path)), tmp_path / "many.sqlite", cluster.address)


def test_a_scheduler_that_goes_away(files, calls, tmp_path):
    own = Cluster(tmp_path)
    try:
        own.want_workers(2)
        engine = ToyEngine(str(calls), frozenset({11}))
        path = tmp_path / "many.sqlite"
        seen = []

        def work():
            with pytest.raises(InputError, match=own.address + r".*went away"):
                fill(files, engine, path, own.address, progress=lambda done, _: seen.append(done))
            return True

        with in_background(work) as results:
            wait_until(lambda: seen and seen[-1] >= 3)
            own.scheduler.kill()
        assert results == [True]
        assert 3 <= len(rows(path)) < _IMAGES
    finally:
        own.stop()


def test_nobody_answers(monkeypatch):
    monkeypatch.setattr("sppnet.proposals.cluster._CONNECT_SECONDS", 1)
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{bound.getsockname()[1]}"
        start = time.monotonic()
        with pytest.raises(InputError, match=f"{address}.*dask scheduler"), dask_cluster(address):
            pass
        assert time.monotonic() - start < 20


def test_an_address_that_is_none():
    with pytest.raises(InputError, match=r"nonsense://x.*tcp://host:8786"), dask_cluster("nonsense://x"):
        pass


def test_a_cluster_without_workers(tmp_path, monkeypatch):
    monkeypatch.setattr("sppnet.proposals.cluster._WORKER_SECONDS", 0.5)
    own = Cluster(tmp_path)
    try:
        wait_until(lambda: listens(own.address))
        with pytest.raises(InputError, match=f"no workers.*{own.address}"), dask_cluster(own.address):
            pass
    finally:
        own.stop()


def listens(address):
    with socket.socket() as knock:
        return knock.connect_ex(("127.0.0.1", int(address.rsplit(":", 1)[1]))) == 0


def test_without_distributed_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"pip install -e .*dask"), dask_cluster("tcp://127.0.0.1:1"):
        pass


def test_the_key_of_a_cached_image_is_that_of_its_file(cluster, files, calls, tmp_path):
    engine = ToyEngine(str(calls))
    path = tmp_path / "many.sqlite"
    fill(files, engine, path, cluster.address)
    with ProposalCache(path, engine) as cache:
        assert cache.missing([image_key(file) for file in files]) == []
        cv2.imwrite(str(files[0].path), np.full((30, 40, 3), 200, np.uint8))
        assert cache.get(image_key(files[0])) is None
    assert fill(files, engine, path, cluster.address).computed == 1


def test_the_command(cluster, files, tmp_path, monkeypatch):
    # Here, for it loads torch, which no other test of this file needs.
    from sppnet.cli.app import app

    examples = tuple(
        Example(
            file.image_id, file.path, 40, 30, np.array([[1, 1, 30, 25]], np.float32), np.zeros(1, np.int64),
            np.zeros(1, bool), np.zeros(1, bool),
        )
        for file in files[:3]
    )  # fmt: skip
    write_voc(Dataset("mine", "train", ("thing",), examples), tmp_path / "mine")
    shutil.copytree(tmp_path / "mine", tmp_path / "away")
    (tmp_path / "away" / "JPEGImages" / "1.png").unlink()
    monkeypatch.chdir(tmp_path)
    command = ["proposals", "--dataset", "mine", "--split", "train", "--scheduler", cluster.address]
    command += ["--set", "engine = 'opencv'"]  # nothing to compile in each worker
    away = ["--images-url", (tmp_path / "away").as_uri()]
    result = CliRunner().invoke(app, [*command, *away])
    assert result.exit_code == 2
    assert re.search(r"1 images have no proposals.*away: JPEGImages/1\.png", " ".join(result.output.split()))
    assert "2 images computed" in result.output
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0
    assert re.search("1 images computed .* 2 in the cache", result.output)

"""Filling the cache on a real Dask cluster of processes, some of which are killed."""

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

# With this path the engine's module has the same plain name here and in the workers.
_ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(Path(__file__).resolve().parents[1] / "helpers"),
    "OMP_NUM_THREADS": "1",
    # An image is given up after it has killed two workers.
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
}
_IMAGES = 12


class File(NamedTuple):
    image_id: str
    path: Path


def wait_until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not true within {seconds} seconds"
        time.sleep(0.02)


def listens(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


class Cluster:
    """A scheduler, and worker processes of one thread each, which are not restarted when they die."""

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
        # Workers and clients that find nobody wait longer and longer between their attempts.
        wait_until(lambda: listens(port))

    def _start(self, *arguments):
        with open(self.folder / f"{arguments[0]}.log", "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dask", *arguments],
                env=_ENVIRONMENT, stdout=log, stderr=log, cwd=self.folder,
            )  # fmt: skip

    def want_workers(self, count):
        """Replaces dead workers, so that ``count`` are connected."""
        from distributed import Client

        self.workers = [worker for worker in self.workers if worker.poll() is None]
        for _ in range(count - len(self.workers)):
            self.workers.append(
                self._start(
                    "worker", self.address, "--host", "127.0.0.1", "--nthreads", "1", "--no-nanny",
                    "--no-dashboard", "--death-timeout", "120", "--local-directory", str(self.folder),
                )
            )  # fmt: skip
        with Client(self.address, timeout=120, set_as_default=False) as client:
            client.wait_for_workers(count, timeout=120)

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
    running.want_workers(2)
    return running


@pytest.fixture
def files(tmp_path):
    (tmp_path / "images").mkdir()
    written = []
    for number in range(_IMAGES):
        path = tmp_path / "images" / f"{number}.png"
        cv2.imwrite(str(path), np.full((30, 40, 3), number, np.uint8))
        written.append(File(str(number), path))
    return written


@pytest.fixture
def calls(tmp_path):
    folder = tmp_path / "calls"
    folder.mkdir()
    return folder


def called(calls):
    """Returns the first pixel and the process id of each call of the engine."""
    return [tuple(map(int, file.name.split("-")[:2])) for file in calls.iterdir() if "-" in file.name]


def rows(path):
    """Returns the entries of a cache, byte by byte."""
    with closing(sqlite3.connect(path, timeout=60)) as db:
        return db.execute("SELECT * FROM proposals ORDER BY image_id").fetchall()


def by_one_process(files, engine, path):
    with ProposalCache(path, engine) as cache:
        fill_cache(files, engine, cache, jobs=1)
    return rows(path)


@contextlib.contextmanager
def in_background(work):
    """Runs ``work`` in a thread; yields a list that has its result after the block."""
    results = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()
    yield results
    thread.join(120)
    assert not thread.is_alive(), "the work does not end"


def fill(files, engine, path, address, **options):
    with ProposalCache(path, engine) as cache, dask_cluster(address):
        return fill_cache(files, engine, cache, **options)


_COORDINATOR = """
import sys
from pathlib import Path
from sppnet.proposals import ProposalCache, fill_cache
from sppnet.proposals.cluster import dask_cluster
from toy_engine import ToyEngine
from typing import NamedTuple

class File(NamedTuple):
    image_id: str
    path: Path

if __name__ == "__main__":
    folder, calls, path, address, held = sys.argv[1:]
    engine = ToyEngine(calls, frozenset([int(held)]))
    files = sorted(Path(folder).glob("*.png"), key=lambda file: int(file.stem))
    with ProposalCache(path, engine) as cache, dask_cluster(address):
        fill_cache([File(file.stem, file) for file in files], engine, cache, commit_seconds=0)
"""


def test_a_killed_coordinator_continues_where_it_stopped(cluster, files, calls, tmp_path):
    engine = ToyEngine(str(calls))
    expected = by_one_process(files, engine, tmp_path / "serial.sqlite")
    for file in calls.iterdir():
        file.unlink()
    path = tmp_path / "many.sqlite"
    # One worker waits at an image, so that the run is not over when it is killed; the other worker computes
    # all other images.
    held = 11
    arguments = [files[0].path.parent, calls, path, cluster.address, held]
    coordinator = subprocess.Popen(
        [sys.executable, "-c", _COORDINATOR, *map(str, arguments)], env=_ENVIRONMENT, cwd=tmp_path
    )
    try:
        wait_until(lambda: coordinator.poll() is not None or (path.exists() and has_rows(path, _IMAGES - 1)))
        assert coordinator.poll() is None, "the coordinator ended by itself"
    finally:
        coordinator.send_signal(signal.SIGKILL)
        coordinator.wait()
    before = rows(path)
    assert {int(row[0]) for row in before} == set(range(_IMAGES)) - {held}
    # Let the waiting image continue, in case the cluster still computes it.
    (calls / "go").touch()
    report = fill(files, engine, path, cluster.address)
    assert (report.cached, report.computed, report.errors) == (_IMAGES - 1, 1, {})
    assert rows(path) == expected
    pixels = [pixel for pixel, _ in called(calls)]
    assert all(pixels.count(int(row[0])) == 1 for row in before), "a stored image was computed again"


def has_rows(path, count):
    try:
        return len(rows(path)) == count
    except sqlite3.OperationalError:  # the table is not there yet
        return False


def test_a_corrupt_image_is_named_and_the_others_are_done(cluster, files, calls, tmp_path):
    engine = ToyEngine(str(calls))
    files[4].path.write_bytes(files[4].path.read_bytes()[:50])
    files[5].path.write_text("no image")
    expected = by_one_process(files, engine, tmp_path / "serial.sqlite")
    path = tmp_path / "many.sqlite"
    steps = []
    report = fill(files, engine, path, cluster.address, progress=lambda *step: steps.append(step))
    assert report.computed == _IMAGES - 2
    assert report.errors.keys() == {"4", "5"}
    assert all(f"{image_id}.png" in fault for image_id, fault in report.errors.items())
    assert rows(path) == expected
    assert len(expected) == _IMAGES - 2
    assert steps == [(done, _IMAGES) for done in range(_IMAGES + 1)]
    # After its repair it is the only image left to compute.
    cv2.imwrite(str(files[4].path), np.full((30, 40, 3), 4, np.uint8))
    again = fill(files, engine, path, cluster.address)
    assert (again.cached, again.computed, again.errors.keys()) == (_IMAGES - 2, 1, {"5"})


def test_selective_search_gives_the_same_boxes_on_a_cluster(cluster, tmp_path):
    rng = np.random.default_rng(0)
    files = []
    for number in range(4):
        path = tmp_path / f"{number}.png"
        cells = rng.integers(0, 256, (4, 5, 3))
        cv2.imwrite(str(path), np.kron(cells, np.ones((16, 16, 1))).astype(np.uint8))
        files.append(File(str(number), path))
    engine = OpenCVSelectiveSearch(max_proposals=50)
    expected = by_one_process(files, engine, tmp_path / "serial.sqlite")
    report = fill(files, engine, tmp_path / "many.sqlite", cluster.address)
    assert report.computed == 4
    assert rows(tmp_path / "many.sqlite") == expected
    assert min(row[3] for row in expected) > 3


def test_workers_read_from_a_url(cluster, files, calls, tmp_path):
    engine = ToyEngine(str(calls))
    remote = tmp_path / "remote"
    remote.mkdir()
    for file in files:
        (remote / file.path.name).write_bytes(file.path.read_bytes())
    # A different image of the same name, as in a copy that was not updated.
    cv2.imwrite(str(remote / "2.png"), np.full((30, 40, 3), 77, np.uint8))
    (remote / "3.png").unlink()
    source = ImageSource(files[0].path.parent, remote.as_uri())
    path = tmp_path / "many.sqlite"
    report = fill(files, engine, path, cluster.address, source=source)
    assert report.computed == _IMAGES - 2
    assert report.errors.keys() == {"2", "3"}
    assert "not the same" in report.errors["2"]
    assert "cannot be read" in report.errors["3"]
    assert all(remote.as_uri() in fault for fault in report.errors.values())
    done = [file for file in files if file.image_id not in report.errors]
    assert rows(path) == by_one_process(done, engine, tmp_path / "serial.sqlite")


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
    short_lived = Cluster(tmp_path)
    try:
        short_lived.want_workers(1)
        engine = ToyEngine(str(calls), frozenset({11}))
        path = tmp_path / "many.sqlite"
        steps = []

        def work():
            with pytest.raises(InputError, match=short_lived.address + r".*went away"):
                fill(files, engine, path, short_lived.address, progress=lambda done, _: steps.append(done))
            return True

        with in_background(work) as results:
            wait_until(lambda: steps and steps[-1] >= 3)
            short_lived.scheduler.kill()
        assert results == [True]
        assert 3 <= len(rows(path)) < _IMAGES
    finally:
        short_lived.stop()


def test_no_scheduler_answers():
    with socket.socket() as bound:  # It does not listen.
        bound.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{bound.getsockname()[1]}"
        with (
            pytest.raises(InputError, match=f"{address}.*dask scheduler"),
            dask_cluster(address, connect_seconds=0.2),
        ):
            pass


def test_an_invalid_address():
    with pytest.raises(InputError, match=r"nonsense://x.*tcp://host:8786"), dask_cluster("nonsense://x"):
        pass


def test_a_cluster_without_workers():
    from distributed import LocalCluster

    with LocalCluster(n_workers=0, processes=False, dashboard_address=":0", protocol="tcp://") as empty:
        address = empty.scheduler_address
        with (
            pytest.raises(InputError, match=f"no workers.*{address}"),
            dask_cluster(address, worker_seconds=0.2),
        ):
            pass


def test_without_distributed_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"pip install -e .*dask"), dask_cluster("tcp://127.0.0.1:1"):
        pass


def test_the_key_of_a_cached_image_follows_its_file(cluster, files, calls, tmp_path):
    engine = ToyEngine(str(calls))
    path = tmp_path / "many.sqlite"
    fill(files, engine, path, cluster.address)
    with ProposalCache(path, engine) as cache:
        assert cache.missing([image_key(file) for file in files]) == []
        cv2.imwrite(str(files[0].path), np.full((30, 40, 3), 200, np.uint8))
        assert cache.get(image_key(files[0])) is None
    assert fill(files, engine, path, cluster.address).computed == 1


def test_the_command(cluster, files, tmp_path, monkeypatch):
    # Imported here because no other test of this file needs the command line.
    from sppnet.cli.app import app

    examples = tuple(
        Example(
            file.image_id, file.path, 40, 30, np.array([[1, 1, 30, 25]], np.float32), np.zeros(1, np.int64),
            np.zeros(1, bool), np.zeros(1, bool),
        )
        for file in files[:3]
    )  # fmt: skip
    write_voc(Dataset("photos", "train", ("thing",), examples), tmp_path / "photos")
    shutil.copytree(tmp_path / "photos", tmp_path / "remote")
    (tmp_path / "remote" / "JPEGImages" / "1.png").unlink()
    monkeypatch.chdir(tmp_path)
    command = ["proposals", "--dataset", "photos", "--split", "train", "--scheduler", cluster.address]
    command += ["--set", "engine = 'opencv'"]  # nothing to compile in each worker
    remote = ["--images-url", (tmp_path / "remote").as_uri()]
    result = CliRunner().invoke(app, [*command, *remote])
    assert result.exit_code == 2
    assert re.search(
        r"1 images have no proposals.*remote: JPEGImages/1\.png", " ".join(result.output.split())
    )
    assert "2 images computed" in result.output
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0
    assert re.search("1 images computed .* 2 in the cache", result.output)


# Tests that kill workers come last because new workers take a second to start.


def test_a_killed_worker_costs_nothing(cluster, files, calls, tmp_path):
    expected = by_one_process(files, ToyEngine(str(calls)), tmp_path / "serial.sqlite")
    serial = set(called(calls))
    engine = ToyEngine(str(calls), frozenset(range(_IMAGES)))
    path = tmp_path / "many.sqlite"

    def busy():
        """Returns process id to the image that the worker waits at."""
        return {process: pixel for pixel, process in set(called(calls)) - serial}

    with in_background(lambda: fill(files, engine, path, cluster.address)) as reports:
        wait_until(lambda: len(busy()) == 2)
        victim = cluster.workers[0]
        held = busy()[victim.pid]
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        (calls / "go").touch()
    (report,) = reports
    assert (report.cached, report.computed, report.errors) == (0, _IMAGES, {})
    assert rows(path) == expected
    # The image that the dead worker held was computed by another worker.
    assert len({process for pixel, process in set(called(calls)) - serial if pixel == held}) == 2


def test_workers_compute_not_the_coordinator(running, files, calls, tmp_path):
    """With a single worker joblib by itself would compute in this process."""
    running.want_workers(1)
    for worker in running.workers[1:]:
        worker.kill()
        worker.wait()
    fill(files[:3], ToyEngine(str(calls)), tmp_path / "many.sqlite", running.address)
    assert {process for _, process in called(calls)} == {running.workers[0].pid}


def test_an_image_that_kills_its_workers_is_named_and_the_others_are_done(cluster, files, calls, tmp_path):
    path = tmp_path / "many.sqlite"

    # Dask blames all images of a dead worker, even those that only waited there. So the deadly image comes
    # last.
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

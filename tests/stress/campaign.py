"""The stress campaign: kills, damaged inputs, bad surroundings and a soak; prints one table.

make stress
make stress ARGS="--kills 30 --inputs 1000 --parts kills fuzzing"
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import chdir
from datetime import date
from pathlib import Path

import cv2
import numpy as np
import sandbox
import torch
import toy
from fuzzing import Fuzzing
from kills import Kills
from outcome import Outcome, table
from readers import READERS, Reader
from rich.console import Console
from soak import soak
from stages import STAGES, Prepared
from surroundings import Surroundings
from tiny_dataset import write_tiny_voc

from sppnet.detection.detector import Detector

PARTS = ("fuzzing", "kills", "surroundings", "soak")
_STAGES = [stage.name for stage in STAGES]


def one_thread() -> None:
    """Keeps this process to one thread, as its forks need, and makes the toy network known."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    toy.register()


def fuzz(
    folder: Path, kept: Path, inputs: int, seed: int, readers: Sequence[Reader] = READERS
) -> Iterator[Outcome]:
    """Damages so many inputs in all, shared by the readers."""
    for reader, part in zip(readers, np.array_split(np.arange(inputs), len(readers)), strict=True):
        try:
            fuzzing = Fuzzing(reader, folder / reader.kind.replace(" ", "-"), kept, seed)
        except Exception as error:
            # The campaign goes on: what cannot read a whole input is one loss.
            outcome = Outcome(reader.kind)
            outcome.count(f"{reader.kind}: a whole input cannot be read: {error!r}")
            yield outcome
            continue
        yield fuzzing.run(range(len(part)))


def kill(prepared: Prepared, folder: Path, kept: Path, kills: int, seed: int) -> Iterator[Outcome]:
    """Kills so many times, and a tenth as often with a clock that jumps."""
    yield from Kills(prepared, folder, kept, seed).run(kills)
    jumps = max(kills // 10, len(prepared.stages))
    yield from Kills(prepared, folder, kept, seed + 1, clocks=True).run(jumps)


def trained(folder: Path) -> Detector:
    """A detector of the toy network.

    Raises:
        RuntimeError: the training fails.
    """
    with chdir(folder):
        write_tiny_voc(folder / "tiny")
        # In a fork, whose memory goes.
        code = sandbox.ended(sandbox.fork(lambda: toy.train_detector(folder / "tiny"), folder / "log.txt"))
        if code:
            raise RuntimeError(f"the training ends with {code}: {(folder / 'log.txt').read_text()[-1000:]}")
        return Detector.load("runs/toy/model")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the campaign; returns 1 if anything is lost."""
    parser = argparse.ArgumentParser(description="The stress campaign.")
    parser.add_argument("--kills", type=int, default=200, help="kills in all")
    parser.add_argument("--stages", nargs="+", choices=_STAGES, default=_STAGES, help="what to kill")
    parser.add_argument("--inputs", type=int, default=5000, help="damaged inputs in all")
    parser.add_argument("--rounds", type=int, default=3, help="trials of each stage in each bad surrounding")
    parser.add_argument("--photos", type=int, default=10_000, help="photos of the soak")
    parser.add_argument("--sizes", type=int, default=1000, help="images of the soak, each of another size")
    parser.add_argument("--seed", type=int, default=0, help="another seed is another campaign")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to run")
    parser.add_argument("--kept", type=Path, help="folder for lost inputs; by default a temporary one")
    given = parser.parse_args(arguments)
    kept = given.kept or Path(tempfile.mkdtemp(prefix="sppnet-lost-"))
    begun = time.monotonic()
    one_thread()
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="sppnet-stress-") as temporary:
        for outcome in _outcomes(given, Path(temporary), kept.resolve()):
            outcomes.append(outcome)
            print(f"{outcome.kind}: {outcome.survived} of {outcome.tried} survived", flush=True)
            for loss in outcome.lost:
                print(f"  {loss}", flush=True)
    caption = (
        f"seed {given.seed}; {date.today()}; {time.monotonic() - begun:.0f} s; this process may use "
        f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores"
    )
    Console(width=110).print(table(outcomes, caption))
    lost = any(outcome.lost for outcome in outcomes)
    print(f"lost inputs: {kept}" if lost else "nothing lost")
    return int(lost)


def _outcomes(given: argparse.Namespace, folder: Path, kept: Path) -> Iterator[Outcome]:
    folders = {part: folder / part for part in (*PARTS, "prepared")}
    for part in folders.values():
        part.mkdir()
    if "fuzzing" in given.parts:
        yield from fuzz(folders["fuzzing"], kept, given.inputs, given.seed)
    if {"kills", "surroundings"} & set(given.parts):
        prepared = Prepared(folders["prepared"], [stage for stage in STAGES if stage.name in given.stages])
        if "kills" in given.parts:
            yield from kill(prepared, folders["kills"], kept, given.kills, given.seed)
        if "surroundings" in given.parts:
            yield from Surroundings(prepared, folders["surroundings"], kept, given.seed).run(given.rounds)
    if "soak" in given.parts:
        # Last, for the detector may start threads, and a process with threads must not be forked.
        yield from soak(trained(folders["soak"]), folders["soak"], given.photos, given.sizes)


if __name__ == "__main__":
    sys.exit(main())

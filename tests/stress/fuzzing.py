"""Gives damaged files to every reader: each must end in a value or in one clear `InputError`."""

import json
import os
import shutil
import signal
import traceback
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sandbox
from fingerprint import fingerprint
from mutations import mutate
from outcome import Outcome
from readers import Reader

from sppnet.common.errors import InputError

MEMORY_BYTES = 4 << 30
SECONDS = 20.0
# What OpenCV says when it could not get the memory that an image claims to need.
_SWELLS = ("Failed to allocate", "Insufficient memory", "OutOfMemory")


class Fuzzing:
    """The damaged inputs of one reader, each made from a seed and its number.

    Attributes:
        reader: what is tried.
        folder: holds ``whole/`` (an undamaged input), ``work/`` (the sandbox) and what must not change.
        kept: folder for lost inputs.
    """

    def __init__(self, reader: Reader, folder: Path, kept: Path, seed: int) -> None:
        """Writes a whole input, and reads it once.

        Raises:
            Exception: the whole input cannot be read.
        """
        self.reader, self.folder, self.kept, self._seed = reader, folder, kept, seed
        self._whole, self._work = folder / "whole", folder / "work"
        self._whole.mkdir(parents=True)
        reader.make(self._whole)
        self._files = sorted({path for name in reader.files for path in self._whole.glob(name)})
        assert self._files, f"{reader.kind}: {reader.files} match nothing"
        self._data = [path.read_bytes() for path in self._files]
        self._prepare(self._files[0], self._data[0])
        file = self._work / self._files[0].relative_to(self._whole)
        self._expected = fingerprint(reader.read(self._work, file))
        # Beside work/, so that "../outside" would be found.
        (self.folder / "canary").write_text("as it was")

    def damaged(self, number: int) -> tuple[Path, bytes]:
        """The file that input ``number`` damages, and its new bytes."""
        rng = np.random.default_rng((self._seed, zlib.crc32(self.reader.kind.encode()), number))
        index = int(rng.integers(len(self._files)))
        whole = data = self._data[index]
        if rng.random() >= self.reader.unchanged:
            while data == whole:
                data = mutate(whole, self._data, rng)
        return self._files[index], data

    def run(self, numbers: Sequence[int]) -> Outcome:
        """Reads inputs in forks; after a crash or a hang the next fork goes on with the next input."""
        outcome, position = Outcome(self.reader.kind), 0
        while position < len(numbers):
            reading, writing = os.pipe()
            rest = numbers[position:]

            def work(writing: int = writing, rest: Sequence[int] = rest) -> None:
                sandbox.limit_memory(MEMORY_BYTES)
                os.chdir(self._enter())
                for number in rest:
                    os.write(writing, json.dumps(self._verdict(number)[:1000]).encode() + b"\n")

            process = sandbox.fork(work, self.folder / "log.txt")
            os.close(writing)
            with os.fdopen(reading, "rb", 0) as pipe:
                while position < len(numbers):
                    before = sandbox.listing_outside(self.folder, self._work)
                    line = sandbox.next_line(pipe.fileno(), process, SECONDS)
                    loss = json.loads(line) if line else self._unfinished(process, line)
                    changed = sandbox.listing_outside(self.folder, self._work).items() ^ before.items()
                    if changed:
                        loss += f" outside its folder: {sorted(name for name, _ in changed)}"
                    outcome.count(loss and self._keep(numbers[position], loss))
                    position += 1
                    if not line:
                        break
                else:
                    sandbox.ended(process)
        return outcome

    def _enter(self) -> Path:
        self._work.mkdir(exist_ok=True)
        return self._work

    def _unfinished(self, process: int, line: bytes | None) -> str:
        if line is None:
            sandbox.stop(process)
            return f"hangs: more than {SECONDS:g} s"
        code = sandbox.ended(process)
        name = signal.Signals(-code).name if code is not None and code < 0 else f"exit {code}"
        return f"crashes: {name}"

    def _prepare(self, file: Path, data: bytes) -> Path:
        """Fills the sandbox with a copy of the whole input, in which one file is another."""
        shutil.rmtree(self._work, ignore_errors=True)
        shutil.copytree(self._whole, self._work, symlinks=True)
        target = self._work / file.relative_to(self._whole)
        target.write_bytes(data)
        return target

    def _verdict(self, number: int) -> str:
        """Why an input is lost; empty: it survived."""
        file = self._prepare(*self.damaged(number))
        os.chdir(self._work)
        try:
            value = self.reader.read(self._work, file)
        except InputError as error:
            if any(text in str(error) for text in _SWELLS):
                return f"swells: {error}"
            named = not self.reader.named or str(self._work) in str(error)
            return "" if named else f"names no file: {error}"
        except BaseException as error:
            # The last line of this project tells more than the last of a library.
            frames = traceback.extract_tb(error.__traceback__)
            ours = [frame for frame in frames if "site-packages" not in frame.filename]
            where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
            return f"{type(error).__name__}: {error} ({where})".replace("\n", " ")
        if self.reader.stored and value is not None and fingerprint(value) != self._expected:
            return "silently wrong"
        return ""

    def _keep(self, number: int, loss: str) -> str:
        file, data = self.damaged(number)
        folder = self.kept / self.reader.kind.replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / f"{number:05d}-{file.name}"
        kept.write_bytes(data)
        return f"{self.reader.kind}: {loss}: {kept} (for {file.relative_to(self._whole)})"

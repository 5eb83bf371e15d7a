"""Vectors of whole images, kept on disk as float16, so that a second run skips convolution."""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sppnet.common.errors import InputError
from sppnet.common.files import atomic_path
from sppnet.data.images import image_digest
from sppnet.detection.classification.image_features import ImageFeatureExtractor
from sppnet.detection.features.parallel import one_a_core

_LOG = logging.getLogger(__name__)
# A file begins with the SHA-256 of the numbers, of so many bytes, so that no damage goes unnoticed.
_DIGEST = 32

HalfArray = NDArray[np.float16]


class FeatureStore:
    """A folder of vectors, some images a file, found by the digests of the images and of the extractor.

    The folder is bounded: once it holds ``max_bytes`` nothing more is stored. It is a cache: any file may be
    deleted at any time. Damaged files are deleted, and their vectors are computed again.

    Attributes:
        damaged: number of damaged files so far; the first one is named in a warning.
    """

    def __init__(
        self, folder: Path, extractor: ImageFeatureExtractor, max_bytes: int, *, images_per_file: int = 64
    ) -> None:
        """Opens ``folder``, which is made when the first vectors are stored.

        Args:
            folder: of the files.
            extractor: computes vectors that are missing.
            max_bytes: bound on the folder.
            images_per_file: a stopped run loses no more than so many images. It is part of a file's name:
                with another number nothing stored before is found.
        """
        self.folder = folder
        self.damaged = 0
        self._images_per_file = images_per_file
        self._extractor = extractor
        self._made_by = json.dumps(extractor.made_by(), sort_keys=True)
        self._storing = max_bytes > 0
        self._free = max_bytes - sum(file.stat().st_size for file in folder.glob("[!.]*.vectors"))

    def read(self, paths: Sequence[Path], progress: Callable[[int, int], None]) -> HalfArray:
        """The vectors of images, computed and stored where they are missing.

        They are rounded to float16 either way, so that stored and computed vectors are the same.

        Args:
            paths: N image files.
            progress: called with images done and images in all.

        Returns:
            float16 (N, length), in the order of the paths.

        Raises:
            InputError: an image cannot be decoded, or is no size that the view can take.
            OSError: a file cannot be opened.
        """
        vectors = np.empty((len(paths), self._extractor.length), np.float16)
        for start in range(0, len(paths), self._images_per_file):
            progress(start, len(paths))
            end = start + self._images_per_file
            self._fill(vectors[start:end], paths[start:end])
        progress(len(paths), len(paths))
        return vectors

    def _fill(self, target: HalfArray, paths: Sequence[Path]) -> None:
        images = [image_digest(path) for path in paths]
        digest = hashlib.sha256("\n".join([self._made_by, *images]).encode()).hexdigest()
        file = self.folder / f"{digest[:32]}.vectors"
        stored = self._load(file)
        if stored is not None:
            target[:] = stored.reshape(target.shape)
            return
        for row, (_, vector) in zip(target, one_a_core(self._extractor, paths), strict=True):
            if isinstance(vector, InputError):
                raise vector
            row[:] = vector
        if self._storing:
            self._save(file, target)

    def _save(self, file: Path, vectors: HalfArray) -> None:
        values = vectors.tobytes()
        self._free -= len(values) + _DIGEST
        try:
            if self._free < 0:
                raise OSError("the folder has reached its bound; empty it or raise that")
            # Without waiting for the disk: a power cut is noticed by the digest.
            with atomic_path(file, durable=False) as path:
                path.write_bytes(hashlib.sha256(values).digest() + values)
        except OSError as error:
            _LOG.warning("%s: vectors are no longer stored (%s)", self.folder, error)
            self._storing = False

    def _load(self, file: Path) -> HalfArray | None:
        """The numbers in a file, or None where it is missing or damaged; their count is given by the name."""
        try:
            content = file.read_bytes()
        except OSError:
            return None
        if hashlib.sha256(content[_DIGEST:]).digest() == content[:_DIGEST]:
            return np.frombuffer(content, np.float16, offset=_DIGEST)
        if not self.damaged:
            _LOG.warning("%s: damaged; it is computed again, as all damaged files are", file)
        self.damaged += 1
        with suppress(OSError):
            # It makes room for its successor in a folder that is full.
            file.unlink()
            self._free += len(content)
        return None

"""Stores feature maps on disk as float16, so that a second pass over the same images skips convolution."""

import contextlib
import logging
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from sppnet.common.files import atomic_path, checksum, json_digest
from sppnet.detection.features.feature_map import FeatureMap

_LOG = logging.getLogger(__name__)
# Maps that were used within this time may be in use by another process, or another network of this process.
_IN_USE_SECONDS = 3600.0
# A store writes this part of the bound before it counts the bytes of other stores again.
_COUNT_AFTER = 0.02
# The name of the array with the checksum of the others.
_CHECKSUM = "checksum"
# Names of folders that stores made.
_FOLDER = re.compile(r"[0-9a-f]{16}")


class MapStore:
    """A folder of feature maps, one file per image, looked up by the digests of image, weights and scales.

    The size of the folder is limited. Once it holds ``max_bytes``, maps of networks and settings that have
    not been used for an hour are deleted, the longest unused first; if there are none, nothing more is
    stored. The folder is a cache: any file may be deleted at any time. A file carries a checksum; a damaged
    one is deleted, and its maps are computed again. So are files of version 0.1.0, which have no checksum.

    Attributes:
        damaged: number of damaged files so far; the first one is named in a warning.
    """

    def __init__(self, folder: Path, made_by: Mapping[str, Any], scales: int, max_bytes: int) -> None:
        """Opens ``folder``, which is created when the first map is stored.

        Args:
            folder: the folder for the maps of all networks.
            made_by: JSON values that the maps depend on, besides the image.
            scales: number of maps per image.
            max_bytes: largest size of ``folder``, in bytes.
        """
        self.folder = folder / json_digest(made_by)[:16]
        self.damaged = 0
        self._full = False
        self._scales = scales
        # All of ``folder`` counts, so that the maps of all networks together keep the bound.
        self._max_bytes, self._free = max_bytes, 0
        # Bytes written since the last count. Other stores write to the folder, too, so it is counted again
        # from time to time; infinity makes the first write count.
        self._uncounted = math.inf
        # The folder may be missing or read-only.
        with contextlib.suppress(OSError):
            os.utime(self.folder)

    def get(self, image_digest: str, compute: Callable[[], Sequence[FeatureMap]]) -> list[FeatureMap]:
        """Returns the maps of an image, one per scale; computes and stores them if they are missing.

        Computed maps are rounded to float16, too, so that results do not depend on the store. Maps with
        values beyond float16's range are neither rounded nor stored.
        """
        maps = self._load(image_digest)
        if maps is None:
            maps = list(compute())
            if any(
                np.abs(feature_map.values).max(initial=0) > np.finfo(np.float16).max for feature_map in maps
            ):
                return maps
            maps = [
                FeatureMap(feature_map.values.astype(np.float16).astype(np.float32), feature_map.factor)
                for feature_map in maps
            ]
            self._save(image_digest, maps)
        return maps

    def _load(self, image_digest: str) -> list[FeatureMap] | None:
        file = self._path(image_digest)
        try:
            arrays = load_file(file)
            # Reading counts as use: another process must not delete a folder that a long job still reads.
            with contextlib.suppress(OSError):
                os.utime(self.folder)
            if _CHECKSUM not in arrays and arrays.keys() == self._names():
                self._delete(file)
                return None
            if arrays.pop(_CHECKSUM).tolist() != [_checksum(arrays)] or arrays.keys() != self._names():
                raise ValueError("not as it was written")
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            if not self.damaged:
                _LOG.warning("%s: damaged (%s); it is computed again, as all damaged maps are", file, error)
            self.damaged += 1
            self._delete(file)
            return None
        factors = arrays["factors"].tolist()
        return [
            FeatureMap(arrays[f"map{scale}"].astype(np.float32), tuple(factors[scale]))
            for scale in range(self._scales)
        ]

    def _names(self) -> set[str]:
        """The names of the arrays in a file, except the checksum."""
        return {"factors", *(f"map{scale}" for scale in range(self._scales))}

    def _delete(self, file: Path) -> None:
        # It makes room for its successor in a folder that is full.
        with contextlib.suppress(OSError):
            size = file.stat().st_size
            file.unlink()
            self._free += size

    def _save(self, image_digest: str, maps: Sequence[FeatureMap]) -> None:
        arrays = {
            f"map{scale}": feature_map.values.astype(np.float16) for scale, feature_map in enumerate(maps)
        }
        size = sum(array.nbytes for array in arrays.values())
        if self._uncounted > _COUNT_AFTER * self._max_bytes:
            self._free, self._uncounted = self._max_bytes - _bytes_in(self.folder.parent), 0
        while self._free < size <= self._max_bytes and not self._full and (freed := self._drop_unused()):
            self._free += freed
        if size > self._free:
            if not self._full:
                _LOG.warning("%s: full, further feature maps are computed each time", self.folder.parent)
            self._full = True
            return
        arrays["factors"] = np.array([feature_map.factor for feature_map in maps], np.float64)
        arrays[_CHECKSUM] = np.array([_checksum(arrays)], np.uint32)
        try:
            # Without waiting for the disk, 40 ms a map: a power cut is noticed by the checksum.
            with atomic_path(self._path(image_digest), durable=False) as path:
                save_file(arrays, path)
        except (OSError, SafetensorError) as error:
            _LOG.warning("%s: feature maps are no longer stored (%s)", self.folder, error)
            self._free, self._full = 0, True
        self._free -= size
        self._uncounted += size

    def _drop_unused(self) -> int:
        """Deletes the maps that are unused for longest, if for over an hour; returns the freed bytes."""
        try:
            folders = [path for path in self.folder.parent.iterdir() if _FOLDER.fullmatch(path.name)]
            last_used = {path: path.stat().st_mtime for path in folders if path != self.folder}
            oldest = min(last_used, key=last_used.__getitem__, default=None)
            if oldest is None or time.time() - last_used[oldest] < _IN_USE_SECONDS:
                return 0
            size = _bytes_in(oldest)
            shutil.rmtree(oldest)
        except OSError:
            # Another process was faster, or the folder is write-protected.
            return 0
        _LOG.info("%s: deleted to make room: maps of the network that was unused for longest", oldest)
        return size

    def _path(self, image_digest: str) -> Path:
        return self.folder / f"{image_digest}.safetensors"


def _checksum(arrays: Mapping[str, NDArray[Any]]) -> int:
    """The checksum of arrays with their names, types and shapes."""
    value = 0
    for name, array in sorted(arrays.items()):
        about = f"{name} {array.dtype} {array.shape}".encode()
        value = checksum(about, np.ascontiguousarray(array).data, start=value)
    return value


def _bytes_in(folder: Path) -> int:
    size = 0
    for file in folder.rglob("*.safetensors"):
        # Another process may be writing a file, or making room.
        with contextlib.suppress(FileNotFoundError):
            size += file.stat().st_size
    return size

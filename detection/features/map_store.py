"""Feature maps kept on disk as float16, so that a second pass over the same images skips convolution."""

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
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from sppnet.common.files import atomic_path, json_digest
from sppnet.detection.features.feature_map import FeatureMap

_LOG = logging.getLogger(__name__)
# Maps used within this time may be in use by another process, or by another network in this one.
_IN_USE_SECONDS = 3600.0
# The part of the bound that a store writes before it counts again what other stores have written.
_COUNT_AFTER = 0.02
# Names of folders that stores made.
_FOLDER = re.compile(r"[0-9a-f]{16}")


class MapStore:
    """A folder of feature maps, one file an image, found by the digests of image, weights and scales.

    The folder is bounded: once it holds ``max_bytes``, maps of networks and settings that have not been used
    for an hour are deleted, the longest unused first; where there are none, nothing more is stored. It is a
    cache: any file may be deleted at any time, and a damaged file counts as none.
    """

    def __init__(self, folder: Path, made_by: Mapping[str, Any], scales: int, max_bytes: int) -> None:
        """Opens ``folder``, which is made when the first map is stored.

        Args:
            folder: of the maps of all networks.
            made_by: JSON values that the maps depend on, beside the image.
            scales: how many maps an image has.
            max_bytes: bound on ``folder``.
        """
        self.folder = folder / json_digest(made_by)[:16]
        self._full = False
        self._scales = scales
        # All of ``folder`` counts, so that maps of several networks together keep the bound.
        self._max_bytes, self._free = max_bytes, 0
        # Other stores write there, too; so it is counted again after so many bytes, and before the first.
        self._uncounted = math.inf
        # There may be no folder yet, or it may be read only.
        with contextlib.suppress(OSError):
            os.utime(self.folder)

    def get(self, image_digest: str, compute: Callable[[], Sequence[FeatureMap]]) -> list[FeatureMap]:
        """Returns the maps of an image, one a scale, computed and stored where they are missing.

        They are rounded to float16 either way, so that results do not depend on what was stored; maps with
        values beyond its range stay as they are and are never stored.
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
        try:
            arrays = load_file(self._path(image_digest))
            # Reading is use: another process must not delete a folder that a long job goes on to read.
            with contextlib.suppress(OSError):
                os.utime(self.folder)
            return [
                FeatureMap(arrays[f"map{scale}"].astype(np.float32), tuple(arrays["factors"][scale].tolist()))
                for scale in range(self._scales)
            ]
        except (FileNotFoundError, SafetensorError, KeyError, IndexError):
            return None

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
        try:
            with atomic_path(self._path(image_digest)) as path:
                save_file(arrays, path)
        except (OSError, SafetensorError) as error:
            _LOG.warning("%s: feature maps are no longer stored (%s)", self.folder, error)
            self._free, self._full = 0, True
        self._free -= size
        self._uncounted += size

    def _drop_unused(self) -> int:
        """Deletes the maps unused for longest, if for over an hour; returns the bytes freed."""
        try:
            folders = [path for path in self.folder.parent.iterdir() if _FOLDER.fullmatch(path.name)]
            last_used = {path: path.stat().st_mtime for path in folders if path != self.folder}
            oldest = min(last_used, key=last_used.__getitem__, default=None)
            if oldest is None or time.time() - last_used[oldest] < _IN_USE_SECONDS:
                return 0
            size = _bytes_in(oldest)
            shutil.rmtree(oldest)
        except OSError:
            # Another process was first, or the folder may not be changed.
            return 0
        _LOG.info("%s: maps of a network that was not used for longest; deleted to make room", oldest)
        return size

    def _path(self, image_digest: str) -> Path:
        return self.folder / f"{image_digest}.safetensors"


def _bytes_in(folder: Path) -> int:
    size = 0
    for file in folder.rglob("*.safetensors"):
        # Another process may be writing one, or making room.
        with contextlib.suppress(FileNotFoundError):
            size += file.stat().st_size
    return size

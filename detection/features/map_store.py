"""Feature maps kept on disk as float16, so that a second pass over the same images skips convolution."""

import contextlib
import logging
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from sppnet.common.files import atomic_path, json_digest
from sppnet.detection.backbones import weights_digest
from sppnet.detection.features.extractor import FeatureExtractor, FeatureMap

_LOG = logging.getLogger(__name__)
# Maps that another process may be using, or another network in this one.
_IN_USE_SECONDS = 3600.0
# What a store has written of the bound before it counts again what others have.
_COUNT_AFTER = 0.02
# Folders that a store made.
_OWN = re.compile(r"[0-9a-f]{16}")


class MapStore:
    """A folder of maps, one file an image, found by the digests of image, weights and scales.

    The folder is bounded: once it holds ``max_bytes``, maps of networks and settings that have not been used
    for an hour go, the longest unused first; where there are none, nothing more is stored. It is a cache: any
    file may be deleted at any time, and a damaged one is as good as none.
    """

    def __init__(self, folder: Path, extractor: FeatureExtractor, max_bytes: int) -> None:
        """Opens ``folder``, which is made when the first map is stored."""
        settings = asdict(extractor.settings)
        made_by = {
            "weights": weights_digest(extractor.network),
            "network": extractor.network.config(),
            "scales": settings["scales"],
            "max_long_side": settings["max_long_side"],
        } | ({"bfloat16": True} if settings["bfloat16"] else {})
        self.folder = folder / json_digest(made_by)[:16]
        self._worthwhile = extractor.stores_maps
        self._full = False
        self._scales = len(extractor.settings.scales)
        # All of ``folder`` counts, so that maps of several networks together keep the bound.
        self._max_bytes, self._free = max_bytes, 0
        # Others write there, too; so it is counted again after so many bytes, and before the first.
        self._uncounted = math.inf
        # Where there is none yet, or it may be read only.
        with contextlib.suppress(OSError):
            os.utime(self.folder)

    def get(self, image_digest: str, compute: Callable[[], Sequence[FeatureMap]]) -> list[FeatureMap]:
        """The maps of an image, one a scale, computed and stored where they are missing.

        They are rounded to float16 either way, so that results do not depend on what was stored; maps with
        values beyond its range stay as they are and are never stored.
        """
        if not self._worthwhile:
            return list(compute())
        maps = self._load(image_digest)
        if maps is None:
            maps = list(compute())
            if any(np.abs(one.values).max(initial=0) > np.finfo(np.float16).max for one in maps):
                return maps
            maps = [FeatureMap(one.values.astype(np.float16).astype(np.float32), one.factor) for one in maps]
            self._save(image_digest, maps)
        return maps

    def _load(self, image_digest: str) -> list[FeatureMap] | None:
        try:
            arrays = load_file(self._path(image_digest))
            # Reading is using: others must not take a folder for unused that a long job goes on to read.
            with contextlib.suppress(OSError):
                os.utime(self.folder)
            return [
                FeatureMap(arrays[f"map{scale}"].astype(np.float32), tuple(arrays["factors"][scale].tolist()))
                for scale in range(self._scales)
            ]
        except (FileNotFoundError, SafetensorError, KeyError, IndexError):
            return None

    def _save(self, image_digest: str, maps: Sequence[FeatureMap]) -> None:
        arrays = {f"map{scale}": one.values.astype(np.float16) for scale, one in enumerate(maps)}
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
        arrays["factors"] = np.array([one.factor for one in maps], np.float64)
        try:
            with atomic_path(self._path(image_digest)) as path:
                save_file(arrays, path)
        except (OSError, SafetensorError) as error:
            _LOG.warning("%s: feature maps are no longer stored (%s)", self.folder, error)
            self._free, self._full = 0, True
        self._free -= size
        self._uncounted += size

    def _drop_unused(self) -> int:
        """Deletes the maps that have not been used for longest, but for the last hour's; the bytes freed."""
        try:
            others = (one for one in self.folder.parent.iterdir() if _OWN.fullmatch(one.name))
            used = {one: one.stat().st_mtime for one in others if one != self.folder}
            oldest = min(used, key=used.__getitem__, default=None)
            if oldest is None or time.time() - used[oldest] < _IN_USE_SECONDS:
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

"""Everything that reads a file from outside or from an earlier run, each with whole files to damage."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import outside_files as outside
import stored_files as own

_IMAGE_SUFFIXES = ("jpg", "png", "webp", "bmp", "tiff", "gif", "jp2", "avif", "ppm")


@dataclass(frozen=True)
class Reader:
    """A way into the project for bytes.

    Attributes:
        kind: its name in the table.
        make: writes a whole input into an empty folder.
        files: patterns of the files to damage, below that folder.
        read: reads the input in a folder, of which a file was damaged.
        stored: whether the files are this project's own, so that damage must give the same value or None.
        named: whether errors must name a file.
        unchanged: part of the inputs that are read as `make` wrote them, for files that are bad as they are.
    """

    kind: str
    make: Callable[[Path], Any]
    files: tuple[str, ...]
    read: Callable[[Path, Path], Any]
    stored: bool = False
    named: bool = True
    unchanged: float = 0.0


READERS: tuple[Reader, ...] = (
    *(
        Reader(f"image {suffix}", outside.make_images(f".{suffix}"), ("*",), outside.read_images)
        for suffix in _IMAGE_SUFFIXES
    ),
    Reader("VOC XML", outside.make_dataset("voc"), ("data/Annotations/*.xml",), outside.open_dataset),
    Reader(
        "VOC lists", outside.make_dataset("voc"), ("data/ImageSets/Main/train.txt",), outside.open_dataset
    ),
    Reader("COCO JSON", outside.make_dataset("coco"), ("data/**/*.json",), outside.open_dataset),
    Reader("YOLO", outside.make_dataset("yolo"), ("data/*.yaml", "data/**/*.txt"), outside.open_dataset),
    Reader("ILSVRC", outside.make_ilsvrc, ("**/*.xml", "**/*.txt"), outside.read_ilsvrc),
    Reader("TOML", outside.make_toml, ("settings.toml",), outside.read_toml),
    Reader("--set", outside.make_set, ("settings.toml",), outside.read_set, named=False),
    Reader("tar", outside.make_archives, ("*.tar",), outside.unpack, unchanged=0.5),
    Reader("safetensors", outside.make_weights, ("*.safetensors",), outside.read_weights),
    Reader("pth", outside.make_weights, ("*.pth",), outside.read_weights),
    Reader("caffemodel", outside.make_weights, ("*.caffemodel",), outside.read_weights),
    Reader("mat", outside.make_boxes, ("*.mat",), outside.read_boxes),
    Reader("npz", outside.make_boxes, ("*.npz",), outside.read_boxes),
    Reader("proposal cache", own.make_cache, ("proposals.sqlite",), own.read_cache, stored=True),
    Reader("score store", own.make_scores, ("scores.sqlite",), own.read_scores, stored=True),
    Reader("feature store", own.make_vectors, ("vectors/*",), own.read_vectors, stored=True),
    Reader("map store", own.make_maps, ("maps/*/*",), own.read_maps, stored=True),
    Reader("checkpoint", own.make_checkpoint, ("work/*/*",), own.read_checkpoint, stored=True),
    Reader("model", own.make_from_run("model"), ("model/*",), own.read_detector, stored=True),
    Reader("classifier", own.make_classifier, ("classifier/*",), own.read_classifier, stored=True),
    Reader("detections", own.make_from_run("detections"), ("detections/*.txt",), own.read_found),
    Reader(
        "run files", own.make_run_files, ("*.toml", "*.json", "detections/images.txt"), own.read_run_files
    ),
    Reader("partial detections", own.make_partial, ("a.npz",), own.read_partial, stored=True),
)

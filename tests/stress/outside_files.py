"""Whole files as people and other programs make them, and what reads them."""

import hashlib
import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import caffe_files
import cv2
import exports
import numpy as np
import torch
import toy
from photos import with_orientation
from safetensors.torch import save_file
from scenes import scene
from scipy.io import loadmat, savemat
from tiny_dataset import write_tiny_voc
from toy_network import toy_layers

from sppnet.common.settings import changed
from sppnet.data import Archive, convert_dataset, download_voc2007, image_size, load_dataset, read_image
from sppnet.data.ilsvrc import load_ilsvrc_det
from sppnet.data.images import image_digest
from sppnet.detection.backbones import build_network
from sppnet.detection.backbones.weights import read_weights as read_weights_of
from sppnet.detection.training.presets import make_settings
from sppnet.proposals import ProposalCache, SelectiveSearch, image_key
from sppnet.proposals.exchange import export_boxes
from sppnet.proposals.exchange import read_boxes as read_boxes_of

_ENGINE = SelectiveSearch()


def make_images(suffix: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for number, (height, width) in enumerate(((70, 90), (64, 64), (96, 128))):
            image = scene(number, height, width)
            if suffix in (".png", ".tiff") and number == 1:
                image = image.astype(np.uint16) * 257
            elif suffix in (".png", ".webp", ".tiff") and number == 2:
                image = np.dstack([image, image[:, :, :1]])
            path = folder / f"image{number}{suffix}"
            path.write_bytes(cv2.imencode(suffix, image)[1].tobytes())
            if suffix == ".jpg" and number:
                with_orientation(path, 6)

    return make


def read_images(folder: Path, file: Path) -> list[Any]:
    # Whichever was damaged: the two whole ones cost nothing.
    return [
        (read_image(path).shape, image_size(path), image_digest(path)) for path in sorted(folder.iterdir())
    ]


# Data sets


def make_dataset(layout: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        source = tiny_data(folder)
        convert_dataset([load_dataset(source, split) for split in ("train", "test")], folder / "data", layout)

    return make


def open_dataset(folder: Path, file: Path) -> Any:
    return [example.boxes for example in load_dataset(folder / "data", "train")]


def tiny_data(folder: Path) -> Path:
    """The folder of the tiny data set, which all readers share."""
    source = toy.shared(folder) / "tiny"
    if not source.exists():
        write_tiny_voc(source)
    return source


def make_ilsvrc(folder: Path) -> None:
    detection = folder / "ILSVRC"
    for name in ("a_1", "a_2"):
        exports.write_image(detection / f"Data/DET/train/set/{name}.JPEG")
        exports.write_text(
            detection / f"Annotations/DET/train/set/{name}.xml",
            "<annotation><size><width>64</width><height>48</height></size><object><name>n01</name><bndbox>",
            "<xmin>3</xmin><xmax>40</xmax><ymin>4</ymin><ymax>40</ymax></bndbox></object></annotation>",
        )
    exports.write_text(detection / "ImageSets/DET/train.txt", "set/a_1 1", "set/a_2 2")
    exports.write_text(detection / "map_det.txt", "n01 1 accordion", "n02 2 big airplane")


def read_ilsvrc(folder: Path, file: Path) -> Any:
    return [example.boxes for example in load_ilsvrc_det(folder, "train")]


# Settings


def make_toml(folder: Path) -> None:
    (folder / "settings.toml").write_text(
        "[features]\nscales = [480, 576]\nlevels = [6, 3, 2, 1]\n[mining]\nhard_threshold = -1.0001\n"
        '[network]\nname = "alexnet"\nweights = "random"\n[detection]\nnms_iou = 0.3\n'
    )


def read_toml(folder: Path, file: Path) -> Any:
    return repr(changed(make_settings("paper-1scale"), folder / "settings.toml"))


def read_set(folder: Path, file: Path) -> Any:
    lines = (folder / "settings.toml").read_bytes().decode("utf-8", "surrogateescape").splitlines()
    return repr(changed(make_settings("paper-1scale"), None, [line for line in lines if "=" in line]))


def make_set(folder: Path) -> None:
    (folder / "settings.toml").write_text(
        'features.scales = [480, 576]\nmining.hard_threshold = -1.0001\nnetwork.name = "alexnet"\n'
    )


# Archives


def _member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def make_archives(folder: Path) -> None:
    """A good archive, and others that write, link or point outside."""
    inside = "VOCdevkit/VOC2007"
    outside = folder.parent / "outside"
    plain = [_member(f"{inside}/a.txt"), _member(f"{inside}/b/c.txt")]
    bad: list[list[tarfile.TarInfo]] = [[_member(name)] for name in (
        "../outside", "../../outside", str(outside), f"{inside}/../../../outside", "./../outside", "/outside",
    )]  # fmt: skip
    for target in ("../..", "../../../..", str(folder.parent), "/", "a.txt", "../../outside", "/etc/passwd"):
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            bad.append([_member(f"{inside}/link", kind, target), _member(f"{inside}/link/outside")])
            bad.append([_member(f"{inside}/link", kind, target), _member(f"{inside}/link")])
            bad.append([_member(inside, kind, target)])
    bad += [[_member(f"{inside}/x", kind)] for kind in (tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE)]
    for number, members in enumerate([[], *bad]):
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as archive:
            for info in plain + members:
                data = b"some text\n" * 50 if info.isreg() else b""
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        (folder / f"{number:03d}.tar").write_bytes(content.getvalue())


def unpack(folder: Path, file: Path) -> Any:
    root = folder / "devkit"
    root.mkdir()
    data = file.read_bytes()
    shutil.copy(file, root / "a.tar")
    target = download_voc2007(root, archives=[Archive("a.tar", hashlib.md5(data).hexdigest())])
    unpacked = sorted(target.rglob("*"))
    links = [path for path in unpacked if path.is_symlink() or not (path.is_file() or path.is_dir())]
    assert not links, f"unpacked {links}"
    return [str(path.relative_to(target)) for path in unpacked]


# Weights


def make_weights(folder: Path) -> None:
    torch.manual_seed(0)
    layers = toy_layers()
    state = {name: value.contiguous() for name, value in layers.state_dict().items()}
    save_file(state, folder / "weights.safetensors")
    torch.save(state, folder / "weights.pth")
    tensors = {name: [layer.weight, layer.bias] for name, layer in layers.named_children() if name != "relu1"}
    for generation in range(3):
        (folder / f"v{generation}.caffemodel").write_bytes(caffe_files.caffemodel(tensors, generation))


def read_weights(folder: Path, file: Path) -> Any:
    read_weights_of(file)
    return build_network("toy", file).config()


# Boxes of other programs


def make_boxes(folder: Path) -> None:
    images = _examples(folder)
    with ProposalCache(toy.shared(folder) / "boxes.sqlite", _ENGINE) as cache:
        boxes = np.array([[0, 0, 30, 20], [3, 4, 45, 30], [10, 10, 60, 40]], np.float32)
        cache.put([(image_key(example), boxes) for example in images])
        for name in ("boxes.mat", "boxes.npz"):
            export_boxes(folder / name, images, cache)
    content = loadmat(folder / "boxes.mat")
    savemat(folder / "plain.mat", {name: content[name] for name in ("images", "boxes")})


def _examples(folder: Path) -> Any:
    return load_dataset(tiny_data(folder), "train").examples


def read_boxes(folder: Path, file: Path) -> Any:
    return read_boxes_of(file, _examples(folder))

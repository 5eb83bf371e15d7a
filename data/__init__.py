"""Images and ground truth come in here; knows nothing of the other rooms."""

from data.coco import load_coco
from data.download import VOC2007_URL, Archive, download_voc2007
from data.examples import OnError
from data.files import atomic_path, file_digest
from data.ilsvrc import load_ilsvrc_det
from data.images import DECODER, MAX_PIXELS, decode_image, image_size, read_image
from data.registry import DATASETS, default_train_split, open_dataset
from data.sample import make_sample
from data.types import Dataset, Detections, Example, Image, InputError
from data.voc import VOC_CLASSES, load_voc, write_voc

__all__ = [
    "DATASETS",
    "DECODER",
    "MAX_PIXELS",
    "VOC2007_URL",
    "VOC_CLASSES",
    "Archive",
    "Dataset",
    "Detections",
    "Example",
    "Image",
    "InputError",
    "OnError",
    "atomic_path",
    "decode_image",
    "default_train_split",
    "download_voc2007",
    "file_digest",
    "image_size",
    "load_coco",
    "load_ilsvrc_det",
    "load_voc",
    "make_sample",
    "open_dataset",
    "read_image",
    "write_voc",
]

"""Images, ground truth and detections: readers of every data set format, types, drawing."""

from sppnet.data.coco import load_coco
from sppnet.data.detections import Detections
from sppnet.data.download import VOC2007_URL, Archive, download_voc2007
from sppnet.data.draw import draw_detections
from sppnet.data.examples import OnError
from sppnet.data.ilsvrc import load_ilsvrc_det
from sppnet.data.images import DECODER, MAX_PIXELS, decode_image, image_size, read_image
from sppnet.data.registry import DATASETS, default_train_split, load_dataset
from sppnet.data.sample import make_sample
from sppnet.data.types import Dataset, Example
from sppnet.data.voc import VOC_CLASSES, load_voc, write_voc

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
    "OnError",
    "decode_image",
    "default_train_split",
    "download_voc2007",
    "draw_detections",
    "image_size",
    "load_coco",
    "load_dataset",
    "load_ilsvrc_det",
    "load_voc",
    "make_sample",
    "read_image",
    "write_voc",
]

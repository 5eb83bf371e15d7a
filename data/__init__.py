"""Images, ground truth and detections: readers of every data set format, types, drawing."""

from sppnet.data.check import DatasetCheck, check_dataset
from sppnet.data.coco import load_coco
from sppnet.data.convert import convert_dataset
from sppnet.data.detections import Detections
from sppnet.data.download import VOC2007_URL, Archive, download_voc2007
from sppnet.data.draw import draw_detections, draw_ground_truth
from sppnet.data.examples import OnError
from sppnet.data.ilsvrc import load_ilsvrc_det
from sppnet.data.images import DECODER, MAX_PIXELS, decode_image, image_size, read_image
from sppnet.data.names import check_names
from sppnet.data.registry import DATASETS, default_train_split, describe_format, load_dataset
from sppnet.data.sample import make_sample
from sppnet.data.splitting import split_dataset
from sppnet.data.types import Dataset, Example
from sppnet.data.voc import VOC_CLASSES, load_voc, write_voc
from sppnet.data.writers import write_coco, write_yolo

__all__ = [
    "DATASETS",
    "DECODER",
    "MAX_PIXELS",
    "VOC2007_URL",
    "VOC_CLASSES",
    "Archive",
    "Dataset",
    "DatasetCheck",
    "Detections",
    "Example",
    "OnError",
    "check_dataset",
    "check_names",
    "convert_dataset",
    "decode_image",
    "default_train_split",
    "describe_format",
    "download_voc2007",
    "draw_detections",
    "draw_ground_truth",
    "image_size",
    "load_coco",
    "load_dataset",
    "load_ilsvrc_det",
    "load_voc",
    "make_sample",
    "read_image",
    "split_dataset",
    "write_coco",
    "write_voc",
    "write_yolo",
]

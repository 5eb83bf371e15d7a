"""Names that options choose from.

The library has them, too, and imports much beside them; these copies let ``--help`` and errors of options
start at once. A test holds both equal.
"""

from typing import Literal

PRESETS = (
    "default",
    "paper-1scale",
    "paper-1scale-rcnn-regression",
    "paper-5scale",
    "rcnn",
    "released-1scale",
    "released-5scale",
)
PRETRAINING_PRESETS = ("paper", "modern")
# Networks that a classifier can be trained with.
CLASSIFIER_NETWORKS = ("zf5", "convnet5", "overfeat5", "overfeat7", "alexnet", "vgg16")
PROPOSAL_ENGINES = ("single", "fast", "quality", "opencv")

ScoreComparison = Literal["as-is", "rank"]
# The views of an image that classifiers are tested on, and where these come from.
TestViews = Literal["centre", "ten", "full", "multi", "multi+full"]
ViewSource = Literal["maps", "crops"]
# The view of an image that becomes a vector for linear SVMs, and the layer that gives the vector.
VectorView = Literal["crop", "full", "warp"]
VectorLayer = Literal["conv", "fc6", "fc7"]
# Layouts that data sets are converted to.
DatasetLayout = Literal["voc", "coco", "yolo"]

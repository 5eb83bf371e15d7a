"""Names of the heads of a run. This module imports nothing else, so that the command line starts fast."""

from typing import Literal, get_args

# SVMs on pooled vectors or on a fully connected layer, or the fine-tuned softmax.
HeadName = Literal["pool5", "fc6", "fc7", "softmax"]
HEADS: tuple[HeadName, ...] = get_args(HeadName)

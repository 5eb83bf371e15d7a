"""The types of arrays that every room uses."""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
# uint8 (H, W, 3), RGB.
Image = NDArray[np.uint8]

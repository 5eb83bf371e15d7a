"""Images for Selective Search, and sets of boxes to compare."""

import numpy as np


def scene(seed, height=90, width=120, patches=12):
    """Draws textured rectangles on noise."""
    rng = np.random.default_rng(seed)
    image = rng.integers(90, 120, (height, width, 3)).astype(np.uint8)
    for _ in range(patches):
        top, left = rng.integers(0, height - 15), rng.integers(0, width - 15)
        bottom, right = top + rng.integers(15, 50), left + rng.integers(15, 50)
        shape = image[top:bottom, left:right].shape
        image[top:bottom, left:right] = rng.integers(0, 256, 3) // 2 + rng.integers(0, 60, shape)
    return image


def as_set(boxes):
    """Converts boxes to a set of tuples, to compare them without order."""
    return {tuple(box) for box in boxes.tolist()}

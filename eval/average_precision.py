"""Computes the average precision of a precision-recall curve, as the PASCAL VOC devkit does."""

import numpy as np

from sppnet.eval.boxes import Float64

# The devkit's ``for t=0:0.1:1`` (VOCevaldet.m) as multiples of 0.1. Three of them are a little above their
# decimals (0.30000000000000004, 0.6000000000000001, 0.7000000000000001), so a recall of exactly 3/10 does not
# reach the fourth step. py-faster-rcnn, chainercv (checked against MATLAB) and the Object-Detection-Metrics
# fixture agree. An array ``0:0.1:1`` in MATLAB would differ: it counts down from 1 in its second half, with
# 0.6 and 0.7 exact.
RECALL_STEPS: Float64 = np.arange(11, dtype=np.float64) * 0.1


def average_precision_11point(recall: Float64, precision: Float64) -> float:
    """Computes VOC2007's average precision: mean over t = 0, 0.1 … 1 of the best precision at recall >= t.

    Args:
        recall: float64 (D,), after each detection, best first.
        precision: float64 (D,), after each detection. NaN (0/0) is skipped, as in MATLAB's ``max``; a curve
            of NaN alone scores 0.

    Example:
        >>> average_precision_11point(np.array([0.5, 1.0]), np.array([1.0, 0.5])) == (6 * 1 + 5 * 0.5) / 11
        True
    """
    return float(np.append(_envelope(precision), 0)[np.searchsorted(recall, RECALL_STEPS)].mean())


def average_precision_area(recall: Float64, precision: Float64) -> float:
    """Computes VOC2010's average precision: the exact area under the interpolated curve (VOCap.m).

    Args:
        recall: float64 (D,), as in `average_precision_11point`.
        precision: float64 (D,), as in `average_precision_11point`.

    Example:
        >>> average_precision_area(np.array([0.5, 1.0]), np.array([1.0, 0.5]))
        0.75
    """
    return float((np.diff(recall, prepend=0) * _envelope(precision)).sum())


def _envelope(precision: Float64) -> Float64:
    """Computes for each recall the best precision at that recall or a higher one."""
    return np.maximum.accumulate(np.nan_to_num(precision)[::-1])[::-1]

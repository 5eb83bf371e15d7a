"""Average precision of a precision-recall curve, as the PASCAL VOC devkit computes it."""

import numpy as np

from sppnet.eval.boxes import Float64

# The devkit's ``for t=0:0.1:1`` (VOCevaldet.m) as the multiples of 0.1: three are a hair above their decimals
# (0.30000000000000004, 0.6000000000000001, 0.7000000000000001), so a recall of just 3/10 does not reach the
# fourth. py-faster-rcnn, chainercv (checked against MATLAB) and the Object-Detection-Metrics fixture agree; a
# colon that MATLAB makes into an array counts down from 1 in its second half, with 0.6 and 0.7 exact.
RECALL_STEPS: Float64 = np.arange(11, dtype=np.float64) * 0.1


def average_precision_11point(recall: Float64, precision: Float64) -> float:
    """The VOC2007 average precision: mean over t = 0, 0.1 … 1 of the best precision at recall >= t.

    Args:
        recall: float64 (D,) after each detection, best first.
        precision: float64 (D,) after each detection; NaN (0/0) is passed over, as MATLAB's ``max`` does, and
            a curve of nothing else scores 0.

    Example:
        >>> average_precision_11point(np.array([0.5, 1.0]), np.array([1.0, 0.5])) == (6 * 1 + 5 * 0.5) / 11
        True
    """
    return float(np.append(_envelope(precision), 0)[np.searchsorted(recall, RECALL_STEPS)].mean())


def average_precision_area(recall: Float64, precision: Float64) -> float:
    """The average precision of VOC2010 and later: the exact area under the interpolated curve (VOCap.m).

    Args:
        recall: float64 (D,), as for `average_precision_11point`.
        precision: float64 (D,), as for `average_precision_11point`.

    Example:
        >>> average_precision_area(np.array([0.5, 1.0]), np.array([1.0, 0.5]))
        0.75
    """
    return float((np.diff(recall, prepend=0) * _envelope(precision)).sum())


def _envelope(precision: Float64) -> Float64:
    """The best precision at this recall or beyond."""
    return np.maximum.accumulate(np.nan_to_num(precision)[::-1])[::-1]

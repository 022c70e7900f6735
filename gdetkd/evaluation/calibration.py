"""Calibration: whether a detection of score 0.8 is correct in 80% of cases.

The detection expected calibration error (D-ECE) of Küppers et al. (CVPR workshops 2020) over the
score alone: in 20 bins of equal width the mean score is compared with the precision at an IoU of
0.5, and the differences are weighted by the share of detections. Detections with a score below 0.3
are left out: a detector may list any number of them, and they would hide the others.
"""

from __future__ import annotations

import numpy as np

from gdetkd.evaluation.matches import Matches, ratio

BINS = 20
MIN_SCORE = 0.3


def bin_sums(found: Matches) -> np.ndarray:
    """(images, bins, 3): number of detections, sum of their scores, and correct ones, by image."""
    rows = np.flatnonzero(~found.ignored[0] & (found.score >= MIN_SCORE))
    score = found.score[rows]
    places = np.minimum((score * BINS).astype(int), BINS - 1)
    sums = np.zeros((found.images, BINS, 3))
    values = np.stack([np.ones(len(rows)), score, found.correct[0][rows]], 1)
    np.add.at(sums, (found.image[rows], places), values)
    return sums


def calibration_error(sums: np.ndarray) -> np.ndarray:
    """D-ECE (...) in [0, 1] of sums (..., bins, 3); NaN without any detection."""
    return ratio(np.abs(sums[..., 2] - sums[..., 1]).sum(-1), sums[..., 0].sum(-1))

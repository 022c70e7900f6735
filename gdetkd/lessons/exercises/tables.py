"""Exercises of notebook 12: how much a table of a few runs can show."""

from __future__ import annotations

import math

import numpy as np

from gdetkd.lessons.exercises import Exercise, close, function_check, number


def gap_closed(baseline: float, distilled: float, teacher: float) -> float:
    """The fraction of the gap from the baseline to the teacher that the student closes."""
    return (distilled - baseline) / (teacher - baseline)


def half_width(baseline: list[float], distilled: list[float], quantile: float) -> float:
    """The half width of the interval of the mean gain, paired by seed."""
    gain = np.subtract(distilled, baseline)
    return quantile * gain.std(ddof=1) / math.sqrt(len(gain))


def _check_half_width(answer) -> str | None:
    baseline, distilled, quantile = [23.0, 24.0, 25.0, 26.0], [40.5, 42.0, 42.0, 44.5], 3.18
    got = answer(baseline, distilled, quantile)
    if hint := number(got):
        return hint
    gain = np.subtract(distilled, baseline)
    right = half_width(baseline, distilled, quantile)
    if close(float(got), right * math.sqrt(3 / 4)):
        return "divide by n - 1 in the variance: the mean is estimated from the same runs"
    if close(float(got), right * 2):
        return "that is for a single run; the mean of four runs is less uncertain"
    if close(float(got), right / quantile):
        return "that is the standard error; multiply it by the quantile"
    if float(got) > 1.5 * right:
        return "too wide: subtract within each seed before you compute the standard deviation"
    if not close(float(got), right):
        return f"for gains {gain.tolist()} it is not {float(got):.3f}"
    three = baseline[:3], distilled[:3], 4.30
    if not close(float(answer(*three)), half_width(*three)):
        return "right for four seeds, but not for three: use the arguments"
    return None


EXERCISES = {
    "gap": Exercise(
        "Write gap_closed(baseline, distilled, teacher): 0 at the baseline, 1 at the teacher.",
        function_check(
            gap_closed,
            ((20.0, 35.0, 50.0), (30.0, 27.0, 40.0), (30.0, 42.0, 40.0)),
            "baseline {}, distilled {}, teacher {}",
        ),
        gap_closed,
    ),
    "interval": Exercise(
        "Write half_width(baseline, distilled, quantile): for the mean gain, paired by seed.",
        _check_half_width,
        half_width,
    ),
}

"""Exercises of notebook 0: intersection over union (IoU), and which detections are correct."""

from __future__ import annotations

from gdetkd.lessons.exercises import Exercise, close, number

_PAIRS = (
    ((0, 0, 10, 10), (0, 0, 10, 5)),  # half of it: 50 of 100
    ((0, 0, 10, 10), (5, 5, 15, 15)),  # 25 of 175
    ((2, 1, 6, 4), (2, 1, 6, 4)),
    ((0, 0, 4, 4), (6, 7, 9, 9)),  # apart in both directions
    ((0, 0, 4, 4), (1, 6, 3, 8)),  # apart in y alone
    ((0, 0, 4, 4), (6, 1, 8, 3)),  # in x alone
)


def iou(a: tuple, b: tuple) -> float:
    """The IoU of two boxes x1, y1, x2, y2."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def _check_iou(answer) -> str | None:
    for a, b in _PAIRS:
        got = answer(a, b)
        if hint := number(got):
            return hint
        if close(float(got), iou(a, b)):
            continue
        if iou(a, b) == 0:
            return f"{a} and {b} do not overlap, but the answer is {float(got):.3f}"
        return f"{a} and {b}: it is not {float(got):.3f}; how large is their union?"
    return None


def right(ious: list[list[float]]) -> list[bool]:
    """Which of n detections, in descending order of score, are correct.

    ious: (n, m), with m objects of their class. A correct detection has an IoU of at least 0.5 with
    an object that no detection before it has taken; of several it takes the best.
    """
    taken, verdicts = set(), []
    for row in ious:
        free = [place for place in range(len(row)) if place not in taken and row[place] >= 0.5]
        if free:
            taken.add(max(free, key=row.__getitem__))
        verdicts.append(bool(free))
    return verdicts


_CASES = {
    "three detections of one object": [[0.6], [0.9], [0.8]],
    "an IoU of exactly 0.5": [[0.5, 0.0]],
    "the best object is taken, but another one matches": [[0.9, 0.6], [0.8, 0.7]],
    "the first matches two objects and takes the better one": [[0.6, 0.9], [0.7, 0.3]],
    "nothing matches": [[0.4, 0.3], [0.2, 0.45]],
}


def _check_matching(answer) -> str | None:
    for case, ious in _CASES.items():
        got = [bool(verdict) for verdict in answer(ious)]
        if got != right(ious):
            return f"{case}, IoU {ious}: it is not {got}"
    return None


EXERCISES = {
    "iou": Exercise(
        "Write iou(a, b) of two boxes x1, y1, x2, y2: intersection over union.",
        _check_iou,
        iou,
    ),
    "right": Exercise(
        "Write right(ious): whether each detection is correct, in descending order of score.",
        _check_matching,
        right,
    ),
}

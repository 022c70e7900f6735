"""Which errors cost AP: the six types of TIDE (Bolya et al., ECCV 2020, section 2).

A detection that is not correct at an IoU of 0.5 has the first of these errors that applies, in the
order of TIDE's own code: localization, classification, duplicate, background, both. An object that
no detection finds, and none would find without an error of the first two types, is missed. What a
type costs is the AP50 gained if an oracle corrects it: a detection with the wrong class or box
becomes correct, if it is the best of those for its object and the object has not been found; the
others vanish; missed objects no longer count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pycocotools import mask

from gdetkd.evaluation.matches import Curve, Matches, curves

ERRORS = ("classification", "localization", "both", "duplicate", "background", "missed")
FOREGROUND, BACKGROUND = 0.5, 0.1  # IoU; TIDE's t_f and t_b


@dataclass(frozen=True)
class Errors:
    """The errors of one detector.

    Attributes:
        kind: (N,) place of each detection's error in `ERRORS`; -1 where it has none.
        target: (N,) the object that the detection finds once it is corrected; -1 for none.
        missed: (M,) objects.
    """

    kind: np.ndarray
    target: np.ndarray
    missed: np.ndarray

    def count(self, kind: str) -> int:
        if kind == "missed":
            return int(self.missed.sum())
        return int((self.kind == ERRORS.index(kind)).sum())


def find_errors(found: Matches) -> Errors:
    """The error of every detection and the missed objects, of matches of all areas."""
    kind, near = np.full(len(found.image), -1), np.full(len(found.image), -1)
    wrong = (found.object[0] < 0) & ~found.ignored[0]
    used = np.zeros(len(found.counted), bool)
    used[found.object[0][found.correct[0]]] = True
    there = np.flatnonzero(found.counted)
    objects = _by_image(there, found.object_image[there], found.images)
    detections = _by_image(np.flatnonzero(wrong), found.image[wrong], found.images)
    for rows, truth in zip(detections, objects, strict=True):
        kind[rows] = ERRORS.index("background")
        if not len(rows) or not len(truth):
            continue
        overlap = mask.iou(found.box[rows], found.object_box[truth], np.zeros(len(truth), np.uint8))
        same = found.label[rows][:, None] == found.object_label[truth]
        right, other = np.where(same, overlap, 0), np.where(same, 0, overlap)
        conditions = dict(
            localization=(right.max(1) >= BACKGROUND) & (right.max(1) <= FOREGROUND),
            classification=other.max(1) >= FOREGROUND,
            duplicate=np.where(used[truth], right, 0).max(1) >= FOREGROUND,
            background=overlap.max(1) <= BACKGROUND,
        )
        names = [ERRORS.index(name) for name in conditions]
        kind[rows] = np.select(list(conditions.values()), names, ERRORS.index("both"))
        near[rows] = truth[right.argmax(1)]
        classification = kind[rows] == ERRORS.index("classification")
        near[rows[classification]] = truth[other.argmax(1)[classification]]
    target = _best(found, kind, near, used)
    missed = found.counted & ~used
    missed[target[target >= 0]] = False
    return Errors(kind, target, missed)


def _best(found: Matches, kind: np.ndarray, near: np.ndarray, used: np.ndarray) -> np.ndarray:
    """The object that each detection with a wrong class or box would find, each object once."""
    fixable = np.isin(kind, [ERRORS.index("classification"), ERRORS.index("localization")])
    rows = np.flatnonzero(fixable & (near >= 0) & ~used[near])
    rows = rows[np.argsort(-found.score[rows], kind="stable")]
    _, first = np.unique(near[rows], return_index=True)
    target = np.full(len(kind), -1)
    target[rows[first]] = near[rows[first]]
    return target


def _by_image(rows: np.ndarray, image: np.ndarray, images: int) -> list[np.ndarray]:
    order = np.argsort(image, kind="stable")
    return np.split(rows[order], np.searchsorted(image[order], np.arange(1, images)))


def corrected(found: Matches, errors: Errors, kind: str) -> list[Curve]:
    """The curves at an IoU of 0.5, one per class, if an oracle corrects one type of error."""
    label, correct = found.label.copy(), found.correct[:1].copy()
    keep, counted = errors.kind != ERRORS.index(kind), found.counted
    if kind == "missed":
        counted = counted & ~errors.missed
    elif kind in ("classification", "localization"):
        better = ~keep & (errors.target >= 0)
        label[better] = found.object_label[errors.target[better]]
        correct[:, better] = True
        keep = keep | better
    return curves(found.image[keep], label[keep], found.score[keep], correct[:, keep],
                  found.ignored[:1, keep], found.objects(counted))  # fmt: skip

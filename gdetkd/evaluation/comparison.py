"""Two detectors on the same images: what changed, and how sure that is.

Intervals come from a paired bootstrap over images (Efron and Tibshirani 1993, percentile interval):
the images are drawn again with replacement, both detectors are measured on the same draw, and the
interval holds the middle 95% of the differences. It says how far another set of such images would
change the difference. It does not say what another seed of the training changes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gdetkd.evaluation.calibration import BINS, MIN_SCORE, bin_sums, calibration_error
from gdetkd.evaluation.coco_results import check_detections, check_truth, read_json
from gdetkd.evaluation.errors import ERRORS, Errors, corrected, find_errors
from gdetkd.evaluation.matches import (
    FIGURES,
    Curve,
    Matches,
    class_precision,
    evaluate,
    figures,
    matches,
    mean,
)

RESAMPLES = 1000
CONFIDENCE = 0.95
Source = str | os.PathLike | Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Change:
    """A figure of A and of B, and the interval of B - A; NaN where there is none."""

    a: float
    b: float
    low: float = np.nan
    high: float = np.nan

    @property
    def difference(self) -> float:
        return self.b - self.a

    @property
    def distinguishable(self) -> bool:
        """Whether the interval excludes 0."""
        return bool(self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Panel:
    """One detector on one image, at an IoU of 0.5.

    detections: (box [x, y, width, height], class, score, whether it is correct), the best first,
    those from a score of 0.3. missed: (box, class) of the objects that none of them finds.
    """

    detections: list[tuple[list[float], str, float, bool]]
    missed: list[tuple[list[float], str]]


@dataclass(frozen=True)
class ChangedImage:
    """An image, its AP by itself (its classes in one ranking) and what the detectors find."""

    name: str
    size: tuple[int, int]
    ap: Change
    panels: tuple[Panel, Panel]


@dataclass(frozen=True)
class Comparison:
    """Detector A against detector B; AP, AR and D-ECE are in [0, 1].

    Attributes:
        names: Of A and B.
        images, objects: How many there are, crowds aside.
        figures: pycocotools' twelve, by name.
        classes: AP by class, the largest gain first, with the number of objects.
        errors: The AP50 that each of TIDE's error types costs, and how many there are.
        calibration: D-ECE.
        reliability: Of A and of B (bins, 3): number of detections, sum of scores, correct ones.
        changed: The images that changed most, the largest gain first.
        better, worse: Number of images whose AP by itself rose and fell.
    """

    names: tuple[str, str]
    images: int
    objects: int
    figures: dict[str, Change]
    classes: dict[str, tuple[int, Change]]
    errors: dict[str, tuple[int, int, Change]]
    calibration: Change
    reliability: tuple[np.ndarray, np.ndarray]
    changed: list[ChangedImage]
    better: int
    worse: int

    @property
    def headline(self) -> str:
        """The result in a sentence."""
        ap = self.figures["AP"]
        verdict = f"{self.names[ap.difference > 0]} is better"
        if not ap.distinguishable:
            verdict = "not distinguishable on these images"
        return (
            f"AP {percent(ap.a)} for {self.names[0]}, {percent(ap.b)} for {self.names[1]}: "
            f"{signed(ap.difference)} points, 95% interval {interval(ap)}; {verdict}"
        )


def compare(
    a: Source,
    b: Source,
    truth: str | os.PathLike | Mapping[str, Any],
    *,
    classes: Sequence[str] | None = None,
    names: tuple[str, str] = ("A", "B"),
    show: int = 6,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare the detections of two detectors on the same images.

    Args:
        a, b: Detections in COCO's result format, `image_id`, `category_id`, `bbox` (x, y, width,
            height in pixels) and `score`, or a JSON file of them. B - A is what is reported.
        truth: COCO annotations, or their file.
        classes: Names of the categories that count; all by default.
        names: What to call the detectors.
        show: How many of the images that gained most, and of those that lost most, are kept.
        resamples: How often the images are drawn again.
        seed: Of those draws.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: The annotations or a detection are not in COCO's format or do not fit together,
            or there is only one image.
    """
    named = isinstance(truth, (str, os.PathLike))
    where = f"annotations {truth}" if named else "annotations"
    content = check_truth(read_json(truth, "annotations") if named else truth, classes, where)
    if len(content["images"]) < 2:
        raise ValueError(f"{where}: expected two images or more to draw from, got one")
    sides = [_Side(_read(source, content, name), content)
             for source, name in zip((a, b), names, strict=True)]  # fmt: skip
    draws = resample(len(sides[0].ids), resamples, seed)
    once = np.ones((1, len(sides[0].ids)))

    def change(measure: Callable[[_Side, np.ndarray], np.ndarray]) -> list[Change]:
        """The n changes of what is measured for weights (B, I) of the images: (B, n)."""
        (before,), (after,) = (measure(side, once) for side in sides)
        ends = limits(measure(sides[1], draws) - measure(sides[0], draws))
        return [Change(*map(float, each)) for each in zip(before, after, *ends, strict=True)]

    of_all = change(lambda side, weights: np.hstack(figures(side.areas, weights)))
    counts = sides[0].all.objects().sum(1)
    by_class = {
        category["name"]: (int(count), ap)
        for category, count, ap in zip(
            sides[0].categories, counts, of_all[len(FIGURES) :], strict=True
        )
    }
    costs = change(_Side.costs)
    error_counts = [[side.errors.count(kind) for kind in ERRORS] for side in sides]
    (calibration,) = change(
        lambda side, weights: calibration_error(np.tensordot(weights, side.bins, 1))[:, None]
    )
    gains = sides[1].image_ap - sides[0].image_ap
    return Comparison(
        names=tuple(names),
        images=len(sides[0].ids),
        objects=int(counts.sum()),
        figures=dict(zip(FIGURES, of_all, strict=False)),
        classes=dict(sorted(by_class.items(), key=lambda item: _falling(item[1][1].difference))),
        errors=dict(zip(ERRORS, zip(*error_counts, costs, strict=True), strict=True)),
        calibration=calibration,
        reliability=(sides[0].bins.sum(0), sides[1].bins.sum(0)),
        changed=[_changed(sides, content, place) for place in most_changed(gains, show)],
        better=int((gains > 0).sum()),
        worse=int((gains < 0).sum()),
    )


class _Side:
    """One detector: its matches and what is measured from them."""

    def __init__(self, detections: Sequence[Mapping[str, Any]], truth: Mapping[str, Any]) -> None:
        evaluation = evaluate(truth, detections)
        self.ids = evaluation.params.imgIds
        self.categories = evaluation.cocoGt.loadCats(evaluation.params.catIds)
        self.areas = matches(evaluation)
        self.all: Matches = self.areas["all"]
        self.errors: Errors = find_errors(self.all)
        self.bins = bin_sums(self.all)
        self.image_ap = image_precision(self.all)

    def costs(self, weights: np.ndarray) -> np.ndarray:
        """AP50 (B, 6) that each type of error costs."""
        plain = [Curve(c.image, c.correct[:1], c.ignored[:1], c.objects) for c in self.all.curves()]
        (found,) = mean(class_precision(plain, weights), 0).T
        better = [corrected(self.all, self.errors, kind) for kind in ERRORS]
        return np.stack([mean(class_precision(c, weights), 0)[:, 0] - found for c in better], 1)


def _read(source: Source, truth: Mapping[str, Any], name: str) -> list[dict]:
    if isinstance(source, (str, os.PathLike)):
        return check_detections(read_json(source, name), truth, str(source))
    return check_detections(list(source), truth, name)


def resample(images: int, times: int, seed: int) -> np.ndarray:
    """(times, images) how often each image occurs when as many are drawn with replacement."""
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), times)


def limits(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ends (n,) of the middle 95% of differences (B, n), without NaN; NaN if all are."""
    outside = 100 * (1 - CONFIDENCE) / 2
    known = ~np.isnan(differences).all(0)
    ends = np.full((2, len(known)), np.nan)
    ends[:, known] = np.nanpercentile(differences[:, known], [outside, 100 - outside], 0)
    return ends[0], ends[1]


def image_precision(found: Matches) -> np.ndarray:
    """(images,) AP of each image by itself, its classes in one ranking; NaN without objects."""
    objects, order = found.objects().sum(0), np.argsort(-found.score, kind="stable")
    order = order[np.argsort(found.image[order], kind="stable")]
    ends = np.searchsorted(found.image[order], np.arange(found.images + 1))
    scores = np.full(found.images, np.nan)
    for place in np.flatnonzero(objects):
        rows = order[ends[place] : ends[place + 1]]
        curve = Curve(np.zeros(len(rows), int), found.correct[:, rows], found.ignored[:, rows],
                      objects[place : place + 1])  # fmt: skip
        scores[place] = curve.average_precision(np.ones((1, 1))).mean()
    return scores


def most_changed(gains: np.ndarray, show: int) -> list[int]:
    """Places of the `show` largest gains and the `show` largest losses, by falling gain."""
    order = [place for place in np.argsort(-gains, kind="stable") if gains[place] != 0]
    order = [int(place) for place in order if not np.isnan(gains[place])]
    up = [place for place in order if gains[place] > 0][:show]
    return up + [place for place in order if gains[place] < 0][-show:]


def _changed(sides: Sequence[_Side], truth: Mapping[str, Any], place: int) -> ChangedImage:
    image = next(each for each in truth["images"] if each["id"] == sides[0].ids[place])
    ap = Change(*(float(side.image_ap[place]) for side in sides))
    classes = [category["name"] for category in sides[0].categories]
    panels = tuple(_panel(side.all, place, classes) for side in sides)
    size = int(image.get("width", 0)), int(image.get("height", 0))
    return ChangedImage(str(image.get("file_name", image["id"])), size, ap, panels)


def _panel(found: Matches, place: int, classes: Sequence[str]) -> Panel:
    shown = (found.image == place) & (found.score >= MIN_SCORE) & ~found.ignored[0]
    rows = np.flatnonzero(shown)
    rows = rows[np.argsort(-found.score[rows], kind="stable")]
    lost = found.counted & (found.object_image == place)
    lost[found.object[0][rows[found.correct[0][rows]]]] = False
    return Panel(
        [(found.box[row].tolist(), classes[found.label[row]], float(found.score[row]),
          bool(found.correct[0][row])) for row in rows],
        [(found.object_box[row].tolist(), classes[found.object_label[row]])
         for row in np.flatnonzero(lost)],
    )  # fmt: skip


def _falling(value: float) -> float:
    return np.inf if np.isnan(value) else -value


@dataclass(frozen=True)
class Table:
    """A table of text for the terminal and the page; each row comes with the change it states."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: list[tuple[tuple[str, ...], Change]]


def tables(found: Comparison) -> list[Table]:
    """A comparison as tables, in percent and points."""
    a, b = found.names
    tail = (a, b, "change", "95% interval")

    def cells(change: Change) -> tuple[str, ...]:
        return (percent(change.a), percent(change.b), signed(change.difference), interval(change))

    return [
        Table("COCO's figures", "Average precision and recall by pycocotools.", ("", *tail),
              [((name, *cells(c)), c) for name, c in found.figures.items() if not np.isnan(c.a)]),
        Table("AP by class", "The largest gain first.", ("class", "objects", *tail),
              [((name, str(n), *cells(c)), c) for name, (n, c) in found.classes.items() if n]),
        Table("Errors",
              "AP50 that each type of error costs (TIDE): less is better. Their number is of all "
              "detections, whatever their score.",
              ("error", f"number, {a}", f"number, {b}", *tail),
              [((name, str(m), str(n), *cells(c)), c) for name, (m, n, c) in found.errors.items()]),
        Table("Calibration",
              f"D-ECE, the mean gap between score and precision in {BINS} bins from a score of "
              f"{MIN_SCORE} on: less is better.",
              ("", "detections, " + a, "detections, " + b, *tail),
              [(("D-ECE", *(f"{r[:, 0].sum():.0f}" for r in found.reliability),
                 *cells(found.calibration)), found.calibration)]),
    ]  # fmt: skip


def percent(value: float) -> str:
    return "" if np.isnan(value) else f"{100 * value:.1f}"


def signed(value: float) -> str:
    return "" if np.isnan(value) else f"{100 * value:+.1f}"


def interval(change: Change) -> str:
    return "" if np.isnan(change.low) else f"{signed(change.low)} to {signed(change.high)}"

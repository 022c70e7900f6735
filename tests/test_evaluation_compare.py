"""Two detectors compared: pycocotools' figures, intervals that cover, errors, the page."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from gdetkd.checkpoints.hub import PACKAGE
from gdetkd.cli import cli
from gdetkd.evaluation import compare
from gdetkd.evaluation.calibration import bin_sums, calibration_error
from gdetkd.evaluation.comparison import limits, resample
from gdetkd.evaluation.comparison_page import write_page
from gdetkd.evaluation.errors import ERRORS, find_errors
from gdetkd.evaluation.matches import (
    AREAS,
    FIGURES,
    Curve,
    class_precision,
    evaluate,
    figures,
    matches,
)


def scene(random, images, classes=3, crowds=0.1):
    """COCO annotations with objects of all sizes, ids with gaps, an image without objects."""
    content = dict(
        images=[dict(id=7 * n + 3, file_name=f"{n}.jpg", width=400, height=300)
                for n in range(images)],
        categories=[dict(id=5 * n + 2, name=f"class {n}") for n in range(classes)],
        annotations=[],
    )  # fmt: skip
    for image in content["images"][1:]:
        for _ in range(random.integers(1, 6)):
            side = np.exp(random.uniform(np.log(8), np.log(180), 2))
            corner = random.uniform(0, 400 - side[0]), random.uniform(0, 300 - min(side[1], 299))
            content["annotations"].append(dict(
                id=len(content["annotations"]), image_id=image["id"],
                category_id=int(random.choice([c["id"] for c in content["categories"]])),
                bbox=[*map(float, corner), *map(float, side)], area=float(np.prod(side)),
                iscrowd=int(random.random() < crowds),
            ))  # fmt: skip
    return content


def guesses(random, truth, noise, wrong=0.2, extra=2):
    """Detections as a detector makes them: moved, doubled, of another class, out of nowhere."""
    found = []
    ids = [category["id"] for category in truth["categories"]]
    for each in truth["annotations"]:
        for _ in range(random.integers(0, 3)):
            box = np.array(each["bbox"])
            box[:2] += random.normal(0, noise, 2) * box[2:]
            box[2:] *= np.exp(random.normal(0, noise, 2))
            label = each["category_id"] if random.random() > wrong else random.choice(ids)
            found.append((each["image_id"], label, box, random.beta(3, 2)))
    for image in truth["images"]:
        for _ in range(extra):
            box = np.concatenate([random.uniform(0, 250, 2), random.uniform(5, 150, 2)])
            found.append((image["id"], random.choice(ids), box, random.beta(2, 4)))
    return [dict(image_id=i, category_id=int(c), bbox=b.tolist(), score=float(s))
            for i, c, b, s in found]  # fmt: skip


@pytest.fixture(scope="module")
def case():
    random = np.random.default_rng(0)
    truth = scene(random, 30)
    return truth, guesses(random, truth, 0.12), guesses(random, truth, 0.05)


@pytest.fixture(scope="module")
def comparison(case):
    truth, a, b = case
    return compare(a, b, truth, names=("poor <one>", "good"), resamples=200)


def test_the_twelve_figures_are_pycocotools(case, comparison):
    truth, *found = case
    stats = [evaluate(truth, each).stats for each in found]
    assert list(comparison.figures) == list(FIGURES) and (np.array(stats) >= 0).all()
    for name, a, b in zip(FIGURES, *stats, strict=True):
        change = comparison.figures[name]
        assert (change.a, change.b) == pytest.approx((a, b), abs=1e-9), name
    assert comparison.figures["AP"].low > 0  # the noise differs by more than chance


def test_a_draw_of_the_images_is_measured_as_pycocotools_would(case):
    """Images written down as often as they were drawn, and evaluated by pycocotools."""
    truth, found, _ = case
    counts = resample(len(truth["images"]), 3, seed=1)
    areas = matches(evaluate(truth, found))
    ours, _ = figures(areas, counts)
    for row, times in zip(ours, counts, strict=True):
        ids = {image["id"]: [100 * image["id"] + copy for copy in range(count)]
               for image, count in zip(truth["images"], times, strict=True)}  # fmt: skip
        drawn = dict(
            truth,
            images=[dict(id=copy) for copies in ids.values() for copy in copies],
            annotations=[dict(a, image_id=n) for a in truth["annotations"]
                         for n in ids[a["image_id"]]],
        )  # fmt: skip
        copies = [dict(d, image_id=n) for d in found for n in ids[d["image_id"]]]
        theirs = evaluate(drawn, copies).stats
        assert row == pytest.approx(np.where(theirs < 0, np.nan, theirs), abs=1e-9, nan_ok=True)


def test_what_no_image_shows_has_no_figure():
    truth = dict(
        images=[dict(id=1), dict(id=2)],
        categories=[dict(id=1, name="seen"), dict(id=2, name="unseen")],
        annotations=[dict(id=1, image_id=1, category_id=1, bbox=[0, 0, 10, 10])],
    )
    perfect = [dict(image_id=1, category_id=1, bbox=[0, 0, 10, 10], score=1.0)]
    found = compare([], perfect, truth, resamples=20)
    assert (found.figures["AP"].a, found.figures["AP"].b) == (0.0, pytest.approx(1))
    assert np.isnan(found.figures["AP large"].a)
    assert found.classes["seen"][0] == 1 and np.isnan(found.classes["unseen"][1].a)
    assert found.errors["missed"][:2] == (1, 0) and found.better == 1
    assert np.isnan(found.calibration.a) and found.calibration.b == 0
    assert "distilled" in compare([], perfect, truth, names=("x", "distilled")).headline
    assert "not distinguishable" in compare(perfect, perfect, truth, resamples=20).headline


# --- The interval ---------------------------------------------------------------------------------


def population(random, images):
    """Two detectors on images of varying difficulty, which both share, as curves of one class."""
    objects = random.integers(1, 5, images)
    ease = random.normal(0, 1, images)
    found = []
    for skill in (0.0, 0.4):
        rows = np.repeat(np.arange(images), objects + 2)
        first = np.concatenate([np.arange(n + 2) < n for n in objects])
        quality = ease[rows] + skill + random.normal(0, 1, len(rows))
        iou = np.where(first, 1 / (1 + np.exp(-quality)), 0)
        score = 1 / (1 + np.exp(-(np.where(first, quality, -1) + random.normal(0, 1, len(rows)))))
        order = np.argsort(-score)
        correct = iou[order] >= np.linspace(0.5, 0.95, 10)[:, None]
        found.append(Curve(rows[order], correct, np.zeros_like(correct), objects))
    return found


def part(curve, images):
    """The curve of some images."""
    place = np.full(len(curve.objects), -1)
    place[images] = np.arange(len(images))
    rows = place[curve.image] >= 0
    return Curve(place[curve.image[rows]], curve.correct[:, rows], curve.ignored[:, rows],
                 curve.objects[images])  # fmt: skip


def test_the_interval_covers_at_its_level():
    """300 times 60 images of a population whose difference is known: 95% of the intervals hold it.

    By chance alone the share of 300 has a standard deviation of 1.3%: 91% to 98.5% are allowed.
    """
    random = np.random.default_rng(0)
    both = population(random, 3000)
    everything = np.ones((1, 3000))
    exact = np.diff([c.average_precision(everything).mean() for c in both])[0]
    hits, widths = 0, []
    for trial in range(300):
        images = random.choice(3000, 60, replace=False)
        draws, others = resample(60, 200, seed=2 * trial), resample(60, 200, seed=2 * trial + 1)
        a, b = (part(curve, images) for curve in both)
        before, after = (c.average_precision(draws).mean(1) for c in (a, b))
        (low,), (high,) = limits((after - before)[:, None])
        hits += low <= exact <= high
        if trial < 20:  # with draws of its own for each detector
            ends = limits((b.average_precision(others).mean(1) - before)[:, None])
            widths.append((high - low) / (ends[1] - ends[0])[0])
    assert 0.91 <= hits / 300 <= 0.985, hits / 300
    assert np.mean(widths) < 0.8  # pairing removes what the images' difficulty adds to both
    assert exact > 0.03  # there is something to cover


# --- Errors and calibration -----------------------------------------------------------------------


def boxed(label, box, score=None):
    found = dict(image_id=1, category_id=label, bbox=box)
    return found if score is None else dict(found, score=score)


@pytest.fixture(scope="module")
def errors():
    """One image with one error of each type; the objects are 100 px wide, 200 px apart."""
    objects = [[200 * n, 0, 100, 100] for n in range(5)]
    truth = dict(
        images=[dict(id=1), dict(id=2)],
        categories=[dict(id=1, name="cat"), dict(id=2, name="dog")],
        annotations=[boxed(1, box) | dict(id=n + 1, area=1e4, iscrowd=0)
                     for n, box in enumerate(objects)],
    )  # fmt: skip
    detections = [
        boxed(1, objects[0], 0.9),  # correct
        boxed(1, [5, 0, 100, 100], 0.8),  # the same object again
        boxed(2, objects[1], 0.7),  # IoU 1 with a cat: classification
        boxed(1, [450, 0, 100, 100], 0.6),  # IoU 50 / 150 with the third: localization
        boxed(2, [650, 0, 100, 100], 0.5),  # the same with a cat, as a dog: both
        boxed(1, [0, 500, 100, 100], 0.4),  # nothing there: background
    ]
    return truth, detections  # the fourth object (seen as a dog) and the fifth are missed


def test_every_error_has_its_type(errors):
    truth, detections = errors
    found = matches(evaluate(truth, detections))["all"]
    result = find_errors(found)
    kinds = {
        round(s, 1): ERRORS[k] for s, k in zip(found.score, result.kind, strict=True) if k >= 0
    }
    assert kinds == {
        0.8: "duplicate", 0.7: "classification", 0.6: "localization", 0.5: "both", 0.4: "background"
    }  # fmt: skip
    assert result.missed.tolist() == [False, False, False, True, True]


def test_an_error_costs_what_its_correction_gains(errors):
    """Dogs have no objects, so AP50 is that of cats.

    By falling score, cats: right, wrong (duplicate), wrong (localization), wrong (background). One
    of five objects is found, at precision 1: recalls 0 to 0.2, 21 of 101 points.
    """
    truth, detections = errors
    found = compare(detections, detections, truth, resamples=20)
    assert found.figures["AP50"].a == pytest.approx(21 / 101)
    costs = {kind: change.a for kind, (_, _, change) in found.errors.items()}
    # The dog becomes a cat: right, wrong, right, wrong, wrong. Precision 2/3 to recall 0.4.
    assert costs["classification"] == pytest.approx(20 * 2 / 3 / 101)
    # Right, wrong, right: the same.
    assert costs["localization"] == pytest.approx(20 * 2 / 3 / 101)
    # Recall 1/3 instead of 1/5, since two objects no longer count: 34 points.
    assert costs["missed"] == pytest.approx(13 / 101)
    # What follows the last correct detection does not lower AP.
    assert costs["duplicate"] == costs["both"] == costs["background"] == 0
    assert all(change.difference == change.low == change.high == 0
               for _, _, change in found.errors.values())  # fmt: skip


def test_only_the_best_error_of_an_object_is_corrected(errors):
    truth, detections = errors
    again = [*detections, boxed(2, [201, 0, 100, 100], 0.65)]
    once, twice = (compare(d, d, truth, resamples=2).errors["classification"]
                   for d in (detections, again))  # fmt: skip
    assert twice[0] == once[0] + 1 and twice[2].a == pytest.approx(once[2].a)


def test_calibration_by_hand(errors):
    """Correct at 0.9, wrong at 0.8, 0.7, 0.6, 0.5, 0.4: each is in a bin of its own."""
    truth, detections = errors
    found = matches(evaluate(truth, [*detections, boxed(1, [0, 0, 9, 9], 0.2)]))["all"]
    assert calibration_error(bin_sums(found).sum(0)) == pytest.approx((0.1 + 3.0) / 6)


def test_scores_that_are_probabilities_are_calibrated():
    random = np.random.default_rng(0)
    truth = scene(random, 2000, classes=1, crowds=0)
    found = []
    for each in truth["annotations"]:
        score = random.uniform(0.3, 1)
        box = each["bbox"] if random.random() < score else [900.0, 900.0, 20.0, 20.0]
        found.append(dict(image_id=each["image_id"], category_id=2, bbox=box, score=score))
    sums = bin_sums(matches(evaluate(truth, found))["all"]).sum(0)
    # About 430 detections per bin: precision has a standard deviation of at most 0.024, and the
    # mean gap is expected at 0.8 of that.
    assert calibration_error(sums) < 0.025
    assert calibration_error(sums * [1, 0.8, 1]) > 0.1


# --- The page and the command ---------------------------------------------------------------------


class Reader(HTMLParser):
    """Collects tags and attributes, and checks that elements are closed in order."""

    VOID = {"meta", "line", "rect", "circle", "polyline", "image", "use"}

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *each) for each in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, *each) for each in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_needs_no_other_file(comparison, tmp_path):
    for image in comparison.changed:
        cv2.imwrite(str(tmp_path / image.name), np.full((300, 400, 3), 90, np.uint8))
    text = write_page(comparison, tmp_path)
    page = Reader(text)
    assert not page.open
    links = [value for _, name, value in page.attributes if name in ("href", "src")]
    assert links and all(link.startswith(("data:image/jpeg;base64,", "#")) for link in links)
    assert not re.search(r"https?:|<script|@import|url\(", text)
    pictures = [link for link in links if link[0] != "#"]
    assert len(pictures) == len(comparison.changed) > 4
    data = np.frombuffer(base64.b64decode(pictures[0].split(",")[1]), np.uint8)
    assert cv2.imdecode(data, cv2.IMREAD_COLOR).shape == (300, 400, 3)
    assert "poor &lt;one&gt;" in text and "<one>" not in text
    assert f"{100 * comparison.figures['AP75'].b:.1f}" in text


def test_a_page_without_pictures_shows_the_boxes(comparison, tmp_path):
    text = write_page(comparison, tmp_path)
    assert "base64" not in text and text.count('viewBox="0 0 400 300"') == 2 * len(
        comparison.changed
    )


def test_the_images_that_changed_most_are_ordered_and_drawn(comparison):
    gains = [image.ap.difference for image in comparison.changed]
    assert gains == sorted(gains, reverse=True) and gains[0] > 0
    for panel in comparison.changed[0].panels:
        scores = [score for _, _, score, _ in panel.detections]
        assert scores == sorted(scores, reverse=True) and min(scores, default=1) >= 0.3
    assert comparison.better + comparison.worse <= comparison.images - 1  # one has no objects


def run(*arguments):
    return CliRunner().invoke(cli, ["compare", *map(str, arguments)], terminal_width=200)


@pytest.fixture(scope="module")
def files(case, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    for name, content in zip(("truth", "a", "b"), case, strict=True):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_files_of_detections_are_compared(files, tmp_path):
    page = tmp_path / "new" / "page.html"
    done = run(files / "a.json", files / "b.json", "--annotations", files / "truth.json",
               "--out", page)  # fmt: skip
    assert done.exit_code == 0, done.output
    for said in ("30 images", "b is better", "AP75", "class 2", "localization", "D-ECE"):
        assert said in done.output
    assert "<title>a against b</title>" in page.read_text()


def test_checkpoints_are_compared_as_their_files_of_detections(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [f"_base_ = {str(PACKAGE / 'configs/digits/faster_rcnn_r18.py')!r}"]
    for part_ in ("train", "val", "test"):
        lines.append(f"{part_}_dataloader = dict(dataset=dict(data_root={str(digits) + '/'!r}))")
    file = str(digits / "annotations" / "val.json")
    lines += [f"{p}_evaluator = dict(ann_file={file!r})" for p in ("val", "test")]
    (tmp_path / "config.py").write_text("\n".join(lines))
    names = ["gdetkd::digits_faster_rcnn_r18.pth", "gdetkd::digits_gdetkd_faster_rcnn_r18.pth"]
    saved = CliRunner().invoke(
        cli, ["test", "config.py", names[0], "--detections", "baseline.json"],
        catch_exceptions=False,
    )  # fmt: skip
    assert saved.exit_code == 0, saved.output
    done = run(*names, "--config", "config.py")
    assert done.exit_code == 0, done.output
    ap = re.search(r"AP ([\d.]+) for digits_faster_rcnn_r18, ([\d.]+)", done.output)
    assert float(ap[1]) < float(ap[2])
    text = (tmp_path / "compare.html").read_text()
    assert text.count("data:image/jpeg") == text.count("<figcaption>") > 0
    mixed = run("baseline.json", names[1], "--config", "config.py")
    assert ap[0] == re.search(r"AP .*", mixed.output)[0].replace(
        "for baseline,", "for digits_faster_rcnn_r18,")[: len(ap[0])]  # fmt: skip


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("a.json", "b.json"), "expected --config, or --annotations"),
        (("a.pth", "b.json", "--annotations", "truth.json"), "--config of the checkpoint"),
        (("a.json", "none.json", "--annotations", "truth.json"), "there is no"),
        (("a.json", "truth.json", "--annotations", "truth.json"), "expected a list of detections"),
        (("a.json", "b.json", "--annotations", "a.json"), "expected COCO annotations"),
        (("a.json", "broken.json", "--annotations", "truth.json"), "expected JSON"),
        (("a.json", "other.json", "--annotations", "truth.json"), "image_id 1 is none of"),
        (("a.json", "flat.json", "--annotations", "truth.json"), "detection 0: expected bbox"),
    ],
)
def test_bad_input_is_said_in_a_sentence(files, monkeypatch, arguments, said):
    monkeypatch.chdir(files)
    (files / "a.pth").touch()
    (files / "broken.json").write_text("[")
    (files / "other.json").write_text(json.dumps([boxed(2, [0, 0, 1, 1], 0.5)]))
    (files / "flat.json").write_text(
        json.dumps([dict(image_id=3, category_id=2, bbox=[0, 0, -1, 1], score=0.5)])
    )
    done = run(*arguments)
    assert done.exit_code != 0
    assert said in done.output + str(done.exception)
    assert not (files / "compare.html").exists()


def test_a_class_that_the_annotations_lack_is_named(case):
    truth, a, b = case
    with pytest.raises(ValueError, match="expected the category 'zebra'"):
        compare(a, b, truth, classes=("class 0", "zebra"))
    with pytest.raises(ValueError, match="expected two images"):
        compare([], [], dict(truth, images=truth["images"][1:2]))
    assert set(AREAS) == {"all", "small", "medium", "large"}


def test_curves_are_measured_in_blocks_of_draws(case, monkeypatch):
    truth, found, _ = case
    curves = matches(evaluate(truth, found))["all"].curves()
    draws = resample(30, 7, seed=0)
    whole = class_precision(curves, draws)
    monkeypatch.setattr("gdetkd.evaluation.matches.BLOCK", 1)
    # Sums of fewer numbers at a time round differently in the last bit.
    assert np.allclose(whole, class_precision(curves, draws), rtol=0, atol=1e-14, equal_nan=True)

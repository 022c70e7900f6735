"""Proposals on their images and as crops: the most similar ones first, the picked one marked."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from gdetkd.viz import proposals as viz
from gdetkd.viz.similarity import order_by_class
from gdetkd.viz.style import HIGHLIGHT

CLASSES = tuple("012")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def scene():
    """Two pictures, six proposals of three classes and two of the background, two detectors."""
    random = np.random.default_rng(0)
    pictures = list(random.integers(0, 255, (2, 40, 40, 3), dtype=np.uint8))
    corner = random.uniform(0, 20, (8, 2))
    image = np.repeat([0, 1], 4)
    rois = np.column_stack([image, corner, corner + 12])
    labels = np.array([0, 1, 2, 3, 0, 1, 2, 3])
    features = {name: random.random((8, 7)) for name in "ab"}
    unit = {n: x / np.linalg.norm(x, axis=1, keepdims=True) for n, x in features.items()}
    similarities = {name: x @ x.T for name, x in unit.items()}
    return dict(pictures=pictures, rois=rois, labels=labels, similarities=similarities)


def test_more_similar_boxes_are_brighter_and_the_picked_one_is_marked(scene):
    boxes = scene["rois"][:4, 1:]
    ax = viz.draw_on_image(scene["pictures"][0], boxes, np.array([1, 0.1, 0.9, 0.5]), picked=0)
    bright = {p.get_x(): sum(p.get_edgecolor()[:3]) for p in ax.patches}
    least, middle, most, picked = (bright[boxes[i, 0]] for i in (1, 3, 2, 0))
    assert least < middle < most
    assert picked == pytest.approx(sum(to_rgb(HIGHLIGHT)))


def test_objects_have_their_class_and_the_background_is_dotted(scene):
    boxes = np.array([[0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30], [0, 25, 9, 34.0]])
    values = np.array([0.2, 0.8, 0.5, 0.9])
    ax = viz.draw_on_image(scene["pictures"][0], boxes, values, names=["3", "3", "7", ""])
    assert {text.get_text(): text.xy for text in ax.texts} == {"3": (1, 1), "7": (20, 20)}
    assert {p.get_x() + p.get_y() for p in ax.patches if p.get_linestyle() == ":"} == {25}


def test_images_are_sorted_by_their_most_similar_proposal(scene):
    row = scene["similarities"]["a"]
    row[4] = row[:, 4] = [0, 0.9, 0, 0, 1, 0, 0, 0]
    assert viz.most_similar_images(scene["rois"], row, picked=4, count=2) == [1, 0]


def test_nearest_are_those_of_other_images_best_first(scene):
    figure = viz.similarity_overview(**scene, picked=1, classes=CLASSES, notes=dict(a="", b=""))
    values = scene["similarities"]["b"][1, 4:]
    shown = [ax.get_title() for ax in figure.axes[-10:-5]]
    names = [*CLASSES, "bg"]
    best = [f"{names[i]}  {values[i]:.2f}" for i in np.argsort(-values)]
    assert shown == ["1", *best]


def test_crop_is_the_box_and_stays_within_the_picture():
    picture = np.arange(100).reshape(10, 10, 1).repeat(3, 2)
    assert np.array_equal(viz.crop(picture, np.array([2, 2, 6, 6]), 4, 0), picture[2:6, 2:6])
    assert viz.crop(picture, np.array([-5, -5, 15, 15]), 8).shape == (8, 8, 3)


def test_overview_has_a_column_a_detector(scene):
    notes = dict(a="one", b="two")
    figure = viz.similarity_overview(**scene, picked=1, classes=CLASSES, notes=notes)
    assert [ax.get_title() for ax in figure.axes[:2]] == ["a", "b"]
    lines = figure.axes[0].lines
    order = order_by_class(scene["similarities"]["a"], scene["labels"])
    assert all(order[int(line.get_ydata()[0])] == 1 for line in lines[:1])

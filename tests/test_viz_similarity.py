"""Similarity matrices and their summaries show the numbers that they are given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from gdetkd.viz import similarity as viz

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


def test_order_keeps_classes_together_and_similar_rows_adjacent():
    labels = np.array([1, 0, 1, 0, 1, 0])
    distance = np.abs(np.subtract.outer(*2 * [np.array([5, 0, 1, 1, 3, 9])])) / 10
    order = viz.order_by_class(1 - distance, labels)
    assert labels[order].tolist() == [0, 0, 0, 1, 1, 1]
    assert order[1] == 3 and order[4] == 4  # the middle one of each class stands in the middle


def test_all_matrices_have_the_same_order(scene):
    figure = viz.compare_similarities(scene["similarities"], scene["labels"], CLASSES)
    order = viz.order_by_class(scene["similarities"]["a"], scene["labels"])
    for ax, matrix in zip(figure.axes, scene["similarities"].values(), strict=False):
        np.testing.assert_array_equal(ax.images[0].get_array(), matrix[np.ix_(order, order)])


def test_clustering_shows_every_proposal(scene):
    figure = viz.cluster_similarities(scene["similarities"]["a"], scene["labels"], CLASSES)
    matrix = scene["similarities"]["a"]
    shown = next(ax for ax in figure.axes if ax.get_ylabel().startswith("proposals"))
    values = shown.collections[0].get_array().ravel()
    np.testing.assert_allclose(np.sort(values), np.sort(matrix.ravel()))


def test_histograms_and_bars_show_what_they_are_given(scene):
    pair_mask = ~np.eye(8, dtype=bool)
    figure = viz.compare_pair_histograms(scene["similarities"], scene["labels"], pair_mask)
    same = scene["labels"][:, None] == scene["labels"]
    mean = scene["similarities"]["b"][pair_mask & same].mean()
    assert figure.axes[1].lines[0].get_xdata()[0] == pytest.approx(mean)
    scores = dict(a=dict(x=0.2, y=0.4), b=dict(x=0.3, y=0.5))
    figure = viz.draw_scores(scores, dict(x=0, y=0.5))
    assert [bar.get_height() for bar in figure.axes[1].patches] == [0.4, 0.5]
    means = {"a": np.eye(3), "b": np.ones((3, 3))}
    assert len(viz.compare_class_similarities(means, CLASSES, [(0, 1)]).axes[0].patches) == 2

"""What is measured of two detectors' similarities, and that the pictures show it."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from gdetkd.lessons.similarity import (
    class_similarities,
    cosine_similarities,
    effective_negatives,
    key_drift,
    linear_cka,
    negative_shares,
    pairwise_auroc,
    retrieval,
    rsa_correlation,
)
from gdetkd.viz import similarity as viz
from gdetkd.viz.style import HIGHLIGHT
from gdetkd.viz.widgets_similarity import NEAREST, explore_proposals

CLASSES = tuple("012")


def rows(count=20, width=7, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def rotation(width=7):
    return torch.linalg.qr(rows(width, width, seed=1)).Q


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


# --- Measures


def test_cosines_by_hand():
    found = cosine_similarities(torch.tensor([[3.0, 4.0], [6.0, 8.0], [4.0, -3.0]]))
    torch.testing.assert_close(found, torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]]))


def test_a_rotation_changes_no_similarity_but_the_vectors():
    turned = rows() @ rotation()
    assert rsa_correlation(*map(cosine_similarities, (rows(), turned))) == pytest.approx(1)
    assert linear_cka(rows(), 3 * turned) == pytest.approx(1)
    assert cosine_similarities(rows(), turned).diagonal().mean() < 0.5


def test_cka_is_kornbliths_on_the_gram_matrices():
    a, b = rows(30, 4), rows(30, 6, seed=2) + rows(30, 6)
    center = torch.eye(30, dtype=torch.float64) - 1 / 30
    k, m = (center @ x.double() @ x.double().T @ center for x in (a, b))
    expected = (k * m).sum() / (k.norm() * m.norm())
    assert linear_cka(a, b) == pytest.approx(expected.item())


def test_agreement_does_not_see_the_diagonal():
    a, b = cosine_similarities(rows()), cosine_similarities(rows(seed=3))
    before = rsa_correlation(a, b)
    assert rsa_correlation(a.clone().fill_diagonal_(-9), b) == before
    assert abs(before) < 0.3  # unrelated rows


def test_odds_are_the_share_of_won_comparisons():
    similarities, labels = cosine_similarities(rows(12)), torch.arange(12) % 3
    similarities[0, 3] = similarities[0, 1]  # a tie
    won = []
    for i in range(12):
        for j in range(12):
            for a in range(12):
                for b in range(12):
                    if i != j and labels[i] == labels[j] and labels[a] != labels[b]:
                        x, y = similarities[i, j], similarities[a, b]
                        won.append((x > y).item() + 0.5 * (x == y).item())
    assert pairwise_auroc(similarities, labels) == pytest.approx(np.mean(won))


def test_class_similarities_are_means_over_pairs_apart():
    similarities, labels = cosine_similarities(rows(6)), torch.tensor([0, 0, 1, 1, 1, 3])
    found = class_similarities(similarities, labels, 3)
    assert found[0, 0] == pytest.approx(similarities[0, 1].item(), abs=1e-6)
    assert found[0, 1] == pytest.approx(similarities[:2, 2:5].mean().item(), abs=1e-6)
    assert found[2].isnan().all()  # no proposal of class 2; class 3 is the background


def test_retrieval_counts_those_who_find_their_own():
    keys = torch.eye(4)
    queries = torch.eye(4)[[0, 1, 3, 2]] + 0.1 * torch.eye(4)
    assert retrieval(queries, keys) == 0.5
    ignore = torch.zeros(4, 4, dtype=torch.bool)
    ignore[2, [2, 3]] = True  # its rival does not count; its own does all the same
    assert retrieval(queries, keys, ignore) == 0.75


def test_shares_of_the_push_are_a_softmax_of_the_negatives():
    cosines = torch.tensor([0.9, 0.5, 0.3, 0.3])
    shares = negative_shares(cosines, 0, 0.2)
    # exp(1), exp(0), exp(0) relative to the last two.
    expected = torch.tensor([0, 2.71828, 1, 1]) / 4.71828
    torch.testing.assert_close(shares, expected, rtol=1e-4, atol=1e-6)


def test_effective_negatives_lie_between_one_and_all():
    cosines = torch.tensor([[1.0, 0.5, 0.3, 0.1], [0.2, 1.0, 0.2, 0.2]])
    few, all_alike = effective_negatives(cosines, 0.001)
    assert few == pytest.approx(1, abs=1e-3) and all_alike == pytest.approx(3)
    assert effective_negatives(cosines, 1000)[0] == pytest.approx(3, abs=1e-3)


def test_drift_is_the_angle_that_the_projection_turned():
    projections = []
    for degrees in (0, 30, 90):
        turn = torch.nn.Linear(2, 2, bias=False)
        c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        turn.weight.data = torch.tensor([[c, -s], [s, c]], dtype=torch.float32)
        projections.append(turn)
    drift = key_drift(projections, rows(5, 2))
    expected = torch.tensor([1, 0.5, 0])[:, None].expand(3, 5)  # 0, 60 and 90 degrees ago
    torch.testing.assert_close(drift, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: rsa_correlation(torch.eye(3), torch.eye(4)), r"\(3, 3\) and \(4, 4\)"),
        (lambda: linear_cka(rows(3), rows(4)), r"\(3, 7\) and \(4, 7\)"),
        (lambda: pairwise_auroc(torch.eye(3), torch.zeros(3)), "only one kind"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- Pictures


@pytest.fixture
def scene():
    """Two pictures, six proposals of three classes and two of the background, two detectors."""
    random = np.random.default_rng(0)
    pictures = list(random.integers(0, 255, (2, 40, 40, 3), dtype=np.uint8))
    corner = random.uniform(0, 20, (8, 2))
    image = np.repeat([0, 1], 4)
    rois = np.column_stack([image, corner, corner + 12])
    labels = np.array([0, 1, 2, 3, 0, 1, 2, 3])
    similarities = {
        n: cosine_similarities(rows(8, seed=i).abs()).numpy() for i, n in enumerate("ab")
    }
    return dict(pictures=pictures, rois=rois, labels=labels, similarities=similarities)


def test_order_keeps_classes_together_and_neighbors_alike():
    labels = np.array([1, 0, 1, 0, 1, 0])
    distance = np.abs(np.subtract.outer(*2 * [np.array([5, 0, 1, 1, 3, 9])])) / 10
    order = viz.order_by_class(1 - distance, labels)
    assert labels[order].tolist() == [0, 0, 0, 1, 1, 1]
    assert order[1] == 3 and order[4] == 4  # the middle one of each class stands in the middle


def test_matrices_are_drawn_in_one_order(scene):
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


def test_more_alike_is_brighter_and_the_picked_one_marked(scene):
    boxes = scene["rois"][:4, 1:]
    ax = viz.draw_on_image(scene["pictures"][0], boxes, np.array([1, 0.1, 0.9, 0.5]), picked=0)
    bright = {p.get_x(): sum(p.get_edgecolor()[:3]) for p in ax.patches}
    least, middle, most, picked = (bright[boxes[i, 0]] for i in (1, 3, 2, 0))
    assert least < middle < most
    assert picked == pytest.approx(sum(to_rgb(HIGHLIGHT)))


def test_images_come_by_their_most_alike_proposal(scene):
    row = scene["similarities"]["a"]
    row[4] = row[:, 4] = [0, 0.9, 0, 0, 1, 0, 0, 0]
    assert viz.images_alike(scene["rois"], row, picked=4, count=2) == [1, 0]


def test_nearest_are_those_of_other_images_best_first(scene):
    figure = viz.nearest_proposals(**scene, picked=1, classes=CLASSES, count=3)
    values = scene["similarities"]["b"][1, 4:]
    shown = [ax.get_title() for ax in figure.axes[4:8]]
    names = [*CLASSES, "bg"]
    best = [f"{names[i]}  {values[i]:.2f}" for i in np.argsort(-values)[:3]]
    assert shown == ["1", *best]


def test_crop_is_the_box_and_stays_within_the_picture():
    picture = np.arange(100).reshape(10, 10, 1).repeat(3, 2)
    assert np.array_equal(viz.crop(picture, np.array([2, 2, 6, 6]), 4, 0), picture[2:6, 2:6])
    assert viz.crop(picture, np.array([-5, -5, 15, 15]), 8).shape == (8, 8, 3)


def test_signature_has_a_column_a_detector(scene):
    notes = dict(a="one", b="two")
    figure = viz.signature(**scene, picked=1, classes=CLASSES, notes=notes)
    assert [ax.get_title() for ax in figure.axes[:2]] == ["a", "b"]
    lines = figure.axes[0].lines
    order = viz.order_by_class(scene["similarities"]["a"], scene["labels"])
    assert all(order[int(line.get_ydata()[0])] == 1 for line in lines[:1])


def test_histograms_and_bars_show_what_they_are_given(scene):
    apart = ~np.eye(8, dtype=bool)
    figure = viz.compare_pair_histograms(scene["similarities"], scene["labels"], apart)
    same = scene["labels"][:, None] == scene["labels"]
    mean = scene["similarities"]["b"][apart & same].mean()
    assert figure.axes[1].lines[0].get_xdata()[0] == pytest.approx(mean)
    scores = dict(a=dict(x=0.2, y=0.4), b=dict(x=0.3, y=0.5))
    figure = viz.draw_scores(scores, dict(x=0, y=0.5))
    assert [bar.get_height() for bar in figure.axes[1].patches] == [0.4, 0.5]
    means = {"a": np.eye(3), "b": np.ones((3, 3))}
    assert len(viz.compare_class_similarities(means, CLASSES, [(0, 1)]).axes[0].patches) == 2


def test_picking_a_proposal_changes_the_picture(scene):
    explorer = explore_proposals(**scene, classes=CLASSES)
    assert "gdetkd-proposals" in explorer._dom_classes
    assert explorer.controls["proposal"].max == 5  # those of the background cannot be picked
    seen = [bytes(explorer.picture.value)]
    explorer.controls["proposal"].value = 4
    seen.append(bytes(explorer.picture.value))
    explorer.controls["view"].value = NEAREST
    seen.append(bytes(explorer.picture.value))
    assert len(set(seen)) == 3

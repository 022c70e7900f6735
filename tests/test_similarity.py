"""Measures of the similarities of proposals, by hand and against slow loops."""

import numpy as np
import pytest
import torch

from gdetkd.lessons.similarity import (
    class_similarities,
    cosine_similarities,
    key_drift,
    linear_cka,
    negative_shares,
    pairwise_auroc,
    retrieval,
    rsa_correlation,
)


def rows(count=20, width=7, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def rotation(width=7):
    return torch.linalg.qr(rows(width, width, seed=1)).Q


def test_cosines_by_hand():
    found = cosine_similarities(torch.tensor([[3.0, 4.0], [6.0, 8.0], [4.0, -3.0]]))
    torch.testing.assert_close(found, torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]]))


def test_a_rotation_changes_the_vectors_but_no_similarity():
    turned = rows() @ rotation()
    assert rsa_correlation(*map(cosine_similarities, (rows(), turned))) == pytest.approx(1)
    assert linear_cka(rows(), 3 * turned) == pytest.approx(1)
    assert cosine_similarities(rows(), turned).diagonal().mean() < 0.5


def test_cka_equals_the_definition_on_gram_matrices():
    a, b = rows(30, 4), rows(30, 6, seed=2) + rows(30, 6)
    center = torch.eye(30, dtype=torch.float64) - 1 / 30
    k, m = (center @ x.double() @ x.double().T @ center for x in (a, b))
    expected = (k * m).sum() / (k.norm() * m.norm())
    assert linear_cka(a, b) == pytest.approx(expected.item())


def test_correlation_ignores_the_diagonal():
    a, b = cosine_similarities(rows()), cosine_similarities(rows(seed=3))
    before = rsa_correlation(a, b)
    assert rsa_correlation(a.clone().fill_diagonal_(-9), b) == before
    assert abs(before) < 0.3  # unrelated rows


def test_auroc_is_the_fraction_of_won_comparisons():
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


def test_class_similarities_are_means_over_different_proposals():
    similarities, labels = cosine_similarities(rows(6)), torch.tensor([0, 0, 1, 1, 1, 3])
    found = class_similarities(similarities, labels, 3)
    assert found[0, 0] == pytest.approx(similarities[0, 1].item(), abs=1e-6)
    assert found[0, 1] == pytest.approx(similarities[:2, 2:5].mean().item(), abs=1e-6)
    assert found[2].isnan().all()  # no proposal of class 2; class 3 is the background


def test_retrieval_is_top_1_accuracy():
    keys = torch.eye(4)
    queries = torch.eye(4)[[0, 1, 3, 2]] + 0.1 * torch.eye(4)
    assert retrieval(queries, keys) == 0.5
    ignore = torch.zeros(4, 4, dtype=torch.bool)
    ignore[2, [2, 3]] = True  # its competitor does not count, but its positive does
    assert retrieval(queries, keys, ignore) == 0.75


def test_shares_are_a_softmax_over_the_negatives():
    cosines = torch.tensor([0.9, 0.5, 0.3, 0.3])
    shares = negative_shares(cosines, 0, 0.2)
    # exp(1), exp(0), exp(0) relative to the last two.
    expected = torch.tensor([0, 2.71828, 1, 1]) / 4.71828
    torch.testing.assert_close(shares, expected, rtol=1e-4, atol=1e-6)


def test_drift_is_the_cosine_of_the_rotation():
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
def test_invalid_input_raises(call, message):
    with pytest.raises(ValueError, match=message):
        call()

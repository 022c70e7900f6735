"""The two proofs of supplement F hold where everything is known."""

import math

import pytest
import torch
from torch import nn

from gdetkd import theory

SAME = torch.eye(2, dtype=torch.float64) / 2  # s = t, a fair coin
TOY = torch.tensor([[0.2, 0.04, 0.01], [0.03, 0.22, 0.05], [0.02, 0.03, 0.4]], dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# Any critic


def test_posterior_by_hand():
    ratios = torch.tensor([6.0, 3.0, 1.0])
    assert theory.posterior_of_positive(ratios.log()).tolist() == pytest.approx([0.6, 0.3, 0.1])


# A discrete world


def test_information_by_hand():
    assert theory.mutual_information(SAME).item() == pytest.approx(math.log(2))
    independent = torch.tensor([[0.12, 0.18], [0.28, 0.42]])
    assert theory.mutual_information(independent).item() == pytest.approx(0, abs=1e-6)
    # r = 0.5 / (0.5 * 0.5) where s = t, else 0.
    assert theory.density_ratio(SAME).tolist() == [[2, 0], [0, 2]]


def test_candidates_by_hand():
    lists, table = theory.candidate_table(SAME, 1)
    assert lists.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    # Positive first (1/2), s = t_0 = 0 (1/2), the other candidate is 1 (1/2).
    assert table[0, 0, 1].item() == pytest.approx(1 / 8)
    assert table[1, 0, 1].item() == 0  # s = 0 is not the partner of 1
    assert table.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("negatives", [0, 1, 2, 4])
def test_counted_posterior_is_ratio_over_sum_of_ratios(negatives):
    """F.1: what follows from counting cases, and what from the formula, in float64."""
    lists, table = theory.candidate_table(TOY, negatives)
    formula = theory.posterior_of_positive(theory.density_ratio(TOY).log()[:, lists])
    counted = table / table.sum(0)
    assert torch.allclose(counted.permute(1, 2, 0), formula, rtol=1e-12)


def test_bound_terms_by_hand():
    """Two candidates of a coin: half of the time both show the same.

    Then nobody can tell the positive (loss log 2), but the candidates reveal s. Else the loss is 0
    and they reveal nothing. So loss, bound and what is revealed are all log(2) / 2.
    """
    terms = theory.bound_terms(SAME, 1, 200 * SAME.sign())
    half = math.log(2) / 2
    assert terms == pytest.approx((2 * half, half, half, 0, half), abs=1e-12)


@pytest.mark.parametrize("critic", [None, torch.eye(3, dtype=torch.float64), torch.zeros(3, 3)])
@pytest.mark.parametrize("negatives", [1, 3, 5])
def test_the_terms_of_the_bound_add_up(critic, negatives):
    terms = theory.bound_terms(TOY, negatives, critic)
    total = terms.bound + terms.critic_gap + terms.revealed
    assert total == pytest.approx(terms.information, abs=1e-12)
    assert terms.revealed > 0
    assert terms.bound < min(terms.information, math.log(negatives + 1))
    assert terms.critic_gap == pytest.approx(0, abs=1e-12) if critic is None else True
    assert terms.critic_gap > 0.05 if critic is not None else True


def test_a_factor_of_the_query_is_free_and_one_of_the_key_is_not():
    log_ratio = theory.density_ratio(TOY).log()
    per_query = log_ratio + torch.tensor([[3.0], [-1.0], [0.5]])
    per_key = log_ratio + torch.tensor([3.0, -1.0, 0.5])
    best = theory.bound_terms(TOY, 2).loss
    assert theory.bound_terms(TOY, 2, per_query).loss == pytest.approx(best, abs=1e-12)
    assert theory.bound_terms(TOY, 2, per_key).loss > best + 0.1


def test_wrong_tables_are_refused():
    with pytest.raises(ValueError, match=r"sum 2"):
        theory.mutual_information(2 * SAME)
    with pytest.raises(ValueError, match=r"least entry -0.5"):
        theory.density_ratio(torch.tensor([[1.5, -0.5]]))
    with pytest.raises(ValueError, match=r"\(3, 3\).*got \(2, 2\)"):
        theory.bound_terms(TOY, 1, torch.zeros(2, 2))


# Gaussians


def test_gaussian_ratio_against_densities():
    s, t = theory.gaussian_pairs(7, 0.8, 2, seeded())
    covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
    pair = torch.distributions.MultivariateNormal(torch.zeros(2).double(), covariance)
    alone = torch.distributions.Normal(0.0, 1.0)
    joint = pair.log_prob(torch.stack([s[:, None].expand(7, 7, 2), t.expand(7, 7, 2)], -1)).sum(-1)
    expected = joint - alone.log_prob(s).sum(1)[:, None] - alone.log_prob(t).sum(1)
    assert torch.allclose(theory.gaussian_log_ratio(s, t, 0.8), expected, atol=1e-9)


def test_gaussian_information():
    # -1/2 log(1 - 0.6^2) = -log 0.8, three times.
    assert theory.gaussian_mutual_information(0.6, 3) == pytest.approx(-3 * math.log(0.8))
    assert theory.correlation_for(-3 * math.log(0.8), 3) == pytest.approx(0.6)
    s, t = theory.gaussian_pairs(4000, 0.6, 3, seeded())
    pairs = zip(s, t, strict=True)
    ratios = torch.cat([theory.gaussian_log_ratio(a[None], b[None], 0.6) for a, b in pairs])
    error = ratios.std() / math.sqrt(len(ratios))
    assert abs(ratios.mean() + 3 * math.log(0.8)) < 4 * error  # one seed; 4 errors are rare


def test_gaussian_bounds_stay_under_their_ceiling_and_reach_the_truth():
    easy, hard = theory.correlation_for(1, 4), theory.correlation_for(8, 4)
    reached = [theory.gaussian_bounds(easy, 4, [1023], 256, seeded(i)).item() for i in range(20)]
    assert sum(reached) / 20 == pytest.approx(1, abs=0.06)  # 20 draws, each with a spread of 0.07
    assert theory.gaussian_bounds(hard, 4, [15], 256, seeded())[0] < math.log(16)


def test_gaussian_bounds_are_the_contrast_with_the_first_negatives():
    measured = theory.gaussian_bounds(0.7, 2, [1, 5], 30, seeded())
    generator = seeded()
    s, t = theory.gaussian_pairs(30, 0.7, 2, generator)
    _, others = theory.gaussian_pairs(5, 0.7, 2, generator)
    for bound, k in zip(measured, (1, 5), strict=True):
        rows = [torch.cat([t[i : i + 1], others[:k]]) for i in range(30)]
        scores = [theory.gaussian_log_ratio(s[i : i + 1], row, 0.7) for i, row in enumerate(rows)]
        loss = nn.functional.cross_entropy(torch.cat(scores), torch.zeros(30, dtype=torch.long))
        expected = math.log(k + 1) - loss
        assert bound.item() == pytest.approx(expected.item(), rel=1e-6)  # log in single precision


def test_wrong_correlations_are_refused():
    for call in (
        lambda: theory.gaussian_mutual_information(1.0),
        lambda: theory.gaussian_pairs(3, -1.5),
        lambda: theory.gaussian_log_ratio(torch.zeros(1, 1), torch.zeros(1, 1), 2.0),
        lambda: theory.correlation_for(-0.1),
    ):
        with pytest.raises(ValueError, match="expected a "):
            call()


# The circle, and critics that learn


def test_circle():
    s, t = theory.circle_pairs(20000, 3.0, seeded())
    assert torch.allclose(s.norm(dim=1), torch.ones(20000).double())
    ratios = 3.0 * (s * t).sum(1) - math.log(float(torch.special.i0(torch.tensor(3.0))))
    assert theory.circle_log_ratio(s[:1], t[:1], 3.0).item() == pytest.approx(ratios[0].item())
    error = ratios.std() / math.sqrt(len(ratios))
    assert abs(ratios.mean() - theory.circle_mutual_information(3.0)) < 4 * error
    assert theory.circle_mutual_information(0.0) == pytest.approx(0, abs=1e-12)
    # p(t | s) / p(t) averages to 1 over t from p(t): around the whole circle.
    angle = torch.arange(360) / 180 * math.pi
    around = torch.stack([angle.cos(), angle.sin()], 1).double()
    assert theory.circle_log_ratio(s[:1], around, 3.0).exp().mean().item() == pytest.approx(1)


def test_critic_is_the_contrastive_loss_and_shares_f():
    torch.manual_seed(0)
    critic = theory.CosineCritic(nn.Linear(5, 3))
    assert critic.teacher is critic.student
    s, t = torch.randn(2, 6, 5)
    scores = critic(s, t)
    expected = nn.functional.cross_entropy(scores, torch.arange(6))
    assert critic.loss(s, t).item() == pytest.approx(expected.item(), rel=1e-5)


def test_temperature_learns_one_over_the_concentration():
    generator = seeded()

    def sample(count):
        return tuple(x.float() for x in theory.circle_pairs(count, 5.0, generator))

    critic = theory.CosineCritic(nn.Identity(), temperature=1.0)
    history = theory.train_critic(critic, sample, steps=150, batch=256, rate=0.05)
    assert history.shape == (150, 2)
    assert history[-1, 1] == pytest.approx(1 / 5, rel=0.1)  # a few percent of noise in a batch
    assert history[-20:, 0].mean() < history[:5, 0].mean()

"""What the contrastive loss estimates: F.1 and F.2 of the supplement, in a form that holds.

Worlds whose densities are known, so that every step of the two proofs can be checked by numbers:
a discrete one (a table, all cases enumerated), correlated Gaussians, and directions on a circle,
for which the paper's critic ``exp(cos / gamma)`` is exact. s stands for what the student says of an
object, t for what the teacher says. Information is in nats.

Supplement F speaks of one positive, t_0, drawn from p(t | s), and of K negatives drawn from p(t).
Its derivation slips in places; what is meant, and holds, is

    F.1   p(pos = i | s, t_0 .. t_K) = r(s, t_i) / sum_j r(s, t_j),    r = p(s, t) / (p(s) p(t))
    F.2   MI(s; t) >= log(K + 1) - L       for the loss L of any critic

and `bound_terms` says what is missing from equality in F.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gdetkd.losses import contrastive_loss

# Any critic


def posterior_of_positive(log_ratios: Tensor) -> Tensor:
    """Probability of each candidate to be the positive, from log density ratios (..., K + 1).

    Supplement F.1's last line as it must read: r_i / sum_j r_j.
    """
    return log_ratios.softmax(-1)


def mutual_information_bound(loss: float | Tensor, negatives: int) -> float | Tensor:
    """The least mutual information (nats) that a loss with K negatives proves: log(K + 1) - L.

    Never above log(K + 1), however large the mutual information is: a loss is not negative.
    """
    return math.log(negatives + 1) - loss


# A discrete world


def mutual_information(joint: Tensor) -> Tensor:
    """Of a table p(s, t) (S, T) that sums to 1: sum p log p / (p(s) p(t)), in nats."""
    _check_joint(joint)
    independent = joint.sum(1, keepdim=True) * joint.sum(0)
    return (torch.xlogy(joint, joint) - torch.xlogy(joint, independent)).sum()


def density_ratio(joint: Tensor) -> Tensor:
    """r = p(s, t) / (p(s) p(t)), (S, T), of a table p(s, t) with marginals that are not 0."""
    _check_joint(joint)
    return joint / (joint.sum(1, keepdim=True) * joint.sum(0))


def candidate_table(joint: Tensor, negatives: int) -> tuple[Tensor, Tensor]:
    """All that can happen when a positive hides among K negatives, and how probable it is.

    A place for the positive is drawn, each equally likely; s and the candidate in that place come
    from p(s, t), every other candidate from p(t). Nothing is divided by anything.

    Returns:
        candidates (R, K + 1) int64, all R = T^(K + 1) lists of them; and p(pos, s, candidates)
        (K + 1, S, R), which sums to 1.
    """
    _check_joint(joint)
    places = negatives + 1
    lists = torch.cartesian_prod(*[torch.arange(joint.shape[1])] * places).reshape(-1, places)
    alone = joint.sum(0)[lists]
    cases = []
    for place in range(places):
        others = alone.clone()
        others[:, place] = 1
        cases.append(joint[:, lists[:, place]] * others.prod(1) / places)
    return lists, torch.stack(cases)


class BoundTerms(NamedTuple):
    """F.2 taken apart: ``information = bound + critic_gap + revealed``; no term but bound < 0."""

    information: float  # MI(s; t)
    loss: float
    bound: float  # log(K + 1) - loss
    critic_gap: float  # mean KL divergence of the critic's guess from the posterior; 0 for r
    revealed: float  # what the candidates tell of s without saying which one is the positive


def bound_terms(joint: Tensor, negatives: int, log_critic: Tensor | None = None) -> BoundTerms:
    """F.2 for a discrete world, exactly: by enumeration, with log critic (S, T), or r's logarithm.

    The loss is the cross-entropy of guessing the positive's place. It exceeds that place's entropy
    given (s, candidates) by the critic gap. The place is uniform and independent of the candidates,
    so its entropy is log(K + 1) - I(place; s | candidates), and by the chain rule, since s depends
    on both through the positive only, I(place; s | candidates) = MI - I(candidates; s).
    """
    if log_critic is None:
        log_critic = density_ratio(joint).log()
    if log_critic.shape != joint.shape:
        raise ValueError(
            f"expected a log critic of shape {tuple(joint.shape)} like the joint table, "
            f"got {tuple(log_critic.shape)}"
        )
    lists, table = candidate_table(joint, negatives)
    seen = table.sum(0)  # p(s, candidates)
    guess = log_critic[:, lists].log_softmax(-1).permute(2, 0, 1)
    possible = table > 0
    loss = -(table[possible] * guess[possible]).sum()
    entropy = -(torch.xlogy(table, table).sum() - torch.xlogy(seen, seen).sum())
    return BoundTerms(
        information=float(mutual_information(joint)),
        loss=float(loss),
        bound=float(mutual_information_bound(loss, negatives)),
        critic_gap=float(loss - entropy),
        revealed=float(mutual_information(seen)),
    )


def _check_joint(joint: Tensor) -> None:
    if joint.ndim != 2 or (joint < 0).any() or abs(float(joint.sum()) - 1) > 1e-5:
        raise ValueError(
            "expected a table p(s, t) of two dimensions, no entry below 0, with sum 1; got shape "
            f"{tuple(joint.shape)}, least entry {float(joint.min()):.3g}, sum "
            f"{float(joint.sum()):.6g}"
        )


# Correlated Gaussians


def gaussian_mutual_information(rho: float, dim: int = 1) -> float:
    """Of ``dim`` independent pairs of standard normals with correlation rho, in nats.

    -dim / 2 log(1 - rho^2).
    """
    _check_correlation(rho)
    return -0.5 * dim * math.log(1 - rho**2)


def correlation_for(information: float, dim: int = 1) -> float:
    """The correlation >= 0 at which ``dim`` pairs have that mutual information (nats)."""
    if information < 0:
        raise ValueError(f"expected a mutual information >= 0, got {information}")
    return math.sqrt(1 - math.exp(-2 * information / dim))


def gaussian_pairs(
    count: int, rho: float, dim: int = 1, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draws s and t, (count, dim) each, of `gaussian_mutual_information`'s world."""
    _check_correlation(rho)
    s, noise = torch.randn(2, count, dim, generator=generator, dtype=torch.float64)
    return s, rho * s + math.sqrt(1 - rho**2) * noise


def gaussian_log_ratio(s: Tensor, t: Tensor, rho: float) -> Tensor:
    """log p(s, t) / (p(s) p(t)) of every s (N, dim) with every t (M, dim): (N, M)."""
    _check_correlation(rho)
    rest = 1 - rho**2
    squares = s.square().sum(1, keepdim=True) + t.square().sum(1)
    return (rho * s @ t.T - 0.5 * rho**2 * squares) / rest - 0.5 * s.shape[1] * math.log(rest)


def gaussian_bounds(
    rho: float,
    dim: int,
    counts: Sequence[int],
    queries: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """log(K + 1) - L for every K of ``counts`` (n,), measured once, with r itself as the critic.

    All queries share their negatives, as a batch shares its queue, and a smaller K uses the first
    ones of a larger: the mean over draws is that of fresh negatives, the curve is smooth.
    """
    s, t = gaussian_pairs(queries, rho, dim, generator)
    _, others = gaussian_pairs(max(counts), rho, dim, generator)
    positive = gaussian_log_ratio(s, t, rho).diagonal()[:, None]
    scores = torch.cat([positive, gaussian_log_ratio(s, others, rho)], 1)
    places = torch.tensor(counts) + 1
    losses = (scores.logcumsumexp(1)[:, places - 1] - positive).mean(0)
    return places.log() - losses


def _check_correlation(rho: float) -> None:
    if not -1 < rho < 1:
        raise ValueError(f"expected a correlation between -1 and 1, both excluded, got {rho}")


# Directions on a circle


def circle_pairs(
    count: int, concentration: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Unit vectors s and t, (count, 2): s anywhere on the circle, t around it (von Mises).

    p(t | s) is proportional to exp(concentration * cos(s, t)); 0 means independent.
    """
    cells = 1 << 14  # the angle between them is drawn from a fine grid, uniform within a cell
    grid = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells * 2 * math.pi - math.pi
    weights = (concentration * (grid.cos() - 1)).exp()
    between = grid[torch.multinomial(weights, count, replacement=True, generator=generator)]
    angle, jitter = torch.rand(2, count, generator=generator, dtype=torch.float64) - 0.5
    angle = angle * 2 * math.pi
    other = angle + between + jitter * (2 * math.pi / cells)
    return tuple(torch.stack([a.cos(), a.sin()], 1) for a in (angle, other))


def circle_log_ratio(s: Tensor, t: Tensor, concentration: float) -> Tensor:
    """log p(s, t) / (p(s) p(t)) of every s (N, 2) with every t (M, 2): (N, M).

    concentration * cos(s, t) - log I0(concentration): the paper's critic with gamma =
    1 / concentration, up to a constant.
    """
    return concentration * s @ t.T - _log_bessel(concentration)


def circle_mutual_information(concentration: float) -> float:
    """Of `circle_pairs`' world, in nats: the mean of `circle_log_ratio` over pairs."""
    k = torch.tensor(float(concentration), dtype=torch.float64)
    mean_cosine = torch.special.i1e(k) / torch.special.i0e(k)
    return float(k * mean_cosine) - _log_bessel(concentration)


def _log_bessel(concentration: float) -> float:
    k = torch.tensor(float(concentration), dtype=torch.float64)
    return float(torch.special.i0e(k).log() + k)


# A critic that learns


class CosineCritic(nn.Module):
    """The paper's critic g = exp(cos(f(s), f(t)) / gamma) (supplement F.1), gamma learned too.

    Args:
        student: f for s, any module of `(N, *)` to (N, D).
        teacher: f for t; None shares the student's, as the paper does.
        temperature: gamma to begin with.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module | None = None, temperature: float = 0.2
    ) -> None:
        super().__init__()
        self.student = student
        self.teacher = teacher if teacher is not None else student
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))

    @property
    def temperature(self) -> Tensor:
        return self.log_temperature.exp()

    def loss(self, s: Tensor, t: Tensor) -> Tensor:
        """``contrastive_loss`` of N pairs; every pair's negatives are the N - 1 other t."""
        return contrastive_loss(self.student(s), self.teacher(t), temperature=self.temperature)

    def forward(self, s: Tensor, t: Tensor) -> Tensor:
        """log g of every s with every t, (N, M)."""
        unit = nn.functional.normalize
        return unit(self.student(s), dim=1) @ unit(self.teacher(t), dim=1).T / self.temperature


def train_critic(
    critic: CosineCritic,
    sample: Callable[[int], tuple[Tensor, Tensor]],
    steps: int,
    batch: int = 256,
    rate: float = 0.01,
) -> Tensor:
    """Minimize the critic's loss on fresh pairs ``sample(batch)``; Adam, cosine decay to 0.

    Returns:
        (steps, 2): loss and temperature at every step.
    """
    optimizer = torch.optim.Adam(critic.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    history = []
    for _ in range(steps):
        loss = critic.loss(*sample(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        history.append(torch.stack([loss.detach(), critic.temperature.detach()]))
    return torch.stack(history)

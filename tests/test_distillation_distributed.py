"""Contrastive distillation on several ranks is what one process does with the union of batches.

200 steps of the objective with its queue, on 2 and on 4 gloo processes; at every step each rank
brings another number of boxes, sometimes none.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from allocations import Allocations

from gdetkd.distillation.objective import Objective
from gdetkd.distillation.structures import DetectorSpec, RoIOutputs

pytestmark = pytest.mark.slow

STEPS = 200
STUDENT, TEACHER = (
    DetectorSpec(
        name=name, num_classes=3, channels=4, strides=(8,), pooled_size=(2, 2),
        representation_dim=width, delta_stds=(0.1, 0.1, 0.2, 0.2),
    )
    for name, width in (("student", 6), ("teacher", 10))
)  # fmt: skip


LEARNED = dict(queue_content="features", queue_gradient=True)


def objective(settings):
    torch.manual_seed(0)
    components = dict(contrastive=dict(weight=0.5, dim=5, queue_capacity=37, **settings))
    return Objective(STUDENT, TEACHER, components)


def counts(step, world):
    """Boxes of each rank: 0 to 6, so ragged, and a rank in seven has none."""
    generator = torch.Generator().manual_seed(step)
    return torch.randint(7, (world,), generator=generator).tolist()


def views(step, rank, count):
    """What both detectors make of the rank's boxes, which lie close enough to overlap often."""
    generator = torch.Generator().manual_seed(1000 * rank + step)
    corner = 8 * torch.rand(count, 2, generator=generator)
    image = 2 * rank + torch.randint(2, (count, 1), generator=generator).float()
    rois = torch.cat([image, corner, corner + 16], 1)
    made = [torch.randn(count, spec.representation_dim, generator=generator)
            for spec in (STUDENT, TEACHER)]  # fmt: skip
    return tuple(
        RoIOutputs(rois=rois, pyramid=(), pooled=None, representation=features) for features in made
    )


def union(batches):
    """The views of all ranks as one batch; images are numbered apart already."""
    return tuple(
        RoIOutputs(
            rois=torch.cat([view.rois for view in same]), pyramid=(), pooled=None,
            representation=torch.cat([view.representation for view in same]),
        )
        for same in zip(*batches, strict=True)
    )  # fmt: skip


def learn(built, gradients):
    """A step of plain descent, so that projections and queued rows change from step to step."""
    with torch.no_grad():
        parameters = list(built.parameters())
        sizes = [parameter.numel() for parameter in parameters]
        for parameter, gradient in zip(parameters, gradients.split(sizes), strict=True):
            parameter -= 0.02 * gradient.view_as(parameter)


def gradients_of(built, batch):
    """The gradients of all parameters in one vector."""
    loss = built(*batch)["kd_contrastive_loss"]
    parts = torch.autograd.grad(loss, list(built.parameters()))
    return torch.cat([part.flatten() for part in parts])


def steps_of_a_rank(rank, world, settings, folder):
    torch.set_num_threads(1)
    meet = (Path(folder) / "meet").as_uri()
    dist.init_process_group("gloo", meet, rank=rank, world_size=world)
    built, kept, queues = objective(settings), [], []
    for step in range(STEPS):
        gradients = gradients_of(built, views(step, rank, counts(step, world)[rank]))
        dist.all_reduce(gradients)  # what DistributedDataParallel does
        gradients /= world
        learn(built, gradients)
        kept.append(gradients)
        queues.append(built.components["contrastive"].queue.features)
    with Allocations() as forward:
        loss = built(*views(0, rank, 3))["kd_contrastive_loss"]
    with Allocations() as backward:
        loss.backward()
    operators = dict(forward=forward.operators, backward=backward.operators)
    torch.save(dict(gradients=kept, queues=queues, **operators), f"{folder}/{rank}.pth")
    dist.destroy_process_group()


@pytest.fixture(
    scope="module",
    params=[(2, {}), (4, {}), (2, LEARNED)],
    ids=["2 ranks", "4 ranks", "2 ranks, a queue with a gradient"],
)
def setting(request):
    return request.param


@pytest.fixture(scope="module")
def ranks(setting, tmp_path_factory):
    (world, settings), folder = setting, tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(steps_of_a_rank, (world, settings, str(folder)), nprocs=world)
    return [torch.load(folder / f"{rank}.pth") for rank in range(world)]


def test_the_batches_are_ragged_and_ranks_are_empty_at_times(ranks):
    world = len(ranks)
    drawn = [counts(step, world) for step in range(STEPS)]
    for rank in range(world):
        assert sum(step[rank] == 0 for step in drawn) > 10
    assert sum(len(set(step)) > 1 for step in drawn) > STEPS / 2
    assert any(sum(step) == 0 for step in drawn) or world > 2


def test_gradients_are_those_of_one_process_on_the_union(ranks, setting):
    world, built = len(ranks), objective(setting[1])
    for step in range(STEPS):
        drawn = counts(step, world)
        batches = [views(step, rank, drawn[rank]) for rank in range(world)]
        exact = gradients_of(built, union(batches))
        for rank in ranks:
            # Sums in another order, over steps that each learn from those before.
            error = (rank["gradients"][step] - exact).norm()
            assert error <= 1e-5 * exact.norm(), f"step {step}: {drawn}"
        learn(built, exact)
        queue = built.components["contrastive"].queue.features
        torch.testing.assert_close(ranks[0]["queues"][step], queue, rtol=0, atol=1e-5)


def test_every_rank_has_the_same_queue_at_every_step(ranks):
    for step in range(STEPS):
        first = ranks[0]["queues"][step]
        for other in ranks[1:]:
            assert torch.equal(other["queues"][step], first)
    assert len(first) == 37
    assert not torch.equal(first, ranks[0]["queues"][-2])


def test_no_collective_runs_in_the_backward_pass(ranks):
    def collectives(operators):
        return {name for name in operators if "gather" in name or "reduce" in name}

    for rank in ranks:
        assert collectives(rank["forward"]) >= {"_allgather_base_", "allreduce_"}  # they are seen
        assert not collectives(rank["backward"])
        assert "mm" in rank["backward"]  # and so is what runs there

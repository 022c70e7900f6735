"""The distilled detector under MMEngine's DistributedDataParallel, on two processes with gloo.

What two ranks compute together is compared with one rank's numbers in
test_distillation_objective.py.
"""

import contextlib
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from helpers import COMPONENTS, batch, build, distilled, faster_rcnn
from mmengine.dataset import DefaultSampler
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from torch.utils.data import BatchSampler

from gdetkd.detectors.mmdet.distilled import NonFiniteLossError
from gdetkd.training.resumable_loader import ResumableBatchSampler

# Boxes of ground truth in the two images of each rank, step after step.
STEPS = [((3, 2), (1, 4)), ((2, 1), (0, 0)), ((0, 2), (1, 1)), ((0, 0), (0, 0))]


def train(rank, folder, teacher):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", (Path(folder) / "meet").as_uri(), rank=rank, world_size=2)
    # Ragged: one rank pools half as many boxes as the other.
    student = faster_rcnn(train_cfg__rcnn__sampler__num=10 if rank else 5)
    detector = build(distilled(student, teacher, COMPONENTS))
    wrapped = MMDistributedDataParallel(detector)
    optimizer = OptimWrapper(torch.optim.SGD(wrapped.parameters(), lr=0.01))
    torch.manual_seed(rank)
    logged = []
    for step, boxes in enumerate(STEPS):
        data = batch(boxes[rank], seed=2 * step + rank)
        losses = wrapped.train_step(data, optimizer)
        logged.append({name: float(value) for name, value in losses.items()})
    detector.distiller.strength = 0.0
    for seed in (20, 22):  # DDP raises at the second step if the first left a gradient out
        wrapped.train_step(batch(seed=seed + rank), optimizer)
    detector.distiller.strength = 1.0
    state = {name: value.clone() for name, value in detector.state_dict().items()}
    stopped = ""
    if rank == 1:
        detector.distiller.objective[0].weights["regression"] = float("nan")
    try:
        wrapped.train_step(batch(seed=9), optimizer)
    except NonFiniteLossError as error:
        stopped = str(error)
    after = detector.student.backbone.conv1.weight.detach()
    data = ResumableBatchSampler(
        BatchSampler(DefaultSampler(range(12), shuffle=False), 2, False), endless=False
    )
    kept = dict(state=state, logged=logged, stopped=stopped, after=after, data=list(data))
    torch.save(kept, f"{folder}/{rank}")
    with contextlib.suppress(RuntimeError):
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(train, (str(folder), teacher), nprocs=2)
    return [torch.load(folder / str(rank)) for rank in range(2)]


def test_a_sample_has_the_position_that_it_has_on_one_process(ranks):
    """So a random transform draws for it what it would draw there, and no two draw the same."""
    found = [sample for rank in ranks for batch in rank["data"] for sample in batch]
    assert sorted(found) == [(index, (0, index)) for index in range(12)]


def test_two_ranks_train_through_images_without_ground_truth(ranks):
    for rank in ranks:
        assert len(rank["logged"]) == len(STEPS)
        for logged in rank["logged"]:
            assert all(torch.tensor(value).isfinite() for value in logged.values())
            assert {f"kd_{name}_loss" for name in COMPONENTS} < set(logged)
    assert ranks[0]["logged"] != ranks[1]["logged"]


def test_two_ranks_keep_the_same_weights_and_the_same_queue(ranks):
    one, other = (rank["state"] for rank in ranks)
    start = build(faster_rcnn()).state_dict()
    for name, value in one.items():
        if "running_" not in name and "num_batches" not in name:  # BatchNorm is each rank's own
            assert torch.equal(value, other[name]), name
    moved = "backbone.conv1.weight"
    assert not torch.equal(one[f"distiller.student.{moved}"], start[moved])
    assert not torch.equal(
        one["distiller.student.backbone.bn1.running_mean"],
        other["distiller.student.backbone.bn1.running_mean"],
    )
    queue = "distiller.objective.0.components.contrastive.queue"
    assert int(one[f"{queue}.enqueued"]) == len(STEPS) * (2 * 5 + 2 * 10)
    assert one[f"{queue}.storage"].any(1).all()  # 40 rows, all filled


def test_a_loss_that_is_not_finite_on_one_rank_stops_both(ranks):
    assert "kd_regression_loss = nan" in ranks[1]["stopped"]
    assert "a loss of another rank" in ranks[0]["stopped"]
    for rank in ranks:
        assert torch.equal(rank["after"], rank["state"]["distiller.student.backbone.conv1.weight"])

"""What is the same of every pair: nothing without weights, alive with them, exported, copied."""

from __future__ import annotations

import copy

import torch
from helpers import COMPONENTS, backward, batch, build, distilled, losses_of, run, run_config
from mmengine.runner import load_checkpoint
from torch.nn import functional as F

from gdetkd.checkpoints.student import export_student

OFF = dict(contrastive=dict(weight=0.0), imitation=dict(weight=0.0))
NOWHERE = dict(config="nowhere.py", checkpoint="nowhere.pth")


def assert_plain_without_weights(student: dict, data, folder) -> None:
    """Three steps of a Runner: images, losses, gradients and weights of plain MMDetection."""
    _, theirs = run(run_config(student, data, folder / "plain", steps=3))
    _, ours = run(run_config(distilled(student, NOWHERE, OFF), data, folder / "off", steps=3))
    assert ours.images == theirs.images and len(ours.images) == 3
    assert ours.logs == theirs.logs
    for mine, other in [
        (ours.start, theirs.start),
        *zip(ours.gradients, theirs.gradients, strict=True),
        *zip(ours.weights, theirs.weights, strict=True),
    ]:
        assert list(mine) == list(other)
        for name, value in other.items():
            assert value is mine[name] if value is None else torch.equal(mine[name], value), name
    assert len(ours.gradients) == 3 and any(grad.any() for grad in ours.gradients[2].values())


def assert_exports_and_resumes(model: dict, data, folder) -> None:
    """Its checkpoint loads into another of its kind, and the student's into the plain detector."""
    config = run_config(model, data, folder, steps=1, default_hooks__checkpoint__interval=1)
    runner, _ = run(config)
    again = build(model, seed=9)
    again.load_state_dict(runner.model.state_dict(), strict=True)
    for name, value in runner.model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    export_student(str(folder / "iter_1.pth"), str(folder / "alone.pth"))
    plain = build(model["student"], seed=9)
    for path in (folder / "iter_1_student.pth", folder / "alone.pth"):
        load_checkpoint(plain, str(path), map_location="cpu", strict=True)
        for name, value in runner.model.student.state_dict().items():
            assert torch.equal(plain.state_dict()[name], value), name


def assert_gradients_reach_everything(model, data=None) -> None:
    """Finite losses and gradients; none of the distillation's own parameters is without.

    With a single level SGFI has nothing to choose, and what chooses gets zeros.
    """
    one_level = len(model.distiller.student_adapter.specs()[0].strides) == 1
    losses = losses_of(model, data or batch())
    _, logged = model.parse_losses(losses)
    assert all(value.isfinite() for value in logged.values())
    for name, grad in backward(model, losses).items():
        if name.startswith("distiller.objective."):
            idle = one_level and ("embed" in name or "temperature" in name)
            assert grad is not None and (idle or grad.any()), name
        assert grad is None or grad.isfinite().all(), name


def assert_view_of_head(view, fed, head) -> None:
    """A view is what a box head's `loss` was given: (logits, deltas, rois, labels)."""
    logits, deltas, rois, labels = fed[:4]
    assert torch.equal(view.rois, rois) and len(rois) == len(view.logits) > 0
    assert torch.equal(view.logits, logits) and view.logits.grad_fn is not None
    assert torch.equal(view.labels, labels)
    stds = torch.tensor(head.bbox_coder.stds)
    torch.testing.assert_close(view.deltas / stds, deltas.view(len(rois), -1, 4))  # one rounding
    layer = head.fc_cls
    assert torch.equal(F.linear(view.representation, layer.weight, layer.bias), logits)


def heard_by(heads) -> list:
    """What every one of the box heads' `loss` is given from now on."""
    fed = [None] * len(heads)

    def listen(index, head):
        loss = head.loss

        def listening(*args, **kwargs):
            fed[index] = args
            return loss(*args, **kwargs)

        head.loss = listening

    for index, head in enumerate(heads):
        listen(index, head)
    return fed


def save_measured(config: dict, path) -> dict:
    """As `helpers.save_detector`, its BatchNorm with the statistics of its own features.

    A C4's heads are as deep as a backbone: with statistics at random its scores are all one class.
    """
    model = build(config, seed=1)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "head" in name:
            torch.nn.init.kaiming_normal_(parameter)
    with torch.no_grad():
        for seed in range(20):
            losses_of(model, batch(seed=seed), seed)
    torch.save({"state_dict": model.state_dict()}, path)
    return dict(config=config, checkpoint=str(path))


def alone(name: str) -> dict:
    """Settings of a component whose loss is to fall: one with a queue grows while that fills up."""
    settings = dict(COMPONENTS[name], weight=1.0)
    settings.pop("queue_capacity", None)
    return settings


def falls(model, steps: int = 12) -> dict[str, tuple[float, float]]:
    """First and last distillation loss, by name, on one batch with the same draws of boxes.

    Trained with the distillation's losses alone; of the last three steps the mean.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    data, seen = batch(), {}
    for _ in range(steps):
        losses = {n: v for n, v in losses_of(model, copy.deepcopy(data)).items() if "kd_" in n}
        backward(model, losses)
        optimizer.step()
        for name, value in losses.items():
            if "loss" in name:
                seen.setdefault(name, []).append(float(value.detach()))
    return {name: (values[0], sum(values[-3:]) / 3) for name, values in seen.items()}

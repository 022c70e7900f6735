"""`AnnealingHook`: weights that fall to 0, and a teacher that then no longer runs."""

import pytest
import torch
from helpers import (
    COMPONENTS,
    backward,
    batch,
    build,
    distilled,
    faster_rcnn,
    losses_of,
    run_config,
)

from gdetkd.detectors.mmdet.annealing import AnnealingHook
from gdetkd.training.runner import train


@pytest.mark.parametrize(
    ("begin", "end", "expected"),
    [
        (0.25, 0.75, [1, 1, 1, 0.75, 0.5, 0.25, 0, 0]),
        (0.5, 0.5, [1, 1, 1, 1, 0, 0, 0, 0]),
        (0, 0, [0] * 8),
        (1, 1, [1] * 8),
        (0, 1, [1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
    ],
)
def test_the_strength_falls_linearly(begin, end, expected):
    hook = AnnealingHook(begin, end)
    assert [hook.strength(step, 8) for step in range(8)] == pytest.approx(expected)


@pytest.mark.parametrize(("begin", "end"), [(0.5, 0.25), (-0.1, 0.5), (0.5, 1.5), (3000, 4500)])
def test_what_is_no_share_of_the_training_is_refused(begin, end):
    with pytest.raises(ValueError, match="0 <= begin <= end <= 1, got begin="):
        AnnealingHook(begin, end)


def test_the_strength_scales_every_loss_and_no_diagnostic(teacher):
    def found(strength):
        model = build(distilled(faster_rcnn(), teacher))
        model.distiller.strength = strength
        return losses_of(model, batch())

    whole, half = found(1.0), found(0.5)
    assert whole.keys() == half.keys()
    for name in (name for name in whole if name.startswith("kd_")):
        factor = 0.5 if "loss" in name else 1.0
        torch.testing.assert_close(half[name], factor * whole[name], msg=name)


def test_at_0_a_step_is_that_of_the_student_alone(teacher):
    """The own losses bit for bit, no teacher, and a gradient of 0 for what the components learn."""
    plain, model = build(faster_rcnn()), build(distilled(faster_rcnn(), teacher))
    model.distiller.strength = 0.0
    model.teacher.forward = model.teacher.extract_feat = None  # calling either would raise
    theirs, ours = losses_of(plain, batch()), losses_of(model, batch())
    added = {name: float(value) for name, value in ours.items() if name not in theirs}
    assert added == {f"kd_{name}_loss": 0.0 for name in COMPONENTS}
    gradients, expected = backward(model, ours), backward(plain, theirs)
    for name, grad in gradients.items():
        if name.startswith("distiller.objective."):
            assert grad is not None and not grad.any(), name
        elif (other := expected[name.removeprefix("distiller.student.")]) is not None:
            assert torch.equal(grad, other), name


def annealed(model, digits, folder):
    made = run_config(
        model, digits, folder, steps=8, default_hooks__checkpoint=dict(interval=5, save_last=True)
    )
    made.default_hooks.annealing = dict(type="AnnealingHook", begin=0.25, end=0.75)
    return made


def test_a_training_anneals_and_a_resumed_one_goes_on(digits, teacher, tmp_path):
    model = distilled(faster_rcnn(), teacher)
    runner = train(annealed(model, digits, tmp_path))
    found, _ = runner.message_hub.log_scalars["train/kd_imitation_loss"].data
    assert (found[:6] > 0).all() and (found[6:] == 0).all() and len(found) == 8
    assert runner.model.distiller.strength == 0.0
    # From the checkpoint of step 5: the same as without the pause.
    (tmp_path / "iter_8.pth").unlink()
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "iter_5.pth"))
    resumed = train(annealed(model, digits, tmp_path), resume=True)
    again, _ = resumed.message_hub.log_scalars["train/kd_imitation_loss"].data
    assert again[-3:].tolist() == found[-3:].tolist()
    expected = runner.model.state_dict()
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_it_refuses_a_model_without_components(digits, tmp_path):
    with pytest.raises(ValueError, match="expected a DistilledDetector .* got FasterRCNN"):
        train(annealed(faster_rcnn(), digits, tmp_path))

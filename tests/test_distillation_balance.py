"""Weights that are shares of the gradient at the student's features."""

import warnings

import pytest
import torch
from helpers import batch, build, distilled, faster_rcnn, losses_of, save_detector

from gdetkd.distillation import balance
from gdetkd.distillation.balance import FIRST, SHARE, Balance, gradient_norm, share_of
from gdetkd.distillation.component import active_weights
from gdetkd.ops.console import DistillationWarning


def test_what_is_a_share():
    assert share_of("auto") == SHARE and share_of("20%") == pytest.approx(0.2)
    assert [share_of(other) for other in (0.2, "0.2", "-1%", "x%", "inf%", None)] == [None] * 6
    assert active_weights(dict(imitation=dict(weight="20%"))) == {"imitation": "20%"}
    with pytest.raises(ValueError, match="expected 'auto', a share .*, got 'much'"):
        active_weights(dict(imitation=dict(weight="much")))


def test_the_norm_is_that_of_all_levels_and_touches_no_parameter():
    """d(3a + 4b)/d(a, b) = (3, 4), whose norm is 5."""
    weight = torch.nn.Parameter(torch.tensor(1.0))
    a, b, unused = (torch.ones(1) * weight for _ in range(3))
    loss = (3 * a + 4 * b).sum()
    assert float(gradient_norm(loss, [a, b, unused])) == pytest.approx(5)
    assert weight.grad is None
    loss.backward()  # the graph is still there
    assert weight.grad == 7
    assert gradient_norm(torch.zeros(()), [a]) == 0


def measured(shares, steps, component=2.0, detector=3.0):
    """A balance after so many steps of one feature and constant gradients."""
    found = Balance(shares)
    for _ in range(steps):
        feature = torch.ones(1, requires_grad=True) * 1.0
        losses = {name: (component * feature).sum() for name in shares}
        found.measure(losses, (detector * feature).sum(), [feature])
    return found


def test_the_weighted_gradient_has_its_share():
    """0.2 * 3 / 2 = 0.3, from the first step on."""
    for steps in (1, FIRST + 7):
        weight = measured(dict(imitation=0.2), steps).weights()["imitation"]
        assert float(weight) == pytest.approx(0.3)


def test_a_component_without_a_gradient_waits_with_weight_0():
    found = measured(dict(imitation=0.2), 2, component=0.0)
    assert found.weights()["imitation"] == 0
    assert measured(dict(imitation=0.2), 2, detector=0.0).weights()["imitation"] == 0


def test_a_weight_that_was_never_found_is_warned_of():
    for missing in (dict(component=0.0), dict(detector=0.0)):
        with pytest.warns(DistillationWarning, match="weight of imitation is 0: in 20 steps"):
            measured(dict(imitation=0.2), FIRST, **missing)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measured(dict(imitation=0.2), FIRST + 1)


def test_later_the_weight_follows_slowly_and_only_so_far():
    found = measured(dict(imitation=0.2), FIRST)
    found.update([torch.tensor(0.02)], torch.tensor(3.0))  # a gradient of a hundredth
    assert float(found.weights()["imitation"]) == pytest.approx(0.3 * 100**balance.RATE, rel=1e-4)
    for _ in range(200):
        found.update([torch.tensor(0.02)], torch.tensor(3.0))
    assert float(found.weights()["imitation"]) == pytest.approx(0.3 * balance.RANGE, rel=1e-4)


def test_a_checkpoint_keeps_weights_and_place():
    found, resumed = measured(dict(imitation=0.2), FIRST + 1), Balance(dict(imitation=0.2))
    resumed.load_state_dict(found.state_dict())
    assert resumed.weights() == found.weights()
    feature = torch.ones(1, requires_grad=True) * 1.0
    resumed.measure({"imitation": (9 * feature).sum()}, feature.sum(), [feature])
    assert resumed.weights() == found.weights()  # step 21 is none to measure


COMPONENTS = dict(imitation=dict(weight="auto"), regression=dict(weight=0.5))


@pytest.fixture(scope="module")
def teacher_weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "teacher.pth"
    return save_detector(faster_rcnn(base=6, channels=12, fc=24), path)


def test_a_detectors_step_logs_the_weight_and_reaches_the_share(teacher_weights):
    model = build(distilled(faster_rcnn(), teacher_weights, COMPONENTS))
    losses = losses_of(model, batch())
    total, logged = model.parse_losses(losses)
    total.backward()
    assert logged["kd_imitation_weight"] > 0 and "kd_regression_weight" not in logged
    assert any("balance.log_weights" in name for name in model.state_dict())


def test_numbers_build_nothing_and_a_strong_one_is_warned_of(teacher_weights):
    strong = dict(imitation=dict(weight=1e4))
    model = build(distilled(faster_rcnn(), teacher_weights, strong))
    assert model.distiller.objective[0].balance is None
    with pytest.warns(DistillationWarning, match="imitation is .* times.*imitation.weight=auto"):
        losses_of(model, batch())

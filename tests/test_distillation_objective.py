"""The objective on views filled by hand: pure torch, one process and two."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch.nn import functional as F
from torchvision.ops import roi_align

from gdetkd.distillation.classification import Classification
from gdetkd.distillation.component import active_weights
from gdetkd.distillation.contrastive import Contrastive
from gdetkd.distillation.distributed import ddp_loss_scale
from gdetkd.distillation.imitation import Imitation, first_of_each_image
from gdetkd.distillation.objective import Objective
from gdetkd.distillation.overlap import overlap_mask
from gdetkd.distillation.regression import Regression
from gdetkd.distillation.structures import DetectorSpec, RoIOutputs
from gdetkd.losses import (
    class_aware_regression,
    contrastive_loss,
    ground_truth_class_regression,
    prediction_distillation,
)

CLASSES, STRIDES = 3, (4.0, 8.0)
SETTINGS = dict(
    contrastive=dict(weight=0.5, dim=4, queue_capacity=7),
    imitation=dict(weight=2.0, sampling_ratio=2, embedding=(8, 8)),
    classification=dict(weight=1.5),
    regression=dict(weight=0.25),
)


def spec(name="student", channels=6, width=5, **changes):
    settings = dict(
        name=name,
        num_classes=CLASSES,
        channels=channels,
        strides=STRIDES,
        pooled_size=(5, 5),
        representation_dim=width,
        class_shared_regression=False,
        delta_stds=(0.1, 0.1, 0.2, 0.2),
    )
    return DetectorSpec(**{**settings, **changes})


STUDENT, TEACHER = spec(), spec("teacher", channels=8, width=7)


def view(of, count=6, images=2, seed=0, dtype=torch.float32, grad=False):
    """Random features of `count` boxes, the same boxes for the same seed whatever the detector."""
    boxes = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=boxes) * 20
    side = torch.rand(count, 2, generator=boxes) * 30 + 5
    image = torch.arange(count) * images // max(count, 1)
    labels = torch.randint(CLASSES + 1, (count,), generator=boxes)
    random = torch.Generator().manual_seed(seed * 1000 + of.channels)

    def numbers(*shape):
        return torch.randn(*shape, generator=random).to(dtype).requires_grad_(grad)

    return RoIOutputs(
        rois=torch.cat([image[:, None], corner, corner + side], 1).to(dtype),
        pyramid=tuple(numbers(images, of.channels, int(64 / s), int(64 / s)) for s in of.strides),
        pooled=numbers(count, of.channels, *of.pooled_size),
        representation=numbers(count, of.representation_dim),
        logits=numbers(count, of.num_classes + 1),
        deltas=numbers(count, 1 if of.class_shared_regression else of.num_classes, 4),
        labels=labels,
    )


def objective(settings=SETTINGS, student=STUDENT, teacher=TEACHER, seed=0):
    torch.manual_seed(seed)
    return Objective(student, teacher, settings)


# --- What each component computes -----------------------------------------------------------------


def test_losses_are_weighted_and_named():
    built = objective()
    student, teacher = view(STUDENT), view(TEACHER)
    result = built(student, teacher)
    losses = {name for name in result if "loss" in name}
    assert losses == {f"kd_{name}_loss" for name in SETTINGS}
    assert set(result) - losses == {"kd_imitation_level_0_share", "kd_imitation_level_1_share"}
    alone = objective()
    for name, component in alone.components.items():
        loss, count, _ = component(student, teacher)
        assert torch.equal(result[f"kd_{name}_loss"], SETTINGS[name]["weight"] * loss)
        assert count == 6


def test_the_contrastive_component_by_hand():
    built = objective(dict(contrastive=dict(weight=1.0, dim=4, queue_capacity=7, iou=1.0)))
    ckd = built.components["contrastive"]
    ours, theirs = ckd.student_projection, ckd.teacher_projection
    queue = torch.zeros(0, 4)
    for step in range(3):
        student, teacher = view(STUDENT, seed=step), view(TEACHER, seed=step)
        queries, keys = ours(student.representation), theirs(teacher.representation)
        q, k = F.normalize(queries, dim=1), F.normalize(keys, dim=1)
        logits = q @ torch.cat([k, queue]).t() / 0.07
        expected = F.cross_entropy(logits, torch.arange(6))
        torch.testing.assert_close(built(student, teacher)["kd_contrastive_loss"], expected)
        queue = torch.cat([queue, k.detach()])[-7:]  # 7 of 6, 12, 18: the newest
        torch.testing.assert_close(ckd.queue.features, queue)
    assert not ckd.queue.rows.requires_grad


def test_boxes_that_overlap_are_no_negatives():
    student, teacher = view(STUDENT), view(TEACHER)
    student.rois[1] = student.rois[0]  # one place, seen twice
    marked = overlap_mask(student.rois, 0.5)
    assert marked[0, 1] and marked[1, 0] and not overlap_mask(student.rois, 1.0).any()
    found = {}
    for iou, ignore in ((0.5, marked), (1.0, None)):
        settings = dict(weight=1.0, dim=4, iou=iou, temperature=1.0)
        built = objective(dict(contrastive=settings))
        ckd = built.components["contrastive"]
        queries = ckd.student_projection(student.representation)
        keys = ckd.teacher_projection(teacher.representation)
        found[iou] = built(student, teacher)["kd_contrastive_loss"]
        expected = contrastive_loss(queries, keys, ignore=ignore, temperature=1.0)
        torch.testing.assert_close(found[iou], expected)
    assert found[0.5] < found[1.0]  # fewer negatives


def test_one_projection_where_the_widths_agree_two_where_they_differ():
    shared = Contrastive(STUDENT, spec("teacher", width=5), dim=4)
    assert shared.student_projection is shared.teacher_projection
    assert len(list(shared.parameters())) == 2
    apart = Contrastive(STUDENT, TEACHER, dim=4)
    assert apart.student_projection is not apart.teacher_projection
    assert apart.student_projection.weight.shape == (4, 5)
    assert apart.teacher_projection.weight.shape == (4, 7)
    deep = Contrastive(STUDENT, TEACHER, dim=4, projection="nonlinear")
    assert [type(m).__name__ for m in deep.student_projection] == ["Linear", "ReLU", "Linear"]


@torch.no_grad()
def slow_imitation(sgfi, student, teacher):
    """The formula, one box and one level after the other; pools first and adapts afterwards."""
    adapt, errors = sgfi.adapt.weight[:, :, 0, 0], []
    for i, box in enumerate(student.rois):
        levels = [
            torch.einsum(
                "oc,chw->ohw", adapt, roi_align(level, box[None], (5, 5), 1 / stride, 2, True)[0]
            )
            for level, stride in zip(student.pyramid, STRIDES, strict=True)
        ]
        target = teacher.pooled[i]
        scores = [float((sgfi.embed(x[None]) * sgfi.embed(target[None])).sum()) for x in levels]
        highest = max(scores)
        tau = math.exp(sgfi.log_temperature.item())
        shares = [math.exp((s - highest) / tau) for s in scores]
        shares = [share / sum(shares) for share in shares]
        mixed = sum(share * level for share, level in zip(shares, levels, strict=True))
        errors.append((mixed - target).square().mean())
    return sum(errors) / len(errors)


def test_imitation_agrees_with_a_slow_loop():
    torch.manual_seed(0)
    sgfi = Imitation(STUDENT, TEACHER, sampling_ratio=2, temperature=0.5).double()
    student, teacher = (view(s, dtype=torch.float64) for s in (STUDENT, TEACHER))
    loss, count, shown = sgfi(student, teacher)
    torch.testing.assert_close(loss, slow_imitation(sgfi, student, teacher))
    assert count == 6 and math.isclose(sum(map(float, shown.values())), 1, rel_tol=1e-6)
    assert len({float(share) for share in shown.values()}) == 2  # not just a half each


def test_imitation_starts_at_the_identity_where_the_widths_agree():
    sgfi = Imitation(STUDENT, spec("teacher"))
    level = torch.randn(1, 6, 3, 3)
    assert torch.equal(sgfi.adapt(level), level)


def test_imitation_of_the_first_boxes_of_an_image():
    torch.manual_seed(0)
    few = Imitation(STUDENT, TEACHER, sampling_ratio=2, boxes_per_image=2)
    student, teacher = view(STUDENT), view(TEACHER)
    loss, count, _ = few(student, teacher)
    chosen = [0, 1, 3, 4]  # boxes 0 to 2 lie in the first image, 3 to 5 in the second
    student.rois, teacher.pooled = student.rois[chosen], teacher.pooled[chosen]
    expected = slow_imitation(few, student, teacher)
    torch.testing.assert_close(loss, expected)
    assert count == 4


def test_first_of_each_image_by_hand():
    images = torch.tensor([1.0, 0, 1, 1, 0, 2, 0])
    rois = torch.cat([images[:, None], torch.zeros(7, 4)], 1)
    assert first_of_each_image(rois, 2).tolist() == [0, 1, 2, 4, 5]
    assert first_of_each_image(rois, 1).tolist() == [0, 1, 5]
    assert first_of_each_image(rois[:0], 2).tolist() == []


def test_deltas_are_compared_in_the_students_units():
    """By hand: one box, one class. Regressions of 0.3 and 0.1 in pixels a box side, deviations
    0.1: 2 of the student's units apart, in each of dx and dy; dw and dh agree."""
    one = dict(num_classes=1, delta_stds=(0.1, 0.1, 0.2, 0.2))
    student, teacher = view(spec(**one), 1, 1), view(spec(**one), 1, 1)
    student.deltas = torch.tensor([[[0.3, 0.3, 0.5, 0.5]]])
    teacher.deltas = torch.tensor([[[0.1, 0.1, 0.5, 0.5]]])
    teacher.logits = torch.tensor([[math.log(3), 0.0]])  # believes in the class by 3/4
    student.labels = torch.tensor([0])
    aware = Regression(spec(**one), spec(**one))
    torch.testing.assert_close(aware(student, teacher)[0], torch.tensor(0.75 * 4))
    plain = Regression(spec(**one), spec(**one), class_aware=False)
    torch.testing.assert_close(plain(student, teacher)[0], torch.tensor(4.0))
    # What the teacher's own deviations are is taken out of its view already.
    other = Regression(spec(**one), spec(**dict(one, delta_stds=(1.0, 1.0, 1.0, 1.0))))
    assert torch.equal(other(student, teacher)[0], aware(student, teacher)[0])


def test_the_regressions_are_those_of_the_losses():
    student, teacher = view(STUDENT), view(TEACHER)
    student.labels = torch.tensor([0, 3, 1, 3, 2, 3])
    unit = torch.tensor(STUDENT.delta_stds)
    pair = student.deltas / unit, teacher.deltas / unit
    loss, count, _ = Regression(STUDENT, TEACHER)(student, teacher)
    believed = teacher.logits.softmax(1)[:, :3]
    torch.testing.assert_close(loss, class_aware_regression(*pair, believed))
    assert count == 6
    loss, count, _ = Regression(STUDENT, TEACHER, class_aware=False)(student, teacher)
    torch.testing.assert_close(loss, ground_truth_class_regression(*pair, student.labels))
    assert count == 3  # the foreground


def test_a_regression_that_both_share():
    shared = [spec(class_shared_regression=True), spec("teacher", class_shared_regression=True)]
    student, teacher = map(view, shared)
    loss, *_ = Regression(*shared)(student, teacher)
    unit = torch.tensor(STUDENT.delta_stds)
    gap = (student.deltas - teacher.deltas)[:, 0] / unit
    believed = teacher.logits.softmax(1)[:, :3].sum(1)
    torch.testing.assert_close(loss, (gap.abs().sum(1) * believed).mean())
    with pytest.raises(ValueError, match=r"student and teacher share one, deltas \(N, 1, 4\)"):
        Regression(*shared, class_aware=False)


def test_ground_truth_regression_needs_labels():
    student, teacher = view(STUDENT), view(TEACHER)
    student.labels = None
    with pytest.raises(ValueError, match="regression: .* student's RoIOutputs to have labels"):
        Regression(STUDENT, TEACHER, class_aware=False)(student, teacher)


def test_classification_is_the_prediction_loss():
    student, teacher = view(STUDENT), view(TEACHER)
    loss = objective(dict(classification=dict(weight=1)))(student, teacher)
    expected = prediction_distillation(student.logits, teacher.logits)
    assert torch.equal(loss["kd_classification_loss"], expected)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_classification_by_sigmoids_by_hand(kind):
    """Of one object class: a teacher that believes in it by 3/4, a student by 1/2 and by 1/4."""
    one = spec(num_classes=1)
    for scores, logits, p in (
        ("sigmoid", [[0.0]], 1 / 2),
        ("softmax", [[0.0, math.log(3)]], 1 / 4),  # the background's column is the last
    ):
        student, teacher = view(one, 1, 1), view(one, 1, 1)
        student.logits = torch.tensor(logits)
        teacher.logits = torch.tensor(
            [[math.log(3), 0.0]] if kind == "softmax" else [[math.log(3)]]
        )
        built = Classification(spec(num_classes=1, scores=scores), spec(num_classes=1, scores=kind),
                               conversion="sigmoid")  # fmt: skip
        expected = -(0.75 * math.log(p) + 0.25 * math.log(1 - p))
        torch.testing.assert_close(built(student, teacher)[0], torch.tensor(expected))


# --- Gradients ------------------------------------------------------------------------------------


def tensors_of(one):
    return [*one.pyramid, one.pooled, one.representation, one.logits, one.deltas]


def total(result):
    return sum(value for name, value in result.items() if "loss" in name)


def test_gradients_go_to_the_student_and_to_the_objective_alone():
    built = objective()
    student, teacher = (view(s, grad=True) for s in (STUDENT, TEACHER))
    total(built(student, teacher)).backward()
    assert all(tensor.grad is None for tensor in tensors_of(teacher))
    for tensor in (*student.pyramid, student.representation, student.logits, student.deltas):
        assert tensor.grad.any()
    assert all(parameter.grad.any() for parameter in built.parameters())


def test_a_queue_of_representations_is_mapped_by_todays_projection():
    settings = dict(weight=1.0, dim=4, queue_capacity=7, iou=1.0, queue_content="features")
    built = objective(dict(contrastive=settings))
    ckd, before = built.components["contrastive"], []
    for step in range(3):
        student, teacher = view(STUDENT, seed=step), view(TEACHER, seed=step)
        with torch.no_grad():  # the projection moves between the steps
            for parameter in ckd.parameters():
                parameter.mul_(1.5).add_(0.1)
        queries, keys = (
            F.normalize(f(v.representation), dim=1)
            for f, v in ((ckd.student_projection, student), (ckd.teacher_projection, teacher))
        )
        old = torch.cat([torch.zeros(0, teacher.representation.shape[1]), *before])[-7:]
        old = F.normalize(ckd.teacher_projection(old), dim=1)
        logits = queries @ torch.cat([keys, old]).t() / 0.07
        expected = F.cross_entropy(logits, torch.arange(len(queries)))
        found = built(student, teacher)["kd_contrastive_loss"]
        torch.testing.assert_close(found, expected)
        before.append(teacher.representation)
    torch.testing.assert_close(ckd.queue.features, torch.cat(before)[-7:])
    with pytest.raises(ValueError, match="queue_content to be one of .*, got 'all'"):
        objective(dict(contrastive=dict(settings, queue_content="all")))


def test_a_queue_with_a_gradient_has_the_same_loss_and_teaches_the_projection():
    settings = dict(weight=1.0, dim=4, queue_capacity=7, queue_content="features")
    values, slopes = [], []
    for learns in (False, True):
        built = objective(dict(contrastive=dict(settings, queue_gradient=learns)))
        for seed in (0, 1):
            built(view(STUDENT, seed=seed), view(TEACHER, seed=seed))  # fills it
        held = built.components["contrastive"].queue.features.clone()
        loss = total(built(view(STUDENT, seed=2), view(TEACHER, seed=2)))
        loss.backward()  # after the queue has moved on
        values.append(loss.item())
        slopes.append(built.components["contrastive"].teacher_projection.weight.grad)
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    ckd, student, teacher = (
        built.components["contrastive"],
        *(view(spec, seed=2).representation for spec in (STUDENT, TEACHER)),
    )
    queries = F.normalize(ckd.student_projection(student), dim=1)
    keys = F.normalize(ckd.teacher_projection(torch.cat([teacher, held])), dim=1)
    ignore = overlap_mask(view(STUDENT, seed=2).rois, 0.5) & ~torch.eye(len(student), dtype=bool)
    logits = queries @ keys.t() / 0.07
    logits = logits.masked_fill(F.pad(ignore, (0, len(held))), -torch.inf)
    naive = F.cross_entropy(logits, torch.arange(len(student)))
    (expected,) = torch.autograd.grad(naive, ckd.teacher_projection.weight)
    torch.testing.assert_close(slopes[1], expected)
    assert not torch.allclose(slopes[0], expected)
    with pytest.raises(ValueError, match="queue_content='features' beside queue_gradient"):
        objective(dict(contrastive=dict(settings, queue_content="keys", queue_gradient=True)))


def test_the_queue_may_change_between_forward_and_backward():
    """It does so inside of every forward: the gradients are those of the queue as it was read."""
    gradients = []
    for frozen in (False, True):
        built = objective(dict(contrastive=dict(weight=1.0, dim=4, queue_capacity=6)))
        built(view(STUDENT, seed=1), view(TEACHER, seed=1))  # fills it
        if frozen:
            built.components["contrastive"].queue.enqueue = lambda rows: None
        total(built(view(STUDENT), view(TEACHER))).backward()
        gradients.append([p.grad for p in built.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)


def test_no_boxes_give_zeros_to_every_parameter():
    built = objective()
    student, teacher = (view(s, 0, grad=True) for s in (STUDENT, TEACHER))
    result = built(student, teacher)
    assert {value.item() for value in result.values()} == {0.0}
    total(result).backward()
    for name, parameter in built.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), name
    for level in student.pyramid:
        assert level.grad is not None and not level.grad.any()
    assert len(built.components["contrastive"].queue) == 0


def test_the_queue_is_in_the_state_dict():
    built, other = objective(), objective(seed=1)
    for seed in (0, 1):
        built(view(STUDENT, seed=seed), view(TEACHER, seed=seed))
    state = built.state_dict()
    assert {"components.contrastive.queue.storage", "components.contrastive.queue.enqueued"} < {
        *state
    }
    other.load_state_dict(state)
    queues = [x.components["contrastive"].queue.features for x in (built, other)]
    assert len(queues[0]) == 7 and torch.equal(*queues)
    pair = view(STUDENT, seed=2), view(TEACHER, seed=2)
    assert torch.equal(total(built(*pair)), total(other(*pair)))


def test_no_queue_is_a_queue_of_capacity_0():
    built = objective(dict(contrastive=dict(weight=1.0, dim=4, queue_capacity=0)))
    pair = view(STUDENT), view(TEACHER)
    first, second = (total(built(*pair)) for _ in range(2))
    assert torch.equal(first, second)


# --- What is refused ------------------------------------------------------------------------------


def test_weights_above_0_are_kept():
    settings = dict(
        contrastive=dict(weight=0), imitation=dict(weight=1), regression=dict(weight=0.0)
    )
    assert active_weights(settings) == {"imitation": 1.0}
    assert active_weights({}) == {}


@pytest.mark.parametrize(
    "settings, named",
    [
        (dict(sgfi=dict(weight=1)), r"among \['classification', .*got 'sgfi'"),
        (dict(sgfi=dict(weight=0)), "got 'sgfi'"),
        (dict(imitation=dict(sampling_ratio=2)), "'imitation'.* got None"),
        (dict(imitation=dict(weight=-0.5)), "got -0.5"),
        (dict(imitation=dict(weight=math.nan)), "got nan"),
        (dict(imitation=dict(weight=math.inf)), "got inf"),
        (dict(imitation=dict(weight="1.0")), "got '1.0'"),
        (
            dict(contrastive=dict(weight=1, gamma=1)),
            "'contrastive'.*weight, temperature, dim, queue_capacity.* got 'gamma'",
        ),
        (dict(contrastive=dict(weight=True)), "finite weight >= 0, got True"),
        (dict(contrastive=dict(weight=1, queue_capacity=4.5)), "queue_capacity .* got 4.5"),
        (dict(contrastive=dict(weight=1, queue_capacity=-1)), "queue_capacity .* got -1"),
        (dict(contrastive=dict(weight=1, dim=0)), "dim .* whole number from 1, got 0"),
        (dict(imitation=dict(weight=1, embedding=("a", 8))), "embedding .* got 'a'"),
        (dict(regression=dict(weight=1, class_aware="no")), "class_aware .* got 'no'"),
        (dict(contrastive=dict(weight=1, temperature=0)), "temperature .* above 0, got 0"),
        (dict(contrastive=dict(weight=1, temperature="0.07")), "temperature .* got '0.07'"),
        (dict(contrastive=dict(weight=1, iou=1.5)), "iou .* from 0 to 1, got 1.5"),
        (dict(imitation=dict(weight=1, temperature=-1)), "temperature .* above 0, got -1"),
        (dict(imitation=dict(weight=1, temperature=math.nan)), "temperature .* got nan"),
        (dict(imitation=dict(weight=1, boxes_per_image=0)), "boxes_per_image .* from 1, got 0"),
        (dict(imitation=dict(weight=1, sampling_ratio=-2)), "sampling_ratio .* got -2"),
        (dict(imitation=dict(weight=1, embedding=3)), "embedding .* two layers, got 3"),
        (
            dict(contrastive=dict(weight=1, projection="deep")),
            "projection to be one of .'linear', 'nonlinear'., got 'deep'",
        ),
    ],
)
def test_wrong_settings_are_refused(settings, named):
    with pytest.raises(ValueError, match=named):
        objective(settings)


def test_views_of_other_boxes_are_refused():
    both = objective()
    ours, theirs = [(view(STUDENT, count), view(TEACHER, count)) for count in (4, 6)]
    with pytest.raises(ValueError, match="same boxes, got 4 rois, 4 .* student and 6 .* teacher"):
        both(ours[0], theirs[1])
    fewer = replace(ours[0], pyramid=ours[0].pyramid[:-1])
    with pytest.raises(ValueError, match="imitation: expected 2 pyramid levels .* got 1"):
        both(fewer, ours[1])


@pytest.mark.parametrize(
    "component, side, field",
    [
        ("imitation", 1, "pooled"), ("classification", 0, "logits"),
        ("classification", 1, "logits"), ("regression", 0, "deltas"),
        ("regression", 1, "deltas"), ("regression", 1, "logits"),
    ],
)  # fmt: skip
def test_a_view_without_what_a_component_needs_is_refused_by_name(component, side, field):
    pair = [view(STUDENT), view(TEACHER)]
    pair[side] = replace(pair[side], **{field: None})
    with pytest.raises(ValueError, match=f"{component}: expected .* to have {field}"):
        objective({component: dict(weight=1)})(*pair)


def test_a_forward_pass_in_eval_mode_leaves_the_queue_alone():
    ckd = objective(dict(contrastive=dict(weight=1, queue_capacity=20)))
    with torch.no_grad():
        ckd.eval()(view(STUDENT), view(TEACHER))
    assert len(ckd.components["contrastive"].queue) == 0
    ckd.train()(view(STUDENT), view(TEACHER))
    assert len(ckd.components["contrastive"].queue) == 6


def test_a_step_is_taken_back():
    """The same step twice gives the same loss, if the first one is undone in between."""
    ckd = objective(dict(contrastive=dict(weight=1, queue_capacity=20)))
    pair = view(STUDENT), view(TEACHER)
    first = ckd(*pair)["kd_contrastive_loss"]
    ckd.undo()
    assert torch.equal(ckd(*pair)["kd_contrastive_loss"], first)
    assert not torch.equal(ckd(*pair)["kd_contrastive_loss"], first)  # its own keys are negatives


def test_pairs_that_cannot_be_distilled_are_refused():
    with pytest.raises(ValueError, match=r"\(N, 4\) from student and \(N, 6\) from teacher"):
        objective(teacher=spec("teacher", num_classes=5))
    one = spec("teacher", class_shared_regression=True)
    with pytest.raises(ValueError, match=r"\(N, 3, 4\) from student and \(N, 1, 4\) from teacher"):
        objective(teacher=one)
    without = {**SETTINGS, "regression": dict(weight=0)}
    assert set(objective(without, teacher=one).components) == set(SETTINGS) - {"regression"}


def test_a_single_process_is_the_union():
    assert ddp_loss_scale(torch.tensor([3.0, 0.0])).tolist() == [1.0, 1.0]


# --- Two processes --------------------------------------------------------------------------------

# Boxes of the two ranks at each step: ragged, one rank without any, none at all.
COUNTS = [(5, 2), (4, 0), (0, 0), (3, 4), (0, 1)]
DISTRIBUTED = {
    **SETTINGS,
    "regression": dict(weight=0.25, class_aware=False),
    "contrastive": dict(weight=0.5, dim=4, queue_capacity=6),
}


def rank_views(rank, step):
    count = COUNTS[step][rank]
    return tuple(view(s, count, seed=10 * step + rank) for s in (STUDENT, TEACHER))


def union(views):
    """Both ranks' views as one batch of four images."""
    one, other = views
    moved = other.rois + torch.tensor([2.0, 0, 0, 0, 0])
    joined = {
        name: torch.cat([getattr(one, name), getattr(other, name)])
        for name in ("pooled", "representation", "logits", "deltas", "labels")
    }
    pyramid = tuple(map(torch.cat, zip(one.pyramid, other.pyramid, strict=True)))
    return RoIOutputs(rois=torch.cat([one.rois, moved]), pyramid=pyramid, **joined)


def steps_of_a_rank(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", (Path(folder) / "meet").as_uri(), rank=rank, world_size=2)
    built, kept = objective(DISTRIBUTED), []
    for step in range(len(COUNTS)):
        built.zero_grad()
        result = built(*rank_views(rank, step))
        total(result).backward()
        gradients = {name: p.grad.clone() for name, p in built.named_parameters()}
        for grad in gradients.values():  # what DistributedDataParallel does
            dist.all_reduce(grad)
            grad /= 2
        queue = built.components["contrastive"].queue.features
        kept.append(dict(gradients=gradients, queue=queue, losses=result))
    torch.save(kept, f"{folder}/{rank}.pth")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(steps_of_a_rank, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pth") for rank in range(2)]


def test_two_ranks_learn_what_one_does_from_the_union_of_their_batches(ranks):
    built = objective(DISTRIBUTED)
    for step, counts in enumerate(COUNTS):
        built.zero_grad()
        pairs = zip(rank_views(0, step), rank_views(1, step), strict=True)
        result = built(*map(union, pairs))
        total(result).backward()
        for name, parameter in built.named_parameters():
            for rank in ranks:
                mean = rank[step]["gradients"][name]
                # Sums in another order: 1e-5 of the largest gradient is 2^-24 some hundred times.
                atol = 1e-5 * float(parameter.grad.abs().max())
                torch.testing.assert_close(
                    mean, parameter.grad, rtol=1e-5, atol=atol, msg=f"{name} at {counts}"
                )
        for name, value in result.items():
            if "loss" in name:
                mean = sum(rank[step]["losses"][name] for rank in ranks) / 2
                torch.testing.assert_close(mean, value, rtol=1e-5, atol=1e-6)
        queue = built.components["contrastive"].queue.features
        torch.testing.assert_close(ranks[0][step]["queue"], queue)


def test_two_ranks_keep_one_queue(ranks):
    lengths = []
    for one, other in zip(*ranks, strict=True):
        assert torch.equal(one["queue"], other["queue"])
        lengths.append(len(one["queue"]))
    assert lengths == [6, 6, 6, 6, 6]  # 7 came at once, then it stays full
    assert not torch.equal(ranks[0][0]["queue"], ranks[0][-1]["queue"])


def test_a_rank_without_boxes_reaches_every_parameter(ranks):
    """Where neither has any: zeros, not None, or the ranks themselves would have failed."""
    assert COUNTS[2] == (0, 0)
    for rank in ranks:
        assert not any(grad.any() for grad in rank[2]["gradients"].values())

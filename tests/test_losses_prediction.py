import math

import pytest
import torch

from gdetkd.losses import (
    class_aware_regression,
    converted_prediction_distillation,
    ground_truth_class_regression,
    naive_class_aware_regression,
    naive_converted_prediction_distillation,
    naive_prediction_distillation,
    object_scores,
    prediction_distillation,
)

F64 = torch.float64


def rand(*shape, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=F64) * scale


def softmax(row):
    exps = [math.exp(x - max(row)) for x in row]
    return [e / sum(exps) for e in exps]


# ---------------------------------------------------------------- class-aware regression


def test_class_aware_regression_by_hand():
    student = torch.zeros(1, 2, 4)
    teacher = torch.tensor([[[1.0, 2, 0, -1], [4.0, -4, 0, 1]]])
    probs = torch.tensor([[0.5, 0.25]])
    # x: 0.5 * 1 + 0.25 * 4 = 1.5; y: 0.5 * 2 - 0.25 * 4 = 0; w: 0; h: -0.5 + 0.25 = -0.25
    assert class_aware_regression(student, teacher, probs).item() == pytest.approx(1.75)


def slow_class_aware(student, teacher, probs):
    n, classes = probs.shape
    total = 0.0
    for i in range(n):
        for coordinate in range(4):
            gap = 0.0
            for c in range(classes):
                s = student[i, min(c, student.shape[1] - 1), coordinate]
                t = teacher[i, min(c, teacher.shape[1] - 1), coordinate]
                gap += probs[i, c] * (t - s)
            total += abs(gap)
    return total / n


@pytest.mark.parametrize(("c_student", "c_teacher"), [(3, 3), (1, 3), (3, 1), (1, 1)])
def test_class_aware_regression_agrees_with_a_slow_loop(c_student, c_teacher):
    student, teacher = rand(5, c_student, 4), rand(5, c_teacher, 4, seed=1)
    probs = rand(5, 4, seed=2).softmax(1)[:, :3]
    loss = class_aware_regression(student, teacher, probs)
    torch.testing.assert_close(loss, torch.as_tensor(slow_class_aware(student, teacher, probs)))


def test_class_aware_regression_is_its_equation():
    student, teacher = rand(5, 3, 4), rand(5, 3, 4, seed=1)
    probs = rand(5, 4, seed=2).softmax(1)[:, :3]
    torch.testing.assert_close(
        class_aware_regression(student, teacher, probs),
        naive_class_aware_regression(student, teacher, probs),
    )


def test_prediction_distillation_is_its_equation():
    student, teacher = rand(6, 4), rand(6, 4, seed=1)
    torch.testing.assert_close(
        prediction_distillation(student, teacher), naive_prediction_distillation(student, teacher)
    )


@pytest.mark.parametrize("background", [-1, 0])
def test_converted_distillation_is_its_equation(background):
    student, teacher = rand(6, 4), rand(6, 4, seed=1)
    torch.testing.assert_close(
        converted_prediction_distillation(student, teacher, background),
        naive_converted_prediction_distillation(student, teacher, background),
    )


def test_a_class_that_both_exclude_does_not_count():
    student, teacher = rand(3, 4).requires_grad_(), rand(3, 4, seed=1)
    without = torch.tensor([True, True, False, True])
    excluded = student.masked_fill(~without, -torch.inf)
    loss = prediction_distillation(excluded, teacher.masked_fill(~without, -torch.inf))
    expected = prediction_distillation(student[:, without], teacher[:, without])
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert student.grad.isfinite().all()


def test_class_aware_regression_of_a_certain_teacher_is_the_plain_one():
    student, teacher = rand(6, 3, 4), rand(6, 3, 4, seed=1)
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    certain = torch.nn.functional.one_hot(labels, 3).to(F64)
    torch.testing.assert_close(
        class_aware_regression(student, teacher, certain),
        ground_truth_class_regression(student, teacher, labels),
    )


def test_class_aware_regression_ignores_what_the_teacher_takes_for_background():
    assert class_aware_regression(rand(3, 2, 4), rand(3, 2, 4, seed=1), torch.zeros(3, 2)) == 0


# ---------------------------------------------------------------- ground-truth class regression


def test_ground_truth_class_regression_by_hand():
    student = torch.zeros(3, 2, 4)
    teacher = torch.arange(24.0).reshape(3, 2, 4)
    labels = torch.tensor([1, 2, 0])  # row 1 is background (C = 2)
    # row 0, class 1: 4 + 5 + 6 + 7 = 22; row 2, class 0: 16 + 17 + 18 + 19 = 70; mean of the two
    assert ground_truth_class_regression(student, teacher, labels) == 46


@pytest.mark.parametrize(("c_student", "c_teacher"), [(3, 3), (1, 3), (3, 1)])
def test_ground_truth_class_regression_agrees_with_a_slow_loop(c_student, c_teacher):
    student, teacher = rand(6, c_student, 4), rand(6, c_teacher, 4, seed=1)
    labels = torch.tensor([0, 3, 1, 2, 3, 0])
    errors = []
    for i, label in enumerate(labels.tolist()):
        if label < 3:
            s, t = student[i, min(label, c_student - 1)], teacher[i, min(label, c_teacher - 1)]
            errors.append(sum(abs(a - b) for a, b in zip(t.tolist(), s.tolist(), strict=True)))
    expected = torch.tensor(sum(errors) / len(errors), dtype=F64)
    loss = ground_truth_class_regression(student, teacher, labels)
    torch.testing.assert_close(loss, expected)


def test_ground_truth_class_regression_where_both_share_one():
    student, teacher = torch.zeros(2, 1, 4), torch.ones(2, 1, 4)
    assert ground_truth_class_regression(student, teacher, torch.tensor([0, 1])) == 4
    with pytest.raises(ValueError, match=r"0\.\.1.*0\.\.2"):
        ground_truth_class_regression(student, teacher, torch.tensor([0, 2]))


def test_only_the_labelled_class_gets_a_gradient():
    student = rand(3, 2, 4).requires_grad_()
    labels = torch.tensor([1, 2, 0])
    ground_truth_class_regression(student, rand(3, 2, 4, seed=1), labels).backward()
    moved = student.grad.abs().sum(2) > 0
    assert moved.tolist() == [[False, True], [False, False], [True, False]]


@pytest.mark.parametrize("labels", [[2, 2], []])
def test_without_foreground_the_plain_regression_is_a_differentiable_zero(labels):
    student = torch.full((len(labels), 2, 4), torch.nan, requires_grad=True)
    labels = torch.tensor(labels, dtype=torch.int64)
    loss = ground_truth_class_regression(student, student.detach(), labels)
    loss.backward()
    assert loss == 0
    assert torch.equal(student.grad, torch.zeros_like(student))


@pytest.mark.parametrize("labels", [[0, 3], [-1, 0]])
def test_labels_out_of_range_are_refused(labels):
    with pytest.raises(ValueError, match=r"0\.\.2"):
        ground_truth_class_regression(
            torch.zeros(2, 2, 4), torch.zeros(2, 2, 4), torch.tensor(labels)
        )


def test_labels_that_are_a_mask_are_refused():
    with pytest.raises(ValueError, match="torch.bool"):
        ground_truth_class_regression(
            torch.zeros(2, 2, 4), torch.zeros(2, 2, 4), torch.tensor([True, False])
        )


# ---------------------------------------------------------------- prediction distillation


def test_prediction_distillation_by_hand():
    student = torch.tensor([[0.0, math.log(3)]])  # softmax: 1/4, 3/4
    teacher = torch.tensor([[math.log(1.0), math.log(1.0)]])  # 1/2, 1/2
    expected = -0.5 * math.log(1 / 4) - 0.5 * math.log(3 / 4)
    assert prediction_distillation(student, teacher).item() == pytest.approx(expected)


def test_prediction_distillation_agrees_with_a_slow_loop():
    student, teacher = rand(5, 4, scale=3), rand(5, 4, seed=1, scale=3)
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        for p_s, p_t in zip(softmax(s), softmax(t), strict=True):
            total -= p_t * math.log(p_s)
    torch.testing.assert_close(
        prediction_distillation(student, teacher), torch.tensor(total / 5, dtype=F64)
    )


def test_prediction_distillation_is_least_at_the_teacher():
    teacher = rand(7, 4)
    student = (teacher + 2).requires_grad_()  # softmax does not see a common shift
    loss = prediction_distillation(student, teacher)
    loss.backward()
    entropy = torch.distributions.Categorical(logits=teacher).entropy().mean()
    torch.testing.assert_close(loss, entropy)
    # zero but for the rounding of 28 numbers near 1
    torch.testing.assert_close(student.grad, torch.zeros_like(teacher), atol=1e-15, rtol=0)


# ---------------------------------------------------------------- prediction conversion


@pytest.mark.parametrize("background", [-1, 0, 1, 2])
def test_object_scores_by_hand(background):
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    scores = [math.exp(-2), 1.0, math.exp(-1)]  # softmax over its maximum: exp(L - max L)
    del scores[background]
    torch.testing.assert_close(object_scores(logits, background), torch.tensor([scores]))


def test_object_scores_agree_with_a_slow_loop():
    logits = rand(6, 5, scale=3)
    expected = []
    for row in logits.tolist():
        probs = softmax(row)
        expected.append([p / max(probs) for p in probs[:-1]])
    torch.testing.assert_close(object_scores(logits), torch.tensor(expected, dtype=F64))


def test_object_scores_are_small_where_background_is_likeliest():
    assert object_scores(torch.tensor([[0.0, 1.0, 20.0]])).max() < 1e-8
    assert object_scores(torch.tensor([[0.0, 20.0, 1.0]])).max() == 1


@pytest.mark.parametrize("background", [-1, 0])
def test_converted_distillation_agrees_with_a_slow_loop(background):
    student, teacher = rand(5, 4, scale=3), rand(5, 4, seed=1, scale=3)
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p_s, p_t = softmax(s), softmax(t)
        for c in range(4):
            if c != background % 4:
                total -= p_t[c] * math.log(p_s[c] / max(p_s))
    torch.testing.assert_close(
        converted_prediction_distillation(student, teacher, background),
        torch.tensor(total / 5, dtype=F64),
    )


def test_converted_distillation_takes_the_objects_of_object_scores():
    student, teacher = rand(5, 4), rand(5, 4, seed=1)
    expected = -(teacher.softmax(1)[:, :-1] * object_scores(student).log()).sum(1).mean()
    torch.testing.assert_close(converted_prediction_distillation(student, teacher), expected)


def test_converted_distillation_favors_objects_whatever_the_teacher_says():
    """The documented bias: all objects at the maximum cost nothing, the teacher's own view does."""
    teacher = torch.tensor([[0.0, 1.0, 5.0]])  # surely background
    objects_only = torch.tensor([[7.0, 7.0, -7.0]])
    assert converted_prediction_distillation(objects_only, teacher) == 0
    assert converted_prediction_distillation(teacher, teacher) > 0.05


def test_converted_distillation_stays_finite_where_scores_underflow():
    student = torch.tensor([[-500.0, 0.0, 500.0]], requires_grad=True)
    loss = converted_prediction_distillation(student, torch.zeros(1, 3))
    loss.backward()
    assert loss.item() == pytest.approx((1000 + 500) / 3)  # exp(-1000) is 0 in any float
    assert student.grad.isfinite().all()


# ---------------------------------------------------------------- what they share

PAIRS = {
    "class aware": (
        lambda s, t: class_aware_regression(s, t, torch.full(s.shape[:2], 0.4)),
        (4, 3, 4),
    ),
    "ground truth": (
        lambda s, t: ground_truth_class_regression(s, t, torch.arange(len(s)) % 4),
        (4, 3, 4),
    ),
    "prediction": (prediction_distillation, (4, 3)),
    "converted": (converted_prediction_distillation, (4, 3)),
    "converted, background first": (
        lambda s, t: converted_prediction_distillation(s, t, background=0),
        (4, 3),
    ),
    "object scores": (lambda s, t: (object_scores(s) * t[:, 1:]).sum(), (4, 3)),
}
LOSSES = {name: pair for name, pair in PAIRS.items() if name != "object scores"}


@pytest.mark.parametrize(("loss", "shape"), PAIRS.values(), ids=PAIRS)
def test_gradients(loss, shape):
    student, teacher = rand(*shape).requires_grad_(), rand(*shape, seed=1)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), student)
    assert torch.autograd.gradgradcheck(lambda s: loss(s, teacher), student)


@pytest.mark.parametrize(("loss", "shape"), LOSSES.values(), ids=LOSSES)
def test_the_teacher_is_a_constant(loss, shape):
    student, teacher = rand(*shape).requires_grad_(), rand(*shape, seed=1).requires_grad_()
    loss(student, teacher).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


@pytest.mark.parametrize(("loss", "shape"), LOSSES.values(), ids=LOSSES)
def test_nothing_in_is_a_differentiable_zero(loss, shape):
    student = torch.zeros(0, *shape[1:], requires_grad=True)
    value = loss(student, student.detach())
    value.backward()
    assert value == 0
    assert student.grad.shape == student.shape


def test_no_proposals_have_no_object_scores():
    assert object_scores(torch.zeros(0, 5)).shape == (0, 4)


@pytest.mark.parametrize(("loss", "shape"), LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs_are_computed_in_float32(loss, shape, dtype):
    student, teacher = rand(*shape).to(dtype).requires_grad_(), rand(*shape, seed=1).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(student, teacher)
    value.backward()
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(student.float(), teacher.float()))
    assert student.grad.dtype == dtype


@pytest.mark.parametrize(
    ("loss", "shapes"),
    [
        (class_aware_regression, [(4, 3, 4), (4, 2, 4), (4, 3)]),
        (class_aware_regression, [(4, 3, 4), (5, 3, 4), (4, 3)]),
        (class_aware_regression, [(4, 12), (4, 12), (4, 3)]),
        (class_aware_regression, [(4, 3, 5), (4, 3, 5), (4, 3)]),
        (ground_truth_class_regression, [(4, 3, 4), (4, 2, 4), (4,)]),
        (prediction_distillation, [(4, 3), (4, 4)]),
        (prediction_distillation, [(4, 3), (5, 3)]),
        (prediction_distillation, [(4,), (4,)]),
        (prediction_distillation, [(0, 3), (0, 4)]),
        (converted_prediction_distillation, [(4, 3), (4, 4)]),
        (converted_prediction_distillation, [(4, 1), (4, 1)]),
        (converted_prediction_distillation, [(0, 3), (1, 3)]),
        (object_scores, [(4,)]),
        (object_scores, [(4, 1)]),
    ],
)
def test_wrong_shapes_are_named(loss, shapes):
    tensors = [torch.zeros(shape) for shape in shapes]
    with pytest.raises(ValueError, match="expected") as error:
        loss(*tensors)
    for shape in shapes[:2]:
        assert str(shape) in str(error.value)


@pytest.mark.parametrize(
    ("loss", "deltas", "other"),
    [
        (class_aware_regression, (4, 3, 4), (4, 4)),  # the background came along
        (class_aware_regression, (4, 3, 4), (4, 1)),
        (class_aware_regression, (4, 1, 4), (5, 3)),
        (class_aware_regression, (0, 3, 4), (0, 4)),
        (ground_truth_class_regression, (4, 3, 4), (5,)),
        (ground_truth_class_regression, (4, 3, 4), (4, 1)),
    ],
)
def test_wrong_shapes_beside_the_deltas_are_named(loss, deltas, other):
    with pytest.raises(ValueError, match="expected") as error:
        loss(torch.zeros(deltas), torch.zeros(deltas), torch.zeros(other))
    assert str(deltas) in str(error.value)
    assert str(other) in str(error.value)


@pytest.mark.parametrize("background", [3, -4])
def test_a_background_column_that_is_not_there_is_refused(background):
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        object_scores(torch.zeros(2, 3), background)

import math

import pytest
import torch
from allocations import Allocations

from gdetkd.losses import (
    level_weights,
    naive_semantic_guided_imitation,
    semantic_guided_imitation,
)

F64 = torch.float64


def rand(*shape, seed=0, dtype=F64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype)


def problem(n=3, levels=4, channels=2, size=(3, 2), dtype=F64):
    """Student levels, teacher, weights; h differs from w so that a swap would show."""
    shape = (n, channels, *size)
    students = [rand(*shape, seed=seed, dtype=dtype) for seed in range(levels)]
    weights = rand(n, levels, seed=50, dtype=dtype).softmax(1)
    return students, rand(*shape, seed=99, dtype=dtype), weights


# ---------------------------------------------------------------- weights of the levels


def test_level_weights_by_hand():
    student = torch.tensor([[[1.0, 0.0], [0.0, 3.0]]])
    teacher = torch.tensor([[2.0, 1.0]])
    # dot products 2 and 3, by tau = 2: 1 and 1.5; softmax: 1 / (1 + e^0.5) and the rest
    first = 1 / (1 + math.exp(0.5))
    torch.testing.assert_close(
        level_weights(student, teacher, 2.0), torch.tensor([[first, 1 - first]])
    )


def test_level_weights_agree_with_a_slow_loop():
    student, teacher = rand(4, 3, 5), rand(4, 5, seed=1)
    rows = []
    for i in range(4):
        exps = []
        for level in range(3):
            dot = sum(student[i, level, e].item() * teacher[i, e].item() for e in range(5))
            exps.append(math.exp(dot / 0.7))
        rows.append([e / sum(exps) for e in exps])
    expected = torch.tensor(rows, dtype=F64)
    torch.testing.assert_close(level_weights(student, teacher, 0.7), expected)


def test_level_weights_sum_to_one_over_the_levels_not_the_proposals():
    weights = level_weights(rand(6, 4, 5), rand(6, 5, seed=1), 0.5)
    torch.testing.assert_close(weights.sum(1), torch.ones(6, dtype=F64))
    assert (weights.sum(0) - 1).abs().min() > 0.01


def test_level_weights_of_a_proposal_do_not_depend_on_the_others():
    student, teacher = rand(6, 4, 5), rand(6, 5, seed=1)
    torch.testing.assert_close(
        level_weights(student[2:3], teacher[2:3], 0.5),
        level_weights(student, teacher, 0.5)[2:3],
    )


def test_level_weights_limits_of_tau():
    student, teacher = rand(5, 3, 4), rand(5, 4, seed=1)
    even = level_weights(student, teacher, 1e9)
    torch.testing.assert_close(even, torch.full_like(even, 1 / 3))
    sharp = level_weights(student, teacher, 1e-9)
    best = torch.einsum("nle,ne->nl", student, teacher).argmax(1)
    assert torch.equal(sharp, torch.nn.functional.one_hot(best, 3).to(F64))


def test_level_weights_gradients():
    student, teacher = rand(3, 4, 2).requires_grad_(), rand(3, 2, seed=1).requires_grad_()
    tau = torch.tensor([0.8], dtype=F64, requires_grad=True)  # a parameter may have a dimension
    assert torch.autograd.gradcheck(level_weights, (student, teacher, tau))
    assert torch.autograd.gradgradcheck(level_weights, (student, teacher, tau))


def test_level_weights_of_nothing():
    student, tau = torch.zeros(0, 4, 8, requires_grad=True), torch.ones((), requires_grad=True)
    weights = level_weights(student, torch.zeros(0, 8), tau)
    assert weights.shape == (0, 4)
    weights.sum().backward()
    assert student.grad.shape == (0, 4, 8)
    assert tau.grad == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_level_weights_are_float32_under_autocast(dtype):
    student, teacher = rand(3, 4, 8).to(dtype), rand(3, 8, seed=1).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weights = level_weights(student, teacher, 0.1)
    assert torch.equal(weights, level_weights(student.float(), teacher.float(), 0.1))
    assert weights.dtype == torch.float32


@pytest.mark.parametrize(
    ("student", "teacher"), [((2, 3, 4), (2, 5)), ((2, 3, 4), (3, 4)), ((2, 3), (2, 3))]
)
def test_level_weights_of_wrong_shapes(student, teacher):
    with pytest.raises(ValueError, match="expected") as error:
        level_weights(torch.zeros(student), torch.zeros(teacher), 1.0)
    assert str(student) in str(error.value)
    if len(student) == 3:
        assert str(teacher) in str(error.value)


def test_wrong_tau_is_refused():
    with pytest.raises(ValueError, match="tau above 0, got 0"):
        level_weights(torch.zeros(2, 3, 4), torch.zeros(2, 4), 0)
    with pytest.raises(ValueError, match=r"tau.*\(3,\)"):
        level_weights(torch.zeros(2, 3, 4), torch.zeros(2, 4), torch.ones(3))


# ---------------------------------------------------------------- the imitation


def test_imitation_by_hand():
    levels = [torch.tensor([[[[4.0, 0.0]]]]), torch.tensor([[[[0.0, 8.0]]]])]
    teacher = torch.tensor([[[[1.0, 3.0]]]])
    weights = torch.tensor([[0.75, 0.25]])
    # 0.75 * 4 - 1 = 2 and 0.25 * 8 - 3 = -1: (4 + 1) / 2
    assert semantic_guided_imitation(levels, teacher, weights) == 2.5


def test_imitation_agrees_with_a_slow_loop():
    levels, teacher, weights = problem()
    total = 0.0
    for index in torch.cartesian_prod(*map(torch.arange, teacher.shape)).tolist():
        n, c, y, x = index
        mixed = sum(weights[n, k].item() * levels[k][n, c, y, x].item() for k in range(4))
        total += (mixed - teacher[n, c, y, x].item()) ** 2
    torch.testing.assert_close(
        semantic_guided_imitation(levels, teacher, weights),
        torch.tensor(total / teacher.numel(), dtype=F64),
    )


def test_imitation_is_its_equation():
    levels, teacher, weights = rand(4, 3, 2, 5, 5), rand(4, 2, 5, 5, seed=1), rand(4, 3, seed=2)
    torch.testing.assert_close(
        semantic_guided_imitation(levels, teacher, weights),
        naive_semantic_guided_imitation(levels, teacher, weights),
    )


@pytest.mark.parametrize(
    ("memory", "order"),
    [((70, 3, 40, 5, 5), (0, 1, 2, 3, 4)), ((3, 70, 5, 5, 40), (1, 0, 4, 2, 3))],
    ids=["plain", "as boxes are pooled"],
)
def test_one_tensor_of_all_levels_has_the_gradients_of_the_equation(memory, order):
    """(N, L, C, h, w), or a view of (L, N, h, w, C), in several blocks."""
    levels = rand(*memory).permute(order).requires_grad_()
    teacher, weights = rand(70, 40, 5, 5, seed=1), rand(70, 3, seed=2).requires_grad_()
    ours = torch.autograd.grad(
        semantic_guided_imitation(levels, teacher, weights), (levels, weights)
    )
    theirs = torch.autograd.grad(
        naive_semantic_guided_imitation(levels, teacher, weights), (levels, weights)
    )
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, expected)


def test_a_backward_pass_inside_autocast_is_as_precise():
    levels = rand(3, 9, 5, 5, 4, dtype=torch.float32).permute(1, 0, 4, 2, 3).requires_grad_()
    teacher = rand(9, 4, 5, 5, seed=1, dtype=torch.float32)
    weights = rand(9, 3, seed=2, dtype=torch.float32).requires_grad_()
    loss = semantic_guided_imitation(levels, teacher, weights)
    expected = torch.autograd.grad(loss, (levels, weights), retain_graph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.autograd.grad(loss, (levels, weights))
    assert all(map(torch.equal, found, expected))


def test_imitation_with_all_weight_on_one_level_is_its_mean_squared_error():
    levels, teacher, weights = problem()
    chosen = torch.zeros_like(weights)
    chosen[:, 2] = 1
    torch.testing.assert_close(
        semantic_guided_imitation(levels, teacher, chosen),
        torch.nn.functional.mse_loss(levels[2], teacher),
    )


def stack_and_einsum(levels, teacher, weights):
    mixed = torch.einsum("nlchw,nl->nchw", torch.stack(list(levels), 1), weights)
    return torch.nn.functional.mse_loss(mixed, teacher)


@pytest.mark.parametrize("shape", [(7, 3, 5, 4), (300, 16, 7, 7)])
def test_imitation_in_float32_agrees_with_float64(shape):
    """300 x 16 x 7 x 7 floats are more than a block: the loop over blocks runs, and ends ragged."""
    n, channels, *size = shape
    levels, teacher, weights = problem(n, 4, channels, size)
    exact = [x.requires_grad_() for x in (*levels, weights)]
    single = [x.detach().float().requires_grad_() for x in exact]
    expected = stack_and_einsum(exact[:4], teacher, exact[4])
    loss = semantic_guided_imitation(single[:4], teacher.float(), single[4])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    expected.backward()
    loss.backward()
    for ours, reference in zip(single, exact, strict=True):
        error = (ours.grad - reference.grad).norm() / reference.grad.norm()
        assert error < 2e-6  # some ulps (6e-8) from sums of up to 784 products


def test_imitation_takes_the_levels_stacked_or_apart():
    levels, teacher, weights = problem()
    apart = [x.requires_grad_() for x in levels]
    stacked = torch.stack(levels, 1).detach().requires_grad_()
    loss = semantic_guided_imitation(apart, teacher, weights)
    same = semantic_guided_imitation(stacked, teacher, weights)
    torch.testing.assert_close(same, loss)
    (2 * loss).backward()
    (2 * same).backward()
    torch.testing.assert_close(stacked.grad, torch.stack([x.grad for x in apart], 1))


def test_imitation_gradients():
    levels, teacher, weights = problem()
    inputs = [x.requires_grad_() for x in (weights, *levels)]
    assert torch.autograd.gradcheck(lambda w, *s: semantic_guided_imitation(s, teacher, w), inputs)


def test_only_what_asks_gets_a_gradient_and_the_teacher_none():
    levels, teacher, weights = problem()
    levels[1].requires_grad_()
    teacher.requires_grad_()
    semantic_guided_imitation(levels, teacher, weights).backward()
    assert levels[1].grad.abs().sum() > 0
    assert teacher.grad is None
    assert not semantic_guided_imitation(levels[:1], teacher, weights[:, :1]).requires_grad


def test_imitation_runs_backward_twice_over_a_kept_graph():
    levels, teacher, weights = problem()
    levels[0].requires_grad_()
    loss = semantic_guided_imitation(levels, teacher, weights)
    first, second = (torch.autograd.grad(loss, levels[0], retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_imitation_of_memory_formats_that_differ():
    levels, teacher, weights = problem()
    expected = semantic_guided_imitation(levels, teacher, weights)
    last = [x.to(memory_format=torch.channels_last).requires_grad_() for x in levels]
    loss = semantic_guided_imitation(last, teacher, weights)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    plain = [x.requires_grad_() for x in levels]
    semantic_guided_imitation(plain, teacher, weights).backward()
    for a, b in zip(last, plain, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_imitation_of_nothing_is_a_differentiable_zero():
    levels = [torch.zeros(0, 8, 7, 7, requires_grad=True) for _ in range(2)]
    weights = torch.zeros(0, 2, requires_grad=True)
    loss = semantic_guided_imitation(levels, torch.zeros(0, 8, 7, 7), weights)
    loss.backward()
    assert loss == 0
    assert all(x.grad.shape == x.shape for x in (*levels, weights))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_imitation_of_half_inputs_is_computed_in_float32(dtype):
    levels, teacher, weights = problem()
    half = [x.to(dtype).requires_grad_() for x in levels]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = semantic_guided_imitation(half, teacher.to(dtype), weights.float())
    loss.backward()
    single = [x.detach().float().requires_grad_() for x in half]
    expected = semantic_guided_imitation(single, teacher.to(dtype).float(), weights.float())
    expected.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)
    for a, b in zip(half, single, strict=True):
        assert torch.equal(a.grad, b.grad.to(dtype))


def test_imitation_inside_a_compiled_function_is_the_same():
    levels, teacher, weights = problem()
    levels = [x.requires_grad_() for x in levels]

    def step(*levels):
        doubled = [2 * level for level in levels]
        return 3 * semantic_guided_imitation(doubled, teacher, weights)

    compiled = torch.compile(step, backend="eager")
    assert torch.equal(compiled(*levels), step(*levels))
    gradients = [torch.autograd.grad(each(*levels), levels) for each in (compiled, step)]
    assert all(map(torch.equal, *gradients))


def test_imitation_makes_no_stack_of_the_levels():
    levels, teacher, weights = problem(n=64, channels=16, size=(7, 7), dtype=torch.float32)
    inputs = [x.requires_grad_() for x in (*levels, weights)]
    one_level = teacher.numel() * 4

    def largest(loss):
        for x in inputs:
            x.grad = None
        with Allocations() as watched:
            loss(levels, teacher, weights).backward()
        return watched.largest

    assert largest(stack_and_einsum) == 4 * one_level  # the watch sees what it should
    assert largest(semantic_guided_imitation) == one_level  # a level's gradient


def test_imitation_differentiated_twice_says_no():
    levels, teacher, weights = problem()
    loss = semantic_guided_imitation([x.requires_grad_() for x in levels], teacher, weights)
    with pytest.raises(RuntimeError, match="semantic_guided_imitation cannot be .* twice"):
        torch.autograd.grad(loss, levels, create_graph=True)


@pytest.mark.parametrize(
    ("levels", "teacher", "weights", "named"),
    [
        ([(2, 3, 4, 4)] * 2, (2, 5, 4, 4), (2, 2), [(2, 3, 4, 4), (2, 5, 4, 4)]),
        ([(2, 3, 4, 4), (2, 3, 2, 2)], (2, 3, 4, 4), (2, 2), [(2, 3, 2, 2), (2, 3, 4, 4)]),
        ([(2, 3, 4, 4)] * 2, (2, 3, 4, 4), (2, 3), [(2, 2), (2, 3)]),
        ([(2, 3, 4, 4)] * 2, (2, 3, 4, 4), (3, 2), [(2, 2), (3, 2)]),
        ([(2, 3, 4)], (2, 3, 4), (2, 1), [(2, 3, 4)]),
        ([], (2, 3, 4, 4), (2, 1), [(2, 0), (2, 1)]),
    ],
)
def test_imitation_of_wrong_shapes(levels, teacher, weights, named):
    with pytest.raises(ValueError, match="expected") as error:
        semantic_guided_imitation(
            [torch.zeros(shape) for shape in levels], torch.zeros(teacher), torch.zeros(weights)
        )
    for shape in named:
        assert str(shape) in str(error.value)


def test_imitation_of_a_wrong_stack():
    with pytest.raises(ValueError, match=r"\(N, L, C, h, w\), got \(2, 3, 4, 4\)"):
        semantic_guided_imitation(
            torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4), torch.zeros(2, 1)
        )

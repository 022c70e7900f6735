import math

import pytest
import torch
import torch.nn.functional as F
from allocations import Allocations

from gdetkd.distillation.overlap import overlap_mask
from gdetkd.distillation.queue import FeatureQueue
from gdetkd.losses import contrastive, contrastive_loss, naive_contrastive_loss

F64 = torch.float64


def problem(n=5, m=7, k=9, d=3, dtype=F64, width=None, seed=0):
    """Queries near their keys, more keys than queries, a queue, and an ignore mask (n, width)."""
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(m, d, generator=generator, dtype=F64)
    queries = keys[:n] + torch.randn(n, d, generator=generator, dtype=F64)
    queue = F.normalize(torch.randn(k, d, generator=generator, dtype=F64), dim=1)
    ignore = torch.rand(n, width or n, generator=generator) < 0.3
    return queries.to(dtype), keys.to(dtype), queue.to(dtype), ignore


def slow_loss(queries, keys, queue=(), ignore=None, temperature=0.07):
    """The definition, one similarity at a time."""

    def cosine(a, b):
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot / math.hypot(*a) / math.hypot(*b)

    total = 0.0
    for i, query in enumerate(queries):
        positive = math.exp(cosine(query, keys[i]) / temperature)
        everything = positive
        for j, key in enumerate(keys):
            ignored = ignore is not None and j < len(ignore[i]) and ignore[i][j]
            if j != i and not ignored:
                everything += math.exp(cosine(query, key) / temperature)
        for key in queue:
            everything += math.exp(cosine(query, key) / temperature)
        total -= math.log(positive / everything)
    return total / len(queries)


@pytest.fixture(
    params=[(1, 0), (300, 0), (None, 0), (300, 4)],
    ids=["one row at a time", "ragged", "one block", "flash"],
)
def blocks(request, monkeypatch):
    """Blocks of 1 number, of 37 float64 numbers (no size here divides them), or whole; then the
    queue through the CPU's kernel of attention."""
    size, threads = request.param
    monkeypatch.setattr(contrastive, "FLASH_THREADS", threads)
    if size:
        monkeypatch.setattr(contrastive, "CPU_BLOCK_BYTES", size)


# ---------------------------------------------------------------- value


def test_by_hand():
    queries = torch.tensor([[2.0, 0.0]])
    keys = torch.tensor([[3.0, 0.0], [0.0, 0.5]])  # cosines 1 and 0
    e = math.e
    loss = contrastive_loss(queries, keys, temperature=1.0)
    assert loss.item() == pytest.approx(-math.log(e / (e + 1)))
    queue = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])  # cosines -1 and 1
    loss = contrastive_loss(queries, keys, queue=queue, temperature=1.0)
    assert loss.item() == pytest.approx(-math.log(e / (e + 1 + 1 / e + e)))
    ignore = torch.tensor([[True, True]])  # the positive counts all the same
    loss = contrastive_loss(queries, keys, queue=queue, ignore=ignore, temperature=0.5)
    assert loss.item() == pytest.approx(-math.log(e**2 / (e**2 + e**-2 + e**2)))


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("width", [0, 3, 5, 7])
@pytest.mark.parametrize("k", [0, 9])
def test_agrees_with_a_slow_loop(width, k):
    queries, keys, queue, _ = problem(k=k)
    ignore = torch.rand(5, width, generator=torch.Generator().manual_seed(1)) < 0.5
    expected = slow_loss(queries.tolist(), keys.tolist(), queue.tolist(), ignore.tolist(), 0.3)
    loss = contrastive_loss(queries, keys, queue=queue, ignore=ignore, temperature=0.3)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_it_is_its_equation():
    generator = torch.Generator().manual_seed(0)
    queries, keys, queue = (torch.randn(n, 6, generator=generator, dtype=F64) for n in (5, 7, 9))
    queue = F.normalize(queue, dim=1)
    ignore = torch.rand(5, 6, generator=generator) < 0.4
    for negatives, mask in ((None, None), (queue, None), (queue, ignore)):
        settings = dict(queue=negatives, ignore=mask, temperature=0.3)
        torch.testing.assert_close(
            contrastive_loss(queries, keys, **settings),
            naive_contrastive_loss(queries, keys, **settings),
        )


def test_without_mask_and_queue_agrees_with_a_slow_loop():
    queries, keys, _, _ = problem(n=5, m=5)
    expected = slow_loss(queries.tolist(), keys.tolist())
    assert contrastive_loss(queries, keys).item() == pytest.approx(expected, rel=1e-12)


def test_lengths_do_not_matter_and_neither_does_where_a_negative_stands():
    queries, keys, queue, _ = problem()
    loss = contrastive_loss(queries, keys, queue=queue)
    scaled = contrastive_loss(queries * 100, keys * 0.01, queue=queue.flip(0))
    torch.testing.assert_close(scaled, loss)
    moved = contrastive_loss(queries, torch.cat([keys, queue]))
    torch.testing.assert_close(moved, loss)


def test_limits():
    queries, keys, queue, ignore = problem()
    alone = contrastive_loss(queries, keys, ignore=torch.ones(5, 7, dtype=torch.bool))
    assert alone == 0  # nothing to tell the positive from
    even = contrastive_loss(queries, keys, queue=queue, temperature=1e9)
    assert even.item() == pytest.approx(math.log(7 + 9))  # a guess among all
    same = torch.ones(4, 3)
    assert contrastive_loss(same, same).item() == pytest.approx(math.log(4))


def test_takes_the_mask_of_overlapping_proposals():
    rois = torch.tensor([[0.0, 0, 0, 10, 10], [0, 0, 0, 10, 9], [1, 0, 0, 10, 10]])
    queries, keys, queue, _ = problem(n=3)
    ignore = torch.tensor([[False, True, False], [True, False, False], [False] * 3])
    expected = naive_contrastive_loss(queries, keys, queue=queue, ignore=ignore)
    loss = contrastive_loss(queries, keys, queue=queue, ignore=overlap_mask(rois))
    torch.testing.assert_close(loss, expected)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("where", ["keys", "queue"])
def test_not_a_number_is_not_hidden(where):
    queries, keys, queue, _ = problem()
    (keys if where == "keys" else queue)[3] = torch.nan
    assert contrastive_loss(queries.requires_grad_(), keys, queue=queue).isnan()


# ---------------------------------------------------------------- gradients


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("k", [0, 6])
def test_gradients(k):
    queries, keys, queue, ignore = problem(n=3, m=5, k=k, d=2, width=4)
    temperature = torch.tensor([0.4], dtype=F64, requires_grad=True)

    def loss(queries, keys, temperature):
        return contrastive_loss(queries, keys, queue=queue, ignore=ignore, temperature=temperature)

    inputs = (queries.requires_grad_(), keys.requires_grad_(), temperature)
    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize(("block", "threads"), [(64 << 10, 0), (None, 0), (None, 4)])
def test_float32_agrees_with_float64_autograd(block, threads, monkeypatch):
    """Through a shared projection, and for a learned temperature, at the paper's scale of 0.07."""
    monkeypatch.setattr(contrastive, "FLASH_THREADS", threads)
    if block:
        monkeypatch.setattr(contrastive, "CPU_BLOCK_BYTES", block)
    queries, keys, queue, ignore = problem(n=100, m=150, k=3000, d=64, dtype=torch.float32)
    projection = torch.randn(32, 64, generator=torch.Generator().manual_seed(2))
    queue = queue[:, :32] / queue[:, :32].norm(dim=1, keepdim=True)

    def run(loss, dtype):
        inputs = [queries, keys, projection, torch.tensor(0.07)]
        inputs = [x.to(dtype).requires_grad_() for x in inputs]
        projected = inputs[0] @ inputs[2].t(), inputs[1] @ inputs[2].t()
        value = loss(*projected, queue=queue.to(dtype), ignore=ignore, temperature=inputs[3])
        return value.detach(), *torch.autograd.grad(value, inputs)

    for ours, exact in zip(
        run(contrastive_loss, torch.float32), run(naive_contrastive_loss, F64), strict=True
    ):
        # float32 is off by 6e-8 an operation, a logit near 1 / 0.07 by about 1e-6
        assert (ours - exact).norm() < 1e-5 * exact.norm()


def test_the_queue_may_change_before_backward():
    queries, keys, rows, ignore = problem()

    def gradients(change):
        queue = FeatureQueue(6, 3).double()
        queue.enqueue(rows)
        inputs = queries.clone().requires_grad_(), keys.clone().requires_grad_()
        loss = contrastive_loss(*inputs, queue=queue.rows, ignore=ignore)
        if change:
            queue.enqueue(-rows)
        loss.backward()
        return inputs[0].grad, inputs[1].grad

    for changed, unchanged in zip(gradients(True), gradients(False), strict=True):
        assert torch.equal(changed, unchanged)


def test_the_queue_gets_no_gradient():
    queries, keys, queue, _ = problem()
    queue.requires_grad_()
    contrastive_loss(queries.requires_grad_(), keys, queue=queue).backward()
    assert queries.grad.abs().sum() > 0
    assert queue.grad is None


@pytest.mark.parametrize("flash", [True, False])
def test_only_the_gradients_asked_for_are_formed(flash, monkeypatch):
    kernel = "_scaled_dot_product_flash_attention_for_cpu"
    monkeypatch.setattr(contrastive, "FLASH_THREADS", 4 if flash else 0)

    def products(queries, keys):
        with Allocations() as watched:
            loss = contrastive_loss(queries, keys, queue=queue)
        formed = watched.operators.count("addmm_") + watched.operators.count(kernel)
        assert flash or kernel not in watched.operators
        return formed, loss.requires_grad

    queries, keys, queue, _ = problem()
    assert products(queries, keys) == (0, False)
    assert products(queries, keys.clone().requires_grad_()) == (1, True)  # by the keys
    # by the queries: what the queue and the keys pull
    assert products(queries.clone().requires_grad_(), keys) == (2, True)
    with torch.no_grad():
        assert products(queries.clone().requires_grad_(), keys) == (0, False)


def test_backward_twice_over_a_kept_graph():
    queries, keys, queue, _ = problem()
    loss = contrastive_loss(queries.requires_grad_(), keys, queue=queue)
    first, second = (torch.autograd.grad(loss, queries, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_differentiated_twice_says_no():
    queries, keys, _, _ = problem()
    loss = contrastive_loss(queries.requires_grad_(), keys)
    with pytest.raises(RuntimeError, match="contrastive_loss cannot be differentiated twice"):
        torch.autograd.grad(loss, queries, create_graph=True)


@pytest.mark.parametrize("m", [0, 4])
def test_no_queries_are_a_differentiable_zero(m):
    queries = torch.zeros(0, 3, requires_grad=True)
    keys = torch.full((m, 3), torch.nan, requires_grad=True)
    temperature = torch.tensor(0.07, requires_grad=True)
    ignore = torch.zeros(0, m, dtype=torch.bool)
    loss = contrastive_loss(queries, keys, ignore=ignore, temperature=temperature)
    loss.backward()
    assert loss == 0
    for each in (queries, keys, temperature):  # under DDP each must report, if only zeros
        assert torch.equal(each.grad, torch.zeros_like(each))


# ---------------------------------------------------------------- memory


def test_no_tensor_of_all_similarities_exists():
    queries, keys, queue, ignore = problem(n=200, m=300, k=20_000, d=2, dtype=torch.float32)
    whole = 200 * 20_300 * 4  # 16 MB

    def largest(loss):
        inputs = queries.clone().requires_grad_(), keys.clone().requires_grad_()
        temperature = torch.tensor(0.07, requires_grad=True)
        with Allocations(queue) as watched:
            loss(*inputs, queue=queue, ignore=ignore, temperature=temperature).backward()
        return watched.largest

    assert largest(naive_contrastive_loss) == whole  # the watch sees what it should
    assert largest(contrastive_loss) <= contrastive.CPU_BLOCK_BYTES < whole / 3


# ---------------------------------------------------------------- precision


@pytest.mark.parametrize("temperature", [1e-3, 1e-2, 0.07, 1.0])
@pytest.mark.parametrize("half", [None, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("positive", "negative"), [(1, -1), (-1, 1), (1, 1), (-1, -1), (0, 1)])
def test_finite_at_the_extremes(temperature, half, positive, negative):
    """Cosines of exactly +-1, where exp(1 / 0.001) overflows any float; 0 is a zero vector."""
    dtype = half or torch.float32
    axis = torch.tensor([[0.0, 2.0, 0.0]])
    queries = axis.repeat(3, 1).to(dtype).requires_grad_()
    keys = (positive * axis).repeat(3, 1).to(dtype).requires_grad_()
    queue = (negative * axis / 2).repeat(50, 1)
    learned = torch.tensor(temperature, requires_grad=True)
    with torch.autocast("cpu", dtype=half or torch.bfloat16, enabled=half is not None):
        loss = contrastive_loss(queries, keys, queue=queue, temperature=learned)
    loss.backward()
    assert loss.dtype == torch.float32
    gap = (negative - positive) / temperature  # 3 keys at the positive, 50 rows at the negative
    expected = torch.logaddexp(torch.tensor(3.0).log(), torch.tensor(50.0).log() + gap)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for each in (queries, keys, learned):
        assert each.grad.isfinite().all()


@pytest.mark.parametrize("length", [0.0, 1e-30, 1e-12])
def test_a_vector_without_direction_is_far_from_all_and_gets_no_gradient(length):
    queries, keys, queue, _ = problem(dtype=torch.float32)
    queries[2] = keys[3] = length
    loss = contrastive_loss(queries.requires_grad_(), keys.requires_grad_(), queue=queue)
    loss.backward()
    rest = torch.ones(5, 1)
    rest[2] = 0
    assert torch.equal(queries.grad.abs().sum(1, keepdim=True) > 0, rest > 0)
    assert keys.grad[3].tolist() == [0, 0, 0]
    assert queries.grad.isfinite().all() and keys.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs_are_computed_in_float32(dtype):
    queries, keys, queue, ignore = problem(n=20, m=20, k=50, d=8, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = contrastive_loss(queries, keys, queue=queue, ignore=ignore)
    exact = contrastive_loss(queries.float(), keys.float(), queue=queue.float(), ignore=ignore)
    assert torch.equal(loss, exact)
    queries.requires_grad_()
    contrastive_loss(queries, keys, queue=queue).backward()
    assert queries.grad.dtype == dtype


def test_float64_stays_float64():
    queries, keys, queue, _ = problem()
    assert contrastive_loss(queries, keys.float(), queue=queue.float()).dtype == F64


# ---------------------------------------------------------------- compiling


def test_inside_a_compiled_function_it_is_the_same():
    queries, keys, queue, ignore = problem(dtype=torch.float32)
    queries.requires_grad_()

    def step(queries):
        return 3 * contrastive_loss(2 * queries, keys, queue=queue, ignore=ignore)

    compiled = torch.compile(step, backend="eager")
    assert torch.equal(compiled(queries), step(queries))
    gradients = [torch.autograd.grad(each(queries), queries)[0] for each in (compiled, step)]
    assert torch.equal(*gradients)


def test_a_graph_that_may_not_break_is_refused_by_name():
    queries, keys, _, _ = problem(dtype=torch.float32)
    compiled = torch.compile(
        lambda queries: contrastive_loss(queries, keys), backend="eager", fullgraph=True
    )
    with pytest.raises(Exception, match="contrastive_loss") as error:
        compiled(queries)
    assert "compiler.disable" in str(error.value)


# ---------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("queries", "keys", "queue", "ignore", "named"),
    [
        ((4, 3), (4, 2), None, None, [(4, 3), (4, 2)]),
        ((4, 3), (3, 3), None, None, [(4, 3), (3, 3)]),
        ((4,), (4, 3), None, None, [(4,)]),
        ((4, 3), (4,), None, None, [(4, 3), (4,)]),
        ((4, 3), (4, 3), (9, 2), None, [(4, 3), (9, 2)]),
        ((4, 3), (4, 3), (3,), None, [(4, 3), (3,)]),
        ((4, 3), (5, 3), None, (4, 6), [(5, 3), (4, 6)]),
        ((4, 3), (5, 3), None, (3, 5), [(4, 3), (3, 5)]),
        ((4, 3), (5, 3), None, (4,), [(4, 3), (4,)]),
        ((0, 3), (0, 2), None, None, [(0, 3), (0, 2)]),
        ((0, 3), (2, 3), (9, 2), None, [(0, 3), (9, 2)]),
    ],
)
def test_wrong_shapes_are_named(queries, keys, queue, ignore, named):
    with pytest.raises(ValueError, match="expected") as error:
        contrastive_loss(
            torch.zeros(queries),
            torch.zeros(keys),
            queue=None if queue is None else torch.zeros(queue),
            ignore=None if ignore is None else torch.zeros(ignore, dtype=torch.bool),
        )
    for shape in named:
        assert str(shape) in str(error.value)


def test_a_mask_of_numbers_is_refused():
    with pytest.raises(ValueError, match="bool.*torch.float32"):
        contrastive_loss(torch.ones(2, 3), torch.ones(2, 3), ignore=torch.zeros(2, 2))


@pytest.mark.parametrize("temperature", [0, -0.07, math.nan, torch.ones(2)])
def test_a_wrong_temperature_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature"):
        contrastive_loss(torch.ones(2, 3), torch.ones(2, 3), temperature=temperature)

import copy
import io

import pytest
import torch

from gdetkd.distillation.queue import FeatureQueue


def numbered(start, n, dim=2):
    """Rows start, start + 1, ...: every entry of a row is its number."""
    return torch.arange(start, start + n, dtype=torch.float32)[:, None].expand(n, dim)


def numbers(rows):
    return rows[:, 0].tolist()


def test_the_oldest_make_room_and_a_wrap_loses_nothing():
    queue = FeatureQueue(5, 2)
    queue.enqueue(numbered(0, 3))
    assert (len(queue), numbers(queue.features)) == (3, [0, 1, 2])
    queue.enqueue(numbered(3, 4))  # rows 3, 4 reach the end, 5, 6 go to the front, over 0 and 1
    assert (len(queue), numbers(queue.features)) == (5, [2, 3, 4, 5, 6])
    assert numbers(queue.rows) == [5, 6, 2, 3, 4]


@pytest.mark.parametrize("capacity", [0, 1, 4, 7])
def test_agrees_with_a_list_for_any_batch_size(capacity):
    queue, everything, generator = FeatureQueue(capacity, 2), [], torch.Generator().manual_seed(0)
    for _ in range(60):
        n = int(torch.randint(0, 12, (), generator=generator))  # 0, and more than the capacity
        queue.enqueue(numbered(len(everything), n))
        everything += range(len(everything), len(everything) + n)
        kept = everything[max(0, len(everything) - capacity) :]
        assert numbers(queue.features) == kept
        assert sorted(numbers(queue.rows)) == kept
        assert len(queue) == len(kept) == len(queue.rows)


def test_starts_empty_and_capacity_zero_stays_so():
    queue = FeatureQueue(0, 3)
    queue.enqueue(torch.ones(4, 3))
    assert len(queue) == 0
    assert queue.rows.shape == queue.features.shape == FeatureQueue(9, 3).rows.shape == (0, 3)


def test_rows_are_a_view_and_features_a_copy():
    queue = FeatureQueue(3, 2)
    queue.enqueue(numbered(0, 2))
    rows, features = queue.rows, queue.features
    assert rows.data_ptr() == queue.storage.data_ptr()
    queue.enqueue(numbered(2, 2))
    assert numbers(rows) == [3, 1]
    assert numbers(features) == [0, 1]


def test_is_written_in_place():
    queue = FeatureQueue(4, 2)
    place = queue.storage.data_ptr()
    for _ in range(5):
        queue.enqueue(torch.ones(3, 2))
    assert queue.storage.data_ptr() == place


def test_rows_are_cut_from_the_graph_and_kept_as_given():
    rows = torch.full((2, 3), 5.0, requires_grad=True)
    queue = FeatureQueue(4, 3)
    queue.enqueue(rows * 2)
    assert not queue.rows.requires_grad
    assert queue.rows.tolist() == [[10.0] * 3] * 2


def test_a_fresh_instance_resumes_where_the_saved_one_was():
    queue = FeatureQueue(5, 2)
    queue.enqueue(numbered(0, 8))
    file = io.BytesIO()
    torch.save(queue.state_dict(), file)
    file.seek(0)
    resumed = FeatureQueue(5, 2)
    assert len(resumed) == 0
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert numbers(resumed.features) == [3, 4, 5, 6, 7]
    for each in (queue, resumed):
        each.enqueue(numbered(8, 2))
    assert numbers(resumed.features) == numbers(queue.features) == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("assign", [False, True])
def test_loading_over_a_used_queue_forgets_its_rows(assign):
    saved, used = FeatureQueue(5, 2), FeatureQueue(5, 2)
    saved.enqueue(numbered(0, 2))
    used.enqueue(numbered(100, 4))  # as many writes as `saved` has had, so no version tells
    assert len(used) == 4
    used.load_state_dict(copy.deepcopy(saved.state_dict()), assign=assign)
    assert numbers(used.features) == [0, 1]


def test_a_broadcast_into_the_buffers_is_noticed():
    source, target = FeatureQueue(5, 2), FeatureQueue(5, 2)
    source.enqueue(numbered(0, 3))
    assert len(target) == 0
    for mine, theirs in zip(target.buffers(), source.buffers(), strict=True):
        mine.copy_(theirs)  # as DDP does on wrapping
    target.enqueue(numbered(3, 1))
    assert numbers(target.features) == [0, 1, 2, 3]


def test_what_an_ema_copied_is_what_it_saves():
    queue = FeatureQueue(3, 2)
    averaged = copy.deepcopy(queue)
    queue.enqueue(numbered(0, 4))
    for mine, theirs in zip(averaged.buffers(), queue.buffers(), strict=True):
        mine.data.copy_(theirs.data)  # mmengine's way
    resumed = FeatureQueue(3, 2)
    resumed.load_state_dict(averaged.state_dict())
    assert numbers(resumed.features) == [1, 2, 3]


def test_a_deep_copy_lives_on_its_own():
    queue = FeatureQueue(3, 2)
    queue.enqueue(numbered(0, 2))
    twin = copy.deepcopy(queue)
    twin.enqueue(numbered(2, 2))
    queue.enqueue(numbered(7, 1))
    assert numbers(twin.features) == [1, 2, 3]
    assert numbers(queue.features) == [0, 1, 7]


@pytest.mark.parametrize("capacity", [0, 1, 3, 5, 8])
@pytest.mark.parametrize("before", [0, 2, 5, 7])
@pytest.mark.parametrize("count", [0, 1, 4, 9])
def test_the_last_rows_are_taken_back(capacity, before, count):
    queue = FeatureQueue(capacity, 2)
    for start in range(before):
        queue.enqueue(numbered(start, 1))
    kept = copy.deepcopy(queue.state_dict())
    queue.enqueue(torch.full((count, 2), torch.nan))
    queue.undo()
    queue.undo()  # once: the rows before are those of another step
    assert len(queue) == min(before, capacity)
    assert all(torch.equal(value, kept[name]) for name, value in queue.state_dict().items())
    queue.enqueue(numbered(before, 2))
    assert numbers(queue.features) == list(range(before + 2))[max(0, before + 2 - capacity) :]


def test_nothing_is_taken_back_of_what_was_loaded():
    source, target = FeatureQueue(3, 2), FeatureQueue(3, 2)
    source.enqueue(numbered(0, 2))
    target.enqueue(numbered(7, 1))
    target.load_state_dict(source.state_dict())
    target.undo()
    assert numbers(target.features) == [0, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_moves_to_another_dtype_with_its_state(dtype):
    queue = FeatureQueue(3, 2)
    queue.enqueue(numbered(0, 4))
    queue = torch.nn.Sequential(queue).to(dtype)[0]
    queue.enqueue(numbered(4, 1))
    assert queue.rows.dtype == dtype
    assert queue.enqueued.dtype == torch.int64
    assert numbers(queue.features) == [2, 3, 4]


def test_enqueue_does_not_read_the_device():
    """A meta tensor has no values: reading one raises, as a CUDA tensor would make the CPU wait."""
    queue = FeatureQueue(5, 2)
    queue.enqueue(numbered(0, 1))
    queue.enqueued = queue.enqueued.to("meta")
    queue._remember(1)
    queue.enqueue(numbered(1, 2))
    assert len(queue) == 3
    queue.enqueued = queue.enqueued.clone()  # someone else's tensor: now it has to be read
    with pytest.raises(RuntimeError, match="meta"):
        len(queue)


@pytest.mark.parametrize("shape", [(2, 3), (2,), (1, 2, 2)])
def test_wrong_rows_are_refused(shape):
    with pytest.raises(ValueError, match=r"\(n, 2\).*got \(") as error:
        FeatureQueue(4, 2).enqueue(torch.zeros(shape))
    assert str(tuple(shape)) in str(error.value)


@pytest.mark.parametrize(("capacity", "dim"), [(-1, 2), (4, 0)])
def test_wrong_sizes_are_refused(capacity, dim):
    with pytest.raises(ValueError, match="capacity >= 0 and dim >= 1"):
        FeatureQueue(capacity, dim)


def test_a_checkpoint_of_another_capacity_is_refused_with_both():
    model = torch.nn.ModuleDict({"queue": FeatureQueue(4, 2)})
    with pytest.raises(RuntimeError, match=r"queue.*\(6, 2\).*\(4, 2\)"):
        model.load_state_dict(torch.nn.ModuleDict({"queue": FeatureQueue(6, 2)}).state_dict())

"""A training that is interrupted goes on as if it had not been: position, draws, whole files."""

import errno
import os
import random
import resource
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import distilled, faster_rcnn, run_config
from kill_and_resume import compare, contents, differences
from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import BatchSampler, DataLoader, Dataset

from gdetkd.checkpoints.atomic_files import AtomicFiles
from gdetkd.checkpoints.reading import CheckpointError, read_checkpoint
from gdetkd.training import rng_state as randomness
from gdetkd.training.atomic_checkpoint import (
    remove_unfinished,
)
from gdetkd.training.last_checkpoint import last_checkpoint, run_number
from gdetkd.training.resumable_loader import ResumableBatchSampler, ResumableLoader
from gdetkd.training.runner import resumable, train


class Shapes(Dataset):
    """Images of either orientation; reading one draws from every generator."""

    metainfo = dict(classes=("one",))

    def __init__(self, size=23):
        self.size, self.read = size, []

    def __len__(self):
        return self.size

    def get_data_info(self, index):
        return dict(width=1 + index % 3, height=2)

    def __getitem__(self, index):
        self.read.append(index)
        return index, random.random(), np.random.rand(), torch.rand(()).item()


def samplers():
    data = Shapes()
    yield BatchSampler(InfiniteSampler(data, seed=3), 4, False), True
    yield BatchSampler(DefaultSampler(data, seed=3), 4, False), True
    yield AspectRatioBatchSampler(DefaultSampler(data, seed=3), 4), True
    yield AspectRatioBatchSampler(DefaultSampler(data, seed=3), 4), False


def take(batches, number):
    return [batch for _, batch in zip(range(number), batches, strict=False)]


@pytest.mark.parametrize("case", range(4))
def test_batches_go_on_from_any_position(case):
    def fresh():
        return ResumableBatchSampler(*list(samplers())[case])

    whole = take(fresh(), 17 if list(samplers())[case][1] else 6)
    plain = take(list(samplers())[case][0], 5)
    assert [[index for index, _ in batch] for batch in whole[:5]] == plain  # MMEngine's order
    positions = [position for batch in whole for _, position in batch]
    assert len(set(positions)) == len(positions)
    for start in (1, 5, len(whole) - 1):
        batches = fresh()
        batches.start = start
        assert take(batches, len(whole) - start) == whole[start:]


def loader(workers=0, start=0, size=23):
    plain = DataLoader(
        Shapes(size), batch_sampler=BatchSampler(InfiniteSampler(Shapes(size), seed=3), 4, False),
        collate_fn=list, num_workers=workers,
    )  # fmt: skip
    positioned = ResumableLoader(plain, seed=5, endless=True)
    positioned.batch_sampler.start = start
    return positioned


def test_a_transform_draws_by_position_alone():
    """Whatever the generators were, the number of workers is, or came before."""
    whole = take(loader(), 8)
    random.seed(99), np.random.seed(99), torch.manual_seed(99)
    assert take(loader(workers=2), 8) == whole
    assert take(loader(start=6), 2) == whole[6:]
    drawn = [value for batch in whole for _, *values in batch for value in values]
    assert len(set(drawn)) == len(drawn)


def test_reading_moves_no_generator_and_skipping_reads_nothing():
    positioned = loader(start=6)
    batches = iter(positioned)
    before = randomness.capture()
    next(batches)
    after = randomness.capture()
    assert not differences(before, after)
    assert len(positioned.dataset.read) == 4


def test_step_ten_thousand_is_as_near_as_step_ten():
    def seconds(start):
        batches = iter(loader(start=start, size=8000))
        began = time.process_time()
        next(batches)
        return time.process_time() - began

    seconds(10)
    # 10,000 steps of 4 images: 40,000 indices are passed over; a step takes a hundred times longer.
    assert min(seconds(10_000) for _ in range(3)) < 0.1


def test_generators_are_put_back():
    def draw():
        return random.random(), np.random.randn(), torch.rand(3).tolist()

    np.random.randn()  # numpy keeps the other one of a pair
    state = randomness.capture()
    drawn = draw()
    draw()
    randomness.restore(state)
    assert draw() == drawn


# --- Whole files ----------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "iter_1.pth"
    AtomicFiles().put(b"old", path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="cannot write .*iter_1.pth.*intact.*--resume") as error:
            AtomicFiles().put(bytes(5000), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.errno == errno.EFBIG
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["iter_1.pth"]


def save(path, step, run=None):
    progress = {} if run is None else dict(progress=dict(run=run))
    meta = dict(iter=step, epoch=0, **progress)
    torch.save(dict(meta=meta, message_hub={}, optimizer={}, state_dict={}), path)


def test_the_last_checkpoint_is_the_one_of_the_last_step(tmp_path):
    """Whatever the times of the files say: a clock that jumped, a folder that was copied."""
    assert last_checkpoint(tmp_path) == (None, [])
    for step in (9, 10, 5):
        save(tmp_path / f"iter_{step}.pth", step, run=1)
    torch.save(dict(meta=dict(iter=12), state_dict={}), tmp_path / "iter_12_student.pth")
    save(tmp_path / "best_coco_bbox_mAP_iter_11.pth", 11, run=1)
    (tmp_path / "last_checkpoint").write_text("")
    for times in ((3, 1, 2), (1, 2, 3)):
        for step, seconds in zip((5, 9, 10), times, strict=True):
            os.utime(tmp_path / f"iter_{step}.pth", (seconds, seconds))
        assert last_checkpoint(tmp_path) == (str(tmp_path / "iter_10.pth"), [])


def test_damaged_files_are_passed_over_and_named(tmp_path):
    save(tmp_path / "iter_5.pth", 5)
    whole = (tmp_path / "iter_5.pth").read_bytes()
    (tmp_path / "iter_10.pth").write_bytes(whole[:-100])
    (tmp_path / ".iter_11.pth.123.tmp").write_bytes(whole[:-100])
    last, damaged = last_checkpoint(tmp_path)
    assert last == str(tmp_path / "iter_5.pth")
    assert len(damaged) == 1 and f"{tmp_path / 'iter_10.pth'}: expected" in damaged[0]
    remove_unfinished(tmp_path)
    assert not list(tmp_path.glob(".*")) and (tmp_path / "iter_10.pth").exists()


def test_a_new_run_in_an_old_folder_comes_after_the_old_one(tmp_path):
    assert run_number(tmp_path, False) == run_number(tmp_path, True) == 1
    save(tmp_path / "iter_500.pth", 500)  # by plain MMEngine, or before runs had numbers
    assert run_number(tmp_path, True) == 1 and run_number(tmp_path, False) == 1
    save(tmp_path / "iter_5000.pth", 5000, run=1)
    assert run_number(tmp_path, False) == 2
    save(tmp_path / "iter_1000.pth", 1000, run=2)
    assert last_checkpoint(tmp_path)[0] == str(tmp_path / "iter_1000.pth")
    assert last_checkpoint(tmp_path, run=1)[0] == str(tmp_path / "iter_5000.pth")
    assert last_checkpoint(tmp_path, run=3)[0] is None
    assert run_number(tmp_path, True) == run_number(tmp_path, str(tmp_path / "iter_1000.pth")) == 2
    assert run_number(tmp_path, str(tmp_path / "iter_500.pth")) == 3  # another branch


def test_resumable_keeps_what_a_config_says(digits, tmp_path):
    config = run_config(faster_rcnn(), digits, tmp_path, steps=9)
    exact = resumable(config)
    assert exact.train_cfg.type == "ResumableIterLoop" and config.train_cfg.type.startswith("Iter")
    saving = exact.default_hooks.checkpoint
    assert saving.type == "AtomicCheckpointHook" and saving.max_keep_ckpts == 1
    assert "save_best" not in saving  # a single validation
    config.train_cfg.val_interval = 4
    config.optim_wrapper.accumulative_counts = 4
    config.default_hooks.checkpoint.update(interval=6, max_keep_ckpts=3)
    saving = resumable(config).default_hooks.checkpoint
    assert (saving.interval, saving.max_keep_ckpts, saving.save_best) == (8, 3, "auto")
    config.default_hooks.checkpoint.type = "SomeoneElsesHook"
    config.train_cfg.type = "SomeoneElsesLoop"
    exact = resumable(config)
    assert exact.default_hooks.checkpoint == config.default_hooks.checkpoint
    assert exact.train_cfg == config.train_cfg


# --- Whole trainings ------------------------------------------------------------------------------


@pytest.mark.slow
def test_three_kills_change_nothing(tmp_path):
    events = ["training", "student checkpoint", "whole checkpoint"]
    record = compare(events, processes=1, steps=18, queue=400_000, seed=0, folder=tmp_path)
    assert record["events"] == 3, record["moments"]
    assert record["differences"] == [] and record["files_equal"]
    assert record["left_unfinished"] == []
    assert len(record["losses_compared"]) == 9 and len(record["queue_compared"]) == 2


class Stop(Exception):
    """Ends a training after a step."""


def test_an_epoch_goes_on_in_its_middle(digits, teacher, tmp_path, monkeypatch):
    """Two epochs of four steps, validated after each; stopped after step 6, 4 and 3."""

    def config(folder):
        made = run_config(
            distilled(faster_rcnn(), teacher), digits, folder,
            train_cfg=dict(_delete_=True, type="EpochBasedTrainLoop", max_epochs=2),
            train_dataloader__sampler=dict(_delete_=True, type="DefaultSampler", shuffle=True),
            train_dataloader__batch_sampler=dict(type="AspectRatioBatchSampler"),
            train_dataloader__dataset__indices=8,
            default_hooks__checkpoint=dict(interval=1, save_last=True),
        )  # fmt: skip
        made.train_dataloader.dataset.pipeline.insert(2, dict(type="RandomFlip", prob=0.5))
        return made

    train(config(tmp_path / "calm"))
    left = [6, 4, 3]

    def run_iter(loop, index, batch, original=None):
        if left and loop._iter == left[-1]:
            left.pop()
            raise Stop
        return original(loop, index, batch)

    from gdetkd.training.loops import ResumableEpochLoop

    whole = ResumableEpochLoop.run_iter
    monkeypatch.setattr(
        ResumableEpochLoop, "run_iter", lambda loop, i, batch: run_iter(loop, i, batch, whole)
    )
    while left:
        with pytest.raises(Stop):
            train(config(tmp_path / "harried"), resume=True)
        random.seed(), np.random.seed(), torch.manual_seed(random.randrange(99))
    train(config(tmp_path / "harried"), resume=True)
    one, other = (read_checkpoint(tmp_path / run / "iter_8.pth") for run in ("calm", "harried"))
    assert one["meta"]["epoch"] == 1 and differences(one, other) == []
    assert any("val/coco" in path for path, _ in contents(one))
    assert {path.name for path in Path(tmp_path / "calm").glob("*.pth")} == {
        path.name for path in Path(tmp_path / "harried").glob("*.pth")
    }


def test_another_models_checkpoint_is_not_resumed_from(digits, tmp_path):
    saving = dict(default_hooks__checkpoint=dict(interval=2, by_epoch=False))
    train(run_config(faster_rcnn(), digits, tmp_path / "a", steps=2, **saving))
    saved, _ = last_checkpoint(tmp_path / "a")
    other = run_config(faster_rcnn(channels=12), digits, tmp_path / "b", steps=4)
    with pytest.raises(CheckpointError, match=r"another model .* differences.*\(8.*\(12"):
        train(other, resume=saved)


def test_nothing_to_resume_from_is_said(digits, tmp_path, capsys):
    saving = dict(default_hooks__checkpoint=dict(interval=1, by_epoch=False))
    config = run_config(faster_rcnn(), digits, tmp_path, steps=1, **saving)
    (tmp_path / "iter_4.pth").write_bytes(b"PK cut off")
    with pytest.raises(CheckpointError, match=r"damaged: .*iter_4\.pth.* leave out --resume"):
        train(config, resume=True)
    (tmp_path / "iter_4.pth").unlink()
    train(config, resume=True)
    assert f"Nothing to resume from in {tmp_path}: starting at step 0." in capsys.readouterr().out
    (tmp_path / "iter_4.pth").write_bytes(b"PK cut off")
    train(config, resume=True)
    assert "Passed over a damaged checkpoint: " + str(tmp_path) in capsys.readouterr().out
    (saved,) = tmp_path.glob("iter_1.pth")
    assert read_checkpoint(saved)["meta"]["progress"]["run"] == 1

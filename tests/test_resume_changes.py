"""What changes between stop and resume: each row of the table in gdetkd/training/README.md."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from helpers import distilled, faster_rcnn, run_config
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS

import gdetkd
from gdetkd.checkpoints.reading import CheckpointError
from gdetkd.training.runner import train
from gdetkd.training.settings import APPLIED, FIXED

PAGE = Path(gdetkd.__file__).parent / "training" / "README.md"
COMPONENTS = dict(imitation=dict(weight=1.0, sampling_ratio=2))
PRINTED, REFUSED = "takes effect, printed", "refused"
OTHER_DRAWS = f"{PRINTED}; the same place in the data, other random draws"
WARM = dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0)
FLIP = dict(type="RandomFlip", prob=0.5)


@OPTIM_WRAPPERS.register_module()
class ScaledOnCPU(AmpOptimWrapper):
    """MMEngine's, with a gradient scaler of the CPU; its constructor insists on a GPU."""

    def __init__(self, scale: float = 1024.0, **settings):
        OptimWrapper.__init__(self, **settings)
        self._scale_update_param, self.cast_dtype = None, torch.bfloat16
        self.loss_scaler = torch.amp.GradScaler("cpu", init_scale=scale)


@pytest.fixture(scope="module")
def stopped(digits, teacher, tmp_path_factory):
    """A function that makes the config of a training, and the checkpoint of its second step."""
    folder = tmp_path_factory.mktemp("stopped")

    def config(steps, student=None, data=digits, **changes):
        made = run_config(
            distilled(student or faster_rcnn(), teacher, COMPONENTS), data,
            folder / f"run{len(os.listdir(folder))}", steps,
            default_hooks__checkpoint=dict(interval=2, by_epoch=False), **changes,
        )  # fmt: skip
        for key in ("val_dataloader", "val_cfg", "val_evaluator"):
            made.pop(key)
        made.setdefault("param_scheduler", [dict(WARM, end=5)])
        return made

    first = config(2)
    train(first)
    return config, str(Path(first.work_dir) / "iter_2.pth")


def other_data(config, folder, edit):
    """The config with a copy of its data, whose annotations `edit` changes in place."""
    root = folder / "data"
    shutil.copytree(config.train_dataloader.dataset.data_root, root)
    file = root / "annotations" / "train.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))
    config.train_dataloader.dataset.data_root = str(root)


def drop_image(content):
    content["images"].pop()


def rename_object(content):
    first = content["annotations"][0]
    first["category_id"] = 1 + first["category_id"] % 9


def flip(config, folder):
    config.train_dataloader.dataset.pipeline.insert(2, FLIP)


# The first column of the table: what changes, what happens, and what is said about it.
ROWS = {
    "optimizer: learning rate": (
        dict(optim_wrapper__optimizer__lr=0.5), REFUSED,
        "optim_wrapper.optimizer.lr is 0.5 and was 0.01",
    ),
    "optimizer: another one": (
        dict(optim_wrapper__optimizer__type="AdamW"), REFUSED,
        "optim_wrapper.optimizer.type is AdamW and was SGD",
    ),
    "optimizer: factors of parameters": (
        dict(optim_wrapper__paramwise_cfg=dict(bypass_duplicate=True)), REFUSED,
        "optim_wrapper.paramwise_cfg is {'bypass_duplicate': True} and was None",
    ),
    "schedule": (
        dict(param_scheduler=[dict(WARM, end=9)]), REFUSED, "param_scheduler.0.end is 9 and was 5",
    ),
    "seed": (dict(randomness=dict(seed=1)), REFUSED, "randomness.seed is 1 and was 0"),
    "order of the data": (
        dict(train_dataloader__sampler__shuffle=False), REFUSED,
        "train_dataloader.sampler.shuffle is False and was True",
    ),
    "batches of another kind": (
        dict(train_dataloader__batch_sampler=dict(type="AspectRatioBatchSampler")), REFUSED,
        "train_dataloader.batch_sampler is {'type': 'AspectRatioBatchSampler'} and was None",
    ),
    "an image more or fewer": (
        lambda config, folder: other_data(config, folder, drop_image), REFUSED,
        "data.count is 15 and was 16",
    ),
    "an image or annotation edited, or in another place of the order": (
        lambda config, folder: other_data(config, folder, rename_object), REFUSED,
        "data.fingerprint is ",
    ),
    "the same data in another folder": (
        lambda config, folder: other_data(config, folder, lambda content: None), PRINTED,
        "train_dataloader.dataset.data_root is ",
    ),
    "architecture": (
        dict(student=faster_rcnn(channels=12)), REFUSED, "checkpoint of another model",
    ),
    "weight of a component": (
        dict(model__components__imitation__weight=2.0), PRINTED,
        "model.components.imitation.weight is 2.0 and was 1.0",
    ),
    "another setting of the model": (
        dict(model__student__train_cfg__rcnn__sampler__num=8), PRINTED,
        "model.student.train_cfg.rcnn.sampler.num is 8 and was 10",
    ),
    "images per step": (
        dict(train_dataloader__batch_size=1), PRINTED, "train_dataloader.batch_size is 1 and was 2",
    ),
    "augmentation": (flip, PRINTED, "train_dataloader.dataset.pipeline is "),
    "gradient clipping": (
        dict(optim_wrapper__clip_grad=dict(max_norm=1.0)), PRINTED,
        "optim_wrapper.clip_grad is {'max_norm': 1.0} and was None",
    ),
    "steps that are accumulated": (
        dict(optim_wrapper__accumulative_counts=2), PRINTED,
        "optim_wrapper.accumulative_counts is 2 and was None",
    ),
    "mixed precision": (
        dict(optim_wrapper__type="ScaledOnCPU"), PRINTED,
        "optim_wrapper.type is ScaledOnCPU and was OptimWrapper",
    ),
    "length of the training": ({}, PRINTED, "train_cfg.max_iters is 3 and was 2"),
    "interval of validation": (
        dict(train_cfg__val_interval=500), PRINTED, "train_cfg.val_interval is 500 and was 1000",
    ),
    "number of processes": ({}, OTHER_DRAWS, "of 2 process(es), this run of 1"),
    "logging, saving, other hooks": (
        dict(default_hooks__logger__interval=3), PRINTED,
        "default_hooks.logger.interval is 3 and was 1",
    ),
}  # fmt: skip


def test_the_page_lists_what_is_tested_here():
    lines = PAGE.read_text().partition("<!-- rows")[2].partition("<!-- end of rows -->")[0]
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| ([^|]+) \|$", lines, re.MULTILINE)
    assert rows[1:] == [(name, happens) for name, (_, happens, _) in ROWS.items()]
    said = " ".join(says for _, _, says in ROWS.values())
    assert all(f"{key}" in said for key in (*FIXED, *APPLIED) if key != "custom_hooks")


@pytest.mark.parametrize("row", ROWS)
def test_a_change_between_stop_and_resume(stopped, tmp_path, capfd, row):
    make, saved = stopped
    changes, happens, says = ROWS[row]
    config = make(3, **(changes if isinstance(changes, dict) else {}))
    if callable(changes):
        changes(config, tmp_path)
    if row == "number of processes":  # as two processes with one image each leave it
        whole = torch.load(saved, weights_only=False)
        progress = whole["meta"]["progress"]
        progress.update(processes=2, batch_size=1, generators=progress["generators"] * 2)
        torch.save(whole, saved := str(tmp_path / "iter_2.pth"))
        config.log_level = "WARNING"
    if happens == REFUSED:
        with pytest.raises(CheckpointError, match=rf"cannot resume.*{re.escape(says)}"):
            train(config, resume=saved)
        return
    assert train(config, resume=saved).iter == 3
    output = "".join(capfd.readouterr())
    start = "" if happens == OTHER_DRAWS else "Changed since the checkpoint, and applied: "
    assert start + says in output


def test_nothing_is_said_where_nothing_has_changed(stopped, capfd):
    make, saved = stopped
    train(make(2), resume=saved)
    assert "Changed" not in "".join(capfd.readouterr())


def test_a_run_without_a_seed_resumes_with_the_one_it_had(stopped):
    make, _ = stopped
    first = make(2, randomness=dict(seed=None))
    seed = train(first).seed
    again = make(3, randomness=dict(seed=None))
    assert train(again, resume=str(Path(first.work_dir) / "iter_2.pth")).seed == seed


def test_a_step_that_the_loss_scaler_skips_is_no_loss_that_is_not_finite(stopped):
    """Gradients of a finite loss overflow at a scale of 2^127, which is halved until they fit."""
    make, _ = stopped
    runner = train(make(4, optim_wrapper=dict(_delete_=True, type="ScaledOnCPU", scale=2.0**127,
                                              optimizer=dict(type="SGD", lr=0.01),
                                              clip_grad=dict(max_norm=1.0)),
                        model__components__imitation__weight=1e4))  # fmt: skip
    assert runner.iter == 4
    scale = runner.optim_wrapper.loss_scaler.get_scale()
    assert 2.0**122 < scale < 2.0**127  # halved at every step that was skipped
    assert all(value.isfinite().all() for value in runner.model.state_dict().values())
    losses = runner.message_hub.get_scalar("train/loss").data[0]
    assert torch.tensor(losses).isfinite().all() and len(losses) == 4

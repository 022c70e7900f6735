"""Whole runs of MMEngine's Runner on tiny digits: plain, distilled, resumed, averaged, stopped."""

import json
import logging
import math
import subprocess
import sys
from pathlib import Path

import mmdet
import pytest
import torch
from helpers import (
    COMPONENTS,
    build,
    distilled,
    faster_rcnn,
    run,
    run_config,
    save_detector,
)
from mmdet.apis import inference_detector, init_detector
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import gdetkd
import gdetkd.training.loops  # noqa: F401  (registers the loops that resume)
from gdetkd.checkpoints.hub import find_checkpoint, find_config
from gdetkd.checkpoints.reading import read_checkpoint
from gdetkd.detectors.mmdet.distilled import NonFiniteLossError

CONFIGS = [
    path for path in sorted((Path(gdetkd.__file__).parent / "configs" / "digits").glob("*.py"))
]
ZERO = {name: {**settings, "weight": 0.0} for name, settings in COMPONENTS.items()}
BACKENDS = [dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")]


@pytest.fixture(scope="module")
def plain_run(digits, tmp_path_factory):
    config = run_config(faster_rcnn(), digits, tmp_path_factory.mktemp("plain"), steps=3)
    return run(config)


@pytest.fixture(scope="module")
def distilled_run(digits, teacher, tmp_path_factory):
    """Four steps, a checkpoint after each, the last two kept; logged in every way."""
    folder = tmp_path_factory.mktemp("distilled")
    (folder / "best_student.pth").write_text("someone's own")
    config = run_config(
        distilled(faster_rcnn(), teacher),
        digits,
        folder,
        steps=4,
        default_hooks__checkpoint=dict(
            interval=1, max_keep_ckpts=2, save_best="coco/bbox_mAP", rule="greater"
        ),
        log_level="INFO",
        visualizer=dict(type="DetLocalVisualizer", vis_backends=BACKENDS, name=str(folder)),
        train_cfg__val_interval=4,
    )
    yield *run(config), folder
    logging.getLogger("mmengine").setLevel("ERROR")


# --- Beside the plain detector --------------------------------------------------------------------


def test_with_all_weights_0_it_is_the_plain_detector_bit_for_bit(plain_run, digits, tmp_path):
    nowhere = dict(config="nowhere.py", checkpoint="nowhere.pth")
    model = distilled(faster_rcnn(), nowhere, ZERO)
    runner, ours = run(run_config(model, digits, tmp_path, steps=3))
    _, theirs = plain_run
    assert runner.model.teacher is None and runner.model.distiller.objective is None
    assert ours.images == theirs.images and len(ours.images) == 3
    assert ours.logs == theirs.logs  # the numbers, all of them, exactly
    for mine, other in [
        (ours.start, theirs.start),
        *zip(ours.gradients, theirs.gradients, strict=True),
        *zip(ours.weights, theirs.weights, strict=True),
    ]:
        assert list(mine) == list(other)
        for name, value in other.items():
            assert value is mine[name] if value is None else torch.equal(mine[name], value), name
    assert len(ours.gradients) == 3
    assert any(grad.any() for grad in ours.gradients[2].values())


def test_a_distilled_run_starts_alike_and_sees_the_same_images(plain_run, distilled_run):
    """Though its teacher was built, and measured on the validation set, before."""
    runner, ours, _ = distilled_run
    _, theirs = plain_run
    assert runner.message_hub.get_info("teacher")
    assert ours.images[:3] == theirs.images
    assert list(ours.start) == list(theirs.start)
    for name, value in theirs.start.items():
        assert torch.equal(ours.start[name], value), name
    for name, value in theirs.logs[0].items():  # the first step's boxes, too, are the same
        assert name == "loss" or ours.logs[0][name] == value, name
    assert ours.logs[0]["loss"] > theirs.logs[0]["loss"]
    changed_by_it = [
        name
        for name, grad in theirs.gradients[0].items()
        if not grad.equal(ours.gradients[0][name])
    ]
    assert any("backbone" in name for name in changed_by_it)
    assert any("fc_reg" in name for name in changed_by_it)


# --- What a run leaves ----------------------------------------------------------------------------


def test_every_loss_and_level_is_logged(distilled_run):
    runner, recorder, folder = distilled_run
    names = {f"kd_{name}_loss" for name in COMPONENTS}
    names |= {f"kd_imitation_level_{i}_share" for i in range(4)}
    (scalars,) = folder.glob("*/vis_data/scalars.json")
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert len(steps) == 4 and all(names < set(line) for line in steps)
    for line in steps:
        shares = [line[f"kd_imitation_level_{i}_share"] for i in range(4)]
        assert math.isclose(sum(shares), 1, rel_tol=1e-5)
    for logged in recorder.logs:
        parts = [value for name, value in logged.items() if "loss" in name and name != "loss"]
        assert logged["loss"] == pytest.approx(sum(parts), rel=1e-5)
        assert all(logged[f"kd_{name}_loss"] > 0 for name in COMPONENTS)
    board = EventAccumulator(str(next(folder.glob("*/vis_data"))))
    board.Reload()
    assert names < set(board.Tags()["scalars"])
    assert len(board.Scalars("kd_contrastive_loss")) == 4


def test_a_dead_teacher_is_noticed(distilled_run):
    runner, _, folder = distilled_run
    assert runner.message_hub.get_info("teacher")["coco/bbox_mAP"] < 0.01  # random weights
    (log,) = folder.glob("*/*.log")
    assert "Teacher on the validation set: bbox_mAP 0.0" in log.read_text()
    assert "The teacher is as good as dead (coco/bbox_mAP 0.0" in log.read_text()


def test_a_live_teacher_is_measured_as_mmdetection_does(digits, tmp_path):
    shipped = dict(
        config="gdetkd::digits/faster_rcnn_r34_teacher.py",
        checkpoint="gdetkd::digits_faster_rcnn_r34.pth",
    )
    model = distilled(faster_rcnn(), shipped, dict(classification=dict(weight=1.0)))
    config = run_config(model, digits, tmp_path / "ours", steps=1, size=128, log_level="INFO")
    runner, _ = run(config)
    metrics = runner.message_hub.get_info("teacher")
    assert metrics["coco/bbox_mAP"] > 0.3
    (log,) = (tmp_path / "ours").glob("*/*.log")
    assert f"bbox_mAP {metrics['coco/bbox_mAP']:.3f}" in log.read_text()
    assert "dead" not in log.read_text()

    theirs = Config.fromfile(find_config(shipped["config"])).model
    weights = find_checkpoint(shipped["checkpoint"])
    config = run_config(theirs, digits, tmp_path / "theirs", size=128, load_from=weights)
    config.update(
        test_dataloader=config.val_dataloader,
        test_evaluator=config.val_evaluator,
        test_cfg=dict(type="TestLoop"),
    )
    assert dict(Runner.from_cfg(config).test()) == metrics


def test_beside_each_checkpoint_lies_the_student_alone(distilled_run, digits):
    runner, _, folder = distilled_run
    files = {path.name for path in folder.glob("*.pth")}
    kept = {"iter_3.pth", "iter_4.pth", "best_coco_bbox_mAP_iter_4.pth"}
    assert files == kept | {name.replace(".pth", "_student.pth") for name in kept} | {
        "best_student.pth"
    }
    assert (folder / "best_student.pth").read_text() == "someone's own"

    state = torch.load(folder / "iter_4_student.pth", weights_only=True)["state_dict"]
    build(faster_rcnn()).load_state_dict(state, strict=True)
    for name, value in state.items():
        assert torch.equal(value, runner.model.student.state_dict()[name])
    config = run_config(faster_rcnn(), digits, folder)
    config.test_dataloader = config.val_dataloader
    detector = init_detector(config, str(folder / "iter_4_student.pth"), device="cpu")
    assert detector.dataset_meta["classes"] == list("0123456789")
    image = str(digits / "val" / "000000.jpg")
    found = inference_detector(detector, image).pred_instances
    data = next(data for data in runner.val_loop.dataloader if data["data_samples"][0].img_id == 0)
    runner.model.eval()
    with torch.no_grad():
        one = {key: value[:1] for key, value in data.items()}
        expected = runner.model.val_step(one)[0].pred_instances
    assert len(found) > 0
    assert torch.equal(found.bboxes, expected.bboxes) and torch.equal(found.scores, expected.scores)


def test_the_student_is_validated_not_the_teacher(distilled_run):
    """Validation ran at the end: metrics of the student, under MMEngine's names."""
    runner, _, folder = distilled_run
    assert "val/coco/bbox_mAP" in runner.message_hub.log_scalars


# --- Resume ---------------------------------------------------------------------------------------


def test_resuming_restores_the_queue_and_goes_on(distilled_run, digits, teacher, tmp_path):
    _, before, folder = distilled_run
    saved = read_checkpoint(folder / "iter_3.pth")["state_dict"]
    keys = [
        f"distiller.objective.0.components.contrastive.queue.{name}"
        for name in ("storage", "enqueued")
    ]
    assert set(keys) < set(saved)
    assert saved[keys[1]] == 3 * 20  # 10 boxes an image, 2 images, 3 steps
    config = run_config(
        distilled(faster_rcnn(), teacher),
        digits,
        tmp_path,
        steps=5,
        resume=True,
        load_from=str(folder / "iter_3.pth"),
    )
    runner, resumed = run(config)
    assert runner.iter == 5
    for name, value in resumed.objective.items():  # when training began again
        assert torch.equal(value, saved[name]), name
    for name, value in resumed.start.items():
        assert torch.equal(value, saved[f"distiller.student.{name}"]), name
    assert resumed.images[0] == before.images[3]
    queue = runner.model.distiller.objective[0].components["contrastive"].queue
    assert int(queue.enqueued) == 5 * 20 and len(queue) == 40


# --- Head transfer --------------------------------------------------------------------------------


def test_transferred_heads_are_the_teachers_after_training(digits, twin, tmp_path):
    model = distilled(faster_rcnn(), twin, transfer_heads=True)
    adamw = dict(_delete_=True, type="AdamW", lr=0.01, weight_decay=0.1)
    runner, recorder = run(
        run_config(model, digits, tmp_path, steps=2, optim_wrapper__optimizer=adamw)
    )
    theirs = runner.model.teacher.state_dict()
    for tensors in (recorder.start, recorder.weights[0], recorder.weights[1]):
        heads = {name: value for name, value in tensors.items() if "_head" in name}
        assert len(heads) > 8
        for name, value in heads.items():
            assert torch.equal(value, theirs[name]), name
    for gradients in recorder.gradients:
        assert all((grad is None) == ("_head" in name) for name, grad in gradients.items())
    # An RPN that was initialized after the transfer answers 0 to everything: -log 1/2.
    assert abs(recorder.logs[0]["loss_rpn_cls"] - math.log(2)) > 0.02
    assert not torch.equal(
        recorder.weights[1]["backbone.conv1.weight"], recorder.start["backbone.conv1.weight"]
    )


def test_heads_that_were_overwritten_are_noticed(digits, twin, tmp_path):
    other = build(faster_rcnn(), seed=7).state_dict()
    torch.save(
        {f"distiller.student.{name}": value for name, value in other.items()},
        tmp_path / "other.pth",
    )
    model = distilled(faster_rcnn(), twin, {}, transfer_heads=True)
    config = run_config(model, digits, tmp_path, load_from=str(tmp_path / "other.pth"))
    with pytest.raises(RuntimeError, match="rpn_head.* is not the teacher's at the start"):
        run(config)


# --- MMEngine's ways to train ---------------------------------------------------------------------


def test_gradient_accumulation(digits, teacher, tmp_path):
    config = run_config(
        distilled(faster_rcnn(), teacher), digits, tmp_path, steps=4,
        optim_wrapper__accumulative_counts=2,
    )  # fmt: skip
    runner, recorder = run(config)
    assert len(recorder.logs) == 4 and len(recorder.gradients) == 2
    key = "backbone.conv1.weight"
    assert torch.equal(recorder.weights[0][key], recorder.start[key])
    assert not torch.equal(recorder.weights[1][key], recorder.start[key])
    queue = runner.model.distiller.objective[0].components["contrastive"].queue
    assert int(queue.enqueued) == 4 * 20  # at every forward pass


def test_averaged_weights_are_the_ones_exported(digits, teacher, tmp_path):
    config = run_config(
        distilled(faster_rcnn(), teacher),
        digits,
        tmp_path,
        steps=3,
        default_hooks__checkpoint__interval=3,
        custom_hooks=[
            dict(type="SafeCheckpointHook"),
            dict(type="DistillationHook"),
            dict(type="EMAHook", momentum=0.4),
        ],
    )
    runner, recorder = run(config)
    (averaging,) = (hook for hook in runner.hooks if type(hook).__name__ == "EMAHook")
    copied = averaging.ema_model.module
    assert copied.teacher is runner.model.teacher
    assert copied.distiller.student_adapter.detector is copied.student
    exported = torch.load(tmp_path / "iter_3_student.pth", weights_only=True)
    assert exported["meta"]["weights"] == "ema"
    build(faster_rcnn()).load_state_dict(exported["state_dict"], strict=True)
    key = "backbone.conv1.weight"
    # By hand: MMEngine's average starts as the weights after step 1.
    expected = recorder.weights[0][key]
    for weights in recorder.weights[1:]:
        expected = 0.6 * expected + 0.4 * weights[key]
    torch.testing.assert_close(exported["state_dict"][key], expected)
    assert not torch.equal(exported["state_dict"][key], recorder.weights[2][key])
    # And such a run resumes.
    config.merge_from_dict(
        dict(resume=True, load_from=str(tmp_path / "iter_3.pth"), experiment_name="averaged again")
    )
    config.train_cfg.max_iters = 4
    runner, resumed = run(config)
    assert runner.iter == 4
    assert torch.equal(resumed.start[key], recorder.weights[2][key])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_mixed_precision_on_a_gpu(digits, teacher, tmp_path, dtype):
    config = run_config(
        distilled(faster_rcnn(), teacher), digits, tmp_path, steps=3,
        optim_wrapper=dict(type="AmpOptimWrapper", dtype=dtype),
    )  # fmt: skip
    runner, recorder = run(config)
    assert all(math.isfinite(value) for logged in recorder.logs for value in logged.values())
    assert next(runner.model.teacher.parameters()).device.type == "cuda"


def test_a_mask_rcnn_trains_and_gets_the_mask_head(digits, tmp_path):
    teacher = save_detector(faster_rcnn(base=6, mask=True), tmp_path / "teacher.pth")
    model = distilled(faster_rcnn(mask=True), teacher, transfer_heads=True)
    runner, recorder = run(run_config(model, digits, tmp_path, steps=1))
    assert "loss_mask" in recorder.logs[0] and math.isfinite(recorder.logs[0]["loss"])
    theirs = runner.model.teacher.roi_head.mask_head.state_dict()
    for name, value in runner.model.student.roi_head.mask_head.state_dict().items():
        assert torch.equal(value, theirs[name])


def test_epochs(digits, teacher, tmp_path):
    config = run_config(
        distilled(faster_rcnn(), teacher),
        digits,
        tmp_path,
        train_cfg=dict(_delete_=True, type="EpochBasedTrainLoop", max_epochs=1),
        train_dataloader__sampler=dict(_delete_=True, type="DefaultSampler", shuffle=True),
        train_dataloader__dataset__indices=4,
        default_hooks__checkpoint=dict(by_epoch=True, interval=1),
        log_processor__by_epoch=True,
    )
    run(config)
    assert (tmp_path / "epoch_1.pth").exists() and (tmp_path / "epoch_1_student.pth").exists()


def test_mmdetections_own_tool_trains_it(digits, teacher, tmp_path):
    model = distilled(faster_rcnn(), teacher, transfer_heads=False)
    config = run_config(
        model, digits, tmp_path / "work", steps=1, default_hooks__checkpoint__interval=1
    )
    config.dump(str(tmp_path / "config.py"))
    tool = Path(mmdet.__file__).parent / ".mim" / "tools" / "train.py"
    done = subprocess.run(
        [sys.executable, str(tool), str(tmp_path / "config.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "work" / "iter_1_student.pth").exists()


# --- Numbers that are not finite ------------------------------------------------------------------


class Poison(Hook):
    """Lets a loss run away at a step."""

    def __init__(self, step, harm):
        self.step, self.harm = step, harm

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if batch_idx == self.step:
            self.harm(runner.model)


def endless_weight(model):
    model.distiller.objective[0].weights["classification"] = math.inf


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_a_checkpoint(digits, teacher, tmp_path):
    model = distilled(faster_rcnn(), teacher)
    reached, ours = [], dict(train_cfg__type="ResumableIterLoop")

    class Last(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            state = runner.model.student.state_dict()
            reached.append({name: value.clone() for name, value in state.items()})

    with pytest.raises(NonFiniteLossError, match="kd_classification_loss = inf") as error:
        config = run_config(model, digits, tmp_path, steps=4, **ours)
        run(config, Poison(2, endless_weight), Last())
    (kept,) = tmp_path.glob("before_non_finite*.pth")
    assert kept.name == "before_non_finite_iter_2.pth" and str(kept) in str(error.value)
    assert len(reached) == 2
    saved = read_checkpoint(kept)
    assert saved["meta"]["iter"] == 2 and "optimizer" in saved
    progress = saved["meta"]["progress"]  # what another number of processes goes by
    assert progress["processes"] == 1 and progress["batch_size"] == 2
    queue = "distiller.objective.0.components.contrastive.queue.enqueued"
    assert int(saved["state_dict"][queue]) == 2 * 20  # without those of the step that was stopped
    trained = {name for name, _ in build(faster_rcnn()).named_parameters()}
    for name in trained:  # BatchNorm's statistics have seen the third batch
        assert torch.equal(saved["state_dict"][f"distiller.student.{name}"], reached[1][name]), name
    config = run_config(
        model, digits, tmp_path / "again", steps=4, resume=True, load_from=str(kept), **ours
    )
    runner, resumed = run(config)
    assert runner.iter == 4 and len(resumed.logs) == 2
    assert all(math.isfinite(value) for logged in resumed.logs for value in logged.values())


def test_a_learning_rate_that_is_much_too_high_is_stopped(digits, teacher, tmp_path):
    model = distilled(faster_rcnn(), teacher)
    with pytest.raises(NonFiniteLossError, match="stopped before the step: .*loss.* = ") as error:
        run(run_config(model, digits, tmp_path, steps=6, optim_wrapper__optimizer__lr=1e25))
    # BatchNorm's statistics of such a step are of no use, and no checkpoint pretends they were.
    text = str(error.value)
    assert "Kept no checkpoint" in text and "running_" in text and "none yet" in text
    assert not list(tmp_path.glob("before_non_finite*.pth"))


# --- The shipped configs --------------------------------------------------------------------------


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_shipped_configs_build(path, tmp_path):
    config = Config.fromfile(path)
    assert config.default_scope == "mmdet"
    distils = config.model.type == "DistilledDetector"
    if distils:
        teacher = MODELS.build(Config.fromfile(find_config(config.model.teacher.config)).model)
        torch.save({"state_dict": teacher.state_dict()}, tmp_path / "teacher.pth")
        config.model.teacher.checkpoint = str(tmp_path / "teacher.pth")
    detector = build(config.model)
    if distils:
        assert detector.teacher is not None and detector.distiller.objective is not None
        assert {hook.type for hook in config.custom_hooks} >= {
            "DistillationHook",
            "SafeCheckpointHook",
        }

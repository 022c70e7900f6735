"""Detectors, data and runs as small as MMDetection takes them: 64 px images, a few channels."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import mmengine.config.config
import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmdet.utils import register_all_modules
from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from mmengine.structures import InstanceData

import gdetkd.detectors.mmdet  # noqa: F401  (registers the detector and its hooks)
from gdetkd.checkpoints.hub import find_config
from gdetkd.checkpoints.unpickling import allow_checkpoint_types

SIZE = 64  # px
CLASSES = tuple("0123456789")
OBJECTIVE = "distiller.objective."
COMPONENTS = dict(
    contrastive=dict(weight=0.5, dim=8, queue_capacity=40),
    imitation=dict(weight=1.0, sampling_ratio=2),
    classification=dict(weight=1.0),
    regression=dict(weight=1.0),
)

register_all_modules()
allow_checkpoint_types()
# Nine tenths of a short run would go into the layout of its config's text.
mmengine.config.config.FormatCode = lambda text, **_: (text, True)
# The initialization of every parameter is a line of its log.
MMLogger.get_current_instance().setLevel("ERROR")


def structure(name: str) -> torch.nn.Module:
    """The detector of a config of MMDetection, with shapes and without weights."""
    config = Config.fromfile(find_config(name)).model
    config.backbone.init_cfg = None
    with torch.device("meta"):
        return MODELS.build(config)


def changed(config: dict, **changes) -> ConfigDict:
    """A copy of a config with values by dotted key, the dots written as two underscores."""
    config = Config(copy.deepcopy(config))
    config.merge_from_dict({key.replace("__", "."): value for key, value in changes.items()})
    return config._cfg_dict


def faster_rcnn(
    base=4, channels=8, fc=16, levels=4, classes=10, mask=False, **changes
) -> ConfigDict:
    """Faster R-CNN (or Mask R-CNN) with FPN on a ResNet-18, all of it tiny."""
    strides = [4, 8, 16, 32][:levels]
    nms = dict(type="nms", iou_threshold=0.7)
    pooling = dict(
        type="SingleRoIExtractor",
        roi_layer=dict(type="RoIAlign", output_size=7, sampling_ratio=2),
        out_channels=channels,
        featmap_strides=strides,
        finest_scale=10,
    )
    assigner = dict(type="MaxIoUAssigner", match_low_quality=True, ignore_iof_thr=-1)
    model = dict(
        type="MaskRCNN" if mask else "FasterRCNN",
        data_preprocessor=dict(
            type="DetDataPreprocessor",
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            bgr_to_rgb=True,
            pad_size_divisor=32,
            pad_mask=mask,
        ),
        backbone=dict(
            type="ResNet",
            depth=18,
            base_channels=base,
            strides=(1, 2, 2, 2)[:levels],
            dilations=(1, 1, 1, 1)[:levels],
            num_stages=levels,
            out_indices=tuple(range(levels)),
            norm_cfg=dict(type="BN", requires_grad=True),
            norm_eval=False,
            style="pytorch",
        ),
        neck=dict(
            type="FPN",
            in_channels=[base * 2**i for i in range(levels)],
            out_channels=channels,
            num_outs=levels,
        ),
        rpn_head=dict(
            type="RPNHead",
            in_channels=channels,
            feat_channels=channels,
            anchor_generator=dict(
                type="AnchorGenerator", scales=[4], ratios=[1.0], strides=strides
            ),
            bbox_coder=dict(type="DeltaXYWHBBoxCoder"),
            loss_bbox=dict(type="L1Loss", loss_weight=1.0),
        ),
        roi_head=dict(
            type="StandardRoIHead",
            bbox_roi_extractor=pooling,
            bbox_head=dict(
                type="Shared2FCBBoxHead",
                in_channels=channels,
                fc_out_channels=fc,
                roi_feat_size=7,
                num_classes=classes,
                bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_stds=[0.1, 0.1, 0.2, 0.2]),
                reg_class_agnostic=False,
                loss_bbox=dict(type="L1Loss", loss_weight=1.0),
            ),
        ),
        train_cfg=dict(
            rpn=dict(
                assigner=dict(assigner, pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.3),
                sampler=dict(
                    type="RandomSampler", num=32, pos_fraction=0.5, add_gt_as_proposals=False
                ),
                allowed_border=-1,
                pos_weight=-1,
                debug=False,
            ),
            rpn_proposal=dict(nms_pre=40, max_per_img=20, nms=nms, min_bbox_size=0),
            rcnn=dict(
                assigner=dict(assigner, pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5),
                sampler=dict(
                    type="RandomSampler", num=10, pos_fraction=0.5, add_gt_as_proposals=True
                ),
                pos_weight=-1,
                debug=False,
                mask_size=14,
            ),
        ),
        test_cfg=dict(
            rpn=dict(nms_pre=40, max_per_img=20, nms=nms, min_bbox_size=0),
            rcnn=dict(
                score_thr=0.0,
                nms=dict(type="nms", iou_threshold=0.5),
                max_per_img=10,
                mask_thr_binary=0.5,
            ),
        ),
    )
    if mask:
        model["roi_head"].update(
            mask_roi_extractor=pooling,
            mask_head=dict(
                type="FCNMaskHead",
                num_convs=1,
                in_channels=channels,
                conv_out_channels=channels,
                num_classes=classes,
                loss_mask=dict(type="CrossEntropyLoss", use_mask=True),
            ),
        )
    return changed(model, **changes)


def build(config: dict, seed: int = 0) -> torch.nn.Module:
    """A detector in training mode, its weights those of a Runner with this seed."""
    torch.manual_seed(seed)
    model = MODELS.build(copy.deepcopy(config))
    model.init_weights()
    return model.train()


def save_detector(config: dict, path: Path, seed: int = 1) -> dict:
    """Write a detector's weights; give it as the `teacher` of a distilled config.

    Random weights, but no dead ones: the heads of an untrained MMDetection detector predict
    almost nothing, and a residual branch that ends in zeros hides what comes before it.
    """
    model = build(config, seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "head" in name:
                torch.nn.init.kaiming_normal_(parameter)
            elif "bn" in name:
                parameter.uniform_(0.2, 1.0)
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point() and "running" in name:
                buffer.uniform_(0.5, 1.5)
    torch.save({"state_dict": model.state_dict()}, path)
    return dict(config=config, checkpoint=str(path))


def distilled(student: dict, teacher: dict | None, distill=COMPONENTS, **settings) -> dict:
    return dict(
        type="DistilledDetector", student=student, teacher=teacher, components=distill, **settings
    )


def batch(boxes=(3, 2), sizes=((SIZE, SIZE), (SIZE, SIZE)), masks=False, seed=0) -> dict:
    """What a data loader gives: random images with as many random boxes in each as asked for."""
    random = torch.Generator().manual_seed(seed)
    inputs, samples = [], []
    for count, (height, width) in zip(boxes, sizes, strict=True):
        inputs.append(torch.randint(256, (3, height, width), generator=random, dtype=torch.uint8))
        extent = torch.tensor([width, height])
        corner = torch.rand(count, 2, generator=random) * extent * 0.5
        side = torch.rand(count, 2, generator=random) * extent * 0.3 + 8
        truth = InstanceData(
            bboxes=torch.cat([corner, corner + side], 1),
            labels=torch.randint(10, (count,), generator=random),
        )
        if masks:
            pixels = np.zeros((count, height, width), np.uint8)
            for mask, box in zip(pixels, truth.bboxes.long().tolist(), strict=True):
                mask[box[1] : box[3], box[0] : box[2]] = 1
            truth.masks = BitmapMasks(pixels, height, width)
        nothing = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
        sample = DetDataSample(gt_instances=truth, ignored_instances=nothing)
        sample.set_metainfo(
            dict(img_shape=(height, width), ori_shape=(height, width), scale_factor=(1.0, 1.0))
        )
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def losses_of(model: torch.nn.Module, data: dict, seed: int = 0) -> dict:
    """The detector's losses on a batch, the samplers of boxes seeded."""
    data = model.data_preprocessor(copy.deepcopy(data), True)
    torch.manual_seed(seed)
    return model.loss(data["inputs"], data["data_samples"])


def backward(model: torch.nn.Module, losses: dict) -> dict[str, torch.Tensor]:
    """Gradients of the sum of the losses, by parameter; None where there is none."""
    model.zero_grad()
    total, _ = model.parse_losses(losses)
    total.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def views_of(model: torch.nn.Module, data: dict, seed: int = 0) -> tuple:
    """The views of student and teacher that the objective gets in `loss`, and the losses."""
    seen = []
    handle = model.distiller.objective[0].register_forward_pre_hook(
        lambda _, inputs: seen.extend(inputs[:2])
    )
    losses = losses_of(model, data, seed)
    handle.remove()
    return *seen, losses


# --- Runs -----------------------------------------------------------------------------------------


class Recorder(Hook):
    """Keeps what a run's steps looked like; names are those of the plain detector."""

    priority = "LOWEST"

    def __init__(self):
        self.start, self.objective = {}, {}
        self.images, self.logs, self.gradients, self.weights = [], [], [], []

    def before_train(self, runner):
        model = runner.model
        state = model.state_dict()
        self.start = self._students(state)
        self.objective = {
            k: v.clone() for k, v in state.items() if k.startswith("distiller.objective.")
        }

        def before_step(*_):
            gradients = {name: p.grad for name, p in model.named_parameters()}
            self.gradients.append(self._students(gradients))

        runner.optim_wrapper.optimizer.register_step_pre_hook(before_step)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.images.append([sample.img_id for sample in data_batch["data_samples"]])

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.logs.append({name: value.item() for name, value in outputs.items()})
        self.weights.append(self._students(runner.model.state_dict()))

    @staticmethod
    def _students(tensors):
        return {
            name.removeprefix("distiller.student."): None if value is None else value.clone()
            for name, value in tensors.items()
            if not name.startswith(OBJECTIVE)
        }


_numbers = itertools.count()


def run_config(
    model: dict, data: Path, work_dir: Path, steps: int = 3, size: int = SIZE, **changes
) -> Config:
    """A training of a few steps on tiny digits, as a config file of MMDetection says it."""
    masks = "Mask" in (model.get("student") or model)["type"]
    loading = [
        dict(type="LoadImageFromFile"),
        dict(type="LoadAnnotations", with_bbox=True, with_mask=masks),
        dict(type="Resize", scale=(size, size)),
    ]
    dataset = dict(type="CocoDataset", data_root=str(data), metainfo=dict(classes=CLASSES))
    meta = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
    evaluator = dict(
        type="CocoMetric", ann_file=str(data / "annotations" / "val.json"), metric="bbox"
    )
    config = dict(
        default_scope="mmdet",
        custom_imports=dict(imports=["gdetkd.detectors.mmdet"]),
        model=model,
        train_dataloader=dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type="InfiniteSampler", shuffle=True),
            dataset=dict(
                dataset,
                ann_file="annotations/train.json",
                data_prefix=dict(img="train/"),
                pipeline=[*loading, dict(type="PackDetInputs", meta_keys=meta)],
            ),
        ),
        val_dataloader=dict(
            batch_size=4,
            num_workers=0,
            sampler=dict(type="DefaultSampler", shuffle=False),
            dataset=dict(
                dataset,
                ann_file="annotations/val.json",
                data_prefix=dict(img="val/"),
                test_mode=True,
                pipeline=[loading[0], loading[2], dict(type="PackDetInputs", meta_keys=meta)],
            ),
        ),
        val_evaluator=evaluator,
        train_cfg=dict(type="IterBasedTrainLoop", max_iters=steps, val_interval=1000),
        val_cfg=dict(type="ValLoop"),
        optim_wrapper=dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.01)),
        default_hooks=dict(
            logger=dict(type="LoggerHook", interval=1),
            checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=1000, save_last=False),
        ),
        custom_hooks=[dict(type="SafeCheckpointHook"), dict(type="DistillationHook")],
        log_processor=dict(by_epoch=False),
        log_level="ERROR",
        randomness=dict(seed=0),
        work_dir=str(work_dir),
        experiment_name=f"run{next(_numbers)}",
    )
    return Config(changed(config, **changes))


def run(config: Config, *hooks: Hook) -> tuple[Runner, Recorder]:
    """Train as configured, recorded."""
    recorder = Recorder()
    runner = Runner.from_cfg(config)
    for hook in (*hooks, recorder):
        runner.register_hook(hook)
    runner.train()
    return runner, recorder

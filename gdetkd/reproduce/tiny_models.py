"""MMDetection's detectors made small: the zoo's own configs, a few channels wide."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config, ConfigDict

from gdetkd.checkpoints.hub import find_config

ZOO = {
    "faster_rcnn": "mmdet::_base_/models/faster-rcnn_r50_fpn.py",
    "faster_rcnn_c4": "mmdet::_base_/models/faster-rcnn_r50-caffe-c4.py",
    "cascade_rcnn": "mmdet::_base_/models/cascade-rcnn_r50_fpn.py",
    "cascade_mask_rcnn": "mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py",
    "htc": "mmdet::htc/htc_r50_fpn_1x_coco.py",
    "retinanet": "mmdet::_base_/models/retinanet_r50_fpn.py",
    "fcos": "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py",
    "gfl": "mmdet::gfl/gfl_r50_fpn_1x_coco.py",
    "atss": "mmdet::atss/atss_r50_fpn_1x_coco.py",
    "detr": "mmdet::detr/detr_r50_8xb2-150e_coco.py",
    "conditional_detr": "mmdet::conditional_detr/conditional-detr_r50_8xb2-50e_coco.py",
    "dab_detr": "mmdet::dab_detr/dab-detr_r50_8xb2-50e_coco.py",
    "deformable_detr": "mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py",
    "dino": "mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py",
}
WIDTHS = (
    "in_channels", "out_channels", "feat_channels", "conv_out_channels", "embed_dims",
    "num_feats", "feedforward_channels", "fc_out_channels", "proposal_feature_channel",
)  # fmt: skip

# Heads whose GroupNorm has 32 groups unless told.
GROUPED = (
    "FCOSHead", "GFLHead", "ATSSHead", "PAAHead", "VFNetHead", "TOODHead", "DDODHead", "LDHead",
    "LADHead", "AutoAssignHead", "CenterNetUpdateHead", "CondInstBboxHead", "BoxInstBboxHead",
    "NASFCOSHead",
)  # fmt: skip


def tiny_model(kind: str, base: int = 8, width: int = 16, classes: int = 10) -> ConfigDict:
    """The model of a detector on a ResNet-18 of `base` channels; its pyramid has `width` of them.

    kind: One of `ZOO`, or a config's name; a backbone that is no ResNet stays as it is. A C4 has
    16 or 32 base channels, whichever `base` is nearer to: MMDetection's res5 has no other form.

    Raises:
        ValueError: There is no such kind.
    """
    if kind not in ZOO and "::" not in kind:
        raise ValueError(f"expected a detector among {sorted(ZOO)}, or a config, got {kind!r}")
    model = copy.deepcopy(Config.fromfile(find_config(ZOO.get(kind, kind))).model)
    if "backbone" not in model:  # of a tracker: there is nothing to make small
        return ConfigDict(_narrow(model, width, classes))
    model.data_preprocessor.update(pad_size_divisor=32)
    model.data_preprocessor.pop("batch_augments", None)
    if isinstance(model.get("teacher_config"), str):  # LD and LAD distill by themselves
        teacher = find_config(model.teacher_config.replace("configs/", "mmdet::"))
        model.teacher_config = Config.fromfile(teacher)
    if "teacher_ckpt" in model:
        model.teacher_ckpt = None
    if model.backbone.type == "ResNet" and "shared_head" in model.get("roi_head", {}):
        base = 16 if base < 24 else 32
        _small_backbone(model, base)
        return _c4(model, base, classes)
    outs = _small_backbone(model, base)
    # Heads on a backbone that stays as it is, TridentNet's, keep their widths.
    model = ConfigDict(_narrow(model, width if outs or model.get("neck") else 0, classes))
    necks = model.get("neck")
    first = necks[0] if isinstance(necks, list) else necks
    if outs and first:
        levels = [base * 2**index for index in outs]
        first.in_channels = levels[-1] if isinstance(first.in_channels, int) else levels
        if first.type == "SSDNeck":  # which hands those levels on
            first.out_channels = [*levels, *first.out_channels[len(levels) :]]
            model.bbox_head.in_channels = first.out_channels
    _few_boxes(model)
    if "num_queries" in model:
        _few_queries(model, width)
    return model


def _small_backbone(model: ConfigDict, base: int) -> tuple[int, ...]:
    """Put a ResNet-18 in the place of a ResNet or of SSD's VGG; its levels that are used."""
    backbone = model.backbone
    backbone.init_cfg = None
    if backbone.type not in ("ResNet", "SSDVGG"):
        return ()
    stages, outs = backbone.get("num_stages", 4), tuple(backbone.get("out_indices", (0, 1, 2, 3)))
    if backbone.type == "SSDVGG":  # its levels have strides 8 and 16
        stages, outs = 4, (1, 2)
    model.backbone = dict(
        type="ResNet",
        depth=18,
        base_channels=base,
        num_stages=stages,
        strides=(1, 2, 2, 2)[:stages],
        dilations=(1, 1, 1, 1)[:stages],
        out_indices=outs,
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=False,
        style="pytorch",
    )
    return outs


def _narrow(value: Any, width: int, classes: int, key: str = "") -> Any:
    """A config whose widths, 256 or a multiple of it in the zoo, are `width` or that multiple.

    A width of 0 leaves them.
    """
    if isinstance(value, Mapping):
        if value.get("type") == "Pretrained":
            return None
        found = {name: _narrow(item, width, classes, name) for name, item in value.items()}
        if found.get("type") == "GN":
            found["num_groups"] = 4
        return found
    if isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        return [_narrow(item, width, classes, key) for item in value]
    if key == "num_classes":
        return classes if value == 80 else value
    if width and key in WIDTHS and isinstance(value, int) and value >= 128:
        return max(1, value * width // 256) if value < 1024 else 2 * width
    return value


def _few_boxes(model: ConfigDict) -> None:
    """Fewer proposals, small boxes spread over the levels."""
    if "roi_head" in model:
        train, test = model.train_cfg, model.test_cfg
        for proposals in (train.get("rpn_proposal"), test.get("rpn")):
            if proposals is not None:
                proposals.update(nms_pre=100, max_per_img=40)
        stages = train.rcnn if isinstance(train.rcnn, list) else [train.rcnn]
        for stage in stages:
            if "num" in stage.get("sampler", {}):
                stage.sampler.num = 16
        if "sampler" in (train.get("rpn") or {}):
            train.rpn.sampler.num = 64
        extractor = model.roi_head.bbox_roi_extractor
        extractor.roi_layer.sampling_ratio = 2
        if "shared_head" in model.roi_head:  # a C4's, which is as wide as ever
            extractor.roi_layer.output_size = 4
            model.roi_head.bbox_head.roi_feat_size = 2
        if len(extractor.featmap_strides) > 1:
            extractor.finest_scale = 12
            if "scales" in model.get("rpn_head", {}).get("anchor_generator", {}):
                model.rpn_head.anchor_generator.scales = [4]
        if "num_proposals" in model.get("rpn_head", {}):
            model.rpn_head.num_proposals = 40
            test.rcnn.max_per_img = 40  # QueryInst puts both into one list
    elif "anchor_generator" in model.get("bbox_head", {}):
        generator = model.bbox_head.anchor_generator
        if "octave_base_scale" in generator:
            generator.octave_base_scale = min(generator.octave_base_scale, 4)
    if model.get("bbox_head", {}).get("type") in GROUPED:
        model.bbox_head.norm_cfg = dict(type="GN", num_groups=4)  # 32 unless told


def _few_queries(model: ConfigDict, width: int) -> None:
    # Of an image of 64 px the encoder proposes 85 boxes, where it is what proposes.
    model.num_queries = 80 if model.get("as_two_stage") else 300
    model.bbox_head.embed_dims = width  # 256 unless told
    for part in (model.encoder, model.decoder):
        if "num_layers" in part:
            part.num_layers = 2


def _c4(model: ConfigDict, base: int, classes: int) -> ConfigDict:
    model.rpn_head.update(in_channels=4 * base, feat_channels=4 * base)
    model.rpn_head.anchor_generator.scales = [1, 2, 4]
    model.roi_head.shared_head = dict(
        # MMDetection's res5 is made for 64 base channels. Of an earlier stage it has those of a
        # narrower network's res5: 64 to 128 for 16 base channels, 128 to 256 for 32.
        type="ResLayer",
        depth=18,
        stage=1 if base == 16 else 2,
        stride=2,
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=False,
    )
    _few_boxes(model)
    model.roi_head.bbox_roi_extractor.out_channels = 4 * base
    model.roi_head.bbox_roi_extractor.roi_layer.output_size = 8
    model.roi_head.bbox_head.update(in_channels=8 * base, roi_feat_size=4, num_classes=classes)
    if "mask_head" in model.roi_head:
        model.roi_head.mask_head.update(in_channels=8 * base, num_classes=classes)
        model.train_cfg.rcnn.mask_size = 8
    return model

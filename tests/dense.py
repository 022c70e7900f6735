"""Dense detectors as small as `helpers.faster_rcnn`: five levels, strides 4 to 64."""

from __future__ import annotations

from helpers import changed, faster_rcnn
from mmengine.config import ConfigDict

STRIDES = [4, 8, 16, 32, 64]
FOCAL = dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0)
CENTERNESS = dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0)
GIOU = dict(type="GIoULoss", loss_weight=2.0)
GROUPS = dict(type="GN", num_groups=2)
MAX_IOU = dict(
    type="MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1
)
TOPK = dict(type="ATSSAssigner", topk=4)
DELTAS = dict(type="DeltaXYWHBBoxCoder", target_stds=[0.1, 0.1, 0.2, 0.2])
SQUARE = dict(
    type="AnchorGenerator",
    ratios=[1.0],
    octave_base_scale=8,
    scales_per_octave=1,
    strides=STRIDES,
)
NINE = dict(
    type="AnchorGenerator",
    octave_base_scale=4,
    scales_per_octave=3,
    ratios=[0.5, 1.0, 2.0],
    strides=STRIDES,
)
ANCHORS = dict(anchor_generator=NINE, bbox_coder=DELTAS, loss_cls=FOCAL)
POINTS = dict(
    norm_cfg=GROUPS,
    strides=STRIDES,
    regress_ranges=((-1, 16), (16, 32), (32, 64), (64, 128), (128, 1e8)),
)
ATSS = dict(
    norm_cfg=GROUPS,
    anchor_generator=SQUARE,
    bbox_coder=DELTAS,
    loss_cls=FOCAL,
    loss_bbox=GIOU,
    loss_centerness=CENTERNESS,
)
GFL = dict(
    norm_cfg=GROUPS,
    anchor_generator=SQUARE,
    loss_cls=dict(type="QualityFocalLoss", use_sigmoid=True, beta=2.0, loss_weight=1.0),
    loss_dfl=dict(type="DistributionFocalLoss", loss_weight=0.25),
    loss_bbox=GIOU,
    reg_max=8,
)
# Type of the detector, of its head, settings of the head, training assigner.
KINDS = {
    "RetinaNet": ("RetinaNet", dict(type="RetinaHead", **ANCHORS), MAX_IOU),
    "FCOS": ("FCOS", dict(type="FCOSHead", loss_bbox=GIOU, **POINTS), None),
    "FCOS in strides": (
        "FCOS",
        dict(type="FCOSHead", norm_on_bbox=True, centerness_on_reg=True, loss_bbox=GIOU, **POINTS),
        None,
    ),
    "GFL": ("GFL", dict(type="GFLHead", **GFL), TOPK),
    "ATSS": ("ATSS", dict(type="ATSSHead", **ATSS), TOPK),
    "PAA": (
        "PAA",
        dict(type="PAAHead", score_voting=False, topk=4, **ATSS),
        dict(MAX_IOU, pos_iou_thr=0.1, neg_iou_thr=0.1),
    ),
    "VFNet": (
        "VFNet",
        dict(
            type="VFNetHead",
            norm_cfg=GROUPS,
            strides=STRIDES,
            bbox_norm_type="stride",
            loss_cls=dict(type="VarifocalLoss", use_sigmoid=True),
            loss_bbox=GIOU,
            loss_bbox_refine=GIOU,
        ),
        TOPK,
    ),
    "DDOD": (
        "DDOD",
        dict(
            type="DDODHead",
            use_dcn=False,
            loss_iou=CENTERNESS,
            **{k: v for k, v in ATSS.items() if k != "loss_centerness"},
        ),
        dict(type="ATSSAssigner", topk=4, alpha=0.8),
    ),
    "FSAF": (
        "FSAF",
        dict(
            type="FSAFHead",
            reg_decoded_bbox=True,
            anchor_generator=dict(SQUARE, octave_base_scale=1),
            bbox_coder=dict(type="TBLRBBoxCoder", normalizer=4.0),
            loss_cls=dict(FOCAL, reduction="none"),
            loss_bbox=dict(type="IoULoss", eps=1e-6, loss_weight=1.0, reduction="none"),
        ),
        dict(
            type="CenterRegionAssigner",
            pos_scale=0.2,
            neg_scale=0.2,
            min_pos_iof=0.01,
        ),
    ),
    "FreeAnchor": (
        "RetinaNet",
        dict(
            type="FreeAnchorRetinaHead",
            loss_bbox=dict(type="SmoothL1Loss", beta=0.11, loss_weight=0.75),
            **ANCHORS,
        ),
        MAX_IOU,
    ),
    "AutoAssign": ("AutoAssign", dict(type="AutoAssignHead", loss_bbox=GIOU, **POINTS), None),
    "a convolution tower a level": (
        "RetinaNet",
        dict(type="RetinaSepBNHead", num_ins=5, norm_cfg=GROUPS, **ANCHORS),
        MAX_IOU,
    ),
}


def dense(kind="RetinaNet", base=4, channels=8, feat=8, classes=10, **changes) -> ConfigDict:
    """A dense detector with FPN on a ResNet-18, all of it tiny."""
    detector, head, assigner = KINDS[kind]
    like = faster_rcnn(base=base, channels=channels)
    model = dict(
        type=detector,
        data_preprocessor=like.data_preprocessor,
        backbone=like.backbone,
        neck=dict(like.neck, num_outs=5, add_extra_convs="on_output"),
        bbox_head=dict(
            head,
            num_classes=classes,
            in_channels=channels,
            feat_channels=feat,
            stacked_convs=2,
        ),
        train_cfg=dict(allowed_border=-1, pos_weight=-1, debug=False),
        test_cfg=dict(
            nms_pre=-1, score_thr=0.0, nms=dict(type="nms", iou_threshold=0.6), max_per_img=20
        ),
    )
    if assigner:
        model["train_cfg"]["assigner"] = assigner
    if kind == "DDOD":
        model["train_cfg"]["reg_assigner"] = dict(assigner, alpha=0.5)
    return changed(model, **changes)

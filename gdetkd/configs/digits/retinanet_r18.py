# The dense baseline with anchors: `gdetkd train gdetkd::digits/retinanet_r18.py`.
_base_ = [
    "../_base_/digits_data.py",
    "../_base_/digits_dense.py",
    "../_base_/digits_schedule.py",
    "../_base_/runtime.py",
]
model = dict(
    type="RetinaNet",
    bbox_head=dict(
        type="RetinaHead",
        # Sides of 4 and 5.7 strides, square and twice as tall as wide: digits are not wide.
        anchor_generator=dict(
            type="AnchorGenerator",
            octave_base_scale=4,
            scales_per_octave=2,
            ratios=[1.0, 2.0],
            strides={{_base_.strides}},
        ),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[1.0] * 4),
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="L1Loss", loss_weight=1.0),
    ),
    train_cfg=dict(
        assigner=dict(
            type="MaxIoUAssigner",
            pos_iou_thr=0.5,
            neg_iou_thr=0.4,
            min_pos_iou=0,
            ignore_iof_thr=-1,
        ),
        sampler=dict(type="PseudoSampler"),  # focal loss takes all anchors
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
)

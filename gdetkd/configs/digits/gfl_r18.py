# A dense baseline that predicts distributions of edges: `gdetkd train gdetkd::digits/gfl_r18.py`.
_base_ = [
    "../_base_/digits_data.py",
    "../_base_/digits_dense.py",
    "../_base_/digits_schedule.py",
    "../_base_/runtime.py",
]
model = dict(
    type="GFL",
    bbox_head=dict(
        type="GFLHead",
        anchor_generator=dict(
            type="AnchorGenerator",
            octave_base_scale=4,
            scales_per_octave=1,
            ratios=[1.0],
            strides={{_base_.strides}},
        ),
        reg_max=16,
        loss_cls=dict(type="QualityFocalLoss", use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_dfl=dict(type="DistributionFocalLoss", loss_weight=0.25),
        loss_bbox=dict(type="GIoULoss", loss_weight=2.0),
    ),
    train_cfg=dict(
        assigner=dict(type="ATSSAssigner", topk=9), allowed_border=-1, pos_weight=-1, debug=False
    ),
)

# The dense baseline without anchors: `gdetkd train gdetkd::digits/fcos_r18.py`.
_base_ = [
    "../_base_/digits_data.py",
    "../_base_/digits_dense.py",
    "../_base_/digits_schedule.py",
    "../_base_/runtime.py",
]
model = dict(
    type="FCOS",
    bbox_head=dict(
        type="FCOSHead",
        strides={{_base_.strides}},
        # Half of the usual ranges: of digits of 12 to 72 px, three levels have their share.
        regress_ranges=((-1, 16), (16, 32), (32, 64), (64, 128), (128, 1e8)),
        center_sampling=True,
        center_sample_radius=1.5,
        norm_on_bbox=True,
        centerness_on_reg=True,
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="GIoULoss", loss_weight=1.0),
        loss_centerness=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0),
    ),
)

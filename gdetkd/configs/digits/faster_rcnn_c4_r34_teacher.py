# The teacher of C4s on digits, whose weights are not shipped:
# `gdetkd train gdetkd::digits/faster_rcnn_c4_r34_teacher.py`, about an hour on one core.
_base_ = "./faster_rcnn_c4_r18.py"
max_steps = 3000
model = dict(
    backbone=dict(depth=34, base_channels=32),
    rpn_head=dict(in_channels=128),
    roi_head=dict(
        shared_head=dict(stage=2),  # 128 to 256 channels
        bbox_roi_extractor=dict(out_channels=128),
        bbox_head=dict(in_channels=256),
    ),
)
# The student's tuning must not move its teacher.
optim_wrapper = dict(optimizer=dict(lr=1.5e-3))
train_cfg = dict(max_iters=max_steps, val_interval=1000)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=100, end=max_steps, eta_min_ratio=0.01),
]

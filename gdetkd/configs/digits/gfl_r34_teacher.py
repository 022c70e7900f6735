# A dense teacher on digits, whose weights are not shipped:
# `gdetkd train gdetkd::digits/gfl_r34_teacher.py`.
_base_ = "./gfl_r18.py"
max_steps = 3000
model = dict(
    backbone=dict(depth=34, base_channels=32),
    neck=dict(in_channels=[32, 64, 128, 256]),
)
# The student's tuning must not move its teacher.
optim_wrapper = dict(optimizer=dict(lr=1.5e-3))
train_cfg = dict(max_iters=max_steps, val_interval=1000)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=100, end=max_steps, eta_min_ratio=0.01),
]

# 3,000 steps of 4 images. A quarter of the rate of digits: the backbone is trained already.
_base_ = "./digits_schedule.py"
max_steps = 3000
optim_wrapper = dict(optimizer=dict(lr=5e-4))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=100, end=max_steps, eta_min_ratio=0.01),
]
train_cfg = dict(max_iters=max_steps, val_interval=max_steps)

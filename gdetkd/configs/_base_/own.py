# Data of your own, as `--data DIR` fills it in: files, classes, sizes and schedule. AdamW, which
# takes sets of any size and random weights as they come; the rate is for 4 images per step.
_base_ = ["mmdet::_base_/datasets/coco_detection.py", "./runtime.py"]
default_scope = "mmdet"
train_dataloader = dict(
    batch_size=4,
    batch_sampler=None,
    sampler=dict(_delete_=True, type="InfiniteSampler", shuffle=True),
)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=1e-4, fused=True),
    clip_grad=dict(max_norm=10.0),
)
auto_scale_lr = dict(base_batch_size=4)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=100, end=1000, eta_min_ratio=0.01),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=1000, val_interval=250)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")

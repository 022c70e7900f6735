# The headline's baseline, RetinaNet R50, 2x, several scales:
# `gdetkd train gdetkd::coco/retinanet_r50.py --gpus 8`.
_base_ = [
    "mmdet::_base_/models/retinanet_r50_fpn.py",
    "../_base_/coco_multi_scale.py",
    "mmdet::_base_/schedules/schedule_2x.py",
    "mmdet::_base_/default_runtime.py",
]
# MMDetection's rate for RetinaNet, half of the R-CNNs'.
optim_wrapper = dict(optimizer=dict(lr=0.01))

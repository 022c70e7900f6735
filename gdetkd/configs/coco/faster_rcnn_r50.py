# The headline's baseline, Faster R-CNN R50, 2x, several scales:
# `gdetkd train gdetkd::coco/faster_rcnn_r50.py --gpus 8`.
_base_ = [
    "mmdet::_base_/models/faster-rcnn_r50_fpn.py",
    "../_base_/coco_multi_scale.py",
    "mmdet::_base_/schedules/schedule_2x.py",
    "mmdet::_base_/default_runtime.py",
]

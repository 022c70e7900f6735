# A baseline of Table 6, Cascade R-CNN R50, 1x:
# `gdetkd train gdetkd::coco/cascade_rcnn_r50.py --gpus 8`.
_base_ = [
    "mmdet::_base_/models/cascade-rcnn_r50_fpn.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
]

# A baseline of Table 6, Faster R-CNN C4 R50, 1x:
# `gdetkd train gdetkd::coco/faster_rcnn_c4_r50.py --gpus 8`.
_base_ = [
    "mmdet::_base_/models/faster-rcnn_r50-caffe-c4.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
]

# The baseline, Faster R-CNN R18, 1x:
# `gdetkd train gdetkd::coco/faster_rcnn_r18.py --gpus 8`.
_base_ = [
    "mmdet::_base_/models/faster-rcnn_r50_fpn.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
]
model = dict(
    backbone=dict(
        depth=18,
        init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet18"),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)

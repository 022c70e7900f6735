# A baseline of Table 6, Faster R-CNN C4 R101, 1x:
# `gdetkd train gdetkd::coco/faster_rcnn_c4_r101.py --gpus 8`.
_base_ = [
    "mmdet::_base_/models/faster-rcnn_r50-caffe-c4.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
]
weights = dict(type="Pretrained", checkpoint="open-mmlab://detectron2/resnet101_caffe")
model = dict(
    backbone=dict(depth=101, init_cfg=weights),
    roi_head=dict(shared_head=dict(depth=101, init_cfg=weights)),
)

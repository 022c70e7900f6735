# A baseline of Table 6, Faster R-CNN C4 R18, 1x:
# `gdetkd train gdetkd::coco/faster_rcnn_c4_r18.py --gpus 8`.
_base_ = [
    "mmdet::_base_/models/faster-rcnn_r50-caffe-c4.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
]
# There is no R18 with Caffe's weights: torchvision's, with its pixels and its strides.
weights = dict(type="Pretrained", checkpoint="torchvision://resnet18")
norm_cfg = dict(type="BN", requires_grad=True)
model = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
    ),
    backbone=dict(depth=18, norm_cfg=norm_cfg, style="pytorch", init_cfg=weights),
    rpn_head=dict(in_channels=256, feat_channels=256),
    roi_head=dict(
        shared_head=dict(depth=18, norm_cfg=norm_cfg, style="pytorch", init_cfg=weights),
        bbox_roi_extractor=dict(out_channels=256),
        bbox_head=dict(in_channels=512),
    ),
)

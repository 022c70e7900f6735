# The dense baseline without anchors, FCOS R18, 1x:
# `gdetkd train gdetkd::coco/fcos_r18.py --gpus 8`.
# Data, schedule and head are those of MMDetection's R50; there is no R18 with Caffe's weights.
_base_ = "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py"
model = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
    ),
    backbone=dict(
        depth=18,
        norm_cfg=dict(requires_grad=True),
        style="pytorch",
        init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet18"),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)

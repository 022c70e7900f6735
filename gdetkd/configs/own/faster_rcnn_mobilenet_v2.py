# A light student for data of your own, Faster R-CNN on MobileNetV2 with a pyramid of 128 channels:
# `gdetkd distill own/faster_rcnn_r50_teacher own/faster_rcnn_mobilenet_v2 \
#      --data data/prepared/NAME`.
_base_ = "./faster_rcnn_r50_teacher.py"
model = dict(
    backbone=dict(
        _delete_=True,
        type="MobileNetV2",
        out_indices=(1, 2, 4, 7),
        norm_eval=True,
        init_cfg=dict(type="Pretrained", checkpoint="open-mmlab://mmdet/mobilenet_v2"),
    ),
    neck=dict(in_channels=[24, 32, 96, 1280], out_channels=128),
    rpn_head=dict(in_channels=128, feat_channels=128),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=128),
        bbox_head=dict(in_channels=128, fc_out_channels=512),
    ),
)
optim_wrapper = dict(optimizer=dict(lr=2e-4))

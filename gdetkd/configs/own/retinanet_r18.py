# A dense student for data of your own, RetinaNet R18:
# `gdetkd distill own/faster_rcnn_r50_teacher own/retinanet_r18 --data data/prepared/NAME`.
_base_ = ["mmdet::_base_/models/retinanet_r50_fpn.py", "../_base_/own.py"]
model = dict(
    backbone=dict(
        depth=18,
        init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet18"),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)

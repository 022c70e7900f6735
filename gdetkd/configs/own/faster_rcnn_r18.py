# A student for data of your own, Faster R-CNN R18:
# `gdetkd distill own/faster_rcnn_r50_teacher own/faster_rcnn_r18 --data data/prepared/NAME`.
_base_ = "./faster_rcnn_r50_teacher.py"
model = dict(
    backbone=dict(
        depth=18,
        init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet18"),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
optim_wrapper = dict(optimizer=dict(lr=2e-4))

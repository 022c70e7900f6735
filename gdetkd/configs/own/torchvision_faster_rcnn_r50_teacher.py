# A teacher for data of your own, torchvision's Faster R-CNN R50:
# `gdetkd train own/torchvision_faster_rcnn_r50_teacher --data data/prepared/NAME`.
_base_ = "../_base_/own_torchvision.py"
model = dict(
    type="TorchvisionDetector",
    name="fasterrcnn_resnet50_fpn",
    num_classes=80,
    min_size=800,
    max_size=1333,
    backbone=dict(
        norm_eval=True,
        init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet50"),
    ),
)

# A light student for data of your own, torchvision's Faster R-CNN on MobileNetV3:
# `gdetkd distill own/faster_rcnn_r50_teacher own/torchvision_faster_rcnn_mobilenet_v3 \
#      --data data/prepared/NAME`.
_base_ = "./torchvision_faster_rcnn_r50_teacher.py"
model = dict(
    name="fasterrcnn_mobilenet_v3_large_fpn",
    backbone=dict(init_cfg=dict(checkpoint="torchvision://mobilenet_v3_large")),
)
optim_wrapper = dict(optimizer=dict(lr=2e-4))

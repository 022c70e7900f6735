# G-DetKD on COCO, the paper's headline: a Faster R-CNN R50 learns from an X101 with InstaBoost.
# gdetkd/scripts/train_coco_8gpu.sh does it start to finish, on 8 GPUs with 2 images each.
# The paper has the schedule (2x, several scales); the weights, gamma and the projection are ours.
_base_ = [
    "mmdet::_base_/models/faster-rcnn_r50_fpn.py",
    "../_base_/coco.py",
    "mmdet::_base_/schedules/schedule_2x.py",
    "mmdet::_base_/default_runtime.py",
]
custom_imports = dict(imports=["gdetkd.detectors"])
custom_hooks = [dict(type="SafeCheckpointHook"), dict(type="DistillationHook")]
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="RandomResize", scale=[(1333, 640), (1333, 800)], keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
zoo = "https://download.openmmlab.com/mmdetection/v2.0/instaboost/"
name = "mask_rcnn_x101_64x4d_fpn_instaboost_4x_coco"
model = dict(
    _delete_=True,
    type="DistilledDetector",
    student={{_base_.model}},
    teacher=dict(
        config="mmdet::instaboost/mask-rcnn_x101-64x4d_fpn_instaboost-4x_coco.py",
        checkpoint=f"{zoo}{name}/{name}_20200515_080947-8ed58c1b.pth",
    ),
    distill=dict(
        contrastive=dict(weight=0.5, temperature=0.07, dim=128, queue_capacity=72 * 1024, iou=0.5),
        imitation=dict(weight=1.0),
        classification=dict(weight=1.0),
        regression=dict(weight=1.0),
    ),
    transfer_heads=True,
)
# Within an epoch, too: an interruption costs minutes.
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=1000))
vis_backends = [dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")]
visualizer = dict(vis_backends=vis_backends)

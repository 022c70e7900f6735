# An FCOS R50 learns from an X101 with InstaBoost, 2x, several scales:
# `gdetkd train gdetkd::coco/gdetkd_fcos_r50.py --gpus 8`.
_base_ = ["./fcos_r50.py", "../_base_/gdetkd.py"]
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
    distill={{_base_.distill_dense}},
)

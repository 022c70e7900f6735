# A Faster R-CNN R18 learns from an R50, 1x, as in Tables 1 to 5:
# `gdetkd train gdetkd::coco/gdetkd_faster_rcnn_r18.py --gpus 8`.
_base_ = ["./faster_rcnn_r18.py", "../_base_/gdetkd.py"]
zoo = "https://download.openmmlab.com/mmdetection/v2.0/faster_rcnn/"
name = "faster_rcnn_r50_fpn_1x_coco"
model = dict(
    _delete_=True,
    type="DistilledDetector",
    student={{_base_.model}},
    teacher=dict(
        config="mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
        checkpoint=f"{zoo}{name}/{name}_20200130-047c8118.pth",
    ),
    distill={{_base_.distill_two_stage}},
    transfer_heads=True,
)

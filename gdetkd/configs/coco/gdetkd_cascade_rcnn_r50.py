# A Cascade R-CNN R50 learns from an R50, 1x, as in Table 6:
# `gdetkd train gdetkd::coco/gdetkd_cascade_rcnn_r50.py --gpus 8`.
# The zoo's teacher has AP 41.0, the paper's 43.0.
_base_ = ["./cascade_rcnn_r50.py", "../_base_/gdetkd.py"]
zoo = "https://download.openmmlab.com/mmdetection/v2.0/cascade_rcnn/"
name = "cascade_rcnn_r50_fpn_20e_coco"
model = dict(
    _delete_=True,
    type="DistilledDetector",
    student={{_base_.model}},
    teacher=dict(
        config="mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_20e_coco.py",
        checkpoint=f"{zoo}{name}/{name}_bbox_mAP-0.41_20200504_175131-e9872a90.pth",
    ),
    distill={{_base_.distill_two_stage}},
    transfer_heads=True,
)

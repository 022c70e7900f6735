# A Faster R-CNN C4 R50 learns from an R50, 1x, as in Table 6:
# `gdetkd train gdetkd::coco/gdetkd_faster_rcnn_c4_r50.py --gpus 8`.
# The zoo's teacher has AP 35.6, the paper's 34.8.
_base_ = ["./faster_rcnn_c4_r50.py", "../_base_/gdetkd.py"]
zoo = "https://download.openmmlab.com/mmdetection/v2.0/faster_rcnn/"
name = "faster_rcnn_r50_caffe_c4_1x_coco"
model = dict(
    _delete_=True,
    type="DistilledDetector",
    student={{_base_.model}},
    teacher=dict(
        config="mmdet::faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py",
        checkpoint=f"{zoo}{name}/{name}_20220316_150152-3f885b85.pth",
    ),
    distill={{_base_.distill_two_stage}},
    transfer_heads=True,
)

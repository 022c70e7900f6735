# A Faster R-CNN C4 R50 learns from an R50, 1x, as in Table 6:
# `gdetkd train gdetkd::coco/gdetkd_faster_rcnn_c4_r50.py --gpus 8`.
# The zoo's teacher has AP 35.6, the paper's 34.8.
_base_ = ["./faster_rcnn_c4_r50.py", "../_base_/gdetkd.py"]
model = dict(
    _delete_=True,
    type="DistilledDetector",
    student={{_base_.model}},
    teacher={{_base_.teachers.faster_rcnn_c4_r50}},
    components={{_base_.two_stage_components}},
    transfer_heads=True,
)

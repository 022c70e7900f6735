# A Cascade R-CNN R101 learns from an R50, 1x, as in Table 6:
# `gdetkd train gdetkd::coco/gdetkd_cascade_rcnn_r101.py --gpus 8`.
# The zoo's teacher has AP 41.0, the paper's 43.0.
_base_ = ["./cascade_rcnn_r101.py", "../_base_/gdetkd.py"]
model = dict(
    _delete_=True,
    type="DistilledDetector",
    student={{_base_.model}},
    teacher={{_base_.teachers.cascade_rcnn_r50}},
    components={{_base_.two_stage_components}},
    transfer_heads=True,
)

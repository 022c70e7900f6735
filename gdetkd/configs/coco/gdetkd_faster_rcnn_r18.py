# A Faster R-CNN R18 learns from an R50, as in Tables 1 to 5:
# `gdetkd train gdetkd::coco/gdetkd_faster_rcnn_r18.py --gpus 8`.
_base_ = ["./faster_rcnn_r18.py", "../_base_/gdetkd.py"]
model = dict(
    _delete_=True,
    type="DistilledDetector",
    student={{_base_.model}},
    teacher={{_base_.teachers.faster_rcnn_r50}},
    components={{_base_.two_stage_components}},
    transfer_heads=True,
)

# An FCOS R50 learns from a Mask R-CNN X101 with InstaBoost, 2x, two scales:
# `gdetkd train gdetkd::coco/gdetkd_fcos_r50.py --gpus 8`.
_base_ = ["./fcos_r50.py", "../_base_/gdetkd.py"]
model = dict(
    _delete_=True,
    type="DistilledDetector",
    student={{_base_.model}},
    teacher={{_base_.teachers.mask_rcnn_x101_instaboost}},
    components={{_base_.dense_components}},
)

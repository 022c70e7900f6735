# A RetinaNet R18 learns from a Faster R-CNN R50, 1x, as in Table 4:
# `gdetkd train gdetkd::coco/gdetkd_retinanet_r18.py --gpus 8`.
_base_ = ["./retinanet_r18.py", "../_base_/gdetkd.py"]
model = dict(
    _delete_=True,
    type="DistilledDetector",
    student={{_base_.model}},
    teacher={{_base_.teachers.faster_rcnn_r50}},
    components={{_base_.dense_components}},
)

# A Faster R-CNN R18 learns from an R50 on VOC2007, once faster_rcnn_r50_teacher.py is trained:
# `gdetkd train gdetkd::voc07/gdetkd_faster_rcnn_r18.py --gpus 8`.
_base_ = ["./faster_rcnn_r18.py", "../_base_/gdetkd.py"]
model = dict(
    _delete_=True,
    type="DistilledDetector",
    student={{_base_.model}},
    teacher=dict(
        config="gdetkd::voc07/faster_rcnn_r50_teacher.py",
        checkpoint="work_dirs/voc07_teacher/epoch_12.pth",
    ),
    components={{_base_.two_stage_components}},
    transfer_heads=True,
)

# G-DetKD from a two-stage teacher to a dense student, RTMDet:
# `gdetkd train gdetkd::digits/gdetkd_rtmdet.py`.
# Features and contrast alone, as in the paper for dense students. Ours: the pair, the weights,
# gamma, the width of the projection.
_base_ = ["./rtmdet.py", "../_base_/digits_gdetkd.py"]
model = dict(
    _delete_=True,
    type="DistilledDetector",
    student={{_base_.model}},
    teacher=dict(
        config="gdetkd::digits/faster_rcnn_r34_teacher.py",
        checkpoint="gdetkd::digits_faster_rcnn_r34.pth",
    ),
    student_adapter=dict(branch="classification", boxes_per_image=48),
    components=dict(
        contrastive=dict(weight=0.5, temperature=0.07, dim=128, queue_capacity=0, iou=0.5),
        imitation=dict(weight=5.0, sampling_ratio=2, boxes_per_image=16),
    ),
)

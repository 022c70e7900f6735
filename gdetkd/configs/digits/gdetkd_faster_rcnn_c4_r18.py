# G-DetKD from C4 to C4 on digits: `gdetkd train gdetkd::digits/gdetkd_faster_rcnn_c4_r18.py`, about
# 10 minutes on one core, once there is a teacher:
# `gdetkd train gdetkd::digits/faster_rcnn_c4_r34_teacher.py`. Its heads are wider than the
# student's, so they are not transferred.
_base_ = ["./faster_rcnn_c4_r18.py", "../_base_/digits_gdetkd.py"]
model = dict(
    _delete_=True,
    type="DistilledDetector",
    student={{_base_.model}},
    teacher=dict(
        config="gdetkd::digits/faster_rcnn_c4_r34_teacher.py",
        checkpoint="work_dirs/faster_rcnn_c4_r34_teacher/iter_3000.pth",
    ),
    components=dict(
        contrastive=dict(weight=0.5, temperature=0.07, dim=128, queue_capacity=9 * 8 * 48, iou=0.5),
        imitation=dict(weight=5.0, sampling_ratio=2, boxes_per_image=16),
        classification=dict(weight=1.0),
        regression=dict(weight=1.0),
    ),
)

# G-DetKD from a dense teacher to a dense student, both GFL:
# `gdetkd train gdetkd::digits/gdetkd_gfl_r18.py`, once there is a teacher:
# `gdetkd train gdetkd::digits/gfl_r34_teacher.py`.
# Features and contrast alone, as in the paper for dense students. Ours: that the teacher is dense,
# the weights, gamma, the width of the projection.
_base_ = ["./gfl_r18.py", "../_base_/digits_gdetkd.py"]
model = dict(
    _delete_=True,
    type="DistilledDetector",
    student={{_base_.model}},
    teacher=dict(
        config="gdetkd::digits/gfl_r34_teacher.py",
        checkpoint="work_dirs/gfl_r34_teacher/iter_3000.pth",
    ),
    student_adapter=dict(branch="classification", boxes_per_image=48),
    components=dict(
        # With the present batch of 8 x 48, K is 13 batches; the paper's best is 10.
        contrastive=dict(weight=0.5, temperature=0.07, dim=128, queue_capacity=9 * 512, iou=0.5),
        imitation=dict(weight=5.0, sampling_ratio=2, boxes_per_image=16),
    ),
)

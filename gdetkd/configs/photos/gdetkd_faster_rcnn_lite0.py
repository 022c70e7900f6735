# G-DetKD on photos, all of it: `gdetkd train gdetkd::photos/gdetkd_faster_rcnn_lite0.py`, once
# there is a teacher: `gdetkd train gdetkd::photos/faster_rcnn_lite2_teacher.py`.
# Not from the paper but ours: the weights, gamma, the width of the projection.
_base_ = "./faster_rcnn_lite0.py"
custom_hooks = [dict(type="SafeCheckpointHook"), dict(type="DistillationHook")]
model = dict(
    _delete_=True,
    type="DistilledDetector",
    student={{_base_.model}},
    teacher=dict(
        config="gdetkd::photos/faster_rcnn_lite2_teacher.py",
        checkpoint="work_dirs/faster_rcnn_lite2_teacher/iter_3000.pth",
    ),
    components=dict(
        # The paper's best: K of 10 batches, the present one of 4 x 48 among them.
        contrastive=dict(weight=0.5, temperature=0.07, dim=128, queue_capacity=9 * 4 * 48, iou=0.5),
        imitation=dict(weight=5.0, sampling_ratio=2, boxes_per_image=16),
        classification=dict(weight=1.0),
        regression=dict(weight=1.0),
    ),
    transfer_heads=True,
)

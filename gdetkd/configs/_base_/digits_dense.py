# What the dense detectors of digits share: the Faster R-CNN student's backbone, and five levels of
# strides 4 to 64, for a digit of 12 px is three cells of the first.
_base_ = "./digits_backbone.py"
strides = [4, 8, 16, 32, 64]
model = dict(
    neck=dict(
        type="FPN",
        in_channels=[16, 32, 64, 128],
        out_channels=64,
        num_outs=5,
        add_extra_convs="on_output",
        relu_before_extra_convs=True,
    ),
    bbox_head=dict(
        num_classes=10,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        # From scratch, the branches learn sooner with it.
        norm_cfg=dict(type="GN", num_groups=8),
    ),
    test_cfg=dict(
        nms_pre=200,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type="nms", iou_threshold=0.5),
        max_per_img=50,
    ),
)

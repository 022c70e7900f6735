# Faster R-CNN C4 on digits: `gdetkd train gdetkd::digits/faster_rcnn_c4_r18.py`, about 5 minutes on
# one core.
# One level of stride 8, not 16, for digits of 12 px.
_base_ = "./faster_rcnn_r18.py"
model = dict(
    backbone=dict(num_stages=3, out_indices=(2,), strides=(1, 2, 1), dilations=(1, 1, 1)),
    neck=None,
    rpn_head=dict(anchor_generator=dict(scales=[2, 4, 8], strides=[8])),
    roi_head=dict(
        # MMDetection's res5 is made for 64 base channels; of stage 1 it has the 64 to 128 channels
        # of a ResNet-18's of 16.
        shared_head=dict(
            type="ResLayer",
            depth=18,
            stage=1,
            stride=2,
            norm_cfg={{_base_.norm_cfg}},
            norm_eval=False,
        ),
        bbox_roi_extractor=dict(
            type="SingleRoIExtractor",
            roi_layer=dict(type="RoIAlign", output_size=6, sampling_ratio=2),
            out_channels=64,
            featmap_strides=[8],
        ),
        bbox_head=dict(
            _delete_=True,
            type="BBoxHead",
            with_avg_pool=True,
            roi_feat_size=3,
            in_channels=128,
            num_classes=10,
            bbox_coder=dict(
                type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2]
            ),
            reg_class_agnostic=False,
            loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
            loss_bbox=dict(type="L1Loss", loss_weight=1.0),
        ),
    ),
)

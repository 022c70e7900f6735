# Cascade R-CNN on digits: `gdetkd train gdetkd::digits/cascade_rcnn_r18.py`, about 6 minutes
# on one core.
_base_ = "./faster_rcnn_r18.py"
stages = [  # standard deviations of the targets; IoU from which a box is an object
    ([0.1, 0.1, 0.2, 0.2], 0.5),
    ([0.05, 0.05, 0.1, 0.1], 0.6),
    ([0.033, 0.033, 0.067, 0.067], 0.7),
]
model = dict(
    type="CascadeRCNN",
    roi_head=dict(
        type="CascadeRoIHead",
        num_stages=3,
        stage_loss_weights=[1, 0.5, 0.25],
        bbox_head=[
            dict(
                type="Shared2FCBBoxHead",
                in_channels=64,
                fc_out_channels=256,
                roi_feat_size=7,
                num_classes=10,
                bbox_coder=dict(
                    type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=deviations
                ),
                reg_class_agnostic=True,
                loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
                loss_bbox=dict(type="SmoothL1Loss", beta=1.0, loss_weight=1.0),
            )
            for deviations, _ in stages
        ],
    ),
    train_cfg=dict(
        rcnn=[
            dict(
                assigner=dict(
                    type="MaxIoUAssigner",
                    pos_iou_thr=iou,
                    neg_iou_thr=iou,
                    min_pos_iou=iou,
                    match_low_quality=False,
                    ignore_iof_thr=-1,
                ),
                sampler=dict(
                    type="RandomSampler",
                    num=48,
                    pos_fraction=0.33,
                    neg_pos_ub=-1,
                    add_gt_as_proposals=True,
                ),
                pos_weight=-1,
                debug=False,
            )
            for _, iou in stages
        ]
    ),
)

# What the distilled configs of full size share, and the zoo's teachers. The paper has the queue,
# K = 80 x 1024 with the 8 x 1024 of the gathered batch among them, and the IoU. Ours: the weights,
# gamma, the width of the projection.
zoo = "https://download.openmmlab.com/mmdetection/v2.0/"
# The paper takes its teachers from this zoo but does not say which files. Those here are guesses.
teachers = dict(
    # AP 37.4. The paper's may be better: its others beat the baselines of their architecture.
    faster_rcnn_r50=dict(
        config="mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
        checkpoint=f"{zoo}faster_rcnn/faster_rcnn_r50_fpn_1x_coco/"
        "faster_rcnn_r50_fpn_1x_coco_20200130-047c8118.pth",
    ),
    # AP 40.3: 3x and several scales, the choice of the public re-implementation.
    faster_rcnn_r50_3x=dict(
        config="mmdet::faster_rcnn/faster-rcnn_r50_fpn_ms-3x_coco.py",
        checkpoint=f"{zoo}faster_rcnn/faster_rcnn_r50_fpn_mstrain_3x_coco/"
        "faster_rcnn_r50_fpn_mstrain_3x_coco_20210524_110822-e10bd31c.pth",
    ),
    # AP 35.6; the paper's 34.8.
    faster_rcnn_c4_r50=dict(
        config="mmdet::faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py",
        checkpoint=f"{zoo}faster_rcnn/faster_rcnn_r50_caffe_c4_1x_coco/"
        "faster_rcnn_r50_caffe_c4_1x_coco_20220316_150152-3f885b85.pth",
    ),
    # AP 41.0; the paper's 43.0.
    cascade_rcnn_r50=dict(
        config="mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_20e_coco.py",
        checkpoint=f"{zoo}cascade_rcnn/cascade_rcnn_r50_fpn_20e_coco/"
        "cascade_rcnn_r50_fpn_20e_coco_bbox_mAP-0.41_20200504_175131-e9872a90.pth",
    ),
    # Box AP 44.7. The paper calls its teacher a Faster R-CNN; the zoo's is a Mask R-CNN.
    mask_rcnn_x101_instaboost=dict(
        config="mmdet::instaboost/mask-rcnn_x101-64x4d_fpn_instaboost-4x_coco.py",
        checkpoint=f"{zoo}instaboost/mask_rcnn_x101_64x4d_fpn_instaboost_4x_coco/"
        "mask_rcnn_x101_64x4d_fpn_instaboost_4x_coco_20200515_080947-8ed58c1b.pth",
    ),
)
custom_imports = dict(imports=["gdetkd.detectors.mmdet"])
custom_hooks = [dict(type="SafeCheckpointHook"), dict(type="DistillationHook")]
contrastive = dict(weight=0.5, temperature=0.07, dim=128, queue_capacity=72 * 1024, iou=0.5)
imitation = dict(weight=1.0)
# Features and contrast alone for a dense student, as in the paper for such pairs.
dense_components = dict(contrastive=contrastive, imitation=imitation)
two_stage_components = dict(
    contrastive=contrastive,
    imitation=imitation,
    classification=dict(weight=1.0),
    regression=dict(weight=1.0),
)

# G-DetKD on COCO, the paper's headline: a Faster R-CNN R50 learns from an X101 with InstaBoost (in
# the zoo, a Mask R-CNN).
# gdetkd/launch/train_coco_8gpu.sh does it start to finish, on 8 GPUs with 2 images each.
# The paper has the schedule (2x, several scales); the weights, gamma and the projection are ours.
_base_ = ["./faster_rcnn_r50.py", "../_base_/gdetkd.py"]
model = dict(
    _delete_=True,
    type="DistilledDetector",
    student={{_base_.model}},
    teacher={{_base_.teachers.mask_rcnn_x101_instaboost}},
    components={{_base_.two_stage_components}},
    transfer_heads=True,
)
# Within an epoch, too: an interruption costs minutes.
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=1000))
vis_backends = [dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")]
visualizer = dict(vis_backends=vis_backends)

# The teacher of BDD100K, which MMDetection's zoo does not have, Faster R-CNN R50, 1x:
# `gdetkd train gdetkd::bdd100k/faster_rcnn_r50_teacher.py --gpus 8 \
#      --work-dir work_dirs/bdd100k_teacher`.
_base_ = [
    "mmdet::_base_/models/faster-rcnn_r50_fpn.py",
    "../_base_/bdd100k.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
]
model = dict(
    roi_head=dict(bbox_head=dict(num_classes=10)),
)

# The teacher of VOC2007, which MMDetection's zoo does not have, Faster R-CNN R50, 1x:
# `gdetkd train gdetkd::voc07/faster_rcnn_r50_teacher.py --gpus 8 \
#      --work-dir work_dirs/voc07_teacher`.
_base_ = [
    "mmdet::_base_/models/faster-rcnn_r50_fpn.py",
    "../_base_/voc07.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
]
model = dict(
    roi_head=dict(bbox_head=dict(num_classes=20)),
)

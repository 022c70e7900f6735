# A teacher for data of your own, Faster R-CNN R50:
# `gdetkd train own/faster_rcnn_r50_teacher --data data/prepared/NAME`.
_base_ = ["mmdet::_base_/models/faster-rcnn_r50_fpn.py", "../_base_/own.py"]

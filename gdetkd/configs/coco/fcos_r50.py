# The headline's baseline, FCOS R50, 2x, two scales:
# `gdetkd train gdetkd::coco/fcos_r50.py --gpus 8`. It is MMDetection's own.
_base_ = "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_ms-640-800-2x_coco.py"

# A Faster R-CNN R18 learns from the zoo's best R50, trained 3x on several scales (AP 40.3):
# `gdetkd train gdetkd::coco/gdetkd_faster_rcnn_r18_3x_teacher.py --gpus 8`.
_base_ = "./gdetkd_faster_rcnn_r18.py"
model = dict(teacher={{_base_.teachers.faster_rcnn_r50_3x}})

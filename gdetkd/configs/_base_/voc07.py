# VOC2007, trained on trainval and tested on test, as `gdetkd data voc07` converts it.
# 2 images a GPU, meant for 8 GPUs. The paper does not say its scale: this is MMDetection's.
_base_ = "mmdet::_base_/datasets/coco_detection.py"
data_root = "data/prepared/voc07/"
metainfo = dict(
    classes=(
        "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
        "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
        "train", "tvmonitor",
    )
)  # fmt: skip
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=(1000, 600), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(1000, 600), keep_ratio=True),
    # After Resize: boxes are compared in the original image.
    dict(type="LoadAnnotations", with_bbox=True),
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]
prepared = dict(data_root=data_root, data_prefix=dict(img="images/"), metainfo=metainfo)
train_dataloader = dict(
    dataset=dict(ann_file="annotations/trainval07.json", pipeline=train_pipeline, **prepared)
)
val_dataloader = dict(
    dataset=dict(ann_file="annotations/test2007.json", pipeline=test_pipeline, **prepared)
)
test_dataloader = val_dataloader
# AP50 by the rule of 2007 (11 points) and by that of 2010 (area). VOCMetric reads the boxes of the
# data set; difficult objects are `iscrowd` there, which it ignores as the devkit does.
val_evaluator = [
    dict(type="VOCMetric", metric="mAP", eval_mode="11points", prefix="voc07_11points"),
    dict(type="VOCMetric", metric="mAP", eval_mode="area", prefix="voc07_area"),
]
test_evaluator = val_evaluator

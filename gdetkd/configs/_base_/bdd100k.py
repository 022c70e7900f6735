# BDD100K, ten classes, 70,000 images for training and 10,000 for validation, of 1280 x 720 px, as
# `gdetkd data bdd100k` converts them. 2 images a GPU, meant for 8 GPUs. The paper does not say its
# scale: this is the images' own.
_base_ = "mmdet::_base_/datasets/coco_detection.py"
data_root = "data/prepared/bdd100k/"
metainfo = dict(
    classes=(
        "pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
        "traffic light", "traffic sign",
    )
)  # fmt: skip
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=(1280, 720), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(1280, 720), keep_ratio=True),
    # After Resize: boxes are compared in the original image.
    dict(type="LoadAnnotations", with_bbox=True),
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]
prepared = dict(data_root=data_root, data_prefix=dict(img="images/"), metainfo=metainfo)
train_dataloader = dict(
    dataset=dict(ann_file="annotations/train.json", pipeline=train_pipeline, **prepared)
)
val_dataloader = dict(
    dataset=dict(ann_file="annotations/val.json", pipeline=test_pipeline, **prepared)
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "annotations/val.json")
test_evaluator = val_evaluator

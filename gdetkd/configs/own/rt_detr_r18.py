# A student for data of your own, the RT-DETR R18 of Hugging Face transformers:
# `gdetkd distill own/faster_rcnn_r50_teacher own/rt_detr_r18 --data data/prepared/NAME`.
# `--init model.safetensors`, of one trained on other classes, takes over all but the layers for
# classes; from random weights it needs far more images and steps than a detector with anchors.
_base_ = "../_base_/own.py"
custom_imports = dict(imports=["gdetkd.detectors.mmdet"])
model = dict(
    type="TransformersDetector",
    num_classes=80,
    config=dict(
        model_type="rt_detr",
        backbone_config=dict(
            model_type="rt_detr_resnet",
            embedding_size=64,
            hidden_sizes=[64, 128, 256, 512],
            depths=[2, 2, 2, 2],
            layer_type="basic",
            out_features=["stage2", "stage3", "stage4"],
        ),
        encoder_in_channels=[128, 256, 512],
        hidden_expansion=0.5,
        decoder_layers=3,
        anchor_image_size=None,  # images of any size
        # Of random weights: as the runs of `gdetkd reproduce loop` begin (the default is 0.01).
        initializer_range=0.05,
    ),
    backbone=dict(norm_eval=False),
)

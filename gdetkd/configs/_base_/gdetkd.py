# What the distilled configs of full size share. The paper has the queue, K = 80 x 1024 with the
# 8 x 1024 of the gathered batch among them, and the IoU. Ours: the weights, gamma, the width of the
# projection.
custom_imports = dict(imports=["gdetkd.detectors"])
custom_hooks = [dict(type="SafeCheckpointHook"), dict(type="DistillationHook")]
contrastive = dict(weight=0.5, temperature=0.07, dim=128, queue_capacity=72 * 1024, iou=0.5)
imitation = dict(weight=1.0)
# Features and contrast alone for a dense student, as in the paper for such pairs.
distill_dense = dict(contrastive=contrastive, imitation=imitation)
distill_two_stage = dict(
    contrastive=contrastive,
    imitation=imitation,
    classification=dict(weight=1.0),
    regression=dict(weight=1.0),
)

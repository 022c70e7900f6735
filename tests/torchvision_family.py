"""A family from outside the package: torchvision's Faster R-CNN, as student and as teacher.

The worked example of gdetkd/detectors/README.md, whose code blocks are this file's.
"""

from __future__ import annotations

from contextlib import contextmanager

import torch
from mmdet.models.detectors.base import BaseDetector
from mmdet.registry import MODELS
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.resnet import BasicBlock, ResNet

from gdetkd.detectors import register
from gdetkd.detectors.mmdet.base import MMDetAdapter
from gdetkd.distillation import DetectorSpec, RoIOutputs

# --- The detector, as MMDetection builds and trains one -------------------------------------------


@MODELS.register_module()
class TorchvisionFasterRCNN(BaseDetector):
    """torchvision's Faster R-CNN with FPN on a ResNet of four blocks; `classes` of objects."""

    def __init__(self, classes, channels=16, fc=32, data_preprocessor=None):
        super().__init__(data_preprocessor=data_preprocessor)
        backbone = BackboneWithFPN(
            ResNet(BasicBlock, [1, 1, 1, 1]),
            return_layers={f"layer{i + 1}": str(i) for i in range(4)},
            in_channels_list=[64, 128, 256, 512],
            out_channels=channels,
        )
        self.model = FasterRCNN(
            backbone,
            num_classes=classes + 1,
            rpn_anchor_generator=AnchorGenerator([[s] for s in (8, 16, 32, 64, 128)], [[1.0]] * 5),
            box_batch_size_per_image=16,
        )
        head = self.model.roi_heads
        head.box_head = type(head.box_head)(channels * 49, fc)
        head.box_predictor = type(head.box_predictor)(fc, classes + 1)

    def loss(self, batch_inputs, batch_data_samples):
        truth = [sample.gt_instances for sample in batch_data_samples]
        # In torchvision class 0 is the background.
        targets = [dict(boxes=t.bboxes, labels=t.labels + 1) for t in truth]
        features = self.extract_feat(batch_inputs)
        sizes = [tuple(batch_inputs.shape[-2:])] * len(truth)
        proposals, rpn = self.model.rpn(ImageList(batch_inputs, sizes), features, targets)
        _, rcnn = self.model.roi_heads(features, proposals, sizes, targets)
        return {f"loss_{name.removeprefix('loss_')}": value for name, value in (rpn | rcnn).items()}

    def extract_feat(self, batch_inputs):
        return self.model.backbone(batch_inputs)

    def predict(self, batch_inputs, batch_data_samples, rescale=True):
        raise NotImplementedError("the example trains only")

    def _forward(self, batch_inputs, batch_data_samples=None):
        return self.extract_feat(batch_inputs)


# --- What distillation has to know of it ----------------------------------------------------------


@register
class TorchvisionAdapter(MMDetAdapter):
    """torchvision's Faster R-CNN inside a detector of MMDetection."""

    @classmethod
    def supports(cls, detector):
        return isinstance(detector, TorchvisionFasterRCNN)

    def specs(self):
        head = self.detector.model.roi_heads
        return [
            DetectorSpec(
                name=f"{self.name} (torchvision's Faster R-CNN)",
                num_classes=head.box_predictor.cls_score.out_features - 1,
                channels=self.detector.model.backbone.out_channels,
                strides=(4, 8, 16, 32),
                pooled_size=head.box_roi_pool.output_size,
                representation_dim=head.box_predictor.cls_score.in_features,
                # Targets are multiplied by these weights: divided by their inverses.
                delta_stds=tuple(1 / weight for weight in head.box_coder.weights),
            )
        ]

    @contextmanager
    def hook_outputs(self):
        recorder, head = TorchvisionRecorder(self), self.detector.model.roi_heads

        def on_pooled(_, inputs, pooled):
            recorder.pyramid, recorder.proposals, recorder.pooled = *inputs[:2], pooled

        def on_predicted(_, inputs, outputs):
            recorder.representation, recorder.predictions = inputs[0], outputs

        hooks = [
            head.box_roi_pool.register_forward_hook(on_pooled),
            head.box_predictor.register_forward_hook(on_predicted),
        ]
        try:
            yield recorder
        finally:
            for hook in hooks:
                hook.remove()

    def forward_rois(self, images, boxes, stages, sizes=None):
        pyramid = self.detector.extract_feat(images)
        return [self._forward(pyramid, images, rois) for rois in boxes]

    def _forward(self, pyramid, images, rois):
        proposals = [rois[rois[:, 0] == index, 1:] for index in range(len(images))]
        head, size = self.detector.model.roi_heads, tuple(images.shape[-2:])
        with self.hook_outputs() as recorder:
            pooled = head.box_roi_pool(pyramid, proposals, [size] * len(images))
            head.box_predictor(head.box_head(pooled))
        return recorder.outputs()[0]

    def heads(self):
        head = self.detector.model.roi_heads
        return dict(rpn=self.detector.model.rpn, box_head=head.box_head, fc=head.box_predictor)


class TorchvisionRecorder:
    """What passed through the RoI head, in the conventions of `RoIOutputs`."""

    def __init__(self, adapter):
        self.adapter = adapter

    def outputs(self, batch_data_samples=None):
        logits, deltas = self.predictions
        images = [torch.full((len(p), 1), float(i)).to(p) for i, p in enumerate(self.proposals)]
        stds = deltas.new_tensor(self.adapter.specs()[0].delta_stds)
        return [
            RoIOutputs(
                rois=torch.cat([torch.cat(images), torch.cat(self.proposals)], 1).detach(),
                pyramid=tuple(self.pyramid[level] for level in "0123"),  # one more is the RPN's
                pooled=self.pooled,
                representation=self.representation,
                logits=torch.cat([logits[:, 1:], logits[:, :1]], 1),  # the background last
                deltas=deltas.unflatten(1, (-1, 4))[:, 1:] * stds,  # in units of boxes
            )
        ]

"""What the adapters of MMDetection's families share."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox2roi, get_box_tensor
from torch import Tensor, nn

from gdetkd.detectors.adapter import Adapter, TrainingPass
from gdetkd.detectors.pixels import PixelFormat
from gdetkd.distillation.structures import RoIOutputs


class OutputRecorder(Protocol):
    """What hooks recorded while a detector's `loss()` ran."""

    def outputs(self, batch_data_samples: SampleList) -> list[RoIOutputs]:
        """By stage, for the boxes that fed the loss."""


class MMDetAdapter(Adapter):
    """An adapter of a detector of MMDetection's: a family gives specs, hooks and `forward_rois`."""

    @abstractmethod
    def hook_outputs(self) -> AbstractContextManager[OutputRecorder]:
        """Record one `loss()` of the detector with hooks; nothing stays attached afterwards."""

    def losses(self, images: Tensor, targets: SampleList) -> dict:
        return self.detector.loss(images, targets)

    def training_pass(self, images: Tensor, targets: SampleList) -> TrainingPass:
        with self.hook_outputs() as recorder:
            losses = self.detector.loss(images, targets)
            outputs = recorder.outputs(targets)
        gt_boxes = bbox2roi(
            [get_box_tensor(sample.gt_instances.bboxes).float() for sample in targets]
        )
        for stage in outputs:
            stage.gt_boxes = gt_boxes
        sizes = [tuple(sample.img_shape[:2]) for sample in targets]
        return TrainingPass(losses, images, sizes, outputs)

    def pixel_format(self) -> PixelFormat:
        try:
            return pixel_format(self.detector.data_preprocessor)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error

    def head_conventions(self, head: nn.Module) -> dict[str, object]:
        if isinstance(head, nn.ModuleList):  # the stages of a cascade
            return {
                f"{index}.{what}": convention
                for index, stage in enumerate(head)
                for what, convention in self.head_conventions(stage).items()
            }
        found: dict[str, object] = {}
        if hasattr(head, "prior_generator"):
            priors = head.prior_generator
            plain = type(priors).__repr__ is object.__repr__  # points: nothing but their numbers
            text = f"{type(priors).__name__}{vars(priors)}" if plain else str(priors)
            found["prior_generator"] = " ".join(text.split())
        coder = getattr(head, "bbox_coder", None)
        if hasattr(coder, "stds"):
            found["bbox_coder"] = dict(means=tuple(coder.means), stds=tuple(coder.stds))
        for what in ("norm_on_bbox", "centerness_on_reg"):  # FCOS
            if hasattr(head, what):
                found[what] = getattr(head, what)
        return found


def pixel_format(preprocessor: nn.Module) -> PixelFormat:
    """The pixel format that a data preprocessor of MMDetection produces.

    Raises:
        ValueError: It is not a `DetDataPreprocessor`, whose settings are known.
    """
    if not isinstance(preprocessor, DetDataPreprocessor):
        raise ValueError(
            "expected data_preprocessor to be a DetDataPreprocessor, got "
            f"{type(preprocessor).__name__}"
        )
    mean, std = torch.zeros(3), torch.ones(3)
    if preprocessor._enable_normalize:
        mean, std = (
            values.cpu().flatten().expand(3).clone()
            for values in (preprocessor.mean, preprocessor.std)
        )
    return PixelFormat(
        mean=mean,
        std=std,
        rgb=preprocessor._channel_conversion,  # images are loaded as BGR: any conversion swaps
        pad_divisor=preprocessor.pad_size_divisor,
        pad_value=preprocessor.pad_value,
    )

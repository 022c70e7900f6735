"""Detectors of torchvision and transformers as MMDetection's runner trains and tests them.

So that one config, and the same commands, serve every library::

    model = dict(type="TorchvisionDetector", name="fasterrcnn_resnet50_fpn", num_classes=80)
    model = dict(type="TransformersDetector", config=dict(model_type="rt_detr"), num_classes=80)

The model inside is built by its own library, computes its own losses and predicts with its own
post-processing. A checkpoint has its weights under its own names, without a prefix.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from mmdet.models.detectors.base import BaseDetector
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample, SampleList
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gdetkd.detectors.adapter import Adapter, Size, TrainingPass, adapter_for, register
from gdetkd.detectors.mmdet.backbone_weights import load_backbone, read_start
from gdetkd.detectors.pixels import PixelFormat
from gdetkd.distillation.structures import DetectorSpec, RoIOutputs

MODEL = "model."  # what the names of weights do without
# Pixels in 0 to 1 as RGB, which these libraries start from.
PIXELS = dict(type="DetDataPreprocessor", mean=[0.0] * 3, std=[255.0] * 3, bgr_to_rgb=True)


class LibraryDetector(BaseDetector):
    """A detector of another library inside MMDetection's.

    Args:
        model: Built by its library.
        first_label: What the library calls the first class.
        backbone: `init_cfg`, as a backbone of MMDetection has it (pretrained weights: a file, URL
            or name that MMEngine loads), and `norm_eval`, whether its batch normalizations keep
            the statistics that came with them.
        data_preprocessor: By default `PIXELS`.

    Raises:
        ValueError: `backbone` has another key.
    """

    def __init__(
        self,
        model: nn.Module,
        first_label: int,
        backbone: Mapping[str, Any] | None = None,
        data_preprocessor: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor or PIXELS)
        backbone = dict(backbone or {})
        self.start, self.norm_eval = (
            backbone.pop("init_cfg", None),
            backbone.pop("norm_eval", False),
        )
        if backbone:
            raise ValueError(
                f"model.backbone: expected init_cfg and norm_eval, got {', '.join(backbone)}"
            )
        self.model, self.first_label = model, first_label
        self._register_state_dict_hook(_without_prefix)
        self._register_load_state_dict_pre_hook(_with_prefix)

    @property
    @abstractmethod
    def body(self) -> nn.Module:
        """The backbone."""

    @abstractmethod
    def find(self, images: list[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Boxes (n, 4) in pixels of the image, scores and the library's labels, of each image."""

    @cached_property
    def adapter(self) -> Adapter:
        """That of the model inside."""
        return adapter_for(self.model, "detector")

    def init_weights(self) -> None:
        """Load the backbone's pretrained weights, if the config names any."""
        if self.start is not None:
            self.load_start(*read_start(self.start))

    def load_start(self, state: Mapping[str, Tensor], name: str) -> None:
        """Load the backbone's weights, `state`, out of the file `name`."""
        load_backbone(self.body, state, name)

    def train(self, mode: bool = True) -> LibraryDetector:
        super().train(mode)
        for layer in self.body.modules() if self.norm_eval else ():
            if isinstance(layer, _BatchNorm):
                layer.eval()
        return self

    def images_of(self, batch_inputs: Tensor, samples: SampleList) -> list[Tensor]:
        """The batch (B, 3, H, W) as a list of images (3, h, w) without padding."""
        sizes = [sample.img_shape[:2] for sample in samples]
        return [image[:, :h, :w] for image, (h, w) in zip(batch_inputs, sizes, strict=True)]

    def targets_of(self, samples: SampleList) -> list[dict[str, Tensor]]:
        """Boxes and labels as the library takes them; objects to be ignored are left out."""
        return [
            dict(
                boxes=torch.as_tensor(getattr(truth.bboxes, "tensor", truth.bboxes)).float(),
                labels=truth.labels + self.first_label,
            )
            for truth in (sample.gt_instances for sample in samples)
        ]

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        images = self.images_of(batch_inputs, batch_data_samples)
        return without_total(self.adapter.losses(images, self.targets_of(batch_data_samples)))

    def predict(
        self, batch_inputs: Tensor, batch_data_samples: SampleList, rescale: bool = True
    ) -> SampleList:
        results = []
        found = self.find(self.images_of(batch_inputs, batch_data_samples))
        for sample, (boxes, scores, labels) in zip(batch_data_samples, found, strict=True):
            if rescale:
                boxes = boxes / boxes.new_tensor(sample.get("scale_factor", (1.0, 1.0))).repeat(2)
            labels = labels - self.first_label
            results.append(InstanceData(bboxes=boxes, scores=scores, labels=labels))
        return self.add_pred_to_datasample(batch_data_samples, results)

    def _forward(self, batch_inputs: Tensor, batch_data_samples: SampleList | None = None) -> Any:
        size = tuple(batch_inputs.shape[-2:])
        whole = [DetDataSample(metainfo=dict(img_shape=size)) for _ in batch_inputs]
        return self.find(self.images_of(batch_inputs, batch_data_samples or whole))

    def extract_feat(self, batch_inputs: Tensor) -> Any:
        return self.body(batch_inputs)


@MODELS.register_module()
class TorchvisionDetector(LibraryDetector):
    """A detector of torchvision's, by its name there.

    Args:
        name: E.g. 'fasterrcnn_mobilenet_v3_large_fpn', see `torchvision.models.list_models`.
        num_classes: Without a background.
        settings: Further ones of its builder, e.g. `min_size`. Its own transform resizes images.

    Raises:
        ValueError: There is no such detector.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        backbone: Mapping[str, Any] | None = None,
        data_preprocessor: dict | None = None,
        **settings: Any,
    ) -> None:
        from torchvision.models import detection, get_model, list_models

        known = list_models(detection)
        if name not in known:
            raise ValueError(f"model.name: expected one of {', '.join(known)}, got {name!r}")
        settings = dict(weights=None, weights_backbone=None) | settings
        model = get_model(name, num_classes=num_classes + 1, **settings)
        super().__init__(model, 1, backbone, data_preprocessor)

    @property
    def body(self) -> nn.Module:
        return self.model.backbone

    def find(self, images: list[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
        return [(each["boxes"], each["scores"], each["labels"]) for each in self.model(images)]


@MODELS.register_module()
class TransformersDetector(LibraryDetector):
    """A detector of Hugging Face transformers, by its config.

    Args:
        config: A dict with `model_type` and what differs from its defaults, or a folder with a
            config.json.
        num_classes: Without a background.
        detections: At most so many of an image.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | str,
        num_classes: int,
        backbone: Mapping[str, Any] | None = None,
        detections: int = 100,
        data_preprocessor: dict | None = None,
    ) -> None:
        from transformers import AutoConfig, AutoModelForObjectDetection

        if isinstance(config, str):
            config = AutoConfig.from_pretrained(config, num_labels=num_classes)
        else:
            config = AutoConfig.for_model(**_plain(config), num_labels=num_classes)
        super().__init__(
            AutoModelForObjectDetection.from_config(config), 0, backbone, data_preprocessor
        )
        self.detections = detections

    @property
    def body(self) -> nn.Module:
        return self.model.model.backbone

    def load_start(self, state: Mapping[str, Tensor], name: str) -> None:
        """Of a detector of this architecture, everything but layers for other classes.

        Of a folder that `save_pretrained` wrote, or the hub, `name` is its model.safetensors.
        """
        if name.endswith(".safetensors"):  # its library knows the older ones of the names in it
            from transformers import AutoModelForObjectDetection

            saved = AutoModelForObjectDetection.from_pretrained(Path(name).parent)
            state = saved.state_dict()
        expected = self.model.state_dict()
        fits = {
            key: value
            for key, value in state.items()
            if key in expected and value.shape == expected[key].shape
        }
        body = (name for name in expected if name.startswith("model.backbone."))
        if all(name in fits or "num_batches" in name for name in body):
            self.model.load_state_dict(fits, strict=False)
        else:
            super().load_start(state, name)

    def find(self, images: list[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
        return self.adapter.predictions(images, self.detections)


@register
class LibraryAdapter(Adapter):
    """A detector of another library in MMDetection's runner, by the adapter of the model inside."""

    detector: LibraryDetector

    def __init__(self, detector: LibraryDetector, name: str, **settings: Any) -> None:
        super().__init__(detector, name)
        self.inner = adapter_for(detector.model, name, **settings)
        self.state = self.inner.state

    @classmethod
    def supports(cls, detector: nn.Module) -> bool:
        return isinstance(detector, LibraryDetector)

    def specs(self) -> list[DetectorSpec]:
        return self.inner.specs()

    def check_student(self) -> None:
        self.inner.check_student()

    def pixel_format(self) -> PixelFormat:
        return self.inner.pixel_format()

    def losses(self, images: Tensor, targets: SampleList) -> dict[str, Any]:
        return self.detector.loss(images, targets)

    def training_pass(self, images: Tensor, targets: SampleList) -> TrainingPass:
        found = self.inner.training_pass(
            self.detector.images_of(images, targets), self.detector.targets_of(targets)
        )
        found.losses = without_total(found.losses)
        return found

    def forward_rois(
        self,
        images: Tensor,
        boxes: Sequence[Tensor],
        stages: Sequence[int],
        sizes: Sequence[Size] | None = None,
    ) -> list[RoIOutputs]:
        return self.inner.forward_rois(images, boxes, stages, sizes)

    def heads(self) -> dict[str, nn.Module]:
        return self.inner.heads()

    def head_conventions(self, head: nn.Module) -> dict[str, object]:
        return self.inner.head_conventions(head)


def without_total(losses: dict[str, Any]) -> dict[str, Any]:
    """By MMEngine's rules: 'loss' is the name of its own sum."""
    return {"loss_detector" if name == "loss" else name: v for name, v in losses.items()}


def _plain(config: Any) -> Any:
    """A part of MMEngine's config as plain Python, which transformers writes to JSON."""
    if isinstance(config, Mapping):
        return {key: _plain(value) for key, value in config.items()}
    return [_plain(each) for each in config] if isinstance(config, list | tuple) else config


def _without_prefix(_: nn.Module, state: dict, prefix: str, __: dict) -> None:
    """Give the model's weights the names that its own library has for them."""
    inner = prefix + MODEL
    for name in [name for name in state if name.startswith(inner)]:
        state[prefix + name.removeprefix(inner)] = state.pop(name)
    versions = getattr(state, "_metadata", {})
    for name in [name for name in versions if f"{name}.".startswith(inner)]:
        versions[prefix + f"{name}.".removeprefix(inner).removesuffix(".")] = versions.pop(name)


def _with_prefix(state: dict, prefix: str, *_: Any) -> None:
    """The reverse: the names that the model's weights have in here."""
    for name in [name for name in state if name.startswith(prefix)]:
        state[prefix + MODEL + name.removeprefix(prefix)] = state.pop(name)

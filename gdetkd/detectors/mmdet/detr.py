"""DETRs: detectors whose queries a transformer decodes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmdet.models.detectors.base_detr import DetectionTransformer
from mmdet.models.detectors.grounding_dino import GroundingDINO
from mmdet.structures import SampleList
from torch import Tensor, nn
from torchvision.ops import box_convert

from gdetkd.detectors.adapter import register
from gdetkd.detectors.mmdet.queries import Queries, QueryAdapter


@register
class DetrAdapter(QueryAdapter):
    """DETR, Conditional DETR, DAB-DETR, Deformable DETR, DINO and DDQ.

    Queries that only training has are left out: those of denoising (DINO), and DDQ's dense ones.
    """

    @classmethod
    def supports(cls, detector: nn.Module) -> bool:
        # Grounding DINO's queries depend on a text.
        grounded = isinstance(detector, GroundingDINO)
        return isinstance(detector, DetectionTransformer) and not grounded

    @property
    def head(self) -> nn.Module:
        return self.detector.bbox_head

    @property
    def width(self) -> int:
        return self.head.embed_dims

    @contextmanager
    def recorded(self) -> Iterator[list[Queries]]:
        found, seen, forward = [], {}, self.detector.forward_transformer

        def on_transformer(pyramid, samples=None):
            seen.update(pyramid=tuple(pyramid), samples=samples)
            decoded = forward(pyramid, samples)
            seen["training_queries"] = decoded.get("dn_meta") or {}
            return decoded

        def on_predicted(_, inputs, named, outputs):
            states = (inputs[0] if inputs else named["hidden_states"])[-1]
            logits, boxes = (layers[-1] for layers in outputs)
            extra = seen["training_queries"]
            used = slice(
                extra.get("num_denoising_queries", 0),
                states.shape[1] - extra.get("num_dense_queries", 0),
            )
            # Predicted boxes are shares of the image without its padding.
            corners = box_convert(boxes[:, used].detach().float(), "cxcywh", "xyxy")
            extent = torch.tensor(
                [sample.img_shape[:2][::-1] * 2 for sample in seen["samples"]], device=boxes.device
            )
            boxes = corners * extent[:, None]
            found.append(Queries(seen["pyramid"], states[:, used], logits[:, used], boxes))

        handle = self.head.register_forward_hook(on_predicted, with_kwargs=True)
        self.detector.forward_transformer = on_transformer  # on the instance, before the method
        try:
            yield found
        finally:
            del self.detector.forward_transformer
            handle.remove()

    def run(self, pyramid: tuple[Tensor, ...], samples: SampleList) -> None:
        tokens = sum(level[0, 0].numel() for level in pyramid)
        if getattr(self.detector, "as_two_stage", False) and tokens < self.detector.num_queries:
            raise ValueError(
                f"{self.title}: expected images of at least {self.detector.num_queries} cells on "
                f"all levels, from which it chooses its queries, got {tokens}; use larger images"
            )
        decoded = self.detector.forward_transformer(pyramid, samples)
        decoded.pop("dn_meta", None)
        self.head(**decoded)

    def heads(self) -> dict[str, nn.Module]:
        return {"bbox_head": self.head}

"""A dense head, read from outside: the layers that predict, the class logits and the boxes.

Locations count level by level, row by row, the anchors of a cell side by side, as MMDetection
lists them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from mmdet.models import dense_heads as heads
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.dense_heads.condinst_head import CondInstBboxHead
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor, nn

BRANCHES = ("classification", "localization")
Outputs = Sequence[Sequence[Tensor]]  # of a head: maps of each level, by what they predict


class DenseHead:
    """The usual reading: boxes decoded from priors by the head's coder, class logits as they are.

    Args:
        head: The head.
        title: How messages call its detector.
    """

    # Of the layers that predict classes and boxes; by default any pair ..._cls and ..._reg.
    names: tuple[str, str] | None = None
    priors = "prior_generator"
    border = 0.0  # px by which boxes end before the image does

    def __init__(self, head: BaseDenseHead, title: str) -> None:
        self.head, self.title = head, title

    @property
    def generator(self):
        return getattr(self.head, self.priors)

    @property
    def strides(self) -> list[float]:
        """Of each level, in pixels."""
        strides = [tuple(stride) for stride in self.generator.strides]
        if any(across != down for across, down in strides):
            raise ValueError(f"{self.title}: expected square strides, got {strides}")
        return [float(stride) for stride, _ in strides]

    @property
    def anchors(self) -> list[int]:
        """Boxes that a cell of each level predicts."""
        return list(self.generator.num_base_priors)

    @property
    def columns(self) -> int:
        """Logits of a box: the classes, and with softmax the background after them."""
        return getattr(self.head, "cls_out_channels", self.head.num_classes)

    @property
    def sides(self) -> list[float]:
        """The side, in pixels, of the boxes that each level is made for.

        The geometric mean of a level's anchors; the end of FCOS's range of distances, which is in
        the middle of the sides that these allow; 8 strides for other heads without anchors, and for
        a range without limits.
        """
        anchors = getattr(self.generator, "base_anchors", None)
        if anchors is not None:
            boxes = [get_box_tensor(level) for level in anchors]
            return [math.exp((b[:, 2:] - b[:, :2]).log().mean()) for b in boxes]
        usual = [8.0 * stride for stride in self.strides]
        ranges = getattr(self.head, "regress_ranges", None)
        if ranges is None:
            return usual
        return [  # the last one is open; the only one of a single level at both ends
            float(end if end < 1e7 else 2 * begin if begin > 0 else side)
            for (begin, end), side in zip(ranges, usual, strict=True)
        ]

    def layers(self) -> dict[str, list[nn.Conv2d]]:
        """By branch the layers that predict: one that the levels share, or one of each level.

        Raises:
            ValueError: There are none.
        """
        children = dict(self.head.named_children())
        pairs = [self.names] if self.names else _named_pairs(children)
        for pair in pairs:
            found = [_last_convolutions(children.get(name)) for name in pair]
            if all(found) and self._predicts_classes(found[0]):
                return dict(zip(BRANCHES, found, strict=True))
        raise ValueError(
            f"{self.title}: expected a dense head with convolutions '..._cls' and '..._reg', such "
            f"as retina_cls and retina_reg, got {type(self.head).__name__} with {sorted(children)}"
            "; this head is not supported"
        )

    def _predicts_classes(self, layers: Sequence[nn.Conv2d]) -> bool:
        widths = [count * self.columns for count in self.anchors]
        return {layer.out_channels for layer in layers} == set(widths)

    def forward(self, pyramid: Sequence[Tensor]) -> Outputs:
        """Run the head as a teacher."""
        return self.head(pyramid)

    def logits(self, outputs: Outputs) -> list[Tensor]:
        """Class logits (B, anchors x columns, H, W) of each level, with gradient."""
        return list(outputs[0])

    @torch.no_grad()
    def boxes(self, outputs: Outputs, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """The boxes (B, n, 4) that it predicts, in pixels, clipped to the images' sizes (h, w)."""
        boxes = torch.cat(self.decode(outputs), 1)
        for image, (height, width) in zip(boxes, sizes, strict=True):
            image[:, 0::2].clamp_(0, width - self.border)
            image[:, 1::2].clamp_(0, height - self.border)
        return boxes

    def decode(self, outputs: Outputs) -> list[Tensor]:
        """The boxes (B, n, 4) of each level, not clipped."""
        head = self.head
        # VFNet refines its boxes: the second of its two is what it predicts.
        refines = isinstance(head, heads.VFNetHead) and len(outputs) > 2
        levels = []
        for level, prior, stride in self.with_priors(outputs[2 if refines else 1]):
            values = level.detach().float().permute(0, 2, 3, 1)
            if isinstance(head, heads.GFLHead):
                values = head.integral(values) * stride
                prior = head.anchor_center(prior)
            elif leaves_out_strides(head):
                values = values * stride
            decoded = head.bbox_coder.decode(prior.repeat(len(level), 1), values.reshape(-1, 4))
            levels.append(get_box_tensor(decoded).reshape(len(level), -1, 4))
        return levels

    def with_priors(self, maps: Sequence[Tensor], **settings):
        """Map, priors (n, 4) or points (n, 2) and stride of each level."""
        priors = self.generator.grid_priors(
            [level.shape[-2:] for level in maps],
            dtype=torch.float32,
            device=maps[0].device,
            **settings,
        )
        return zip(maps, map(get_box_tensor, priors), self.strides, strict=True)


def _named_pairs(children: dict[str, nn.Module]) -> list[tuple[str, str]]:
    stems = [name.removesuffix("_cls") for name in children if name.endswith("_cls")]
    return [(f"{stem}_cls", f"{stem}_reg") for stem in stems]


def _last_convolutions(module: nn.Module | None) -> list[nn.Conv2d]:
    """A convolution; the last one of a sequence; that of each part of a list."""
    if isinstance(module, nn.ModuleList):
        return [layer for part in module for layer in _last_convolutions(part)]
    if isinstance(module, nn.Sequential):
        module = module[-1]
    return [module] if isinstance(module, nn.Conv2d) else []


def flat(level: Tensor, width: int = 4) -> Tensor:
    """(B, n, width), constants, of a map (B, anchors x width, H, W)."""
    return level.detach().float().permute(0, 2, 3, 1).reshape(len(level), -1, width)


def leaves_out_strides(head: BaseDenseHead) -> bool:
    """Whether the head's boxes are, at present, in units of their level's stride."""
    forward = type(head).forward_single
    normalized = forward is heads.CenterNetUpdateHead.forward_single or (
        forward in (heads.FCOSHead.forward_single, CondInstBboxHead.forward_single)
        and head.norm_on_bbox
    )
    return head.training and normalized

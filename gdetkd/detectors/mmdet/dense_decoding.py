"""What dense heads predict: the layers that do, the boxes, and values at given locations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from mmdet.models.dense_heads import CenterNetUpdateHead, FCOSHead, GFLHead, PAAHead, VFNetHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor, nn

from gdetkd.ops.roi_align import roi_align

# The ways to decode boxes that `decoded_boxes` follows; a head with another one is refused.
KNOWN_DECODINGS = {head._predict_by_feat_single for head in (BaseDenseHead, GFLHead, PAAHead)}


def prediction_layers(head: BaseDenseHead, name: str) -> tuple[nn.Conv2d, nn.Conv2d]:
    """The convolutions that predict classes and boxes.

    Raises:
        ValueError: There are none that all levels share, or the head decodes its boxes in a way
            of its own.
    """
    kind = type(head).__name__
    decoding = getattr(type(head), "_predict_by_feat_single", None)
    if decoding not in KNOWN_DECODINGS:
        raise ValueError(
            f"{name}: expected a dense head that decodes boxes as AnchorHead, AnchorFreeHead or "
            f"GFLHead does, but {kind} does it in its own way; this head is not supported"
        )
    children = dict(head.named_children())
    for stem in [key.removesuffix("_cls") for key in children if key.endswith("_cls")]:
        pair = children[f"{stem}_cls"], children.get(f"{stem}_reg")
        if all(isinstance(layer, nn.Conv2d) for layer in pair):
            if pair[0].out_channels == head.num_base_priors * head.cls_out_channels:
                return pair
    raise ValueError(
        f"{name}: expected a dense head with one convolution '..._cls' and one '..._reg' that its "
        f"levels share, such as retina_cls and retina_reg, got {kind} with {sorted(children)}; "
        "this head is not supported"
    )


@torch.no_grad()
def decoded_boxes(
    head: BaseDenseHead, outputs: Sequence[Sequence[Tensor]], sizes: Sequence[tuple[int, int]]
) -> Tensor:
    """The boxes (B, n, 4) that a head predicts, in pixels, clipped to the images' sizes (h, w).

    n counts level by level, row by row, the anchors of a location side by side, as MMDetection
    lists them.
    """
    # VFNet refines its boxes: the second of its two is what it predicts.
    predictions = outputs[2 if isinstance(head, VFNetHead) and len(outputs) > 2 else 1]
    priors = head.prior_generator.grid_priors(
        [level.shape[-2:] for level in predictions],
        dtype=torch.float32,
        device=predictions[0].device,
    )
    levels = []
    for level, prior, (stride, _) in zip(
        predictions, priors, head.prior_generator.strides, strict=True
    ):
        values = level.detach().float().permute(0, 2, 3, 1)
        prior = get_box_tensor(prior)
        if isinstance(head, GFLHead):
            values = head.integral(values) * stride
            prior = head.anchor_center(prior)
        elif leaves_out_strides(head):
            values = values * stride
        images = len(level)
        boxes = head.bbox_coder.decode(prior.repeat(images, 1), values.reshape(-1, 4))
        levels.append(get_box_tensor(boxes).reshape(images, -1, 4))
    boxes = torch.cat(levels, 1)
    for image, (height, width) in zip(boxes, sizes, strict=True):
        image[:, 0::2].clamp_(0, width)
        image[:, 1::2].clamp_(0, height)
    return boxes


def edge_distributions(
    head: BaseDenseHead, outputs: Sequence[Sequence[Tensor]]
) -> dict[str, tuple[Tensor, ...]]:
    """The maps of a head that predicts distributions of edges, by their names in a view."""
    if not isinstance(head, GFLHead):
        return {}
    return dict(class_maps=tuple(outputs[0]), edge_maps=tuple(outputs[1]))


def leaves_out_strides(head: BaseDenseHead) -> bool:
    """Whether the head's boxes are, at present, in units of their level's stride."""
    forward = type(head).forward_single
    normalized = forward is CenterNetUpdateHead.forward_single or (
        forward is FCOSHead.forward_single and head.norm_on_bbox
    )
    return head.training and normalized


@torch.no_grad()
def best_scores(levels: Sequence[Tensor], outputs: int, classes: int) -> Tensor:
    """The highest class logit (B, n) of each predicted box, in the order of `decoded_boxes`."""
    return torch.cat(
        [
            level.unflatten(1, (-1, outputs))[:, :, :classes].amax(2).flatten(2).mT.flatten(1)
            for level in levels
        ],
        1,
    ).float()


def rows_at(levels: Sequence[Tensor], image: Tensor, index: Tensor, anchors: int = 1) -> Tensor:
    """What feature maps hold at given places, with gradient.

    levels: (B, anchors D, H, W) each; image, index: (N,), places in the order of `decoded_boxes`.
    Gives (N, D). Levels are read one by one: joining them would copy them all.
    """
    start, rows = 0, None
    for level in levels:
        count = level.shape[2] * level.shape[3] * anchors
        place = (index - start).clamp(0, count - 1)
        cells = level.unflatten(1, (anchors, -1)).flatten(3)
        found = cells[image, place % anchors, :, place // anchors]
        here = (index >= start)[:, None]
        rows = found if rows is None else torch.where(here, found, rows)
        start += count
    return rows


def logits_at(head: BaseDenseHead, scores: Sequence[Tensor], rois: Tensor, level: Tensor) -> Tensor:
    """What a head says of given boxes: (N, C), or (N, C + 1) with the background last.

    scores: its class logits; rois: (N, 5); level: (N,), where each is looked for. The cell is that
    of the box's center; of several anchors the one with the highest logit of an object counts.
    """
    anchors = scores[0].shape[1] // head.cls_out_channels
    strides = rois.new_tensor([stride[0] for stride in head.prior_generator.strides])
    sizes = torch.tensor([maps.shape[2:] for maps in scores], device=rois.device)  # h, w
    centers = (rois[:, 1:3] + rois[:, 3:]) / 2 / strides[level, None]
    last = sizes[level].flip(1) - 1
    column, row = torch.minimum(centers.long().clamp(min=0), last).unbind(1)
    before = sizes.prod(1).cumsum(0) - sizes.prod(1)
    place = (before[level] + row * sizes[level, 1] + column) * anchors
    image = rois[:, 0].long()
    found = torch.stack(
        [rows_at(scores, image, place + anchor, anchors) for anchor in range(anchors)], 1
    )
    surest = found[..., : head.num_classes].amax(2).argmax(1)
    return found[torch.arange(len(rois), device=rois.device), surest]


def box_sides(head: BaseDenseHead) -> list[float]:
    """The side, in pixels, of the boxes that each level is made for.

    The geometric mean of a level's anchors; the end of FCOS's range of distances, which is in the
    middle of the sides that these allow; 8 strides for other heads without anchors, and for a range
    without limits.
    """
    anchors = getattr(head.prior_generator, "base_anchors", None)
    if anchors is not None:
        sides = [get_box_tensor(boxes) for boxes in anchors]
        return [math.exp((b[:, 2:] - b[:, :2]).log().mean()) for b in sides]
    usual = [8.0 * stride for stride, _ in head.prior_generator.strides]
    ranges = getattr(head, "regress_ranges", None)
    if ranges is None:
        return usual
    return [  # the last one is open; the only one of a single level at both ends
        float(end if end < 1e7 else 2 * begin if begin > 0 else side)
        for (begin, end), side in zip(ranges, usual, strict=True)
    ]


def level_of(rois: Tensor, sides: Sequence[float]) -> Tensor:
    """For each of rois (N, 5) the level (N,) whose boxes are nearest in size, by ratio."""
    size = (rois[:, 3:] - rois[:, 1:3]).float().clamp(min=1e-3).log().mean(1)
    return torch.stack([(size - math.log(side)).abs() for side in sides], 1).argmin(1)


def pool_from(
    levels: Sequence[Tensor],
    rois: Tensor,
    level: Tensor,
    strides: Sequence[float],
    size: tuple[int, int],
) -> Tensor:
    """RoIAlign (N, C, h, w) of every box from its own level (N,)."""
    pooled = levels[0].new_zeros(len(rois), levels[0].shape[1], *size)
    for number, (features, stride) in enumerate(zip(levels, strides, strict=True)):
        chosen = (level == number).nonzero().squeeze(1)
        pooled[chosen] = roi_align(features, rois[chosen], size, 1 / stride)
    return pooled

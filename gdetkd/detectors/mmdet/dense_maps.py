"""Values of a dense head's maps at given locations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from gdetkd.detectors.locations import cells_of


@torch.no_grad()
def best_scores(levels: Sequence[Tensor], columns: int, classes: int) -> Tensor:
    """The highest class logit (B, n) of each predicted box, location by location."""
    return torch.cat(
        [
            level.unflatten(1, (-1, columns))[:, :, :classes].amax(2).flatten(2).mT.flatten(1)
            for level in levels
        ],
        1,
    ).float()


def rows_at(
    levels: Sequence[Tensor], image: Tensor, index: Tensor, anchors: Sequence[int]
) -> Tensor:
    """What maps of a value per box hold for given boxes, with gradient.

    levels: (B, anchors D, H, W) each; image, index: (N,), of boxes by location; anchors: of each
    level. Gives (N, D). Levels are read one by one: joining them would copy them all.
    """
    rows = None
    for level, count, (here, cell, anchor) in _places(levels, index, anchors):
        cells = level.unflatten(1, (count, -1)).flatten(3)
        found = cells[image, anchor, :, cell]
        rows = found if rows is None else torch.where(here[:, None], found, rows)
    return rows


def features_at(
    levels: Sequence[Tensor],
    image: Tensor,
    index: Tensor,
    anchors: Sequence[int],
    separate: bool = False,
) -> Tensor:
    """The features (N, `feature_width`) of the cells that predict given boxes, with gradient.

    levels: (B, D, H, W) each. Levels of different widths D have a block of columns each, and with
    `separate` so has each anchor of a cell; the other blocks are 0. A linear layer then has weights
    of its own for each block.
    """
    total = feature_width([level.shape[1] for level in levels], anchors, separate)
    apart = len({level.shape[1] for level in levels}) > 1
    rows, start = None, 0
    for level, count, (here, cell, anchor) in _places(levels, index, anchors):
        width = level.shape[1]
        found = level.flatten(2)[image, :, cell]
        if width < total:
            blocks = found.new_zeros(len(found), count if separate else 1, width)
            block = anchor if separate else torch.zeros_like(anchor)
            blocks = blocks.scatter(1, block[:, None, None].expand(-1, 1, width), found[:, None])
            found = blocks.flatten(1)
            found = pad(found, (start, total - start - found.shape[1]))
        rows = found if rows is None else torch.where(here[:, None], found, rows)
        start += width * (count if separate else 1) if apart else 0
    return rows


def feature_width(widths: Sequence[int], anchors: Sequence[int], separate: bool = False) -> int:
    """How many columns `features_at` gives, of levels of these widths."""
    blocks = [
        width * (count if separate else 1) for width, count in zip(widths, anchors, strict=True)
    ]
    return sum(blocks) if len(set(widths)) > 1 else max(blocks)


def _places(
    levels: Sequence[Tensor], index: Tensor, anchors: Sequence[int]
) -> Iterator[tuple[Tensor, int, tuple[Tensor, Tensor, Tensor]]]:
    """Of each level its map, its anchors and, for boxes (N,), from which on they are of this level
    or a later one, with the cell and anchor that these then have."""
    start = 0
    for level, count in zip(levels, anchors, strict=True):
        boxes = level.shape[2] * level.shape[3] * count
        place = (index - start).clamp(0, boxes - 1)
        yield level, count, (index >= start, place // count, place % count)
        start += boxes


def location_of(levels: Sequence[Tensor], index: Tensor, anchors: Sequence[int]) -> Tensor:
    """Numbers (N,) that are equal for boxes (N,) which one cell predicts."""
    number, start = torch.zeros_like(index), 0
    for level, _, (here, cell, _) in _places(levels, index, anchors):
        number = torch.where(here, start + cell, number)
        start += level.shape[2] * level.shape[3]
    return number


def logits_at(
    levels: Sequence[Tensor],
    rois: Tensor,
    level: Tensor,
    strides: Sequence[float],
    anchors: Sequence[int],
    classes: int,
) -> Tensor:
    """What a head says of given boxes: (N, columns), the background last if there is one.

    levels: its class logits; rois: (N, 5); level: (N,), where each is looked for. The cell is that
    of the box's center; of several anchors the one with the highest logit of an object counts.
    """
    counts = torch.tensor(list(anchors), device=rois.device)
    boxes = torch.tensor([maps[0, 0].numel() for maps in levels], device=rois.device) * counts
    cell, _ = cells_of(levels, rois, level, strides)
    place = (boxes.cumsum(0) - boxes)[level] + cell * counts[level]
    image = rois[:, 0].long()
    found = torch.stack(  # a level with fewer anchors repeats its last one
        [
            rows_at(
                levels,
                image,
                place + torch.minimum(counts[level] - 1, counts.new_tensor(a)),
                anchors,
            )
            for a in range(max(anchors))
        ],
        1,
    )
    surest = found[..., :classes].amax(2).argmax(1)
    return found[torch.arange(len(rois), device=rois.device), surest]

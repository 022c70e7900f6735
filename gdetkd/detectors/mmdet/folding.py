"""A frozen detector made quick: batch normalization folded into convolutions, boxes pooled by rows.

In a detector that does not learn, a convolution and the normalization after it are one linear map.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from mmcv.ops import RoIAlign
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from gdetkd.ops.roi_align import roi_align_assigned

PROBE = 128  # pixels a side
TOLERANCE = 1e-4  # of the largest number of a level


@torch.no_grad()
def fold_batch_norms(detector: nn.Module, extract: Callable[[Tensor], Sequence[Tensor]]) -> int:
    """Fold each batch normalization that `extract` applies to a convolution's output into it.

    Which follows which is seen in a pass over one random image, not guessed from names. If the
    levels of that image then differ, something else reads what was folded; all is put back.

    Args:
        detector: In eval mode, on the CPU; its modules are replaced, and the new parameters frozen.
        extract: Gives a pyramid for images (B, 3, H, W) with modules of the detector.

    Returns:
        How many were folded.
    """
    image = torch.randn(1, 3, PROBE, PROBE, generator=torch.Generator().manual_seed(0))
    pairs, before = _pairs(detector, extract, image)
    names = {module: name for name, module in detector.named_modules()}
    for conv, norm in pairs:
        folded = fuse_conv_bn_eval(conv, norm).requires_grad_(False)
        detector.set_submodule(names[conv], folded)
        detector.set_submodule(names[norm], nn.Identity())
    after = extract(image)
    if isinstance(after, Mapping):
        after, before = after.values(), before.values()
    if all(
        (a - b).abs().max() <= TOLERANCE * b.abs().max() for a, b in zip(after, before, strict=True)
    ):
        return len(pairs)
    for module in (module for pair in pairs for module in pair):
        detector.set_submodule(names[module], module)
    return 0


def pool_by_gathering(detector: nn.Module) -> None:
    """On the CPU, let a frozen detector pool boxes by gathering: quicker for small maps."""
    for extractor in detector.modules():
        if type(extractor) is SingleRoIExtractor and all(
            isinstance(layer, RoIAlign) and layer.aligned and layer.pool_mode == "avg"
            for layer in extractor.roi_layers
        ):
            extractor.forward = partial(_pool, extractor)  # on the instance, in front of the method


def _pool(
    extractor: SingleRoIExtractor,
    levels: Sequence[Tensor],
    rois: Tensor,
    roi_scale_factor: float | None = None,
) -> Tensor:
    pooled = None
    if len(rois) and roi_scale_factor is None:
        layers = extractor.roi_layers
        # A box with NaN coordinates is assigned to none; it pools zeros from any level.
        assigned = extractor.map_roi_levels(rois, len(levels)).clamp(0, len(levels) - 1)
        pooled = roi_align_assigned(
            levels, rois, assigned, layers[0].output_size,
            [1 / layer.spatial_scale for layer in layers], layers[0].sampling_ratio,
        )  # fmt: skip
    if pooled is None:
        return type(extractor).forward(extractor, levels, rois, roi_scale_factor)
    return pooled


def _pairs(
    detector: nn.Module, extract: Callable[[Tensor], Sequence[Tensor]], image: Tensor
) -> tuple[list[tuple[nn.Conv2d, nn.BatchNorm2d]], Sequence[Tensor]]:
    """The convolutions and normalizations that ran once, one on the other's output."""
    made: list[tuple[nn.Module, Tensor]] = []
    read: list[tuple[nn.Module, Tensor]] = []
    hooks = []
    for module in detector.modules():
        if type(module) is nn.Conv2d:  # a subclass may do something to its weights first
            hooks.append(module.register_forward_hook(lambda m, _, out: made.append((m, out))))
        elif type(module) is nn.BatchNorm2d and module.track_running_stats:
            hooks.append(module.register_forward_pre_hook(lambda m, x: read.append((m, x[0]))))
    try:
        levels = extract(image)
    finally:
        for hook in hooks:
            hook.remove()
    ran = [module for module, _ in (*made, *read)]
    by_output = {id(output): conv for conv, output in made}
    pairs = [(by_output[id(x)], norm) for norm, x in read if id(x) in by_output]
    return [pair for pair in pairs if all(ran.count(module) == 1 for module in pair)], levels

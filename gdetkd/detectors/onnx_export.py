"""A student of torchvision or transformers as an ONNX file, for runtimes without PyTorch."""

from __future__ import annotations

from os import PathLike

import torch
from torch import Tensor, nn

TORCHVISION = ("boxes", "scores", "labels")
TRANSFORMERS = ("logits", "pred_boxes")


def export_onnx(detector: nn.Module, path: str | PathLike[str], image: Tensor) -> None:
    """Write what a detector predicts for one image as an ONNX file; its mode does not change.

    A detector of torchvision takes `image` (3, H, W) in 0 to 1 of any size and gives boxes (n, 4)
    in pixels, scores (n,) and labels (n,), after its own non-maximum suppression. One of
    transformers takes `image` (1, 3, H, W) as its processor made it, of this size, and gives
    logits (1, Q, C) and pred_boxes (1, Q, 4) as its processor's post-processing takes them. Of
    models that choose their queries from the image (RT-DETR, D-FINE, DEIMv2) the files are not
    checked yet.

    Args:
        detector: `student` of a `Distiller`, or any other.
        path: Where to write it.
        image: An example, by which it is traced.

    Raises:
        ValueError: The detector is of another library, or the image has another shape.
    """
    library, wrapped = type(detector).__module__.partition(".")[0], None
    if library == "torchvision" and image.ndim == 3:
        wrapped, outputs, axes = _Torchvision(detector), TORCHVISION, {"image": {1: "h", 2: "w"}}
        axes |= {name: {0: "n"} for name in TORCHVISION}
    elif library == "transformers" and image.ndim == 4:
        wrapped, outputs, axes = _Transformers(detector), TRANSFORMERS, None
    if wrapped is None:
        raise ValueError(
            "export_onnx: expected a detector of torchvision and an image (3, H, W), or one of "
            f"transformers and (1, 3, H, W), got {type(detector).__name__} of {library} and "
            f"{tuple(image.shape)}; MMDetection's are exported by MMDeploy"
        )
    training = {module: module.training for module in detector.modules()}
    detector.eval()
    try:
        torch.onnx.export(
            wrapped,
            (image,),
            path,
            input_names=["image"],
            output_names=list(outputs),
            dynamic_axes=axes,
            opset_version=17,
            # torchvision's detectors are written for tracing: loops over images, sizes as tensors.
            dynamo=False,
        )
    finally:
        for module, mode in training.items():
            module.training = mode


class _Torchvision(nn.Module):
    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        (found,) = self.detector([image])
        return tuple(found[name] for name in TORCHVISION)


class _Transformers(nn.Module):
    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        found = self.detector(pixel_values=image)
        return tuple(found[name] for name in TRANSFORMERS)

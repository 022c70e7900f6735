"""What several detectors answer for the same proposals, as the explorer shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from mmdet.registry import DATASETS
from mmdet.structures.bbox import bbox2roi
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor, nn
from torchvision.ops import box_iou

from gdetkd.datasets.config_check import check_data
from gdetkd.detectors import adapter_for
from gdetkd.detectors.mmdet.building import load_detector, plain_student
from gdetkd.distillation.structures import RoIOutputs
from gdetkd.evaluation.testing import truth_of
from gdetkd.viz.explorer import Answers, Proposals

PER_IMAGE = 12  # proposals, about half of which show an object where there are six
OBJECT = 0.5  # IoU from which on a proposal shows an object


def explore(
    detectors: Mapping[str, tuple[Config, str]],
    count: int = 2000,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Proposals:
    """Run detectors on the same proposals of their test set, each image in each one's own size.

    The proposals are those of the first detector's RPN, best first; without one, its detections.
    The images are spread evenly over the set.

    Args:
        detectors: By name, config and checkpoint; of a distilled detector, the student.
        count: How many proposals, at most.

    Raises:
        ValueError: The detectors are tested on different data, weights do not fit, a picture
            cannot be read, or too few boxes have an answer of every detector.
    """
    truths = {name: truth_of(config) for name, (config, _) in detectors.items()}
    first, *others = truths
    for name in others:
        if truths[name] != truths[first]:
            raise ValueError(
                f"expected one test set and the same classes of all detectors, got "
                f"{truths[first][0]} ({len(truths[first][2])} classes) for {first} and "
                f"{truths[name][0]} ({len(truths[name][2])} classes) for {name}; give --data"
            )
    loaded = {name: _load(*source) for name, source in detectors.items()}
    size = len(loaded[first][1])
    images = min(size, max(1, -(-count // PER_IMAGE)))
    per_image = -(-count // images)
    pictures, names, objects = [], [], []
    rois: list[Tensor] = []
    found: dict[str, list[dict]] = {name: [] for name in detectors}
    for number, index in enumerate(progress(np.linspace(0, size - 1, images).astype(int).tolist())):
        info = loaded[first][1].get_data_info(index)
        pixels = cv2.imread(info["img_path"])
        if pixels is None:
            raise ValueError(f"{info['img_path']}: expected a picture that OpenCV can read")
        here = torch.zeros(0, 4)
        for name, (detector, dataset) in loaded.items():
            batch, factor = _prepare(detector, dataset[index])
            if name == first:
                here = _propose(detector, batch)[:per_image].cpu() / factor
            boxes = (here * factor).to(batch["inputs"])
            found[name].append(_answer(detector, batch, bbox2roi([boxes])))
        rois.append(torch.cat([torch.full((len(here), 1), float(number)), here], 1))
        kept = [each for each in info["instances"] if not each["ignore_flag"]]
        objects += [(number, *each["bbox"], each["bbox_label"]) for each in kept]
        pictures.append(pixels[..., ::-1])
        names.append(Path(info["img_path"]).name)
    truth = torch.tensor(objects, dtype=torch.float32).reshape(-1, 6)
    outputs = {name: _join(each) for name, each in found.items()}
    return describe(
        pictures, torch.cat(rois), truth[:, :5], truth[:, 5].long(), truths[first][2], outputs,
        names, count,
    )  # fmt: skip


def describe(
    pictures: Sequence[np.ndarray],
    rois: Tensor,
    truth: Tensor,
    labels: Tensor,
    classes: Sequence[str],
    outputs: Mapping[str, RoIOutputs],
    names: Sequence[str] = (),
    count: int | None = None,
) -> Proposals:
    """What detectors answered for the same boxes, for the explorer.

    Args:
        pictures: (H, W, 3) uint8 RGB each.
        rois: (N, 5) [image, x1, y1, x2, y2], pixels of the pictures.
        truth, labels: The objects, (M, 5) likewise, and their classes (M,).
        outputs: By detector, for these boxes. Its deltas are relative to its own size of the image,
            which does not matter: they are in units of the box.
        names: Of the pictures, by default their numbers.
        count: At most so many proposals, the first ones.

    Raises:
        ValueError: Fewer than three boxes have an answer of every detector.
    """
    keep = torch.ones(len(rois), dtype=torch.bool)
    for each in outputs.values():
        if each.valid_mask is not None:
            keep &= each.valid_mask.cpu()
    rows = keep.nonzero().squeeze(1)[:count]
    if len(rows) < 3:
        raise ValueError(
            f"expected at least three proposals with an answer of every detector, got {len(rows)} "
            f"of {len(rois)}; take more images, or detectors that find more"
        )
    overlap = box_iou(rois[rows, 1:], truth[:, 1:]) * (rois[rows, :1] == truth[:, 0])
    overlap = torch.cat([overlap, torch.zeros(len(rows), 1)], 1)  # there may be no object
    iou, which = overlap.max(1)
    shown = torch.where(
        iou >= OBJECT, torch.cat([labels, labels.new_zeros(1)])[which], len(classes)
    )
    return Proposals(
        pictures=list(pictures),
        names=list(names) or [f"image {index}" for index in range(len(pictures))],
        rois=rois[rows].numpy(),
        labels=shown.numpy(),
        ious=iou.numpy(),
        truth=truth.numpy(),
        truth_labels=labels.numpy(),
        classes=tuple(classes),
        detectors={name: _read(each, rois, rows, len(classes)) for name, each in outputs.items()},
    )


def _load(config: Config, checkpoint: str) -> tuple[nn.Module, object]:
    """The detector, on the GPU if there is one, and its test set with its own pipeline."""
    check_data(config, ["test"])
    plain = plain_student(config)
    model = plain.model
    if "data_preprocessor" in plain:  # MMEngine hands it to a model that has none
        model.setdefault("data_preprocessor", plain.data_preprocessor)
    detector = load_detector(model, checkpoint)
    with DefaultScope.overwrite_default_scope("mmdet"):
        dataset = DATASETS.build(plain.test_dataloader.dataset)
    return detector.to("cuda" if torch.cuda.is_available() else "cpu"), dataset


def _prepare(detector: nn.Module, item: dict) -> tuple[dict, Tensor]:
    """An image as the network sees it, and the factor (4,) from the picture's pixels to its own."""
    sample = item["data_samples"]
    batch = detector.data_preprocessor(dict(inputs=[item["inputs"]], data_samples=[sample]), False)
    width, height = sample.metainfo.get("scale_factor", (1.0, 1.0))[:2]
    return batch, torch.tensor([width, height, width, height], dtype=torch.float32)


@torch.no_grad()
def _propose(detector: nn.Module, batch: dict) -> Tensor:
    """The best boxes of a detector (n, 4), in pixels of the network's image."""
    if getattr(detector, "rpn_head", None) is not None:
        features = detector.extract_feat(batch["inputs"])
        found = detector.rpn_head.predict(features, batch["data_samples"], rescale=False)[0]
    else:
        predicted = detector.predict(batch["inputs"], batch["data_samples"], rescale=False)
        found = predicted[0].pred_instances
    return found.bboxes[found.scores.argsort(descending=True)]


FIELDS = ("rois", "representation", "logits", "deltas", "valid_mask")  # what is shown


@torch.no_grad()
def _answer(detector: nn.Module, batch: dict, rois: Tensor) -> dict[str, Tensor | None]:
    adapter = adapter_for(detector, type(detector).__name__)
    sizes = [tuple(sample.img_shape[:2]) for sample in batch["data_samples"]]
    last = len(adapter.specs()) - 1
    outputs = adapter.forward_rois(batch["inputs"], [rois], [last], sizes)[0]
    return {name: getattr(outputs, name) for name in FIELDS}


def _join(outputs: Sequence[dict[str, Tensor | None]]) -> RoIOutputs:
    """The answers for several images as one."""
    parts = {name: [each[name] for each in outputs] for name in FIELDS}
    joined = {
        name: None if part[0] is None else torch.cat(part).cpu() for name, part in parts.items()
    }
    return RoIOutputs(pyramid=(), pooled=None, **joined)


def _read(outputs: RoIOutputs, rois: Tensor, rows: Tensor, classes: int) -> Answers:
    """Class, score and box of each proposal; the box is that of the likeliest object class."""
    vectors = outputs.representation.detach().flatten(1).float().cpu()[rows].numpy()
    if outputs.logits is None:
        return Answers(vectors)
    logits = outputs.logits.detach().float().cpu()[rows]
    softmax = logits.shape[1] == classes + 1
    scores = logits.softmax(1) if softmax else logits.sigmoid()
    score, said = scores.max(1)
    if not softmax:  # a sigmoid head has no background: where no class reaches a half
        said = torch.where(score >= 0.5, said, classes)
    boxes = None
    if outputs.deltas is not None:
        deltas = outputs.deltas.detach().cpu()[rows]
        column = scores[:, :classes].argmax(1) if deltas.shape[1] > 1 else 0 * said
        boxes = apply_deltas(rois[rows, 1:], deltas[torch.arange(len(rows)), column]).numpy()
    return Answers(vectors, said.numpy(), score.numpy(), boxes)


def apply_deltas(boxes: Tensor, deltas: Tensor) -> Tensor:
    """Boxes (N, 4) x1 y1 x2 y2 moved by (dx, dy, dw, dh), as R-CNN codes them (its appendix C)."""
    side = boxes[:, 2:] - boxes[:, :2]
    center = boxes[:, :2] + side / 2 + deltas[:, :2] * side
    half = side * deltas[:, 2:].clamp(max=4).exp() / 2
    return torch.cat([center - half, center + half], 1)

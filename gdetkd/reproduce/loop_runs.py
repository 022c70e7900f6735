"""Students of torchvision and transformers on digits, trained by a plain PyTorch loop."""

from __future__ import annotations

import datetime
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.models import mobilenet_v3_small, resnet18
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign, box_convert
from torchvision.transforms.functional import to_tensor

from gdetkd.datasets.digits import CLASSES, IMAGE_SIZE
from gdetkd.detectors.distiller import Distiller
from gdetkd.evaluation.matches import evaluate
from gdetkd.evaluation.records import append_json_line, environment, read_json_lines
from gdetkd.ops.atomic_write import atomic_write
from gdetkd.reproduce.statistics import interval, paired_gain, plus_minus

SAVED_EVERY, WIDTH = 500, 64


class Run(NamedTuple):
    """A row: what is trained, by which teacher, for how long."""

    label: str
    student: str
    steps: int
    rate: float
    teacher: str | None = None
    seeds: int = 3
    batch: int = 8
    max_norm: float = 10.0  # to which gradients are clipped


QUERIES: dict[str, Any] = dict(steps=3000, rate=1e-3, batch=4, max_norm=0.1)
RUNS = dict(
    torchvision_teacher=Run(
        "torchvision's Faster R-CNN R18, the teacher below", "faster_rcnn", 2000, 1e-3, seeds=1
    ),
    mobilenet=Run("torchvision's Faster R-CNN MobileNetV3-Small, alone", "mobilenet", 1500, 1e-3),
    mobilenet_distilled=Run(
        "the same, of MMDetection's Faster R-CNN R34", "mobilenet", 1500, 1e-3, "digits"
    ),
    # Half the images a step and more steps: with few positives an image, queries learn by updates.
    rt_detr=Run("transformers' RT-DETR (4 images a step), alone", "rt_detr", **QUERIES),
    rt_detr_distilled=Run(
        "the same, of torchvision's Faster R-CNN R18", "rt_detr", teacher="torchvision_teacher",
        **QUERIES,
    ),
    rt_detr_of_mmdetection=Run(
        "the same, of MMDetection's Faster R-CNN R34", "rt_detr", teacher="digits", **QUERIES
    ),
)  # fmt: skip
# Those of the digits configs; a student that predicts no boxes for classes has no regression.
COMPONENTS = dict(
    contrastive=dict(weight=0.5, dim=128, iou=0.5),
    imitation=dict(weight=5.0, sampling_ratio=2, boxes_per_image=16),
)


# --- Detectors ------------------------------------------------------------------------------------


def build(name: str, seed: int) -> nn.Module:
    """One of the students, from random weights: each by its own library alone."""
    torch.manual_seed(seed)
    if name == "rt_detr":
        return _rt_detr()
    if name == "faster_rcnn":
        body, channels = resnet18(), dict(layer1=64, layer2=128, layer3=256, layer4=512)
    else:
        body, channels = mobilenet_v3_small().features, {"1": 16, "3": 24, "8": 48, "11": 96}
    layers = {layer: str(level) for level, layer in enumerate(channels)}
    backbone = BackboneWithFPN(body, layers, list(channels.values()), WIDTH)
    backbone.fpn.extra_blocks = None  # four levels, of strides 4 to 32
    sides = tuple((4 * stride,) for stride in (4, 8, 16, 32))
    return FasterRCNN(
        backbone, min_size=IMAGE_SIZE, max_size=IMAGE_SIZE,
        box_head=TwoMLPHead(49 * WIDTH, 256),
        box_predictor=FastRCNNPredictor(256, len(CLASSES) + 1),
        rpn_anchor_generator=AnchorGenerator(sides, ((0.5, 1.0, 2.0),) * 4),
        box_roi_pool=MultiScaleRoIAlign(
            ["0", "1", "2", "3"], output_size=7, sampling_ratio=2, canonical_scale=48,
            canonical_level=2,
        ),
        box_batch_size_per_image=48, rpn_pre_nms_top_n_train=500, rpn_post_nms_top_n_train=200,
        rpn_pre_nms_top_n_test=500, rpn_post_nms_top_n_test=100, box_detections_per_img=50,
    )  # fmt: skip


def _rt_detr() -> nn.Module:
    from transformers import AutoModelForObjectDetection, RTDetrConfig, RTDetrResNetConfig

    backbone = RTDetrResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 64, 128], depths=[2, 2, 2, 2],
        layer_type="basic", out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = RTDetrConfig(
        num_labels=len(CLASSES), backbone_config=backbone, freeze_backbone_batch_norms=False,
        encoder_in_channels=[32, 64, 128], encoder_hidden_dim=64, encoder_ffn_dim=128,
        encoder_attention_heads=4, decoder_in_channels=[64, 64, 64], d_model=64,
        decoder_ffn_dim=128, decoder_attention_heads=4, decoder_layers=2, num_queries=60,
        num_denoising=20, hidden_expansion=0.5, anchor_image_size=None,
        initializer_range=0.05,  # from its default of 0.01 the decoder hardly learns in these steps
    )  # fmt: skip
    return AutoModelForObjectDetection.from_config(config)


def build_teacher(name: str, work_dir: Path) -> nn.Module:
    """The shipped teacher of digits, or the one that a run of these has trained."""
    if name == "digits":
        from gdetkd.detectors.mmdet import distilled

        return distilled.build_teacher(  # which keeps what it computes: the images come back
            "gdetkd::digits/faster_rcnn_r34_teacher.py",
            "gdetkd::digits_faster_rcnn_r34.pth",
            cache=dict(folder=work_dir / "teacher_pyramids", megabytes=4000),
        )
    model = build(RUNS[name].student, seed=0)
    path = work_dir / f"{name}_0" / "student.pth"
    model.load_state_dict(torch.load(path, weights_only=True))
    return model


# --- Data, loop, evaluation -----------------------------------------------------------------------


def load_split(data: Path, split: str) -> Any:
    """Images and targets of a split of digits, by torchvision's own reader of COCO's format."""
    dataset = CocoDetection(data / split, data / "annotations" / f"{split}.json")
    return wrap_dataset_for_transforms_v2(dataset, target_keys=("image_id", "boxes", "labels"))


def batches(dataset: Any, steps: range, size: int, seed: int, first: int) -> Iterator[tuple]:
    """The batches of these steps, shuffled by the seed; labels count from `first`."""
    per_pass = len(dataset) // size
    for step in steps:
        generator = torch.Generator().manual_seed(1000 * seed + step // per_pass)
        order = torch.randperm(len(dataset), generator=generator)
        start = step % per_pass * size
        found = [dataset[index] for index in order[start : start + size].tolist()]
        labels = [target["labels"] - 1 + first for _, target in found]  # COCO's are from 1
        yield (
            [to_tensor(image) for image, _ in found],
            [
                dict(boxes=torch.as_tensor(target["boxes"], dtype=torch.float32), labels=label)
                for (_, target), label in zip(found, labels, strict=True)
            ],
        )


def train(run: Run, seed: int, folder: Path, data: Path, report: Callable[[str], None]) -> dict:
    """One run of the loop; it goes on from its last checkpoint."""
    student = build(run.student, seed)
    teacher = build_teacher(run.teacher, folder.parent) if run.teacher else None
    distiller = Distiller(student, teacher, COMPONENTS if run.teacher else None, seed=seed).train()
    optimizer = torch.optim.AdamW(
        distiller.parameters(), lr=run.rate, weight_decay=1e-4, fused=True
    )
    warmup = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / 100) * (1 + math.cos(math.pi * step / run.steps)) / 2,
    )
    kept = folder / "last.pth"
    parts = dict(distiller=distiller, optimizer=optimizer, schedule=warmup)
    begin, seconds = 0, 0.0
    saved = torch.load(kept, weights_only=True) if kept.is_file() else {}
    if saved.get("run") == run._asdict():  # and not a run of other settings in the same folder
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        torch.set_rng_state(saved["random"])
        begin, seconds = saved["step"], saved["seconds"]
    else:
        torch.manual_seed(seed)
    dataset, means = load_split(data, "train"), {}
    started = time.time() - seconds
    steps, first = range(begin, run.steps), int(run.student != "rt_detr")
    loader = batches(dataset, steps, run.batch, seed, first)
    for step, (images, targets) in enumerate(loader, begin + 1):
        losses = distiller(images, targets)
        loss = sum(value for name, value in losses.items() if "loss" in name)
        if not loss.isfinite():
            raise ValueError(f"{folder.name}: the loss of step {step} is {loss.item()}")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(distiller.parameters(), run.max_norm)
        optimizer.step()
        warmup.step()
        values = {name: float(value.detach()) for name, value in losses.items()}
        means = {k: 0.98 * means.get(k, v) + 0.02 * v for k, v in values.items()}
        if step % SAVED_EVERY == 0 or step == run.steps:
            seconds = time.time() - started
            state = {name: part.state_dict() for name, part in parts.items()}
            state |= dict(random=torch.get_rng_state(), step=step, seconds=seconds)
            state |= dict(run=run._asdict())
            _save(state, kept)
            report(f"{folder.name}: step {step} of {run.steps}, loss {loss.item():.2f}")
    _save(distiller.student_state_dict(), folder / "student.pth")
    plain = build(run.student, seed)
    plain.load_state_dict(torch.load(folder / "student.pth", weights_only=True))
    return dict(
        AP=round(measure(plain, run.student, data), 4),
        losses={name: round(value, 5) for name, value in means.items()},
        seconds_per_step=round(seconds / run.steps, 4),
    )


def _save(state: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        torch.save(state, file)


@torch.no_grad()
def measure(model: nn.Module, name: str, data: Path, split: str = "val") -> float:
    """AP of the plain student on a split, by pycocotools."""
    model.eval()
    truth = json.loads((data / "annotations" / f"{split}.json").read_text())
    detections, dataset = [], load_split(data, split)
    for start in range(0, len(dataset), 25):
        chunk = [dataset[index] for index in range(start, min(start + 25, len(dataset)))]
        found = predict(model, name, [to_tensor(image) for image, _ in chunk])
        for (_, target), (boxes, scores, labels) in zip(chunk, found, strict=True):
            boxes = box_convert(boxes, "xyxy", "xywh").tolist()
            detections += [
                dict(image_id=int(target["image_id"]), category_id=label, bbox=box, score=score)
                for box, score, label in zip(boxes, scores.tolist(), labels.tolist(), strict=True)
            ]
    return float(evaluate(truth, detections).stats[0])


def predict(model: nn.Module, name: str, images: Sequence[Tensor]) -> list[tuple]:
    """Boxes in pixels, scores and COCO's labels, as the student's library predicts them."""
    if name != "rt_detr":
        return [(each["boxes"], each["scores"], each["labels"]) for each in model(list(images))]
    from transformers import RTDetrImageProcessor

    found = RTDetrImageProcessor().post_process_object_detection(
        model(pixel_values=torch.stack(list(images))), threshold=0.0,
        target_sizes=[image.shape[1:] for image in images],
    )  # fmt: skip
    return [(each["boxes"], each["scores"], each["labels"] + 1) for each in found]


# --- Records and table ----------------------------------------------------------------------------


def run_missing(
    path: Path,
    data: Path,
    work_dir: Path,
    only: Sequence[str] = (),
    seeds: int | None = None,
    report: Callable[[str], None] = print,
) -> None:
    """Run what has no record yet, the teacher first; write each record as its run ends.

    Raises:
        ValueError: `only` names no run, or a loss is not finite.
    """
    unknown = sorted(set(only) - set(RUNS))
    if unknown:
        raise ValueError(f"--only: expected some of {sorted(RUNS)}, got {unknown}")
    recorded = {(each["run"], each["seed"]) for each in read_json_lines(path)}
    wanted = [name for name in RUNS if not only or name in only]
    wanted = dict.fromkeys(
        each for name in wanted for each in (RUNS[name].teacher, name) if each in RUNS
    )
    todo = [
        (name, seed)
        for name in wanted
        for seed in range(min(RUNS[name].seeds, seeds or RUNS[name].seeds))
        if (name, seed) not in recorded
    ]
    for done, (name, seed) in enumerate(todo):
        made_in = environment()
        found = train(RUNS[name], seed, work_dir / f"{name}_{seed}", data, report)
        today = datetime.date.today().isoformat()
        settings = RUNS[name]._asdict() | dict(run=name, seed=seed, date=today)
        append_json_line(path, settings | found | made_in)
        report(f"[{done + 1}/{len(todo)}] {name}, seed {seed}: AP {100 * found['AP']:.1f}")


def as_frame(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """AP by `experiment` and `seed`, as the statistics take it."""
    frame = pd.DataFrame(records, columns=["run", "seed", "AP"])
    return frame.rename(columns=dict(run="experiment"))


def loop_page(records: Sequence[dict[str, Any]]) -> str:
    """The table in Markdown: AP over the seeds, and the gains paired by seed."""
    frame = as_frame(records)
    lines = ["| student | steps | seeds | AP | gain |", "|---|---|---|---|---|"]
    for name, run in RUNS.items():
        values = 100 * frame[frame["experiment"] == name]["AP"]
        gain = 100 * paired_gain(frame, name, run.student)
        texts = [
            plus_minus(*interval(values)) if len(values) else "not run",
            plus_minus(*interval(gain), signed=True) if run.teacher and len(gain) else "",
        ]
        lines.append(f"| {run.label} | {run.steps} | {len(values)} | {' | '.join(texts)} |")
    title = "# Students of torchvision and transformers on digits, by a plain PyTorch loop"
    note = (
        "AP on val in percent, the mean and its 95% interval over seeds; gains are paired by seed. "
        "`gdetkd reproduce loop` runs what is missing, and makes this table of "
        "[loop.jsonl](loop.jsonl)."
    )
    return "\n".join([title, "", note, "", *lines, ""])

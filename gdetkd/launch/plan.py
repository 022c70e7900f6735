"""What a training would need and write: its config, memory, time and files."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.structures import InstanceData
from PIL import Image
from torch import nn

from gdetkd.detectors.mmdet.config_errors import config_errors, read_config
from gdetkd.launch.learning_rate import scale_learning_rate
from gdetkd.launch.rehearsal import Rehearsal, rehearse
from gdetkd.ops.clock import time_call
from gdetkd.ops.console import quiet
from gdetkd.training.runner import resumable

LONGEST = 60.0  # seconds for the step that a plan measures


@dataclass(frozen=True)
class StepUsage:
    """Bytes kept for the backward pass and seconds on this machine, of one training step."""

    activations: float
    seconds: float
    measured: bool = True  # at full image size

    def scaled(self, factor: float) -> StepUsage:
        """The usage at so many times the pixels."""
        return replace(self, activations=self.activations * factor, seconds=self.seconds * factor)


def show_plan(config: Config, processes: int, whole: bool = False) -> None:
    """Print what training this config on so many processes would need and write.

    Nothing is downloaded and nothing of the run is written: the teacher gets random weights. Where
    the data are here, a few steps are run on them; else on noise.

    Args:
        whole: Print the whole config, too.

    Raises:
        ValueError: The config does not build, or its pair cannot be distilled.
    """
    config = resumable(config)
    lines: list[str] = []
    scale_learning_rate(config, processes, lines.append)
    if whole:
        print(config.pretty_text)
    with tempfile.TemporaryDirectory() as folder, config_errors(config.filename):
        model = build_with_random_teacher(config.model, Path(folder))
    batch = config.train_dataloader.batch_size
    with quiet(None):
        rehearsal = rehearse(config, model)
    size, where = image_size(config)
    if rehearsal is not None:
        size, where = rehearsal.size, "the largest of a few of the data, through the pipeline"
    usage = measure_step(model, batch, size)
    if rehearsal is not None:
        usage = replace(usage, seconds=rehearsal.step)
    images, steps = images_and_steps(config, processes)
    memory, saved = _memory(model, config.optim_wrapper.optimizer, usage)
    accumulated = config.optim_wrapper.get("accumulative_counts", 1)
    once_in = f", an update every {accumulated} steps" if accumulated > 1 else ""
    work = Path(config.work_dir)
    saving = config.default_hooks.checkpoint
    unit = "epochs" if saving.get("by_epoch", True) else "steps"
    best = " and the best one (best_*.pth)" if saving.get("save_best") else ""
    files = _gigabytes(saved * (1 + bool(best)))
    distilled = str(config.model.type).endswith("DistilledDetector")
    alone = "beside each, the student alone; " if distilled else ""
    visualizer = config.get("visualizer") or {}
    backends = [str(backend.type) for backend in visualizer.get("vis_backends") or []]
    tensorboard = " and TensorBoard" if "TensorboardVisBackend" in backends else ""
    lines += [
        f"Data: {images}",
        f"Images: {size[1]} x {size[0]} px ({where}); {batch} per step and process, "
        f"{processes} process(es){once_in}",
        memory,
        _time(config, usage, steps, processes, rehearsal),
        f"Writes to {work}/: the last {saving.get('max_keep_ckpts', 1)} checkpoint(s), every "
        f"{saving.get('interval', 1)} {unit}{best}, about {files}; {alone}"
        f"the config; TIME/vis_data/ with scalars{tensorboard}; TIME/TIME.log",
        f"Resumes from: the newest complete checkpoint in {work}/ (--resume)",
    ]
    print("\n".join(lines))


def _time(
    config: Config, usage: StepUsage, steps: int | None, processes: int, done: Rehearsal | None
) -> str:
    """A sentence about the time of a step, and of the run with its validations, if known."""
    text = f"Time: about {usage.seconds:.2f} s per step on {_device()}, one process"
    means = f"{how(usage)}; without loading of images" if done is None else "measured on the data"
    if not steps:
        return f"{text} ({means})"
    total, rounds = usage.seconds * steps, 0
    if done is not None and config.get("val_cfg"):
        loop = config.train_cfg
        every = loop.get("val_interval", 1000 if "max_iters" in loop else 1)
        rounds = -(-loop.get("max_iters", loop.get("max_epochs", 1)) // every)
        rounds += str(config.model.type).endswith("DistilledDetector")  # the teacher, once
        total += rounds * done.validation
    checks = f" with {rounds} validations of {done.validation:.0f} s" if rounds else ""
    return f"{text}; {steps} steps, {_duration(total)}{checks} ({means})"


def how(usage: StepUsage) -> str:
    """How the figures were found, for the reader of a plan."""
    if usage.measured:
        return "measured on one or two images and scaled to the batch"
    return (
        "scaled from images of a quarter of the area; full ones take too much time or memory here"
    )


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _memory(model: nn.Module, optimizer: ConfigDict, usage: StepUsage) -> tuple[str, int]:
    """A sentence about the memory of a process, and the bytes of a checkpoint."""
    state = _bytes(model.parameters()) + _bytes(model.buffers())
    trained = _bytes(p for p in model.parameters() if p.requires_grad)
    moments = 2 if "Adam" in str(optimizer.type) else 1
    teacher = getattr(model, "teacher", None)
    parts = {
        "weights": state,
        "gradients and optimizer": trained * (1 + moments),
        "teacher": 0 if teacher is None else _bytes(teacher.parameters()),
        "activations": usage.activations,
    }
    shown = ", ".join(f"{name} {_gigabytes(size)}" for name, size in parts.items())
    total = _gigabytes(sum(parts.values()))
    sentence = f"Memory per process: about {total} = {shown} (fp32; {how(usage)})"
    return sentence, state + trained * moments


def build_pair(model: ConfigDict, folder: Path) -> nn.Module:
    """Build a detector; the teacher has its own weights where they are files of this machine."""
    teacher = model.get("teacher") or {}
    if str(teacher.get("checkpoint")).startswith(("http://", "https://")):
        return build_with_random_teacher(model, folder)
    with DefaultScope.overwrite_default_scope("mmdet"):
        return MODELS.build(_untrained(model))


def build_with_random_teacher(model: ConfigDict, folder: Path) -> nn.Module:
    """Build a detector; the teacher of a distilled one gets random weights.

    Args:
        model: As in a config.
        folder: Where the random weights lie for as long as building takes.
    """
    init_default_scope("mmdet")
    model = copy.deepcopy(model)
    teacher = model.get("teacher")
    if teacher and teacher.get("config"):
        settings = teacher.config
        if isinstance(settings, str):
            settings = read_config(settings).model
        weights = folder / "random_teacher.pth"
        torch.save({"state_dict": MODELS.build(_untrained(settings)).state_dict()}, weights)
        teacher.checkpoint = str(weights)
    return MODELS.build(_untrained(model))


def _untrained(settings: dict) -> ConfigDict:
    """A model's config without weights to fetch; building does not load them, but names them."""
    return ConfigDict(Config(dict(model=copy.deepcopy(settings))).model)


def measure_step(model: nn.Module, batch: int, size: tuple[int, int]) -> StepUsage:
    """Measure a step on one image (on two, if tiny) and scale it to the batch.

    A step on a quarter of the area comes first. It shows whether a full-size step fits into memory
    and ends within a minute; if not, as for COCO on a CPU, the quarter is scaled by area.

    Args:
        model: In any mode; it is trained on noise, so do not use it afterwards.
        batch: Images of a step.
        size: Height and width in px of an image.
    """
    model = model.to(get_device()).train()
    # Some detectors fail below: a DETR's queries are picked from as many places.
    half = tuple(min(side, max(128, side // 2)) for side in size)
    images = 1 if min(size) >= 256 else min(batch, 2)  # tiny ones: too few for batch normalization
    _measure(model, images, tuple(min(128, side) for side in half))  # the first step is slower
    small = _measure(model, images, half)
    ratio = size[0] * size[1] / (half[0] * half[1])
    fits = 1.5 * ratio * small.activations < _free_memory()
    measured = fits and ratio * small.seconds < LONGEST
    usage = _measure(model, images, size) if measured else small.scaled(ratio)
    return replace(usage.scaled(batch / images), measured=measured)


def _measure(model: nn.Module, images: int, size: tuple[int, int]) -> StepUsage:
    data = noise(images, *size)
    with _saved_for_backward(model) as saved:
        seconds = time_call(lambda: _step(model, data), get_device())
    if not torch.cuda.is_available():
        seconds /= torch.get_num_threads()  # the process's time is a sum over threads
    return StepUsage(sum(saved.values()), seconds)


def _free_memory() -> int:
    """Bytes that the device, or else this machine, has left."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _step(model: nn.Module, data: dict) -> None:
    data = model.data_preprocessor(copy.deepcopy(data), True)
    losses = model.loss(data["inputs"], data["data_samples"])
    total = sum(
        value.sum()
        for name, values in losses.items()
        if "loss" in name
        for value in (values if isinstance(values, list) else [values])
    )
    total.backward()
    model.zero_grad()


@contextlib.contextmanager
def _saved_for_backward(model: nn.Module) -> Iterator[dict[int, int]]:
    """Bytes by storage that autograd keeps inside the block, without the model's state."""
    parameters = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    kept: dict[int, int] = {}
    alive = []  # or an address could be used again

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def noise(batch: int, height: int, width: int, boxes: int = 4) -> dict:
    """A batch as a data loader gives it: noise, with objects of the first class."""
    random = torch.Generator().manual_seed(0)
    inputs, samples = [], []
    for _ in range(batch):
        inputs.append(torch.randint(256, (3, height, width), generator=random, dtype=torch.uint8))
        corner = torch.rand(boxes, 2, generator=random) * torch.tensor([width, height]) * 0.5
        side = torch.rand(boxes, 2, generator=random) * torch.tensor([width, height]) * 0.4 + 8
        objects = InstanceData(bboxes=torch.cat([corner, corner + side], 1))
        objects.labels = torch.zeros(boxes, dtype=torch.long)
        nothing = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
        sample = DetDataSample(gt_instances=objects, ignored_instances=nothing)
        shape = (height, width)
        sample.set_metainfo(dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0)))
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def image_size(config: Config) -> tuple[tuple[int, int], str]:
    """Height and width in px of the largest image that a step sees, and where that comes from."""
    dataset = config.train_dataloader.dataset
    for transform in dataset.get("pipeline") or []:
        scales = transform.get("scales") or transform.get("scale")
        if scales is not None and "Resize" in str(transform["type"]):
            scales = [scales] if isinstance(scales[0], int) else scales
            width, height = max(scales, key=lambda scale: scale[0] * scale[1])
            return (height, width), f"{transform['type']} in the config"
    folder = Path(dataset.get("data_root", "")) / dataset.get("data_prefix", {}).get("img", "")
    first = next((file for file in sorted(folder.glob("*.jpg"))), None)
    if first is not None:
        width, height = Image.open(first).size
        return (height, width), f"as {first.name}"
    return (800, 1333), "assumed"


def images_and_steps(config: Config, processes: int) -> tuple[str, int | None]:
    """A sentence about the training set, and the steps of the run, if known."""
    dataset, loop = config.train_dataloader.dataset, config.train_cfg
    file = Path(dataset.get("data_root", "")) / dataset.get("ann_file", "")
    steps = loop.get("max_iters")
    if file.suffix != ".json" or not file.is_file():
        return f"{file} is missing (`gdetkd data` explains what to fetch)", steps
    number = len(json.loads(file.read_text())["images"])
    if steps is None:
        steps = -(-number // (processes * config.train_dataloader.batch_size)) * loop.max_epochs
    return f"{number} images in {file}", steps


def _bytes(tensors: Iterator[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _gigabytes(number: float) -> str:
    return f"{number / 1e9:.2f} GB" if number >= 1e8 else f"{number / 1e6:.1f} MB"


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "this CPU"

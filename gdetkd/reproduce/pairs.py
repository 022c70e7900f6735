"""Every student with every teacher, on detectors a few channels wide: which pairs train, and how.

The networks have random weights, so the matrix shows compatibility, not gains.
"""

from __future__ import annotations

import copy
import datetime
import itertools
import json
import time
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from mmdet.registry import DATASETS, MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from torch import nn

from gdetkd.checkpoints.hub import find_config
from gdetkd.detectors.mmdet.building import build_to_train
from gdetkd.detectors.mmdet.distilled import NonFiniteLossError
from gdetkd.evaluation.records import environment, markdown_table, read_json_lines
from gdetkd.ops.atomic_write import atomic_write
from gdetkd.reproduce import records
from gdetkd.reproduce.tiny_models import tiny_model

LABELS = {
    "faster_rcnn": "Faster R-CNN", "faster_rcnn_c4": "C4", "cascade_rcnn": "Cascade R-CNN",
    "retinanet": "RetinaNet", "fcos": "FCOS", "gfl": "GFL", "atss": "ATSS",
    "deformable_detr": "Deformable DETR",
}  # fmt: skip
TEACHERS = list(LABELS)
STUDENTS = TEACHERS[:-1]  # Deformable DETR is a teacher only
COMPONENTS: dict[str, dict[str, Any]] = {
    "contrastive": dict(weight=0.5, dim=16),
    "imitation": dict(weight=1.0, sampling_ratio=2, boxes_per_image=8),
    "classification": dict(weight=1.0),
    "regression": dict(weight=1.0),
}
LETTERS = dict(contrastive="C", imitation="F", classification="P", regression="R")
PLAIN_STEPS = 40  # of every student by itself, so that its boxes resemble objects
ALONE_STEPS = 10  # of a component alone, on one batch
SIZE = 64  # px

PAGE = Path(__file__).with_name("pages") / "pairs.md"


# --- Running --------------------------------------------------------------------------------------


def cells(only: Sequence[str] = ()) -> list[tuple[str, str]]:
    """(student, teacher) of the matrix; `only` has patterns STUDENT:TEACHER, e.g. 'fcos:*'.

    Raises:
        ValueError: A pattern fits no cell.
    """
    every = list(itertools.product(STUDENTS, TEACHERS))
    found = {pattern: [c for c in every if fnmatch(":".join(c), pattern)] for pattern in only}
    for pattern, fitting in found.items():
        if not fitting:
            raise ValueError(
                f"--only: expected STUDENT:TEACHER, students {', '.join(STUDENTS)} and teachers "
                f"{', '.join(TEACHERS)}, either with *; {pattern!r} is none of these pairs"
            )
    return [cell for cell in every if not only or cell in itertools.chain(*found.values())]


def run_pairs(
    chosen: Iterable[tuple[str, str]],
    path: Path,
    folder: Path,
    data_root: Path,
    steps: int = 20,
    report: Callable[[str], None] = print,
) -> None:
    """Try the pairs and record each when it has ended, in place of an earlier record of it.

    path: JSON lines; folder: for the teachers' weights; data_root: the embedded benchmark.
    """
    register_all_modules()
    MMLogger.get_current_instance().setLevel("ERROR")  # it prints a line per parameter
    chosen, began = list(chosen), time.time()
    batches, made_in = fixed_batches(data_root), environment()
    for index, (student, teacher) in enumerate(chosen, 1):
        found = try_pair(student, teacher, batches, folder, steps)
        write(path, [found | made_in | dict(date=datetime.date.today().isoformat())])
        left = (time.time() - began) / index * (len(chosen) - index)
        name = f"{LABELS[student]} of {LABELS[teacher]}"
        report(f"[{index}/{len(chosen)}] {name}: {cell_text(found)}; {left / 60:.1f} min left")


def try_pair(
    student: str, teacher: str, batches: Sequence[dict], folder: Path, steps: int
) -> dict[str, Any]:
    """The record of one pair.

    First, each component by itself: `ALONE_STEPS` steps of Adam (3e-3) on the first batch with this
    component's loss alone, and the same random numbers for MMDetection's samplers in every step;
    its loss in the first step and the mean of the last three. Then all that the pair supports,
    together with the student's own losses, for `steps` steps over all batches.
    """
    start = time.process_time()
    detectors = student_of(student, batches, folder), teacher_of(teacher, batches, folder)
    whole = list(itertools.islice(itertools.cycle(batches), steps))
    results: dict[str, dict] = {}
    for name, settings in COMPONENTS.items():
        try:
            model = _build(*detectors, {name: settings})
        except ValueError as error:
            results[name] = dict(refused=str(error))
            continue
        values = _train(model, batches[:1] * ALONE_STEPS, alone=True)
        finite = len(values) == ALONE_STEPS
        results[name] = dict(
            start=values[0] if finite else None,
            end=round(sum(values[-3:]) / 3, 5) if finite else None,
        )
    supported = {name: COMPONENTS[name] for name, found in results.items() if "start" in found}
    losses = []
    if supported:
        losses = _train(_build(*detectors, supported), whole)
    return dict(
        student=student, teacher=teacher, steps=steps, components=results, losses=losses,
        seconds=round(time.process_time() - start, 2),
    )  # fmt: skip


def teacher_of(kind: str, batches: Sequence[dict], folder: Path) -> dict[str, str | dict]:
    """Config and weights of a teacher, made on first use: random, but with live outputs.

    The heads of an untrained detector predict almost nothing, and its BatchNorm has no statistics
    of its features; so the heads are initialized larger, and the statistics measured.
    """
    config = tiny_model(kind, base=32 if kind == "faster_rcnn_c4" else 12, width=32)

    def make(model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "head" in name:
                nn.init.kaiming_normal_(parameter)
        with torch.no_grad():
            for batch in batches * 4:  # in training mode, as it is built
                data = model.data_preprocessor(copy.deepcopy(batch), True)
                model.loss(data["inputs"], data["data_samples"])

    return dict(config=config, checkpoint=_saved(folder, f"{kind}_teacher", config, make))


def student_of(kind: str, batches: Sequence[dict], folder: Path) -> dict[str, str | dict]:
    """Config and weights of a student after `PLAIN_STEPS` steps with its own losses."""
    config = tiny_model(kind, base=16 if kind == "faster_rcnn_c4" else 8)

    def make(model: nn.Module) -> None:
        _train(model, list(itertools.islice(itertools.cycle(batches), PLAIN_STEPS)))

    return dict(config=config, checkpoint=_saved(folder, f"{kind}_student", config, make))


def _saved(folder: Path, name: str, config: dict, make: Callable[[nn.Module], Any]) -> str:
    """Where a detector's weights are, made on first use."""
    path = folder / f"{name}_{records.config_hash(dict(model=config))}.pth"
    if not path.exists():
        with torch.random.fork_rng(devices=[]):
            model = build_to_train(config, seed=1)
            make(model)
        with atomic_write(path) as file:
            torch.save({"state_dict": model.state_dict()}, file)
    return str(path)


def fixed_batches(data_root: Path, count: int = 4, images: int = 2) -> list[dict]:
    """The first images of the benchmark's val at 64 px, as a data loader of a training gives them.

    (Its annotations are read in a tenth of the time that those of train take.)
    """
    config = Config.fromfile(find_config("gdetkd::_base_/digits_data.py"))
    dataset = config.train_dataloader.dataset
    dataset.update(data_root=str(data_root), ann_file="annotations/val.json")
    dataset.data_prefix.img = "val/"
    dataset.indices = count * images
    dataset.pipeline.insert(-1, dict(type="Resize", scale=(SIZE, SIZE)))
    built = DATASETS.build(dataset)
    items = [built[index] for index in range(len(built))]
    return [pseudo_collate(items[i : i + images]) for i in range(0, len(items), images)]


def _build(student: dict, teacher: dict, components: dict) -> nn.Module:
    dense = "roi_head" not in student["config"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MODELS.build(
            dict(
                type="DistilledDetector",
                student=copy.deepcopy(student["config"]),
                teacher=copy.deepcopy(teacher),
                components=copy.deepcopy(components),
                student_adapter=dict(boxes_per_image=64) if dense else None,
            )
        )
    model.student.load_state_dict(torch.load(student["checkpoint"])["state_dict"])
    return model.train()


def _train(model: nn.Module, batches: Sequence[dict], alone: bool = False) -> list[float]:
    """The total loss at each step, until one is not finite; `alone` with distillation's only."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3 if alone else 1e-3)
    values, sampling = [], model.distiller.sampling if alone else None
    state = copy.deepcopy(sampling.state_dict()) if sampling is not None else None
    with torch.random.fork_rng(devices=[]):
        for index, batch in enumerate(batches):
            torch.manual_seed(0 if alone else index)
            if sampling is not None:
                sampling.load_state_dict(state)
            data = model.data_preprocessor(copy.deepcopy(batch), True)
            losses = model.loss(data["inputs"], data["data_samples"])
            if alone:
                losses = {name: value for name, value in losses.items() if "kd_" in name}
            try:
                total, _ = model.parse_losses(losses)
            except NonFiniteLossError:
                break
            optimizer.zero_grad()
            total.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            values.append(round(float(total.detach()), 5))
    return values


# --- Records and table ----------------------------------------------------------------------------


def write(path: Path, found: Sequence[dict]) -> None:
    """Put records in, each in the place of the one that its pair had."""
    every = [*read_json_lines(path), *found]
    by_pair = {(record["student"], record["teacher"]): record for record in every}
    lines = [json.dumps(by_pair[cell], sort_keys=True) for cell in cells() if cell in by_pair]
    with atomic_write(path) as file:
        file.write("".join(line + "\n" for line in lines).encode())


def falls(component: dict) -> bool:
    """Whether a component's loss fell on the fixed batch."""
    return component.get("end") is not None and component["end"] < component["start"]


def cell_text(record: dict) -> str:
    """One letter per component that the pair has; in parentheses where its loss did not fall."""
    found = record["components"]
    if not record["losses"]:
        return "refused"
    if len(record["losses"]) < record["steps"]:
        return "not finite"
    texts = []
    for name, letter in LETTERS.items():
        if name in found:
            tried = letter if falls(found[name]) else f"({letter})"
            texts.append("–" if "refused" in found[name] else tried)
    return " ".join(texts)


def pairs_page(found: Sequence[dict]) -> str:
    """The matrix in Markdown, and every reason why a component or a pair is left out."""
    texts = {(record["student"], record["teacher"]): cell_text(record) for record in found}
    rows = {
        LABELS[student]: [texts.get((student, teacher), "not run") for teacher in TEACHERS]
        for student in STUDENTS
    }
    columns = [LABELS[teacher] for teacher in TEACHERS]
    matrix = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    reasons: dict[str, dict[str, list[str]]] = {}  # by message and student, the teachers
    for record in found:
        for tried in record["components"].values():
            if "refused" in tried:
                teachers = reasons.setdefault(tried["refused"], {})
                teachers.setdefault(record["student"], []).append(record["teacher"])
    return PAGE.read_text().format(
        size=SIZE,
        plain_steps=PLAIN_STEPS,
        alone_steps=ALONE_STEPS,
        steps=max((record["steps"] for record in found), default=0),
        count=len(found),
        minutes=sum(record["seconds"] for record in found) / 60,
        matrix=markdown_table(matrix.rename_axis("student \\ teacher").reset_index()),
        left_out="".join(f"- {_shown(pairs)}: {text}\n" for text, pairs in reasons.items()),
    )


def _shown(teachers: dict[str, list[str]]) -> str:
    """Pairs in words, from the teachers of every student; students of the same ones together."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for student, kinds in teachers.items():
        groups.setdefault(tuple(kinds), []).append(student)
    return "; ".join(
        f"{_names(students, STUDENTS)} of {_names(kinds, TEACHERS)}"
        for kinds, students in groups.items()
    )


def _names(kinds: Sequence[str], every: Sequence[str]) -> str:
    return "any" if len(kinds) == len(every) else ", ".join(LABELS[kind] for kind in kinds)

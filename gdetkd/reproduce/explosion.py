"""What a large memory does to the contrast, provoked on purpose (supplement B).

The paper saw training become unstable, and the loss often explode, when K is too large. Here
everything but the contrast is frozen: the shipped baseline and the shipped teacher represent the
proposals of new images at every step, and all that learns is a linear map of the student's
representation, in the student's place, and the shared projection f.
"""

from __future__ import annotations

import datetime
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from tqdm import tqdm

from gdetkd.detectors.mmdet.building import load_detector
from gdetkd.distillation.overlap import overlap_mask
from gdetkd.distillation.queue import FeatureQueue
from gdetkd.evaluation.images import val_images
from gdetkd.evaluation.records import (
    append_json_line,
    environment,
    markdown_table,
    read_json_lines,
)
from gdetkd.evaluation.rois import forward_rois, rpn_proposals
from gdetkd.losses import contrastive_loss
from gdetkd.reproduce.experiments import PLAIN
from gdetkd.reproduce.statistics import interval, plus_minus
from gdetkd.reproduce.teacher import STUDENTS, TEACHER, WEIGHTS

STEPS, IMAGES, PROPOSALS = 250, 8, 48  # a batch is that of the digits configs
SIZES = (1, 3, 5, 13, 60)  # K in batches, the present one among them
SEEDS = 5
DIM, IOU, TEMPERATURE = 128, 0.5, 0.07
LAST = 50  # steps that a training is judged by
PAGE = Path(__file__).with_name("pages") / "explosion.md"
EXPLODED = 1e6  # a loss above it, or one that is not finite


@dataclass(frozen=True)
class Setting:
    """How proposals are compared, and what the queue holds.

    Attributes:
        label: In tables and figures.
        cosine: Compare directions, exp(cos / gamma) as in the paper; otherwise by the inner
            products of the projections, exp(q . k), whose lengths count.
        rate: Learning rate of SGD with momentum 0.9. That of the inner product is the highest of
            those tried at which it learns from the batch alone.
        learned_keys: The keys that give f a gradient: 'batch', those of the batch, while the queue
            holds constants as in the paper; 'none', all are constants; 'all', the queue's too.
        reencoded: The queue holds representations, which f projects again at every step.
        clip: Largest norm of the gradient, or None.
    """

    label: str
    cosine: bool
    rate: float
    learned_keys: Literal["batch", "none", "all"] = "batch"
    reencoded: bool = False
    clip: float | None = None


SETTINGS = {
    "product": Setting("inner product", False, 8e-4),
    "product_clipped": Setting("inner product, gradient clipped at 10", False, 8e-4, clip=10.0),
    "product_constant": Setting("inner product, all keys constants", False, 8e-4, "none"),
    "product_reencoded_gradient": Setting(
        "inner product, queue re-encoded with a gradient", False, 8e-4, "all", reencoded=True
    ),
    "cosine": Setting("cosine (the paper's)", True, 0.02),
    "cosine_reencoded": Setting("cosine, queue re-encoded", True, 0.02, reencoded=True),
    "cosine_constant": Setting("cosine, all keys constants", True, 0.02, "none"),
    "cosine_reencoded_gradient": Setting(
        "cosine, queue re-encoded with a gradient", True, 0.02, "all", reencoded=True
    ),
}


# --- Running --------------------------------------------------------------------------------------


def frozen_batches(count: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Batches of representations (N, D) of student and teacher, and their proposals (N, 5).

    N is 384: 48 proposals of the student on each of 8 images of digits; D differs between the two.
    """
    student = load_detector(PLAIN, str(STUDENTS["baseline"]))
    teacher = load_detector(TEACHER, str(WEIGHTS))
    made = []
    for index in tqdm(range(count), desc="Representations", unit="batch", disable=None):
        images = val_images(IMAGES, index * IMAGES, split="train")
        rois = rpn_proposals(student, images, PROPOSALS)
        outputs = (forward_rois(detector, images, rois) for detector in (student, teacher))
        made.append((*(output.representation.half() for output in outputs), rois))
    return made


def train_projection(
    setting: Setting, size: int, seed: int, batches: Sequence[tuple[Tensor, Tensor, Tensor]]
) -> dict[str, Any]:
    """Train on the batches in an order that the seed draws, to the end or until the loss explodes.

    Args:
        size: K in batches; the queue has room for one fewer.
        batches: As `frozen_batches` gives them.

    Returns:
        Steps, the step of the explosion (or None), the highest loss and norm of a gradient, all
        losses, and, of the last `LAST` steps, ``information_bound``: ln N minus the loss among the
        batch's own keys, InfoNCE's lower bound on the mutual information in nats; and
        ``key_cosine``: the mean cosine between the keys of different proposals.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        order = torch.randperm(len(batches)).tolist()
        student_width, teacher_width = (rows.shape[1] for rows in batches[0][:2])
        adapter, f = nn.Linear(student_width, teacher_width), nn.Linear(teacher_width, DIM)
    nn.init.eye_(adapter.weight)
    nn.init.zeros_(adapter.bias)
    learned = [*adapter.parameters(), *f.parameters()]
    optimizer = torch.optim.SGD(learned, setting.rate, momentum=0.9, weight_decay=1e-4)
    rows = max(len(rois) for *_, rois in batches)
    queue = FeatureQueue((size - 1) * rows, teacher_width if setting.reencoded else DIM)
    losses, gradients, bounds, cosines, exploded = [], [], [], [], None
    for step, index in enumerate(order):
        student, teacher, rois = batches[index]
        student, teacher, ignore = student.float(), teacher.float(), overlap_mask(rois, IOU)
        queries = f(adapter(student))
        with torch.set_grad_enabled(setting.learned_keys != "none"):
            keys = f(teacher)
        negatives = queue.rows
        if setting.reencoded:
            with torch.set_grad_enabled(setting.learned_keys == "all"):
                negatives = _shaped(setting, f(negatives.clone()))
        loss = _loss(setting, queries, keys, negatives, ignore)
        optimizer.zero_grad()
        loss.backward()
        gradients.append(nn.utils.clip_grad_norm_(learned, setting.clip or math.inf).item())
        losses.append(loss.item())
        if not math.isfinite(gradients[-1]) or not losses[-1] < EXPLODED:
            exploded = step
            break
        with torch.no_grad():
            batch_loss = _loss(setting, queries, keys, negatives[:0], ignore)
            bounds.append(math.log(len(queries)) - batch_loss.item())
            cosines.append(_mean_cosine(keys))
        optimizer.step()
        queue.enqueue(teacher if setting.reencoded else _shaped(setting, keys.detach()))
    finite = [value for value in losses if math.isfinite(value)]
    return dict(
        steps=len(losses),
        exploded=exploded,
        highest_loss=float(f"{max(finite):.4g}"),
        highest_gradient=float(f"{max(filter(math.isfinite, gradients)):.4g}"),
        information_bound=None if exploded is not None else round(mean(bounds[-LAST:]), 4),
        key_cosine=None if exploded is not None else round(mean(cosines[-LAST:]), 4),
        losses=[float(f"{value:.4g}") for value in finite],
    )


def _loss(setting: Setting, queries: Tensor, keys: Tensor, queue: Tensor, ignore: Tensor) -> Tensor:
    if setting.cosine:
        if queue.requires_grad:  # the loss treats a queue as constant, but not keys
            keys, queue = torch.cat([keys, queue]), None
        return contrastive_loss(queries, keys, queue=queue, ignore=ignore, temperature=TEMPERATURE)
    positives = torch.eye(len(queries), dtype=torch.bool)
    logits = (queries @ keys.t()).masked_fill(ignore & ~positives, -math.inf)
    return cross_entropy(torch.cat([logits, queries @ queue.t()], 1), torch.arange(len(queries)))


def _mean_cosine(keys: Tensor) -> float:
    """Mean cosine of different rows."""
    keys, count = normalize(keys, dim=1), len(keys)
    return float(((keys @ keys.t()).sum() - count) / (count * (count - 1)))


def _shaped(setting: Setting, rows: Tensor) -> Tensor:
    """Rows as the critic compares them: of length 1, or as they are."""
    return normalize(rows, dim=1) if setting.cosine else rows


def run_missing(path: Path, report: Callable[[str], None] = print) -> list[dict]:
    """Train and record every setting, size and seed that `path` lacks; give all records."""
    made_in, found = environment(), load(path)
    recorded = {(record["setting"], record["batches"], record["seed"]) for record in found}
    wanted = [
        one for one in itertools.product(SETTINGS, SIZES, range(SEEDS)) if one not in recorded
    ]
    batches = frozen_batches(STEPS) if wanted else []
    for count, (name, size, seed) in enumerate(wanted, 1):
        setting = SETTINGS[name]
        record = dict(setting=name, batches=size, seed=seed, rate=setting.rate)
        record |= train_projection(setting, size, seed, batches) | made_in
        record["date"] = datetime.date.today().isoformat()
        append_json_line(path, record)
        found.append(record)
        stopped = record["exploded"]
        end = f"{STEPS} steps" if stopped is None else f"exploded at step {stopped}"
        report(f"[{count}/{len(wanted)}] {setting.label}, K of {size} batches, seed {seed}: {end}")
    return found


def load(path: Path) -> list[dict]:
    """The records, one per training; none when there is no file."""
    return read_json_lines(path)


# --- Table ----------------------------------------------------------------------------------------


def page(found: Iterable[dict]) -> str:
    """The table in Markdown, with what its columns mean."""

    def shown(values: pd.Series) -> str:
        return plus_minus(*interval(values.astype(float)), digits=2)

    frame, rows = pd.DataFrame(found), []
    for name, setting in SETTINGS.items():
        for size in SIZES:
            some = frame[(frame["setting"] == name) & (frame["batches"] == size)]
            whole = some[some["exploded"].isna()]
            rows.append(
                {
                    "critic": setting.label,
                    "K, batches": size,
                    "exploded": f"{len(some) - len(whole)} of {len(some)}",
                    "highest loss": f"{some['highest_loss'].max():,.3g}",
                    "information bound [nats]": shown(whole["information_bound"]),
                    "mean cosine of keys": shown(whole["key_cosine"]),
                }
            )
    return PAGE.read_text().format(
        batch=IMAGES * PROPOSALS,
        steps=STEPS,
        log_batch=math.log(IMAGES * PROPOSALS),
        last=LAST,
        temperature=TEMPERATURE,
        table=markdown_table(pd.DataFrame(rows)),
    )

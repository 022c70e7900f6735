"""What a large memory does to the contrast, provoked on purpose (supplement B).

The paper saw training become unstable, and the loss often explode, when K is too large. Here
everything but the contrast stands still: the shipped baseline and the shipped teacher look at the
proposals of fresh pictures at every step, and what learns is a linear map of the student's
representation, in the student's place, and the shared projection f.
"""

from __future__ import annotations

import datetime
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from matplotlib import colormaps, style
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from tqdm import tqdm

from gdetkd.detectors.mmdet.building import load_detector
from gdetkd.distillation.overlap import overlap_mask
from gdetkd.distillation.queue import FeatureQueue
from gdetkd.evaluation.pictures import forward_rois, rpn_proposals, val_images
from gdetkd.evaluation.records import (
    append_json_line,
    environment,
    markdown_table,
    read_json_lines,
)
from gdetkd.losses import contrastive_loss
from gdetkd.reproduce.tables import interval

STEPS, IMAGES, PROPOSALS = 250, 8, 48  # a batch is that of the digits configs
SIZES = (1, 3, 5, 13, 60)  # K in batches, the present one among them
SEEDS = 5
DIM, IOU, TEMPERATURE = 128, 0.5, 0.07
LAST = 50  # steps that a course is judged by
EXPLODED = 1e6  # a loss above it, or one that is not finite


@dataclass(frozen=True)
class Setting:
    """How proposals are compared, and what is kept of earlier batches.

    Attributes:
        label: Of tables and figures.
        cosine: Compare directions, exp(cos / gamma) as in the paper; else the inner products of
            what f makes, exp(q . k), lengths and all.
        rate: Learning rate of SGD with momentum 0.9. That of the inner product is the highest of
            a few at which it learns from the batch alone.
        keys: Which of the teacher's rows f learns from: 'batch', those of the batch, while the
            queue holds constants as in the paper; 'none', all are constants; 'all', the queue
            keeps representations that f maps anew.
        fresh: The queue keeps representations, and f maps them anew at every step.
        clip: Longest gradient, or None.
    """

    label: str
    cosine: bool
    rate: float
    keys: Literal["batch", "none", "all"] = "batch"
    fresh: bool = False
    clip: float | None = None


SETTINGS = {
    "product": Setting("inner product", False, 8e-4),
    "product_clipped": Setting("inner product, gradient clipped at 10", False, 8e-4, clip=10.0),
    "product_constant": Setting("inner product, all keys constants", False, 8e-4, keys="none"),
    "product_learned": Setting(
        "inner product, a gradient through the queue", False, 8e-4, keys="all", fresh=True
    ),
    "cosine": Setting("cosine (the paper's)", True, 0.02),
    "cosine_fresh": Setting("cosine, queue projected anew", True, 0.02, fresh=True),
    "cosine_constant": Setting("cosine, all keys constants", True, 0.02, keys="none"),
    "cosine_learned": Setting(
        "cosine, a gradient through the queue", True, 0.02, keys="all", fresh=True
    ),
}


# --- Running --------------------------------------------------------------------------------------


def batches(count: int) -> list[tuple[Tensor, ...]]:
    """Both detectors' representations (N, D) of proposals (N, 5) of new pictures, batch by batch.

    N is 384: 48 proposals of the student on 8 pictures of the embedded benchmark.
    """
    student = load_detector(
        "gdetkd::digits/faster_rcnn_r18.py", "gdetkd::digits_faster_rcnn_r18.pth"
    )
    teacher = load_detector(
        "gdetkd::digits/faster_rcnn_r34_teacher.py", "gdetkd::digits_faster_rcnn_r34.pth"
    )
    made = []
    for index in tqdm(range(count), desc="Looking at pictures", unit="batch", disable=None):
        images = val_images(IMAGES, index * IMAGES, split="train")
        rois = rpn_proposals(student, images, PROPOSALS)
        views = (forward_rois(detector, images, rois) for detector in (student, teacher))
        made.append((*(view.representation.half() for view in views), rois))
    return made


def course(
    setting: Setting, size: int, seed: int, given: Sequence[tuple[Tensor, ...]]
) -> dict[str, Any]:
    """Train on the batches in an order of the seed's, until the end or until it has exploded.

    Args:
        size: K in batches; the queue has room for one less.
        given: As `batches` makes them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        order = torch.randperm(len(given)).tolist()
        width, wide = given[0][0].shape[1], given[0][1].shape[1]
        adapter, f = nn.Linear(width, wide), nn.Linear(wide, DIM)
    nn.init.eye_(adapter.weight)
    nn.init.zeros_(adapter.bias)
    learned = [*adapter.parameters(), *f.parameters()]
    optimizer = torch.optim.SGD(learned, setting.rate, momentum=0.9, weight_decay=1e-4)
    rows = max(len(rois) for *_, rois in given)
    queue = FeatureQueue((size - 1) * rows, wide if setting.fresh else DIM)
    shaped = _unit if setting.cosine else _as_it_is
    losses, gradients, apart, alike, exploded = [], [], [], [], None
    for step, index in enumerate(order):
        student, teacher, rois = given[index]
        student, teacher, ignore = student.float(), teacher.float(), overlap_mask(rois, IOU)
        queries = f(adapter(student))
        with torch.set_grad_enabled(setting.keys != "none"):
            keys = f(teacher)
        negatives = queue.rows
        if setting.fresh:
            with torch.set_grad_enabled(setting.keys == "all"):
                negatives = shaped(f(negatives.clone()))
        loss = _loss(setting, queries, keys, negatives, ignore)
        optimizer.zero_grad()
        loss.backward()
        longest = setting.clip or math.inf
        gradients.append(nn.utils.clip_grad_norm_(learned, longest).item())
        losses.append(loss.item())
        if not math.isfinite(gradients[-1]) or not losses[-1] < EXPLODED:
            exploded = step
            break
        with torch.no_grad():
            own = _loss(setting, queries, keys, negatives[:0], ignore)
            apart.append(math.log(len(queries)) - own.item())
            alike.append(_likeness(keys))
        optimizer.step()
        queue.enqueue(teacher if setting.fresh else shaped(keys.detach()))
    finite = [value for value in losses if math.isfinite(value)]
    return dict(
        steps=len(losses),
        exploded=exploded,
        highest_loss=float(f"{max(finite):.4g}"),
        highest_gradient=float(f"{max(g for g in gradients if math.isfinite(g)):.4g}"),
        told_apart=None if exploded is not None else _tail(apart),
        likeness=None if exploded is not None else _tail(alike),
        losses=[float(f"{value:.4g}") for value in finite],
    )


def _loss(setting: Setting, queries: Tensor, keys: Tensor, queue: Tensor, ignore: Tensor) -> Tensor:
    if setting.cosine:
        if queue.requires_grad:  # the loss gives gradients to keys alone
            keys, queue = torch.cat([keys, queue]), None
        return contrastive_loss(queries, keys, queue=queue, ignore=ignore, temperature=TEMPERATURE)
    own = torch.eye(len(queries), dtype=torch.bool)
    logits = (queries @ keys.t()).masked_fill(ignore & ~own, -math.inf)
    return cross_entropy(torch.cat([logits, queries @ queue.t()], 1), torch.arange(len(queries)))


def _likeness(keys: Tensor) -> float:
    """Mean cosine of different proposals' keys: 1 if all point the same way."""
    keys, count = _unit(keys), len(keys)
    return float(((keys @ keys.t()).sum() - count) / (count * (count - 1)))


def _unit(rows: Tensor) -> Tensor:
    return normalize(rows, dim=1)


def _as_it_is(rows: Tensor) -> Tensor:
    return rows


def _tail(values: Sequence[float]) -> float:
    return round(sum(values[-LAST:]) / len(values[-LAST:]), 4)


def run_missing(path: Path, report: Callable[[str], None] = print) -> list[dict]:
    """Run and record what `path` does not have yet of every setting, size and seed; give all."""
    made_in, found = environment(), load(path)
    done = {(record["setting"], record["batches"], record["seed"]) for record in found}
    wanted = [one for one in itertools.product(SETTINGS, SIZES, range(SEEDS)) if one not in done]
    given = batches(STEPS) if wanted else []
    for count, (name, size, seed) in enumerate(wanted, 1):
        setting = SETTINGS[name]
        today = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
        record = dict(setting=name, batches=size, seed=seed, rate=setting.rate)
        record |= course(setting, size, seed, given) | made_in | dict(date=today)
        append_json_line(path, record)
        found.append(record)
        stopped = record["exploded"]
        end = f"{STEPS} steps" if stopped is None else f"exploded at step {stopped}"
        report(f"[{count}/{len(wanted)}] {setting.label}, K of {size} batches, seed {seed}: {end}")
    return found


def load(path: Path) -> list[dict]:
    """The records, one a course; none when there is no file."""
    return read_json_lines(path)


# --- Table and figure -----------------------------------------------------------------------------


def page(found: Iterable[dict]) -> str:
    """The table in Markdown, with what its columns mean."""
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
                    "told apart [nats]": _mean(whole["told_apart"]),
                    "likeness of keys": _mean(whole["likeness"]),
                }
            )
    batch = IMAGES * PROPOSALS
    return "\n".join(
        [
            "# What a large memory does to the contrast",
            "",
            f"The shipped detectors' representations of {batch} proposals a step, {STEPS} steps of "
            "SGD without clipping unless it says so; what learns is a linear map in the student's "
            "place and the projection. 'Exploded': the loss is above a million or not finite. "
            f"'Told apart' is ln {batch} less the loss among the batch's own keys, which chance "
            f"leaves at 0 and which cannot be more than {math.log(batch):.1f}; 'likeness' the mean "
            f"cosine of different proposals' keys. Both of the last {LAST} steps, mean ± 95% "
            f"interval over the seeds that ended. A cosine lies between -1 and 1, so that critic's "
            f"loss is at most 2 / {TEMPERATURE} + ln K whatever happens. Made from "
            "`explosion.jsonl` by `gdetkd reproduce explosion`.",
            "",
            markdown_table(pd.DataFrame(rows)),
            "",
        ]
    )


def _mean(values: pd.Series) -> str:
    if values.empty:
        return ""
    mean, half = interval(values.astype(float))
    return f"{mean:.2f}" if half != half else f"{mean:.2f} ± {half:.2f}"


def draw(found: Iterable[dict], out: Path) -> Path:
    """Write the figure as PNG, the same bytes every time."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with style.context("default"):  # whatever the process has set
        figure(found).savefig(out, metadata={"Software": None})
    return out


def figure(found: Iterable[dict]) -> Figure:
    """Losses of seed 0 over the steps by critic, and what the memory's size leaves."""
    frame = pd.DataFrame(found)
    # K has an order and gets a sequential map; critics have none (Okabe and Ito's palette).
    shades = colormaps["viridis_r"](torch.linspace(0.17, 1, len(SIZES)).numpy())
    made = Figure(figsize=(9, 4.2), dpi=100, layout="constrained")
    product, cosine, apart = made.subplots(1, 3)
    for axes, name in ((product, "product"), (cosine, "cosine")):
        for size, shade in zip(SIZES, shades, strict=True):
            chosen = frame.query("setting == @name and batches == @size and seed == 0")
            for losses in chosen["losses"]:
                axes.plot(losses, color=shade, lw=1.2, label=f"{size}")
        axes.set(title=SETTINGS[name].label, xlabel="step", ylabel="contrastive loss [nats]")
    product.set_yscale("log")
    cosine.set_ylim(0, None)
    made.legend(
        *cosine.get_legend_handles_labels(), title="K, batches (left and middle)",
        loc="outside lower left", ncols=len(SIZES), fontsize="small", title_fontsize="small",
    )  # fmt: skip
    lines = dict(
        cosine_learned=("D-", "#009E73", "projected anew, with a gradient"),
        cosine_fresh=("s--", "#E69F00", "projected anew"),
        cosine=("o-", "#0072B2", "stale keys (the paper's)"),
        cosine_constant=("^:", "#CC79A7", "all keys constants"),
    )
    for name, (marker, colour, label) in lines.items():
        some = frame[(frame["setting"] == name) & frame["exploded"].isna()]
        by_size = some.groupby("batches")["told_apart"]
        means, halves = zip(*(interval(values) for _, values in by_size), strict=True)
        apart.errorbar(list(by_size.groups), means, halves, fmt=marker, color=colour, capsize=3,
                       label=label)  # fmt: skip
    apart.set_xscale("log")
    apart.set_xticks(SIZES, [str(size) for size in SIZES])
    apart.minorticks_off()
    apart.set(
        title="cosine: what is learned", xlabel="memory K, batches",
        ylabel="own proposals told apart [nats]", ylim=(0, None),
    )  # fmt: skip
    made.legend(*apart.get_legend_handles_labels(), title="critic's keys (right)",
                loc="outside lower right", ncols=2, fontsize="small",
                title_fontsize="small")  # fmt: skip
    return made

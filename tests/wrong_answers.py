"""Plausible wrong answers to every exercise, by the mistake they make."""

import math

import numpy as np
import torch
from torch.nn.functional import cross_entropy, normalize

from gdetkd.lessons.exercises import (
    contrastive,
    imitation,
    loop,
    regression,
    similarity,
    tables,
    tour,
)


def _inside(box, tile):
    """The part of a box's area that lies in a tile."""
    width = max(min(box[2], tile[2]) - max(box[0], tile[0]), 0)
    height = max(min(box[3], tile[3]) - max(box[1], tile[1]), 0)
    return width * height / ((box[2] - box[0]) * (box[3] - box[1]))


def _unpaired(baseline, distilled, quantile):
    variances = np.var(baseline, ddof=1) + np.var(distilled, ddof=1)
    return quantile * math.sqrt(variances / len(baseline))


def _paired(ddof, root):
    def answer(baseline, distilled, quantile):
        gain = np.subtract(distilled, baseline)
        return quantile * gain.std(ddof=ddof) / (math.sqrt(len(gain)) if root else 1)

    return answer


def _area(box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _shared(a, b) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


def _unclipped(a, b) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return width * height / (_area(a) + _area(b) - width * height)


def _half_clipped(a, b, free: int) -> float:
    sides = [min(a[2 + i], b[2 + i]) - max(a[i], b[i]) for i in (0, 1)]
    sides[1 - free] = max(sides[1 - free], 0)
    shared = sides[0] * sides[1]
    return shared / (_area(a) + _area(b) - shared)


def _first_match(ious) -> list[bool]:
    taken, verdicts = set(), []
    for row in ious:
        free = [place for place, iou in enumerate(row) if place not in taken and iou >= 0.5]
        taken |= set(free[:1])
        verdicts.append(bool(free))
    return verdicts


WRONG = {
    "contrastive.loss": {
        "dot products": lambda q, k, t: cross_entropy(q @ k.T / t, torch.arange(len(q))),
        "temperature multiplied": lambda q, k, t: contrastive.solution_loss(q, k, 1 / t),
        "keys choose queries": lambda q, k, t: contrastive.solution_loss(k, q, t),
        "a sum": lambda q, k, t: len(q) * contrastive.solution_loss(q, k, t),
        "the sign": lambda q, k, t: -contrastive.solution_loss(q, k, t),
        "a fixed temperature": lambda q, k, t: contrastive.solution_loss(q, k, 0.2),
        "pull only": lambda q, k, t: 1 - (normalize(q) * normalize(k)).sum(1).mean(),
        "one value per query": lambda q, k, t: (
            torch.ones(len(q)) * contrastive.solution_loss(q, k, t)
        ),
    },
    "contrastive.ignored": {
        "with the diagonal": lambda ious, images, t: (ious > t) & (images[:, None] == images),
        "across images": lambda ious, images, t: (
            (ious > t) & ~torch.eye(len(images), dtype=torch.bool)
        ),
        "the threshold itself": lambda ious, images, t: (
            (ious >= t) & (images[:, None] == images) & ~torch.eye(4, dtype=torch.bool)
        ),
        "the negatives": lambda ious, images, t: (
            ~((ious > t) & (images[:, None] == images)) & ~torch.eye(4, dtype=torch.bool)
        ),
        "a fixed threshold": lambda ious, images, t: contrastive.solution_ignored(
            ious, images, 0.5
        ),
        "numbers": lambda ious, images, t: contrastive.solution_ignored(ious, images, t).float(),
    },
    "contrastive.capacity": {
        "K": 80 * 1024,
        "K minus one GPU's batch": 79 * 1024,
        "in batches": 72,
        "the present batch": 8 * 1024,
        "a string": "72 x 1024",
    },
    "loop.columns": {
        "unchanged": lambda logits: logits,
        "mirrored": lambda logits: logits.flip(1),
        "rolled the wrong way": lambda logits: logits.roll(1, 1),
        "background dropped": lambda logits: logits[:, 1:],
        "proposals rolled": lambda logits: logits.roll(-1, 0),
    },
    "loop.numbered": {
        "without numbers": lambda boxes: torch.cat(boxes),
        "number last": lambda boxes: torch.cat(
            [torch.cat([b, b.new_full((len(b), 1), i)], 1) for i, b in enumerate(boxes)]
        ),
        "from one": lambda boxes: loop.solution_numbered(
            [b.new_zeros(0, 4) for b in boxes[:1]] + boxes
        ),
        "empty images skipped": lambda boxes: loop.solution_numbered([b for b in boxes if len(b)]),
    },
    "framework.capacity": {
        "K": 10 * 4096,
        "in batches": 9,
        "the gathered batch": 4096,
        "of one GPU": 9 * 1024,
        "of one image per GPU": 9 * 2048,
        "K minus one GPU's batch": 10 * 4096 - 1024,
        "the paper's": 72 * 1024,
        "words": "36k",
    },
    "heterogeneous.scores": {
        "no background": lambda x: x.softmax(1) / x.softmax(1).amax(1, keepdim=True),
        "not divided": lambda x: torch.nn.functional.pad(x, (0, 1)).softmax(1)[:, :-1],
        "divided by the best object": lambda x: (x - x.amax(1, keepdim=True)).exp(),
        "sigmoids": torch.sigmoid,
        "background returned": lambda x: torch.nn.functional.pad(x, (0, 1)).softmax(1),
        "a maximum over boxes": lambda x: (
            torch.nn.functional.pad(x, (0, 1)).softmax(1)
            / torch.nn.functional.pad(x, (0, 1)).softmax(1).amax(0)
        )[:, :-1],
    },
    "heterogeneous.loss": {
        "background counted": 0.5,
        "cross-entropy of softmaxes": 0.9076,
        "a mean over classes": 0.15,
        "sign": -0.3,
        "sigmoids": 0.72,
    },
    "heterogeneous.negatives": {
        "three for each positive": 15,
        "three quarters": 36,
        "the largest number of positives": 12,
        "all": 4995,
        "positives not counted": 48,
    },
    "imitation.weights": {
        "a softmax over the proposals": lambda s, t, tau: ((s * t[:, None]).sum(2) / tau).softmax(
            0
        ),
        "times tau": lambda s, t, tau: ((s * t[:, None]).sum(2) * tau).softmax(1),
        "no tau": lambda s, t, tau: (s * t[:, None]).sum(2).softmax(1),
        "cosines": lambda s, t, tau: (torch.cosine_similarity(s, t[:, None], dim=2) / tau).softmax(
            1
        ),
        "a fixed tau": lambda s, t, tau: imitation.solution_weights(s, t, 0.5),
        "sigmoids": lambda s, t, tau: ((s * t[:, None]).sum(2) / tau).sigmoid(),
        "the closest in distance": lambda s, t, tau: (
            -(s - t[:, None]).square().sum(2) / tau
        ).softmax(1),
        "a single level": lambda s, t, tau: torch.nn.functional.one_hot(
            (s * t[:, None]).sum(2).argmax(1), s.shape[1]
        ).double(),
    },
    "imitation.mix": {
        "the mean of the errors": 4.0,
        "the sum of the errors": 8.0,
        "the mixture": 3,
        "the mean difference": 2,
        "words": "none",
    },
    "own_pictures.belongs": {
        "any overlap": lambda box, tile: _inside(box, tile) > 0,
        "more than half": lambda box, tile: _inside(box, tile) > 0.5,
        "all of it": lambda box, tile: _inside(box, tile) == 1,
        "half of the width": lambda box, tile: (
            2 * (min(box[2], tile[2]) - max(box[0], tile[0])) >= box[2] - box[0]
        ),
        "apart in both directions": lambda box, tile: (
            (min(box[2], tile[2]) - max(box[0], tile[0]))
            * (min(box[3], tile[3]) - max(box[1], tile[1]))
            >= 0.5 * (box[2] - box[0]) * (box[3] - box[1])
        ),
    },
    "own_pictures.passes": {
        "steps over images": lambda images, batch, steps: steps / images,
        "whole passes": lambda images, batch, steps: steps * batch // images,
        "the steps of a pass": lambda images, batch, steps: images / batch,
    },
    "launch.rate": {
        "unchanged": lambda rate, images, gpus, each: rate,
        "by the number of GPUs only": lambda rate, images, gpus, each: rate * gpus / 8,
        "the inverse": lambda rate, images, gpus, each: rate * images / (gpus * each),
        "a square root": lambda rate, images, gpus, each: rate * (gpus * each / images) ** 0.5,
    },
    "launch.repeated": {
        "always an interval": lambda step, interval: interval,
        "from the start": lambda step, interval: step,
        "half an interval": lambda step, interval: interval / 2,
        "the steps to the next checkpoint": lambda step, interval: interval - step % interval,
    },
    "launch.steps": {
        "rounded down": lambda images, gpus, each, epochs: images // (gpus * each) * epochs,
        "one GPU's batch": lambda images, gpus, each, epochs: math.ceil(images / each) * epochs,
        "rounded once, at the end": lambda images, gpus, each, epochs: math.ceil(
            images * epochs / (gpus * each)
        ),
        "one epoch": lambda images, gpus, each, epochs: math.ceil(images / (gpus * each)),
    },
    "proofs.posterior": {
        "the printed sum": lambda ratios: ratios.sum(-1, keepdim=True).expand_as(ratios),
        "a softmax of ratios": lambda ratios: ratios.softmax(-1),
        "without the candidate": lambda r: r / (r.sum(-1, keepdim=True) - r),
        "the ratio itself": lambda ratios: ratios,
        "normalized over queries": lambda ratios: ratios / ratios.sum(0, keepdim=True),
        "uniform": lambda ratios: torch.full_like(ratios, 1 / ratios.shape[-1]),
    },
    "proofs.bound": {
        "the printed log K": lambda loss, negatives: math.log(negatives) - loss,
        "bits": lambda loss, negatives: math.log2(negatives + 1) - loss,
        "the sign": lambda loss, negatives: loss - math.log(negatives + 1),
        "no loss": lambda loss, negatives: math.log(negatives + 1),
        "a string": lambda loss, negatives: "log(K + 1) - L",
    },
    "proofs.negatives": {
        "the positive counted as a negative": lambda mi: math.ceil(math.exp(mi)),
        "not rounded": lambda mi: math.exp(mi) - 1,
        "rounded down": lambda mi: math.floor(math.exp(mi)) - 1,
        "bits": lambda mi: math.ceil(2**mi) - 1,
        "the logarithm": lambda mi: math.ceil(math.log(mi + 1)),
        "the paper's K": lambda mi: 80 * 1024,
    },
    "regression.loss": {
        "absolute values first": lambda s, t, p: (p[:, :, None] * (t - s)).abs().sum((1, 2)).mean(),
        "a mean over the coordinates": lambda s, t, p: (
            (p[:, :, None] * (t - s)).sum(1).abs().mean()
        ),
        "a mean over the classes": lambda s, t, p: (
            (p[:, :, None] * (t - s)).mean(1).abs().sum(1).mean()
        ),
        "a sum over the proposals": lambda s, t, p: (p[:, :, None] * (t - s)).sum(1).abs().sum(),
        "renormalized": lambda s, t, p: regression.solution_loss(s, t, p / p.sum(1, keepdim=True)),
        "squares": lambda s, t, p: (p[:, :, None] * (t - s)).sum(1).square().sum(1).mean(),
        "the most likely class only": lambda s, t, p: (
            (t - s)[torch.arange(len(s)), p.argmax(1)].abs().sum(1).mean()
        ),
        "one per proposal": lambda s, t, p: (p[:, :, None] * (t - s)).sum(1).abs().sum(1),
    },
    "regression.by_hand": {
        "absolute values first": 0.15,
        "renormalized": 0.1,
        "a mean over coordinates": 0.0225,
        "plain": 0.2,
        "a mean over classes": 0.045,
        "signed": -0.09,
    },
    "similarity.cosines": {
        "dot products": lambda rows: rows @ rows.T,
        "normalized over proposals": lambda rows: (
            (rows / rows.norm(dim=0)) @ (rows / rows.norm(dim=0)).T
        ),
        "divided by one norm only": lambda rows: (rows / rows.norm(dim=1)[:, None]) @ rows.T,
        "negative distances": lambda rows: -torch.cdist(rows, rows),
        "channels instead of proposals": lambda rows: similarity.solution_cosines(rows.T),
        "a softmax": lambda rows: (rows @ rows.T).softmax(1),
    },
    "similarity.agreement": {
        "with the diagonal": lambda s, t: torch.corrcoef(torch.stack([s.ravel(), t.ravel()]))[0, 1],
        "mean absolute difference": lambda s, t: (s - t).abs().mean(),
        "cosine without centering": lambda s, t: torch.cosine_similarity(
            s.ravel(), t.ravel(), dim=0
        ),
        "a matrix": lambda s, t: torch.corrcoef(torch.stack([s.ravel(), t.ravel()])),
        "mean of the rows' correlations": lambda s, t: torch.stack(
            [torch.corrcoef(torch.stack([a, b]))[0, 1] for a, b in zip(s, t, strict=True)]
        ).mean(),
    },
    "tables.gap": {
        "a fraction of the teacher": lambda b, d, t: d / t,
        "relative to the baseline": lambda b, d, t: (d - b) / b,
        "the remaining gap": lambda b, d, t: (t - d) / (t - b),
        "in percent": lambda b, d, t: 100 * (d - b) / (t - b),
        "clipped": lambda b, d, t: min(1.0, max(0.0, (d - b) / (t - b))),
    },
    "tables.interval": {
        "not paired": _unpaired,
        "divided by n": _paired(ddof=0, root=True),
        "standard deviation of one run": _paired(ddof=1, root=False),
        "four seeds always": lambda b, d, q: q * np.subtract(d, b).std(ddof=1) / 2,
        "the quantile of four": lambda b, d, q: tables.half_width(b, d, 3.18),
        "standard error": lambda b, d, q: np.subtract(d, b).std(ddof=1) / math.sqrt(len(b)),
        "baseline only": lambda b, d, q: q * np.std(b, ddof=1) / math.sqrt(len(b)),
    },
    "tour.iou": {
        "over both areas": lambda a, b: _shared(a, b) / (_area(a) + _area(b)),
        "negative sides": _unclipped,
        "a negative height": lambda a, b: _half_clipped(a, b, 1),
        "a negative width": lambda a, b: _half_clipped(a, b, 0),
        "over the first": lambda a, b: _shared(a, b) / _area(a),
        "over the smaller": lambda a, b: _shared(a, b) / min(_area(a), _area(b)),
        "the shared area": _shared,
    },
    "tour.right": {
        "an object can match several": lambda ious: [max(row) >= 0.5 for row in ious],
        "the first object that matches": _first_match,
        "only the first": lambda ious: [max(ious[0]) >= 0.5] + [False] * (len(ious) - 1),
        "more than a half": lambda ious: [
            found and max(row) > 0.5 for found, row in zip(tour.right(ious), ious, strict=True)
        ],
        "the best overlap wins, not the best score": lambda ious: [
            row[0] >= 0.5 and row[0] == max(other[0] for other in ious) for row in ious
        ],
    },
}

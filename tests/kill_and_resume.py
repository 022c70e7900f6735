"""Kill a training again and again, resume it, and compare it with one that was left alone.

    python -m tests.kill_and_resume --kills 20 --out results/training/kill.json

A tiny distilled detector on tiny digits, on one thread of the CPU, with what can go wrong on the
way: a queue, random flips, a schedule, validations, a best checkpoint. Every attempt is a process
of its own that trains as `gdetkd train CONFIG --resume` does; it dies by SIGKILL, at a random
moment or while it writes a checkpoint. Afterwards everything that the last checkpoint holds, clocks
excepted, must be equal to the last bit.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from helpers import COMPONENTS, changed, distilled, faster_rcnn, run_config, save_detector
from mmengine.config import Config
from mmengine.logging import HistoryBuffer

from gdetkd.checkpoints.reading import read_checkpoint
from gdetkd.training.last_checkpoint import last_checkpoint
from gdetkd.training.runner import train

BETWEEN_CHECKPOINTS = 3


def config_for(folder: Path, data: Path, teacher: dict, steps: int, queue: int) -> Config:
    """The training: `queue` rows make its checkpoints as large as they need to be to be hit."""
    components = changed(COMPONENTS, contrastive__queue_capacity=queue)
    config = run_config(
        distilled(faster_rcnn(), teacher, components), data, folder, steps,
        optim_wrapper=dict(
            optimizer=dict(_delete_=True, type="AdamW", lr=1e-3), clip_grad=dict(max_norm=10.0)
        ),
        default_hooks__checkpoint=dict(interval=BETWEEN_CHECKPOINTS, save_last=True),
        train_cfg__val_interval=steps // 3,
    )  # fmt: skip
    config.train_dataloader.dataset.pipeline.insert(2, dict(type="RandomFlip", prob=0.5))
    config.param_scheduler = [
        dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=5),
        dict(type="CosineAnnealingLR", by_epoch=False, begin=5, end=steps),
    ]
    return config


def start(config: Config, log: Path) -> int:
    """Train in a process of its own, from the last whole checkpoint; give its id."""
    process = os.fork()  # as good as a new interpreter, less ten seconds of imports
    if process:
        return process
    code = 1
    try:
        with open(log, "a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        train(config, resume=True)
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def finished(process: int) -> bool:
    """Whether it has ended; raises if it failed by itself."""
    done, status = os.waitpid(process, os.WNOHANG)
    if done and status:
        raise RuntimeError(f"the training failed by itself with status {status}; see its log")
    return bool(done)


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def kill_while_writing(process: int, folder: Path, after: int) -> bool:
    """Kill it while its checkpoint number `after` lies unfinished; whether that was achieved."""
    seen: set[str] = set()
    while not finished(process):
        # Its own: one killed before may have left another.
        unfinished = {path.name for path in folder.glob(f".*.{process}.tmp")}
        new = {name for name in unfinished if "student" not in name} - seen
        seen |= new
        if new and len(seen) > after:
            kill(process)
            return any((folder / name).exists() for name in new)
    raise RuntimeError("the training ended before it could be killed: give it more steps")


def kill_after(process: int, folder: Path | None, seconds: float) -> bool:
    """Kill it so long after its start, or, with a folder, after its first step; False if it ended.

    A process logs every step in a folder of its own, named by the time.
    """
    before = set(folder.glob("*/vis_data/scalars.json")) if folder else set()
    while folder and not set(folder.glob("*/vis_data/scalars.json")) - before:
        if finished(process):
            return False
        time.sleep(0.001)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if finished(process):
            return False
        time.sleep(0.001)
    kill(process)
    return True


def contents(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in a checkpoint but clocks, names of runs and folders, by its path."""
    apart = ("time", "eta", "experiment_name", "cfg", "ckpt", "mmengine_version")
    if any(word in path.rsplit(".", 1)[-1] for word in apart):
        return
    if isinstance(value, HistoryBuffer):
        yield path, np.stack([value._log_history, value._count_history])
    elif isinstance(value, dict):
        for key in value:
            yield from contents(value[key], f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from contents(item, f"{path}.{index}")
    else:
        yield path, value


def differences(one: dict, other: dict) -> list[str]:
    """Paths at which two checkpoints differ in any bit."""
    left, right = dict(contents(one)), dict(contents(other))
    return sorted(left.keys() ^ right.keys()) + [
        path for path in left.keys() & right.keys() if not _equal(left[path], right[path])
    ]


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return np.array_equal(one, other, equal_nan=isinstance(one, np.ndarray))


def compare(kills: int, writes: int, steps: int, queue: int, seed: int, folder: Path) -> dict:
    """Train undisturbed, then with `kills` kills, `writes` of them in a checkpoint; the record."""
    from gdetkd.datasets.digits import build_digits

    torch.set_num_threads(1)
    data = folder / "digits"
    build_digits(data, splits={"train": 16, "val": 8})
    teacher = save_detector(faster_rcnn(base=6, channels=12, fc=24), folder / "teacher.pth")
    calm, harried = folder / "calm", folder / "harried"
    began = time.monotonic()
    process = start(config_for(calm, data, teacher, steps, queue), folder / "calm.log")
    first_step = None
    while not finished(process):
        if first_step is None and any(calm.glob("iter_*.pth")):
            first_step = time.monotonic() - began
        time.sleep(0.005)
    seconds = time.monotonic() - began
    a_step = (seconds - first_step) / (steps - BETWEEN_CHECKPOINTS)

    chance = random.Random(seed)
    others = kills - writes
    kinds = ["writing"] * writes + ["training"] * -(-others // 2) + ["any"] * (others // 2)
    chance.shuffle(kinds)
    moments = []
    for kind in kinds:
        process = start(config_for(harried, data, teacher, steps, queue), folder / "harried.log")
        began = time.monotonic()
        if kind == "writing":
            hit = kill_while_writing(process, harried, chance.randrange(2))
        elif kind == "training":
            delay = chance.uniform(0, 2 * BETWEEN_CHECKPOINTS * a_step)
            hit = kill_after(process, harried, delay)
        else:
            hit = kill_after(process, None, chance.uniform(0, first_step))
        last, _ = last_checkpoint(harried)
        moments.append(
            dict(
                kind=kind,
                seconds=round(time.monotonic() - began, 2),
                hit=hit,
                resumes_from=Path(last).stem if last else None,
            )
        )
    process = start(config_for(harried, data, teacher, steps, queue), folder / "harried.log")
    while not finished(process):
        time.sleep(0.01)

    one, other = (read_checkpoint(run / f"iter_{steps}.pth") for run in (calm, harried))
    paths = [path for path, _ in contents(one)]
    best = [sorted(path.name for path in run.glob("*.pth")) for run in (calm, harried)]
    return dict(
        kills=sum(moment["hit"] for moment in moments),
        of_them_while_writing=sum(m["hit"] for m in moments if m["kind"] == "writing"),
        steps=steps,
        checkpoint_every=BETWEEN_CHECKPOINTS,
        checkpoint_megabytes=round((calm / f"iter_{steps}.pth").stat().st_size / 1e6, 1),
        seed=seed,
        values_compared=len(paths),
        losses_compared=[p.split(".")[-1] for p in paths if "loss" in p and "log_scalars" in p],
        queue_compared=[p.split(".", 2)[-1] for p in paths if ".queue." in p],
        differences=differences(one, other),
        files=best[0],
        files_equal=best[0] == best[1],
        left_unfinished=[path.name for path in harried.glob(".*.tmp")],
        seconds_undisturbed=round(seconds, 1),
        moments=moments,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="Write the record here, too.")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="gdetkd-kill-"))
    record = compare(
        asked.kills, max(1, asked.kills // 3), 6 * asked.kills + 6, 400_000, asked.seed, folder
    )
    from gdetkd.evaluation.records import environment

    record |= dict(date=datetime.date.today().isoformat(), threads=1, **environment())
    text = json.dumps(record, indent=1)
    print(text)
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(text + "\n")
    if record["differences"] or not record["files_equal"]:
        sys.exit(f"not the same: {record['differences'][:5]}; the runs are in {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()

"""Disturb a training again and again, resume it, and compare it with one that was left alone.

    python -m tests.kill_and_resume --out results/training/kill.json

A tiny distilled detector on tiny digits, on one thread of the CPU, with what can go wrong on the
way: a queue, random flips, a schedule, validations, a best checkpoint. Once in one process, once in
two. Every attempt is `gdetkd train CONFIG --resume`, and ends by one of EVENTS. Afterwards
everything that the last checkpoint holds, clocks excepted, must be equal to the last bit.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import resource
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
from processes import Child, gdetkd, until, worker_of_rank

from gdetkd.checkpoints.reading import read_checkpoint
from gdetkd.launch import launch
from gdetkd.launch.run_lock import owners
from gdetkd.training.last_checkpoint import last_checkpoint

BETWEEN_CHECKPOINTS = 3
# SIGKILL of the only process or of the agent at some time after a step, at any moment, and while a
# checkpoint or its student-only file is being written; of a rank, after which the agent starts all
# again; of the shell around a launched training, and then of what it left; a disk that is full at
# the next checkpoint; a terminal that is closed.
EVENTS = {
    1: ["training"] * 4 + ["any moment"] * 2 + ["whole checkpoint"] * 2
    + ["student checkpoint"] * 2 + ["wrapper", "full disk", "SIGHUP"],
    2: ["rank 0", "rank 1", "training", "whole checkpoint", "student checkpoint", "wrapper",
        "full disk", "SIGHUP"],
}  # fmt: skip


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


class Attempts:
    """`gdetkd train CONFIG --resume` in a work dir, started as often as it takes."""

    def __init__(self, config: Path, work_dir: Path, processes: int, chance: random.Random):
        self.config, self.work_dir, self.processes = config, work_dir, processes
        self.chance, self.seconds = chance, (10.0, 1.0)  # to the first step, and of a step
        self.child: Child | None = None
        self.logs: set[Path] = set()

    def start(self, file_size: int = resource.RLIM_INFINITY) -> Child:
        """A new attempt, unless one is going on."""

        def prepare() -> None:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup's is inherited
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, resource.RLIM_INFINITY))

        if self.child is None or self.child.ended():
            self.logs = set(self._logs())
            several = ["--gpus", self.processes] if self.processes > 1 else []
            self.child = gdetkd(
                self.work_dir.parent, "train", self.config, "--resume",
                "--work-dir", self.work_dir, *several, prepare=prepare,
            )  # fmt: skip
        return self.child

    def finish(self) -> None:
        """Train to the end."""
        code, output = self.start().wait()
        if code:
            raise RuntimeError(f"the training failed by itself:\n{output}")

    def disturb(self, event: str) -> bool:
        """End an attempt by an event; False if it was at its end before."""
        if event == "full disk":
            code, output = self.start(file_size=2**20).wait()
            return code == 1 and "cannot write" in output
        if event == "wrapper":
            return self._kill_wrapper()
        if event.endswith("checkpoint"):
            return any(self._kill_in_writing("student" in event) for _ in range(8))
        child = self.start()
        to_first_step, of_a_step = self.seconds
        if event == "any moment":
            time.sleep(self.chance.uniform(0, to_first_step))
        elif not self._wait(lambda: set(self._logs()) - self.logs):
            return False
        else:
            time.sleep(self.chance.uniform(0, 2 * BETWEEN_CHECKPOINTS * of_a_step))
        if child.ended():
            return False
        if event.startswith("rank"):
            self.logs = set(self._logs())  # the next event comes after a step of the next start
            os.kill(worker_of_rank(int(event[-1]), self.work_dir), signal.SIGKILL)
        else:
            os.kill(child.pid, signal.SIGHUP if event == "SIGHUP" else signal.SIGKILL)
            child.wait()
        return True

    def _logs(self) -> Iterator[Path]:
        return self.work_dir.glob("*/vis_data/scalars.json")  # a folder for every start

    def _wait(self, true: Any) -> bool:
        while not true():
            if self.child.ended():
                return False
            time.sleep(0.001)
        return True

    def _kill_in_writing(self, student: bool) -> bool:
        def unfinished() -> set[Path]:
            found = self.work_dir.glob(".iter*.tmp")
            return {path for path in found if ("student" in path.name) == student}

        seen, passed_over = unfinished(), self.chance.randrange(2)  # one killed before left some
        child = self.start()
        while not child.ended():
            new = unfinished() - seen
            seen |= new
            if new and passed_over:
                passed_over -= 1
            elif new:
                writer = int(next(iter(new)).name.split(".")[-2])
                for process in dict.fromkeys([writer, child.pid]):
                    os.kill(process, signal.SIGKILL)
                child.wait()
                return any(path.exists() for path in new)
        return False

    def _kill_wrapper(self) -> bool:
        logs = set(self._logs())
        run = launch(str(self.config), self.work_dir, self.processes, resume=True)
        until(lambda: set(self._logs()) - logs or run.status() != "running")
        record = json.loads((self.work_dir / "launch.json").read_text())
        os.kill(record["pid"], signal.SIGKILL)
        run._child.wait()
        if run.status() != "running":
            return False
        for process in owners(self.work_dir):
            os.kill(process, signal.SIGKILL)
        until(lambda: run.status() != "running")
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


def compare(
    events: list[str], processes: int, steps: int, queue: int, seed: int, folder: Path
) -> dict:
    """Train undisturbed, then with these events, to so many steps; the record."""
    from gdetkd.datasets.digits import build_digits

    torch.set_num_threads(1)
    data = folder / "digits"
    build_digits(data, splits={"train": 16, "val": 8})
    teacher = save_detector(faster_rcnn(base=6, channels=12, fc=24), folder / "teacher.pth")
    config = folder / "config.py"
    config_for(folder, data, teacher, steps, queue).dump(str(config))
    chance = random.Random(seed)
    calm, harried = (
        Attempts(config, folder / name, processes, chance) for name in ("calm", "harried")
    )
    began = time.monotonic()
    calm.start()
    calm._wait(lambda: any(calm._logs()))
    first_step = time.monotonic() - began
    calm.finish()
    seconds = time.monotonic() - began
    harried.seconds = first_step, (seconds - first_step) / steps

    moments = []
    for event in events:
        began = time.monotonic()
        hit = harried.disturb(event)
        last, _ = last_checkpoint(harried.work_dir)
        moments.append(
            dict(
                event=event,
                seconds=round(time.monotonic() - began, 2),
                hit=hit,
                resumes_from=Path(last).stem if last else None,
            )
        )
    harried.finish()

    one, other = (read_checkpoint(run.work_dir / f"iter_{steps}.pth") for run in (calm, harried))
    paths = [path for path, _ in contents(one)]
    files = [sorted(path.name for path in run.work_dir.glob("*.pth")) for run in (calm, harried)]
    return dict(
        processes=processes,
        events=sum(moment["hit"] for moment in moments),
        steps=steps,
        checkpoint_every=BETWEEN_CHECKPOINTS,
        checkpoint_megabytes=round((calm.work_dir / f"iter_{steps}.pth").stat().st_size / 1e6, 1),
        seed=seed,
        values_compared=len(paths),
        losses_compared=[p.split(".")[-1] for p in paths if "loss" in p and "log_scalars" in p],
        queue_compared=[p.split(".", 2)[-1] for p in paths if ".queue." in p],
        differences=differences(one, other),
        files=files[0],
        files_equal=files[0] == files[1],
        left_unfinished=[path.name for path in harried.work_dir.glob(".*.tmp")],
        seconds_undisturbed=round(seconds, 1),
        moments=moments,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="Write the record here, too.")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="gdetkd-kill-"))
    runs = []
    for processes, events in EVENTS.items():
        if processes == 1:
            random.Random(asked.seed).shuffle(events)
        (folder / str(processes)).mkdir()
        runs.append(
            compare(
                events, processes, 6 * len(events) + 6, 400_000, asked.seed, folder / str(processes)
            )
        )
        print(json.dumps(runs[-1], indent=1), flush=True)
    from gdetkd.evaluation.records import environment

    record = dict(
        command="python -m tests.kill_and_resume --out results/training/kill.json",
        events=sum(run["events"] for run in runs),
        runs=runs,
        date=datetime.date.today().isoformat(),
        threads=1,
        **environment(),
    )
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(record, indent=1) + "\n")
    if any(run["differences"] or not run["files_equal"] for run in runs):
        sys.exit(f"not the same; the runs are in {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()

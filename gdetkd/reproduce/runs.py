"""Run what is missing of a set of experiments, several at once, one process each."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from gdetkd.reproduce import records
from gdetkd.reproduce.experiments import EXPERIMENTS, Experiment


def missing(experiments: Sequence[Experiment], path: Path, seeds: int | None) -> list[tuple]:
    """(experiment, seed) pairs with no record yet, in order of importance."""
    frame = records.load(path)
    done = set(zip(frame["experiment"], frame["seed"], strict=True))
    wanted = [
        (experiment, seed)
        for experiment in experiments
        for seed in range(seeds if seeds is not None else experiment.seeds)
    ]
    return [
        (experiment, seed) for experiment, seed in wanted if (experiment.name, seed) not in done
    ]


def run_missing(
    experiments: Sequence[Experiment],
    path: Path,
    *,
    seeds: int | None = None,
    jobs: int = 1,
    work_dir: Path = Path("work_dirs/reproduce"),
    report: Callable[[str], None] = print,
) -> int:
    """Run them, `jobs` at a time, each in a process of its own with its share of the cores.

    Gives the number of runs that failed; what they printed is kept beside their checkpoints. A run
    interrupted is run again from its start.
    """
    waiting, running, failed = missing(experiments, path, seeds), [], 0
    threads = int(
        os.environ.get("OMP_NUM_THREADS") or max(1, min(2, (os.cpu_count() or 1) // jobs))
    )
    total, done, began = len(waiting), 0, time.time()
    report(f"{total} runs to do, {jobs} at a time, {threads} thread(s) each")
    while waiting or running:
        while waiting and len(running) < jobs:
            experiment, seed = waiting.pop(0)
            folder = work_dir / f"{experiment.name}_{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, "-m", "gdetkd.reproduce.runs", experiment.name, str(seed)]
            command += [str(path), str(folder)]
            with open(folder / "output.txt", "w") as output:
                process = subprocess.Popen(
                    command, stdout=output, stderr=subprocess.STDOUT,
                    env=dict(os.environ, OMP_NUM_THREADS=str(threads)),
                )  # fmt: skip
            running.append((process, experiment, seed, folder))
        for entry in list(running):
            process, experiment, seed, folder = entry
            if process.poll() is None:
                continue
            running.remove(entry)
            done += 1
            left = (time.time() - began) / done * (total - done)
            text = "done"
            if process.returncode:
                failed += 1
                text = f"FAILED, see {folder / 'output.txt'}"
            report(
                f"[{done}/{total}] {experiment.name}, seed {seed}: {text}; {left / 60:.0f} min left"
            )
        time.sleep(1)
    return failed


def run_one(experiment: Experiment, seed: int, folder: Path) -> dict:
    """Train and validate one experiment; give its record."""
    from gdetkd.engine.training import final_metrics, load_config, train

    config = load_config(experiment.config, experiment.options, work_dir=folder, seed=seed)
    # The teacher is on record: a sweep does not measure it anew in every run.
    config.custom_hooks = [h for h in config.custom_hooks if h["type"] != "DistillationHook"]
    digest = records.config_hash(config)
    environment = records.environment()  # before: the checkout may change while it runs
    start = time.time()
    runner = train(config)
    seconds = time.time() - start
    metrics = final_metrics(runner)
    step = runner.message_hub.get_scalar("train/time").statistics("mean", 10**6)
    return dict(
        experiment=experiment.name,
        config=experiment.config,
        options=experiment.options,
        config_hash=digest,
        seed=seed,
        steps=int(config.train_cfg.max_iters),
        AP=metrics["coco/bbox_mAP"],
        AP50=metrics["coco/bbox_mAP_50"],
        APs=metrics["coco/bbox_mAP_s"],
        APm=metrics["coco/bbox_mAP_m"],
        losses={k: round(v, 5) for k, v in metrics.items() if not k.startswith("coco")},
        seconds=round(seconds, 1),
        seconds_per_step=round(float(step), 4),
        threads=torch.get_num_threads(),
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        **environment,
    )


if __name__ == "__main__":
    name, seed, path, folder = sys.argv[1:]
    records.append(path, run_one(EXPERIMENTS[name], int(seed), Path(folder)))

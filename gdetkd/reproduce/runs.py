"""Run what is missing of a set of experiments, several at once, one process each."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from gdetkd.evaluation.records import environment
from gdetkd.reproduce import records
from gdetkd.reproduce.claims import TABLES
from gdetkd.reproduce.experiments import BENCHMARKS, Experiment, experiments_of


def missing(experiments: Sequence[Experiment], path: Path, seeds: int | None) -> list[tuple]:
    """(experiment, seed) pairs with no record yet, in order of importance."""
    frame = records.load(path)
    done = set(zip(frame["experiment"], frame["seed"], strict=True))
    teachers = {experiment.needs for experiment in experiments}  # one each, whatever the seeds
    wanted = [
        (experiment, seed)
        for experiment in experiments
        for seed in range(
            experiment.seeds if seeds is None or experiment.name in teachers else seeds
        )
    ]
    return [
        (experiment, seed) for experiment, seed in wanted if (experiment.name, seed) not in done
    ]


def chosen(benchmark: str, tables: Sequence[str], only: Sequence[str] = ()) -> list[Experiment]:
    """The experiments of some tables, with the teachers they need, each once.

    Raises:
        ValueError: `only` names an experiment that the tables do not have.
    """
    known = experiments_of(BENCHMARKS[benchmark])
    names = dict.fromkeys(row.experiment for table in tables for row in TABLES[table].rows)
    unknown = sorted(set(only) - set(names))
    if unknown:
        raise ValueError(f"--only: expected some of {sorted(names)}, got {unknown}")
    wanted = []
    for name in names:
        if name in known and (not only or name in only):
            needs = known[name].needs
            wanted += [known[needs]] if needs and known[needs] not in wanted else []
            wanted.append(known[name])
    return wanted


def expected_seconds(experiment: Experiment, frame: pd.DataFrame) -> float | None:
    """How long a run takes here, from the records of its like; None without any.

    None, too, for a schedule in epochs of which no run is on record: its steps depend on the data.
    """
    from gdetkd.training.config import load_config

    count = load_config(experiment.config, experiment.options).train_cfg.get("max_iters")
    alike = frame[frame["experiment"] == experiment.name]
    if alike.empty:
        alike = frame[frame["config"] == experiment.config]
    if alike.empty:
        alike = frame
    if alike.empty:
        return None
    if count is None:
        count = alike["steps"].median() if (alike["config"] == experiment.config).all() else None
    return None if count is None else float(count * alike["seconds_per_step"].median())


def run_missing(
    benchmark: str,
    experiments: Sequence[Experiment],
    path: Path,
    *,
    seeds: int | None = None,
    jobs: int = 1,
    device: str = "auto",
    work_dir: Path = Path("work_dirs/reproduce"),
    report: Callable[[str], None] = print,
) -> int:
    """Run them, `jobs` at a time, each in a process of its own with its share of the cores.

    device: 'cpu', 'cuda' (runs are dealt out to the GPUs in turn), or 'auto'. Gives the number of
    runs that failed; what they printed is kept beside their checkpoints. A run interrupted is run
    again from its start. A run whose teacher is still being trained waits for it.
    """
    waiting, running, failed = missing(experiments, path, seeds), [], 0
    threads = int(
        os.environ.get("OMP_NUM_THREADS") or max(1, min(2, (os.cpu_count() or 1) // jobs))
    )
    total, began = len(waiting), time.time()
    report(f"{total} runs to do, {jobs} at a time, {threads} thread(s) each")
    while waiting or running:
        under_way = {experiment.name for experiment, *_ in [*running, *waiting]}
        ready = [entry for entry in waiting if entry[0].needs not in under_way]
        for experiment, seed in ready[: jobs - len(running)]:
            waiting.remove((experiment, seed))
            environment = _environment(device, total - len(waiting), threads)
            output = work_dir / f"{experiment.name}_{seed}" / "output.txt"
            arguments = [benchmark, experiment.name, str(seed), str(path), str(output.parent)]
            running.append((experiment, seed, output, _start(arguments, output, environment)))
        for entry in [entry for entry in running if entry[-1].poll() is not None]:
            running.remove(entry)
            experiment, seed, output, process = entry
            failed += bool(process.returncode)
            text = f"FAILED, see {output}" if process.returncode else "done"
            done = total - len(waiting) - len(running)
            left = (time.time() - began) / done * (total - done)
            report(
                f"[{done}/{total}] {experiment.name}, seed {seed}: {text}; {left / 60:.0f} min left"
            )
        time.sleep(1)
    return failed


def _start(arguments: list[str], output: Path, environment: dict[str, str]) -> subprocess.Popen:
    """A process of this module, which says what it says to a file."""
    output.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "gdetkd.reproduce.runs", *arguments]
    with open(output, "w") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)


def _environment(device: str, turn: int, threads: int) -> dict[str, str]:
    """Environment of a run: its threads, and the GPU whose turn it is."""
    made = dict(os.environ, OMP_NUM_THREADS=str(threads))
    if device == "cpu":
        made["CUDA_VISIBLE_DEVICES"] = ""
    elif torch.cuda.device_count() > 1:
        made["CUDA_VISIBLE_DEVICES"] = str(turn % torch.cuda.device_count())
    elif device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no GPU here (`gdetkd doctor` says more)")
    return made


def run_one(experiment: Experiment, seed: int, folder: Path) -> dict:
    """Train and validate one experiment; give its record."""
    from gdetkd.launch.learning_rate import scale_learning_rate
    from gdetkd.training.config import load_config
    from gdetkd.training.runner import final_metrics, train

    config = load_config(experiment.config, experiment.options, work_dir=folder, seed=seed)
    config = as_run(config)
    scale_learning_rate(config, 1, print)  # COCO's rates are for 16 images a step
    digest = records.config_hash(config)
    made_in = environment()  # before: the checkout may change while it runs
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
        steps=int(runner.max_iters),
        AP=metrics["coco/bbox_mAP"],
        AP50=metrics["coco/bbox_mAP_50"],
        APs=metrics["coco/bbox_mAP_s"],
        APm=metrics["coco/bbox_mAP_m"],
        APl=metrics["coco/bbox_mAP_l"],
        losses={k: round(v, 5) for k, v in metrics.items() if not k.startswith("coco")},
        peaks=peaks(runner),
        seconds=round(seconds, 1),
        seconds_per_step=round(float(step), 4),
        threads=torch.get_num_threads(),
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        **made_in,
    )


def as_run(config: Any) -> Any:
    """A config as a sweep runs it: the teacher is on record, and not measured in every run."""
    config.custom_hooks = [h for h in config.custom_hooks if h["type"] != "DistillationHook"]
    return config


def peaks(runner: Any) -> dict[str, float]:
    """The highest value, in the whole run, of the distillation losses, the sum, the gradient."""
    found = {}
    for name, history in runner.message_hub.log_scalars.items():
        name = name.removeprefix("train/")
        if name == "grad_norm" or name.split(".")[-1].endswith("loss"):
            found[name] = round(float(history.data[0].max()), 5)
    return found


if __name__ == "__main__":
    benchmark, name, seed, path, folder = sys.argv[1:]
    experiment = experiments_of(BENCHMARKS[benchmark])[name]
    records.append(path, run_one(experiment, int(seed), Path(folder)))

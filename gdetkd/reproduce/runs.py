"""Run what is missing of a set of experiments, several at once, one process each."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from gdetkd.evaluation.records import environment
from gdetkd.launch.worker import end_with_parent
from gdetkd.reproduce import records
from gdetkd.reproduce.experiments import BENCHMARKS, Experiment
from gdetkd.reproduce.registry import TABLES, experiments_of

# Steps of a pipeline that make the same of an image each time.
UNCHANGING = {"LoadImageFromFile", "LoadAnnotations", "PackDetInputs"}


def missing(experiments: Sequence[Experiment], path: Path, seeds: int | None) -> list[tuple]:
    """(experiment, seed) pairs with no record yet, in the order of the experiments."""
    frame = records.load(path)
    recorded = set(zip(frame["experiment"], frame["seed"], strict=True))
    teachers = {experiment.needs for experiment in experiments}  # one each, whatever the seeds
    return [
        (each, seed)
        for each in experiments
        for seed in range(each.seeds if seeds is None or each.name in teachers else seeds)
        if (each.name, seed) not in recorded
    ]


def chosen(benchmark: str, tables: Sequence[str], only: Sequence[str] = ()) -> list[Experiment]:
    """The experiments of some tables, each after the teacher it needs, and each once.

    Raises:
        ValueError: `only` names an experiment that the tables do not have.
    """
    known = experiments_of(BENCHMARKS[benchmark])
    names = dict.fromkeys(row.name for table in tables for row in TABLES[table].rows)
    unknown = sorted(set(only) - set(names))
    if unknown:
        raise ValueError(f"--only: expected some of {sorted(names)}, got {unknown}")
    wanted: dict[str, Experiment] = {}
    for name in names:
        if name in known and (not only or name in only):
            needs = known[name].needs
            wanted |= {each: known[each] for each in (needs, name) if each}
    return list(wanted.values())


def expected_seconds(experiment: Experiment, frame: pd.DataFrame) -> float | None:
    """How long a run takes here, from the records of similar runs; None without any.

    None, too, for a schedule in epochs of which no run is on record: its steps depend on the data.
    """
    from gdetkd.training.config import load_config

    count = load_config(experiment.config, experiment.options).train_cfg.get("max_iters")
    same_config = frame[frame["config"] == experiment.config]
    same_experiment = frame[frame["experiment"] == experiment.name]
    similar = next((some for some in (same_experiment, same_config, frame) if len(some)), None)
    if similar is None:
        return None
    if count is None and (similar["config"] == experiment.config).all():
        count = similar["steps"].median()
    return None if count is None else float(count * similar["seconds_per_step"].median())


def run_missing(
    experiments: Sequence[Experiment],
    path: Path,
    *,
    seeds: int | None = None,
    jobs: int = 1,
    device: str = "auto",
    work_dir: Path = Path("work_dirs/reproduce"),
    report: Callable[[str], None] = print,
    until: float = math.inf,
    recorded: Collection[tuple[str, int]] = (),
) -> int:
    """Run them, `jobs` at a time, each in a process of its own with its share of the cores.

    device: 'cpu', 'cuda' (runs take the GPUs in turn), or 'auto'. Gives the number of runs that
    failed; their output is kept beside their checkpoints. An interrupted run goes on from its last
    checkpoint. A run whose teacher is still being trained waits for it. At the time `until`, in
    seconds since the epoch, runs are stopped, and no other begins; those are no failures.
    recorded: (experiment, seed) pairs that are on record elsewhere.
    """
    todo, failed = missing(experiments, path, seeds), 0
    todo = [each for each in todo if (each[0].name, each[1]) not in recorded]
    threads = int(
        os.environ.get("OMP_NUM_THREADS") or max(1, min(2, (os.cpu_count() or 1) // jobs))
    )
    began, futures = time.time(), {}
    report(f"{len(todo)} runs to do, {jobs} at a time, {threads} thread(s) each")
    with ThreadPoolExecutor(jobs) as pool:
        try:
            teachers: dict[str, Future] = {}  # a teacher comes first, so no run waits for a later
            for turn, (experiment, seed) in enumerate(todo):
                folder = work_dir / f"{experiment.name}_{seed}"
                variables = os.environ | {"OMP_NUM_THREADS": str(threads)} | _gpu(device, turn)
                teacher = teachers.get(experiment.needs)
                future = pool.submit(
                    _run, experiment, seed, path, folder, variables, teacher, until
                )
                teachers[experiment.name] = future
                futures[future] = f"{experiment.name}, seed {seed}", folder / "output.txt"
            for done, future in enumerate(as_completed(futures), 1):
                name, output = futures[future]
                if future.result() is None:
                    continue
                failed += bool(future.result())
                left = (time.time() - began) / done * (len(todo) - done)
                text = f"FAILED, see {output}" if future.result() else "done"
                report(f"[{done}/{len(todo)}] {name}: {text}; {left / 60:.0f} min left")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failed


def _run(
    experiment: Experiment,
    seed: int,
    path: Path,
    folder: Path,
    variables: dict[str, str],
    teacher: Future | None,
    until: float,
) -> int | None:
    """Exit code of a process that runs one experiment, once its teacher is there; None: stopped."""
    if teacher is not None:
        teacher.result()
    left = until - time.time()
    if left <= 0:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    described = json.dumps(dataclasses.asdict(experiment))
    command = [sys.executable, "-m", __name__, described, seed, path, folder, os.getpid()]
    with open(folder / "output.txt", "w") as file:
        try:
            return subprocess.run(
                list(map(str, command)), stdout=file, stderr=subprocess.STDOUT, env=variables,
                timeout=left if math.isfinite(left) else None,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            return None


def _gpu(device: str, turn: int) -> dict[str, str]:
    """What a run's environment says of GPUs."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no GPU here (`gdetkd doctor` says more)")
    if device == "cpu":
        return {"CUDA_VISIBLE_DEVICES": ""}
    count = torch.cuda.device_count()
    return {"CUDA_VISIBLE_DEVICES": str(turn % count)} if count > 1 else {}


def run_one(experiment: Experiment, seed: int, folder: Path) -> dict:
    """Train and validate one experiment; give its record."""
    from gdetkd.launch.learning_rate import scale_learning_rate
    from gdetkd.training.config import load_config
    from gdetkd.training.runner import final_metrics, train

    config = load_config(experiment.config, experiment.options, work_dir=folder, seed=seed)
    config = as_run(config)
    scale_learning_rate(config, 1, print)  # COCO's rates are for 16 images a step
    digest = records.config_hash(config)
    keep_pyramids(config, folder.parent / "teacher_pyramids")
    made_in = environment()  # before: the checkout may change while it runs
    resume, made_in["commit"] = _begin(folder, digest, made_in["commit"])
    start = time.time()
    runner = train(config, resume=resume)
    seconds = time.time() - start
    metrics = final_metrics(runner)
    step = runner.message_hub.get_scalar("train/time").statistics("mean", 10**6)
    seconds = max(seconds, step * runner.max_iters)  # of a resumed run with what came before
    return dict(
        experiment=experiment.name,
        config=experiment.config,
        options=experiment.options,
        config_hash=digest,
        seed=seed,
        steps=int(runner.max_iters),
        **{name: metrics[f"coco/bbox_{key}"] for name, key in records.METRICS.items()},
        losses={k: round(v, 5) for k, v in metrics.items() if not k.startswith("coco")},
        peaks=peaks(runner),
        seconds=round(seconds, 1),
        seconds_per_step=round(float(step), 4),
        threads=torch.get_num_threads(),
        date=datetime.date.today().isoformat(),
        **made_in,
    )


def _begin(folder: Path, digest: str, commit: str) -> tuple[bool, str]:
    """Whether a run goes on from the checkpoints in its folder, which then are of the same config,
    and the commit that it is made with; FIRST..LAST where that changed on the way."""
    marker = folder / "begun.txt"
    begun, _, first = marker.read_text().partition(" ") if marker.is_file() else ("", "", "")
    if begun == digest:
        return True, commit if commit == first else f"{first}..{commit}"
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text(f"{digest} {commit}")
    return False, commit


def as_run(config: Any) -> Any:
    """A config as a sweep runs it: the teacher's AP is on record, so no run measures it again."""
    config.custom_hooks = [h for h in config.custom_hooks if h["type"] != "DistillationHook"]
    return config


def keep_pyramids(config: Any, folder: Path) -> None:
    """Let runs share what a teacher makes of images that are never augmented; see `PyramidCache`.

    On a CPU alone. It changes no result, so it is not part of a config's hash.
    """
    kinds = {step["type"] for step in config.train_dataloader.dataset.get("pipeline", [])}
    if (
        config.model.get("teacher")
        and kinds
        and kinds <= UNCHANGING
        and not torch.cuda.is_available()
    ):
        config.model.teacher.setdefault("cache", dict(folder=str(folder), megabytes=6000))


def peaks(runner: Any) -> dict[str, float]:
    """The highest value, in the whole run, of the distillation losses, the sum, the gradient."""
    found = {}
    for name, history in runner.message_hub.log_scalars.items():
        name = name.removeprefix("train/")
        if name == "grad_norm" or name.split(".")[-1].endswith("loss"):
            found[name] = round(float(history.data[0].max()), 5)
    return found


if __name__ == "__main__":
    described, seed, path, folder, parent = sys.argv[1:]
    end_with_parent(int(parent))
    experiment = Experiment(**json.loads(described))
    records.append(path, run_one(experiment, int(seed), Path(folder)))

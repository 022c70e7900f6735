"""One training on one, two and four processes, with the same images a step: the same AP?

    python -m tests.several_processes --out results/training/processes.jsonl

In the checkout, with data/digits there: half an hour on two cores. What is in the record already
is not run again; `--steps 60` on a machine that does nothing else tells the throughput. Every
process normalizes a batch by its own images (torch synchronizes batch normalization on GPUs alone),
so equal weights cannot be expected, only equal quality.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from gdetkd.reproduce import records
from gdetkd.reproduce.experiments import DISTILLED
from gdetkd.training.config import load_config, schedule

IMAGES = 8  # a step, all processes together
SCHEDULE = load_config(DISTILLED).train_cfg.max_iters


def train(count: int, seed: int, length: int, folder: Path) -> dict[str, object]:
    """Train the distilled student of digits; its AP on val and its median seconds a step."""
    command = [sys.executable, "-m", "gdetkd.cli", "train", DISTILLED, "--seed", str(seed)]
    command += ["--work-dir", str(folder), *(["--gpus", str(count)] if count > 1 else [])]
    options = {"train_dataloader.batch_size": IMAGES // count}
    if length != SCHEDULE:
        options |= schedule(length) | {"default_hooks.logger.interval": 10}
    command += ["--cfg-options", *(f"{name}={value}" for name, value in options.items())]
    environment = records.environment()
    with open(folder.with_suffix(".txt"), "w") as output:
        subprocess.run(
            command, check=True, stdout=output, stderr=subprocess.STDOUT,
            env=dict(os.environ, OMP_NUM_THREADS="1"),
        )  # fmt: skip
    return dict(
        processes=count, seed=seed, **measured(folder), date=datetime.date.today().isoformat(),
        command=" ".join(["gdetkd", *command[3:]]).replace(str(folder), "DIR"), **environment,
    )  # fmt: skip


def measured(folder: Path) -> dict[str, float | int]:
    """From the log of the first process, which holds what all have brought together."""
    (log,) = folder.glob("*/vis_data/scalars.json")
    lines = pd.read_json(log, lines=True)
    last = lines.dropna(subset=["coco/bbox_mAP"]).iloc[-1]
    return dict(
        AP=float(last["coco/bbox_mAP"]),
        AP50=float(last["coco/bbox_mAP_50"]),
        steps=int(lines["iter"].max()),
        seconds_per_step=round(float(lines.dropna(subset=["loss"])["time"].median()), 4),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=SCHEDULE)
    parser.add_argument("--out", type=Path, required=True, help="One JSON object a line.")
    asked = parser.parse_args()
    done = []
    if asked.out.exists():
        done = [json.loads(line) for line in asked.out.read_text().splitlines()]
    done = {(row["processes"], row["seed"], row["steps"]) for row in done}
    wanted = [(n, seed, asked.steps) for seed in range(asked.seeds) for n in asked.processes]
    left = [run for run in wanted if run not in done]
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    for run in tqdm(left, desc="trainings"):
        folder = Path(tempfile.mkdtemp(prefix="gdetkd-processes-"))
        row = train(*run, folder / "run")
        with asked.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

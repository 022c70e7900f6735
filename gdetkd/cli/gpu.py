"""`gdetkd gpu`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from gdetkd.cli.common import DATA_ROOT

BENCHMARK = "digits"
# Trainings, the most wanted first: tables whose rows are the least complete. Longer ones than
# LONGEST steps do not end within minutes.
TABLES = ("schedule", "main", "table5", "reach", "sizes", "table4", "conversion")
LONGEST = 3000
MARGIN = 10  # seconds to end everything in
WORK_DIR = Path("work_dirs/gpu_runs")


@click.command()
@click.option(
    "--minutes", default=8.0, show_default=True, type=click.FloatRange(min=0, min_open=True),
    help="For everything; what the measurements leave is for trainings.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("work_dirs/gpu"),
    show_default=True, help="Folder of the results: at most 8 files, to be taken along.",
)  # fmt: skip
@click.option(
    "--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True,
    help="cpu rehearses it.",
)  # fmt: skip
@click.option("--jobs", default=8, show_default=True, type=click.IntRange(min=1),
              help="Trainings at a time.")  # fmt: skip
@click.option(
    "--merge", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="FOLDER",
    help="Run nothing: take the results of FOLDER over into --results.",
)  # fmt: skip
@click.option(
    "--results", type=click.Path(file_okay=False, path_type=Path), default=Path("results"),
    show_default=True, help="Folder of all records.",
)  # fmt: skip
def gpu(minutes, out, device, jobs, merge, results) -> None:
    """Measure on a GPU what is not on record: tests, losses, steps, NCCL, then trainings.

    It needs no network. `make gpu-kit` packs what a machine with PyTorch alone lacks.
    """
    if merge is not None:
        merge_results(merge, results)
        return
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise click.ClickException("torch finds no GPU here; --device cpu rehearses")
    run_session(minutes, out, device, jobs, results)


def run_session(minutes: float, out: Path, device: str, jobs: int, results: Path) -> None:
    """All tasks, then trainings for as long as time is left."""
    from gdetkd.benchmarks.gpu import Session, tasks

    begun = time.time()
    session = Session(out, begun + 60 * minutes - MARGIN, device, click.echo)
    passed = session.run(tasks(out, DATA_ROOT, WORK_DIR, device))
    passed &= run_trainings(session, jobs, results / BENCHMARK, out)
    click.echo(f"Results, for `gdetkd gpu --merge`: {out} ({(time.time() - begun) / 60:.1f} min)")
    if not passed:
        raise click.ClickException(f"not everything succeeded; {out / 'gpu.json'} has the outputs")


def run_trainings(session, jobs: int, known: Path, out: Path) -> bool:
    """Runs that are not on record; whether none has failed."""
    from gdetkd.reproduce import records, runs
    from gdetkd.reproduce.report import RUNS

    begun, said = time.time(), []
    frame, path = records.load(known / RUNS), out / RUNS
    recorded = set(zip(frame["experiment"], frame["seed"], strict=True))
    wanted = [
        each for each in runs.chosen(BENCHMARK, TABLES)
        if each.options.get("train_cfg.max_iters", 0) <= LONGEST
    ]  # fmt: skip
    device = "cpu" if session.on_cpu else "cuda"
    failed = runs.run_missing(
        wanted, path, jobs=jobs, device=device, work_dir=WORK_DIR / BENCHMARK,
        report=said.append, until=session.deadline, recorded=recorded,
    )  # fmt: skip
    count = len(records.load(path))
    tails = [
        file.read_text(errors="replace")[-1000:]
        for file in sorted((WORK_DIR / BENCHMARK).glob("*/output.txt"))
        if any("FAILED" in line and str(file) in line for line in said)
    ]
    outcome = f"{count} runs" + (f", {failed} failed" if failed else "")
    session.add("trainings", outcome, time.time() - begun, "\n".join(said + tails[:4]))
    return not failed


def merge_results(folder: Path, results: Path) -> None:
    """Take over the records of a folder that `gdetkd gpu` has written, and make the pages again."""
    from gdetkd.benchmarks import report as bench
    from gdetkd.cli.reproduce import write_pages
    from gdetkd.evaluation.records import read_json_lines
    from gdetkd.reproduce import records
    from gdetkd.reproduce.report import RUNS

    if not (folder / "gpu.json").is_file():
        raise click.ClickException(f"{folder}: expected gpu.json, which `gdetkd gpu` writes")
    taken = bench.take_over(folder, results / "bench")
    path = results / BENCHMARK / RUNS
    frame = records.load(path)
    known = set(zip(frame["experiment"], frame["seed"], strict=True))
    new = [
        row for row in read_json_lines(folder / RUNS)
        if (row["experiment"], row["seed"]) not in known
    ]  # fmt: skip
    for row in new:
        records.append(path, row)
    if new:
        write_pages(path.parent, BENCHMARK)
    click.echo(f"{results}: {', '.join(taken)} and {len(new)} new runs")

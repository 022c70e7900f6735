"""What only a GPU can show, as tasks of bounded time, each in a process of its own.

The results lie in one folder: what `gdetkd bench` writes there, `gpu.json` with the outcome and the
last lines of every task, and the records of trainings. Every file is complete whenever one looks.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gdetkd.benchmarks import report
from gdetkd.evaluation.records import environment
from gdetkd.ops.atomic_write import atomic_write

TESTS = Path(__file__).parents[2] / "tests"
RUN = "gdetkd::digits/gdetkd_faster_rcnn_r18.py"
RUN_STEPS, REPEATS, LAST_CHARACTERS = 20, 9, 4000
SLOWER = 10  # may a CPU be that rehearses the tasks


@dataclass(frozen=True)
class Task:
    """A function of this module with its arguments, and the seconds it may take."""

    name: str
    run: Callable[[], None]
    seconds: float


def tasks(out: Path, data_root: str, work_dir: Path, device: str) -> list[Task]:
    """What is measured once, in order; the most certain first.

    The first is the benchmark's data, which the steps and trainings read.
    """
    bench = partial(run_bench, out=out, device=device)
    return [
        Task("digits", partial(write_data, data_root), 90),
        Task("tests", run_tests, 100),
        Task("losses", partial(bench, ("contrastive", "imitation")), 75),
        Task("step", partial(bench, ("step", "large_step")), 90),
        Task("one rank", partial(run_one_rank, work_dir / "one_rank"), 60),
    ]


def write_data(root: str) -> None:
    """The benchmark digits, if it is not there."""
    from gdetkd.datasets.embedded import verify

    if not verify(root):
        from gdetkd.datasets.digits import build_digits

        build_digits(root)


def run_tests() -> None:
    """The tests that need a GPU, from the files that have some."""
    files = [
        str(path) for path in sorted(TESTS.glob("test_*.py")) if "mark.gpu" in path.read_text()
    ]
    command = [sys.executable, "-m", "pytest", *files, "-m", "gpu", "-q", "-p", "no:cacheprovider"]
    sys.exit(subprocess.run(command).returncode)


def run_bench(names: Iterable[str], out: Path, device: str) -> None:
    """`gdetkd bench` on one device, each record written when it is there."""
    for name in names:
        report.write(out, name, report.measure(name, REPEATS, print, device))


def run_one_rank(work_dir: Path) -> None:
    """A short distilled training by torchrun's agent, with NCCL where there is a GPU."""
    from gdetkd.launch.processes import run_processes
    from gdetkd.training.config import schedule

    options = schedule(RUN_STEPS)
    request = dict(config=RUN, options=options, work_dir=str(work_dir), seed=0, amp=False,
                   data=None, start=None, resume=False)  # fmt: skip
    run_processes(request, 1)
    if not (work_dir / f"iter_{RUN_STEPS}.pth").is_file():
        raise RuntimeError(f"{work_dir}: expected the checkpoint of step {RUN_STEPS}, found none")


class Session:
    """Runs tasks until a deadline and keeps `gpu.json` current.

    On a CPU, processes are forked, which spares them every import; CUDA cannot be used in a fork.
    """

    def __init__(self, out: Path, deadline: float, device: str, say: Callable[[str], None]) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.deadline, self.say = out, deadline, say
        self.on_cpu = device == "cpu"
        self.processes = multiprocessing.get_context("fork" if self.on_cpu else "spawn")
        self.record = dict(environment(), tasks=[])

    def run(self, tasks: Iterable[Task]) -> bool:
        """Run them one after the other; whether all have succeeded."""
        return all([self._run(task) for task in tasks])

    def add(self, name: str, outcome: str, seconds: float, output: str) -> None:
        """Note what became of a task."""
        self.record["tasks"].append(
            dict(name=name, outcome=outcome, seconds=round(seconds, 1), output=output)
        )
        with atomic_write(self.out / "gpu.json") as file:
            file.write((json.dumps(self.record, indent=1) + "\n").encode())
        self.say(f"{name}: {outcome} ({seconds:.0f} s)")

    def _run(self, task: Task) -> bool:
        begun = time.time()
        limit = min(task.seconds * (SLOWER if self.on_cpu else 1), self.deadline - begun)
        if limit <= 0:
            self.add(task.name, "not begun: no time left", 0, "")
            return False
        with tempfile.NamedTemporaryFile(mode="r", errors="replace") as log:
            process = self.processes.Process(target=_in_process, args=(task.run, log.name))
            process.start()
            process.join(limit)
            ended = process.exitcode is not None
            _kill_group(process.pid)  # what it has started, too
            process.join()
            outcome = "done" if process.exitcode == 0 else f"failed, exit code {process.exitcode}"
            outcome = outcome if ended else f"stopped after {limit:.0f} s"
            self.add(task.name, outcome, time.time() - begun, log.read()[-LAST_CHARACTERS:])
        return outcome == "done"


def _in_process(run: Callable[[], None], log: str) -> None:
    os.setsid()  # a group of its own, to be ended as one
    file = open(log, "a", buffering=1)
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    sys.stdout = sys.stderr = file
    run()


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        pass

"""A training in this process, as people see it: a bar, a table, and where Ctrl-C stopped it."""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path

from mmengine.config import Config

from gdetkd.cli.common import print_table
from gdetkd.detectors.mmdet.building import is_type
from gdetkd.evaluation.records import read_json_lines
from gdetkd.evaluation.testing import SHOWN, add_recall
from gdetkd.launch.learning_rate import scale_learning_rate
from gdetkd.ops.console import quiet, say
from gdetkd.training.hooks import ProgressHook, Stopped
from gdetkd.training.runner import final_metrics, train

LOG = "console.log"


def train_here(
    config: Config, resume: bool | str, verbose: bool, baseline: Path | None = None
) -> None:
    """Train, with what the libraries print in a file, unless `verbose`; show the metrics.

    Args:
        baseline: The work dir of the student trained alone, if it was, to compare with.
    """
    scale_learning_rate(config, 1, say)
    alone = baseline_metrics(baseline, config) if baseline else {}
    for hook in config.get("custom_hooks") or []:
        if alone and is_type(hook, "DistillationHook"):
            hook.baseline = next(iter(alone.values()))
    hooks = [dict(type="StopHook")]
    if not verbose:
        hooks.insert(0, dict(type="ProgressHook"))
    config.custom_hooks = [*(config.get("custom_hooks") or []), *hooks]
    add_recall(config, ("val",))
    handler = signal.getsignal(signal.SIGINT)
    try:
        if verbose:
            runner = train(config, resume)
        else:
            with quiet(Path(config.work_dir) / LOG):
                runner = train(config, resume)
    except Stopped as stopped:
        again = [word for word in sys.argv[1:] if word != "--resume"]
        say(f"{stopped}. To go on:\n  gdetkd {shlex.join([*again, '--resume'])}")
        sys.exit(130)
    finally:
        ProgressHook.close()
        signal.signal(signal.SIGINT, handler)
    found = {"trained": final_metrics(runner)}
    teacher = runner.message_hub.runtime_info.get("teacher")
    if teacher:
        found = {"teacher": teacher, "student": found["trained"]}
        if alone:
            found["trained alone"] = alone
    show_metrics(found, f"After {runner.iter} steps, on the validation set")


def baseline_metrics(work_dir: Path, config: Config) -> dict[str, float]:
    """The last validation of a training on the same data; empty where there was none."""
    written = work_dir / f"{work_dir.name}.py"
    if not written.is_file() or config.val_dataloader.dataset.ann_file not in written.read_text():
        return {}
    found = {}
    for file in sorted(work_dir.glob("*/vis_data/scalars.json")):
        for line in read_json_lines(file):
            metrics = {name: value for name, value in line.items() if "/" in name}
            found = metrics or found
    return found


def show_metrics(found: dict[str, dict[str, float]], title: str) -> None:
    """A table of COCO's metrics, or of whatever else was measured, a row per detector."""
    first = next(iter(found.values()))
    names = [n for n in first if n.split("/")[-1] in SHOWN] or [n for n in first if "loss" not in n]
    columns = [SHOWN.get(name.split("/")[-1], name) for name in names]
    rows = [
        (label, *(f"{metrics[n]:.3f}" if metrics.get(n, -1) >= 0 else "none" for n in names))
        for label, metrics in found.items()
    ]
    if names:
        print_table(("detector", *columns), rows, title)

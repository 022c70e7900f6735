"""The command `gdetkd`."""

from __future__ import annotations

import ast
import shlex
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from gdetkd import __version__

# Libraries are imported inside the commands: `gdetkd --help` answers at once.
DATA_ROOT = "data/digits"


class ConfigOption(click.ParamType):
    """KEY=VALUE; a Python literal, true or false becomes its value, any other stays text."""

    name = "KEY=VALUE"

    def convert(self, value, param, ctx):
        key, equals, text = value.partition("=")
        if not equals or not key:
            self.fail(f"expected KEY=VALUE, got {value!r}", param, ctx)
        try:
            return key, ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return key, {"true": True, "false": False}.get(text.lower(), text)


def cfg_options(function):
    """The option by which a command overrides values of its config."""
    return click.option(
        "--cfg-options", "options", multiple=True, type=ConfigOption(),
        help="Override values of the config by their dotted keys: a.b=1 c=2.",
    )(function)  # fmt: skip


@click.group(context_settings=dict(help_option_names=["-h", "--help"]))
@click.version_option(__version__, prog_name="gdetkd")
def cli() -> None:
    """G-DetKD: knowledge distillation for MMDetection's detectors."""


@cli.command()
@click.option(
    "--steps", default=500, show_default=True, type=click.IntRange(min=2),
    help="Steps of either student.",
)  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="Seed of both runs.")
@click.option("--data-root", default=DATA_ROOT, show_default=True, help="Folder of the benchmark.")
@click.option("--work-dir", default="work_dirs/demo", show_default=True, type=click.Path())
def demo(steps: int, seed: int, data_root: str, work_dir: str) -> None:
    """Train a baseline and a distilled student, and compare them with their teacher.

    Makes the embedded benchmark first if need be. About ten minutes on two cores.
    """
    from gdetkd.demo import run_demo

    write_digits(data_root, seed=0)
    click.echo(
        "Teacher: a Faster R-CNN, ResNet-34, trained beforehand and shipped with the package.\n"
        "Student: a Faster R-CNN, ResNet-18, a quarter of the teacher's width, from scratch."
    )
    rows, picture = run_demo(Path(work_dir), steps, data_root, seed, click.echo)
    table = Table(title=f"digits val, {steps} steps, seed {seed}")
    for column in ("detector", *rows[0].metrics, "gap closed", "minutes"):
        table.add_column(column, justify="left" if column == "detector" else "right")
    for row in rows:
        table.add_row(
            row.name,
            *(f"{value:.3f}" for value in row.metrics.values()),
            "" if row.gap is None else f"{row.gap:.0%}",
            "" if row.seconds is None else f"{row.seconds / 60:.1f}",
        )
    Console().print(table)
    recorded = recorded_result()
    if recorded:
        click.echo(recorded)
    click.echo(f"Picture: {picture}\nStudents: {work_dir}/*/iter_{steps}*.pth")


@cli.group()
def data() -> None:
    """Build or verify a data set."""


@data.command()
@click.option("--root", default=DATA_ROOT, show_default=True, type=click.Path())
@click.option("--seed", default=0, show_default=True, help="Seed of every draw.")
def digits(root: str, seed: int) -> None:
    """Write the embedded benchmark: images, COCO JSON, manifest and contact sheet."""
    manifest = write_digits(root, seed)
    table = Table(title=f"digits in {root}")
    for column in ("split", "images", "objects", *manifest["objects"]["train"]):
        table.add_column(column, justify="right")
    for split, counts in manifest["objects"].items():
        numbers = [manifest["images"][split], sum(counts.values()), *counts.values()]
        table.add_row(split, *map(str, numbers))
    Console().print(table)
    click.echo(f"Look at {Path(root) / 'contact_sheet.png'}")


def data_command(layout: str, text: str) -> None:
    """Add the command that verifies and converts data sets of a layout."""
    root = DATA_ROOTS.get(layout)
    where = dict(default=root, show_default=True) if root else dict(required=True)

    @data.command(layout, help=text)
    @click.option("--root", type=click.Path(), help="Where it lies, as unpacked.", **where)
    @click.option("--out", type=click.Path(), help="Default: data/prepared/NAME.")
    @click.option(
        "--on-error", type=click.Choice(["strict", "skip"]), default="strict", show_default=True,
        help="strict: write nothing where anything is wrong. skip: leave out what is wrong.",
    )  # fmt: skip
    @click.option("--classes", help="Your own: NAME,NAME,... in the order of the labels.")
    def command(root: str, out: str | None, on_error: str, classes: str | None) -> None:
        prepare_data(layout, root, out, on_error, classes)


COCO_TRUTH = "data/coco/annotations/instances_train2017.json"
DATA_ROOTS = dict(coco="data/coco", voc07="data/VOCdevkit", bdd100k="data/bdd100k")
data_command("coco", "Verify COCO 2017, or own data in its layout.")
data_command("voc07", "Verify and convert VOC2007, or own data in its layout.")
data_command("bdd100k", "Verify and convert BDD100K, either release of labels.")
data_command("own", "Verify and convert own data in COCO's or VOC's layout.")


@cli.command()
@click.argument("config")
@click.option("--work-dir", type=click.Path(), help="Default: work_dirs/CONFIG.")
@click.option("--seed", type=int, help="In place of the config's.")
@click.option(
    "--resume", is_flag=False, flag_value="last",
    help="From the last checkpoint in the work dir, or from the file given.",
)  # fmt: skip
@click.option("--amp", is_flag=True, help="Mixed precision (GPU).")
@click.option(
    "--gpus", type=click.IntRange(min=1), metavar="N",
    help="Processes of this node, a GPU each, under torchrun's agent; without GPUs, on the CPU.",
)  # fmt: skip
@click.option(
    "--nodes", type=click.IntRange(min=1), default=1, show_default=True,
    help="Machines; srun says, too.",
)  # fmt: skip
@click.option("--node-rank", type=int, default=0, help="This machine's number, from 0.")
@click.option("--master-addr", help="Where the first machine can be reached.")
@click.option("--master-port", type=int, help="Default: 29500.")
@click.option(
    "--wait", default=600.0, show_default=True, help="Seconds to wait for the other machines."
)
@click.option("--plan", is_flag=True, help="Say what would be done, and do nothing.")
@cfg_options
def train(
    config, work_dir, seed, resume, amp, gpus, nodes, node_rank, master_addr, master_port, wait,
    plan, options,
) -> None:  # fmt: skip
    """Train CONFIG: a file, gdetkd::digits/NAME.py or mmdet::NAME.

    Processes that die are started again and go on from the last whole checkpoint.
    """
    from gdetkd.engine import processes, training

    loaded = training.load_config(config, dict(options), work_dir=work_dir, seed=seed, amp=amp)
    if gpus:
        processes.check_devices(gpus)
    machines = processes.machines(gpus, nodes, node_rank, master_addr, master_port)
    if plan:
        from gdetkd.engine.plan import show_plan

        show_plan(loaded, (gpus or 1) * (machines.count if machines else 1))
        return
    training.check_writable(loaded.work_dir)
    need_digits(loaded)
    request = dict(
        config=config, options=dict(options), work_dir=loaded.work_dir, seed=seed, amp=amp,
        resume=True if resume == "last" else resume or False,
    )  # fmt: skip
    if gpus:
        processes.run_processes(request, gpus, machines, wait=wait)
    elif processes.join_slurm():
        from gdetkd.engine.worker import work

        work(request)
    else:
        processes.say_scaled_rate(loaded, 1, click.echo)
        training.train(loaded, request["resume"])
    click.echo(f"Checkpoints and logs: {loaded.work_dir}")


@cli.command()
@click.argument("teacher")
@click.argument("student")
@click.option(
    "--data", "folder", required=True, type=click.Path(),
    help="COCO 2017 as unpacked, the digits, or what `gdetkd data` has prepared.",
)  # fmt: skip
@click.option("--checkpoint", help="The teacher's weights; by default those of MMDetection's zoo.")
@click.option("--out", type=click.Path(), help="The config's file; default: STUDENT_distilled.py.")
@click.option("--work-dir", type=click.Path(), help="Default: work_dirs/CONFIG.")
@click.option("--gpus", type=click.IntRange(min=1), metavar="N", help="As for `gdetkd train`.")
@click.option("--plan", is_flag=True, help="Write the config, say what would be done, and stop.")
def distill(teacher, student, folder, checkpoint, out, work_dir, gpus, plan) -> None:
    """Compose a config in which STUDENT learns from TEACHER, write it and train it.

    Both are configs: files, gdetkd::digits/NAME.py or mmdet::NAME.
    """
    from gdetkd.engine.compose import compose, write_config

    path = Path(out or f"{Path(student.split('::')[-1]).stem}_distilled.py")
    config = compose(teacher, student, Path(folder), checkpoint, gpus or 1)
    write_config(config, path, teacher, student)
    click.echo(f"Config, yours to edit: {path}")
    click.get_current_context().invoke(
        train, config=str(path), work_dir=work_dir, gpus=gpus, plan=plan
    )


@cli.command()
@click.argument("config")
@click.argument("checkpoint")
@click.option("--split", help="Another split than the config's, e.g. test.")
@click.option(
    "--submission", type=click.Path(), metavar="FILE.zip",
    help="Detect on COCO's test-dev2017 instead and write what its server takes.",
)  # fmt: skip
@click.option("--work-dir", type=click.Path(), help="Default: work_dirs/CONFIG.")
@cfg_options
def test(config, checkpoint, split, submission, work_dir, options) -> None:
    """Evaluate CHECKPOINT; of a distilled detector's, the student alone."""
    from gdetkd.engine.locations import find_checkpoint
    from gdetkd.engine.training import load_config
    from gdetkd.engine.training import test as run

    loaded = load_config(config, dict(options), work_dir=work_dir)
    if submission:
        from gdetkd.engine.submission import submit

        count = submit(loaded, find_checkpoint(checkpoint), submission)
        click.echo(f"{submission}: {count} detections, as the server for test-dev2017 takes them")
        return
    need_digits(loaded)
    metrics = run(loaded, find_checkpoint(checkpoint), split)
    where = split or loaded.test_dataloader.dataset.get("ann_file", "the config's test set")
    table = Table(title=f"{Path(checkpoint).name} on {where}")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.3f}" if value >= 0 else "no such objects")
    Console().print(table)


@cli.command()
@click.argument("checkpoint")
@click.argument("out")
@click.option("--half", is_flag=True, help="Store the weights in fp16.")
def export(checkpoint: str, out: str, half: bool) -> None:
    """Write the student of CHECKPOINT alone to OUT, for MMDetection's init_detector."""
    from gdetkd.engine.checkpoints import export_student

    which = export_student(checkpoint, out, half=half)
    size = Path(out).stat().st_size / 1e6
    click.echo(f"{out}: the student's weights ({which}), {size:.1f} MB")


@cli.command()
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
    from gdetkd.reproduce.held_out import measure_test

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


@cli.command()
@click.argument(
    "what", type=click.Choice(["contrastive", "imitation", "step", "all"]), default="all"
)
@click.option(
    "--repeats", default=7, show_default=True, type=click.IntRange(min=1),
    help="Measurements of every time; the median counts.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path),
    help="Record in this folder: JSON, a page and a plot.",
)  # fmt: skip
def bench(what: str, repeats: int, out: Path | None) -> None:
    """Measure the losses beside their naive forms, and a distilled step beside its floor.

    A quarter of an hour on one core; memory on the CPU needs Linux.
    """
    from gdetkd.engine.costs import report

    names = ("contrastive", "imitation", "step") if what == "all" else (what,)
    records = {}
    for name in names:
        if name == "step":
            write_digits(DATA_ROOT, seed=0)
        records[name] = report.measure(name, repeats, click.echo)
        if out:
            report.write(out, name, records[name])
    table = Table(title="Targets")
    for column in report.TARGET_COLUMNS:
        table.add_column(column, justify="left" if column == "what" else "right")
    for row in report.target_rows(records):
        table.add_row(*row)
    Console().print(table)
    if out:
        click.echo(f"Records, page and plot: {out}")


@cli.command()
def doctor() -> None:
    """Say what is installed, what is missing and what to do about it."""
    from gdetkd.engine.doctor import examine

    findings = examine(DATA_ROOT)
    table = Table(show_lines=False)
    for column in ("", "what", "found", "what to do"):
        table.add_column(column)
    for finding in findings:
        mark = "[green]ok[/]" if finding.fine else "[red]no[/]"
        table.add_row(mark, finding.what, finding.found, finding.remedy)
    Console().print(table)
    if not all(finding.fine or finding.optional for finding in findings):
        sys.exit(1)


def write_digits(root: str, seed: int) -> dict:
    """Write the benchmark if it is not there, with a progress bar."""
    from tqdm import tqdm

    from gdetkd.datasets.digits import build_digits

    def progress(items, text):
        return tqdm(items, desc=text, leave=False, disable=None)  # None: only on a terminal

    return build_digits(root, seed, progress=progress)


def prepare_data(
    layout: str, root: str, out: str | None, on_error: str, classes: str | None
) -> None:
    """Verify and convert a data set and say what became of it; exit 1 where nothing was written."""
    from tqdm import tqdm

    from gdetkd.datasets.prepare import REPORT, SHEET, config_options, one_split, prepare

    def progress(items, text):
        return tqdm(items, desc=text, leave=False, disable=None)  # None: only on a terminal

    name = layout if layout != "own" else Path(root).resolve().name
    folder = Path(out or Path("data/prepared") / name)
    names = classes and [name.strip() for name in classes.split(",")]
    prepared = prepare(layout, root, folder, on_error, names, progress)
    report = prepared.report
    for problem in report.problems[:20]:
        click.echo(str(problem))
    if len(report.problems) > 20:
        click.echo(f"... and {len(report.problems) - 20} more lines in {folder / REPORT}")
    click.echo(report.summary())
    if prepared.summary is None:
        click.echo(
            f"Nothing was written but {folder / REPORT}. Mend what it lists, or leave it out with "
            "--on-error skip.",
            err=True,
        )
        sys.exit(1)
    say_objects(prepared.summary, root)
    click.echo(f"Look at {folder / SHEET}")
    if warning := one_split(prepared.summary):
        click.echo(warning, err=True)
    expected = root == DATA_ROOTS[layout] and not report.bad if layout == "coco" else out is None
    if layout in DATA_ROOTS and expected and not classes:
        click.echo(f"gdetkd/configs/_base_/{layout}.py reads it from there.")
        return
    options = [f"{k}={v}" for k, v in config_options(prepared.summary).items()]
    lines = " \\\n    ".join(["  --cfg-options", *map(shlex.quote, options)])
    click.echo(f"To train another config on it, whose heads have as many classes:\n{lines}")


def say_objects(summary: dict, root: str) -> None:
    """How many objects of each class a prepared data set has."""
    splits = summary["splits"]
    table = Table(title=f"Objects in {root}")
    table.add_column("class")
    for split, entry in splits.items():
        table.add_column(f"{split}, {entry['count']} images", justify="right")
    for name in summary["classes"]:
        table.add_row(name, *(str(entry["objects"][name]) for entry in splits.values()))
    Console().print(table)


def need_digits(config) -> None:
    """Write the embedded benchmark where a config reads it and it is not there yet."""
    parts = ("train_dataloader", "val_dataloader", "test_dataloader")
    roots = [(config.get(part) or {}).get("dataset", {}).get("data_root") for part in parts]
    if any(root and Path(root) == Path(DATA_ROOT) for root in roots):
        write_digits(DATA_ROOT, seed=0)


def recorded_result() -> str | None:
    """The committed full-schedule result, in a sentence; None where there is no record."""
    from gdetkd.reproduce.tables import headline

    return headline()


def spread_options(arguments: list[str]) -> list[str]:
    """`--cfg-options a=1 b=2`, as MMDetection's tools take it, as one option a value."""
    spread, within = [], False
    for argument in arguments:
        more = within and "=" in argument and not argument.startswith("-")
        if more and spread[-1] != "--cfg-options":
            spread.append("--cfg-options")
        spread.append(argument)
        within = argument == "--cfg-options" or more
    return spread


def main() -> None:
    """Run the command; what went wrong with the input is said in a sentence, without traceback."""
    try:
        cli(spread_options(sys.argv[1:]), standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("Stopped.", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except KeyError as error:  # MMEngine's way to say that a config names an unknown type
        if "registry" not in str(error):
            raise
        click.echo(f"gdetkd: {error.args[0]}", err=True)
        sys.exit(1)
    except (ValueError, OSError, FloatingPointError) as error:
        click.echo(f"gdetkd: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()

"""The experiments as data: a name, a config, what it changes. The same list on every benchmark."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from gdetkd.training.config import schedule

PLAIN = "gdetkd::digits/faster_rcnn_r18.py"
DISTILLED = "gdetkd::digits/gdetkd_faster_rcnn_r18.py"
COMPONENTS = ("contrastive", "imitation", "classification", "regression")


@dataclass(frozen=True)
class Experiment:
    """One row of a table: a config with options, run with some seeds.

    `needs` is an experiment whose checkpoint it starts from: a teacher that is not shipped.
    """

    name: str
    label: str
    config: str
    options: dict[str, Any] = field(default_factory=dict)
    seeds: int = 2
    needs: str | None = None


@dataclass(frozen=True)
class Benchmark:
    """Where experiments run: what its configs are called and how large its batches are.

    Attributes:
        folder: Of its configs; a student's are `NAME.py` and, distilled, `gdetkd_NAME.py`.
        proposals: Rows of one gathered batch, the unit of the memory's size K.
        students: Their names by pair of Table 6 and by dense student.
        imitation: Weight of SGFI in its configs, and of the rivals.
        options: What it changes in every config.
    """

    name: str
    folder: str
    proposals: int
    students: dict[str, str]
    imitation: float
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def work_dir(self) -> str:
        """Where its runs leave their checkpoints, one folder a run."""
        return "work_dirs/" + ("reproduce" if self.name == "digits" else self.name)

    def plain(self, student: str) -> str:
        return f"gdetkd::{self.folder}/{self.students[student]}.py"

    def distilled(self, student: str) -> str:
        return f"gdetkd::{self.folder}/gdetkd_{self.students[student]}.py"


# The same names everywhere: the configs differ by folder.
STUDENTS = dict(
    faster_rcnn="faster_rcnn_r18", retinanet="retinanet_r18", fcos="fcos_r18",
    c4="faster_rcnn_c4_r18", cascade="cascade_rcnn_r18", gfl="gfl_r18",
)  # fmt: skip


DIGITS = Benchmark("digits", "digits", 8 * 48, STUDENTS, imitation=5.0)
STRUCTURES = dict(c4="Faster R-CNN C4", cascade="Cascade R-CNN")
LARGER = {
    f"{name}_{size}": STUDENTS[name].replace("r18", layers)
    for name in STRUCTURES
    for size, layers in (("middle", "r50"), ("large", "r101"))
}
COCO = Benchmark("coco", "coco", 8 * 1024, STUDENTS | LARGER, imitation=1.0)
# Tries the machinery in a minute; its results mean nothing.
MINIATURE = Benchmark(
    "miniature", "digits", 8 * 48, STUDENTS, imitation=5.0,
    options=schedule(4)
    | {f"{split}_dataloader.dataset.indices": 32 for split in ("train", "val", "test")},
)  # fmt: skip


def only(*kept: str, transfer: bool = False, **options: Any) -> dict[str, Any]:
    """Options that switch the other components off."""
    off = {f"model.components.{name}.weight": 0.0 for name in COMPONENTS if name not in kept}
    return off | {"model.transfer_heads": transfer} | options


def components(benchmark: Benchmark) -> list[Experiment]:
    """The components alone and together, and how long a baseline has to train for as much."""
    plain, distilled = benchmark.plain("faster_rcnn"), benchmark.distilled("faster_rcnn")
    own_regression = {"model.components.regression.class_aware": False}
    variants = {
        "gdetkd": ("G-DetKD (all)", {}),
        "no_transfer": ("All but head transfer", {"model.transfer_heads": False}),
        "transfer": ("Head transfer alone", only(transfer=True)),
        "imitation": ("SGFI alone", only("imitation")),
        "contrastive": ("CKD alone", only("contrastive")),
        "features": ("SGFI and CKD", only("imitation", "contrastive")),
        "classification": ("Class KD alone", only("classification")),
        "regression": ("CAReg alone", only("regression")),
        "ground_truth_regression": (
            "Ground-truth-class regression alone", only("regression") | own_regression,
        ),
    }  # fmt: skip
    return [
        # Eight seeds: what a seed changes is known from it.
        Experiment("baseline", "Baseline", plain, seeds=8),
        *(
            Experiment(name, label, distilled, options, seeds=5)
            for name, (label, options) in variants.items()
        ),
    ]


def schedules() -> list[Experiment]:
    """On digits: equal wall-clock, the teacher's schedule, the baseline's learning rate."""
    # A distilled step takes 1.7 times a plain one on the CPU (`gdetkd bench`).
    return [
        Experiment("baseline_1400", "Baseline, the time of G-DetKD", PLAIN, schedule(1400)),
        Experiment(
            "gdetkd_3000", "G-DetKD (all), teacher's schedule", DISTILLED, schedule(3000), seeds=3
        ),
        # As far as it goes: whether a student can reach its teacher.
        Experiment(
            "gdetkd_3000_fresh", "The same, SGFI on all boxes, the queue projected anew", DISTILLED,
            schedule(3000) | FRESH | ALL_BOXES, seeds=1,
        ),
        Experiment("baseline_3000", "Baseline, teacher's schedule", PLAIN, schedule(3000), seeds=3),
        *(
            Experiment(
                f"baseline_lr_{rate:g}", f"Baseline, learning rate {rate:g}", PLAIN,
                {"optim_wrapper.optimizer.lr": rate}, seeds=1,
            )
            for rate in (5e-4, 1e-3, 4e-3)  # the configs' own is 2e-3
        ),
    ]  # fmt: skip


def longer_dense() -> list[Experiment]:
    """On digits: RetinaNet's rows on 2,000 steps, for those of 800 differ much between seeds."""
    digits = {each.name: each for each in dense_students(DIGITS)}
    return [
        replace(
            digits[name], name=f"{name}_2000", label=f"{digits[name].label}, 2,000 steps",
            options=digits[name].options | schedule(2000), seeds=seeds,
        )
        for name, seeds in {
            "retinanet": 5, "gdetkd_retinanet": 3,
            **{f"branch_{branch}": 5 for branch in BRANCHES},
            **{f"conversion_{conversion}": 3 for conversion in CONVERSIONS},
        }.items()
    ]  # fmt: skip


def causes() -> list[Experiment]:
    """On digits: why a component does what it does, and what a shortcut costs."""
    heavier = "model.roi_head.bbox_head.loss_bbox.loss_weight"
    return [
        *(
            Experiment(
                f"regression_{weight:g}", f"CAReg alone, {label} of the weight", DISTILLED,
                only("regression") | {"model.components.regression.weight": weight}, seeds=3,
            )
            for weight, label in ((0.25, "a quarter"), (0.1, "a tenth"))
        ),
        # It is a mean over the foreground, a fifth of the boxes or less; CAReg's is over all.
        Experiment(
            "ground_truth_regression_0.1", "Ground-truth-class regression, a tenth of the weight",
            DISTILLED,
            only("regression")
            | {
                "model.components.regression.class_aware": False,
                "model.components.regression.weight": 0.1,
            },
            seeds=3,
        ),
        # Whether it is the schedule, and whether CAReg adds to the rest.
        Experiment(
            "regression_3000", "CAReg alone, teacher's schedule", DISTILLED,
            only("regression") | schedule(3000), seeds=3,
        ),
        Experiment(
            "no_regression", "All but CAReg", DISTILLED,
            {"model.components.regression.weight": 0.0}, seeds=3,
        ),
        Experiment("baseline_boxes_2", "Baseline, twice the box loss", PLAIN, {heavier: 2.0}),
        Experiment(
            "imitation_48", "SGFI alone, on all boxes", DISTILLED,
            only("imitation") | ALL_BOXES,
        ),
        *(
            Experiment(
                f"{student}_lr_{rate:g}", f"{label}: baseline, learning rate {rate:g}",
                DIGITS.plain(student), {"optim_wrapper.optimizer.lr": rate}, seeds=1,
            )
            for student, label in DENSE.items()
            for rate in (1e-3, 4e-3)  # the configs' own is 2e-3
        ),
        Experiment(
            "gdetkd_fresh", "G-DetKD (all), the queue projected anew", DISTILLED, FRESH, seeds=3
        ),
        Experiment(
            "gdetkd_learned", "G-DetKD (all), the queue projected anew, with a gradient",
            DISTILLED, LEARNED, seeds=3,
        ),
        # Whether Table 4 goes by the queue, as Table 1 does.
        *(
            Experiment(
                f"branch_{branch}_learned",
                f"RetinaNet: CKD, {branch} branch, the queue projected anew, with a gradient",
                DIGITS.distilled("retinanet"),
                only("contrastive") | {"model.student_adapter.branch": branch} | LEARNED,
                seeds=5,
            )
            for branch in BRANCHES
        ),
        # Whether the threshold of Table 2 matters where there are no negatives but the batch's:
        # `memory_1` is the same with IoU 0.5.
        *(
            Experiment(
                f"memory_1_iou_{threshold:g}", f"CKD, no queue, negatives up to IoU {threshold:g}",
                DISTILLED,
                only("contrastive")
                | {
                    "model.components.contrastive.queue_capacity": 0,
                    "model.components.contrastive.iou": threshold,
                },
                seeds=3,
            )
            for threshold in EXTREMES
        ),
        # Larger than anything in Table 1; see `explosion` for what to expect.
        *(
            Experiment(
                f"memory_60{suffix}", f"CKD, K of 60 batches{label}", DISTILLED,
                only("contrastive")
                | {"model.components.contrastive.queue_capacity": 59 * DIGITS.proposals}
                | options,
                seeds=1,
            )
            for suffix, label, options in (
                ("", "", {}), ("_learned", ", projected anew, with a gradient", LEARNED)
            )
        ),
    ]  # fmt: skip


def attempts() -> list[Experiment]:
    """On digits: what else could bring the student to its teacher, one change at a time.

    The longest has twice the teacher's own schedule.
    """
    sampler = "model.student.train_cfg.rcnn.sampler"
    distill = "model.components"
    changes = {
        "imitation_10": ("SGFI twice as heavy", {f"{distill}.imitation.weight": 10.0}),
        "contrastive_2": ("CKD four times as heavy", {f"{distill}.contrastive.weight": 2.0}),
        "classification_4": (
            "class KD four times as heavy", {f"{distill}.classification.weight": 4.0},
        ),
        "regression_0.25": (
            "CAReg a quarter as heavy", {f"{distill}.regression.weight": 0.25},
        ),
        "nonlinear": (
            "a nonlinear projection", {f"{distill}.contrastive.projection": "nonlinear"},
        ),
        "dim_256": ("a projection to 256", {f"{distill}.contrastive.dim": 256}),
        "boxes_96": ("96 proposals an image", {f"{sampler}.num": 96}),
        "level_0.1": (
            "level temperature from 0.1", {f"{distill}.imitation.temperature": 0.1},
        ),
        "level_10": ("level temperature from 10", {f"{distill}.imitation.temperature": 10.0}),
    }  # fmt: skip
    best = {
        f"{distill}.imitation.weight": 10.0, f"{distill}.contrastive.weight": 2.0,
        f"{distill}.regression.weight": 0.25, **LEARNED, **ALL_BOXES,
    }  # fmt: skip
    together = "SGFI and CKD heavier, CAReg lighter, all boxes, a queue with a gradient"
    return [
        Experiment("gdetkd_together", f"G-DetKD (all), {together}", DISTILLED, best, seeds=1),
        Experiment(
            "gdetkd_6000_together", "The same, 6,000 steps", DISTILLED, best | schedule(6000), 1
        ),
        Experiment(
            "gdetkd_6000", "G-DetKD (all), 6,000 steps", DISTILLED, schedule(6000), seeds=1
        ),
        *(
            Experiment(f"gdetkd_{name}", f"G-DetKD (all), {label}", DISTILLED, options, seeds=1)
            for name, (label, options) in changes.items()
        ),
        Experiment("baseline_6000", "Baseline, 6,000 steps", PLAIN, schedule(6000), seeds=1),
        # Whether heads that are the teacher's own and frozen hold it back in the long run.
        Experiment(
            "no_transfer_3000", "All but head transfer, teacher's schedule", DISTILLED,
            {"model.transfer_heads": False} | schedule(3000), seeds=1,
        ),
    ]  # fmt: skip


def tuning() -> list[Experiment]:
    """On digits: how the weights of the config were picked, on val and seed 0."""
    imitation, contrastive = (f"model.components.{n}.weight" for n in ("imitation", "contrastive"))
    changes = {
        "1": ("SGFI's weight 1", {imitation: 1.0}),
        "3": ("SGFI's weight 3, CKD's 0.1", {imitation: 3.0, contrastive: 0.1}),
        "3_48": (
            "SGFI's weight 3 and on all boxes, CKD's 0.1",
            {imitation: 3.0, contrastive: 0.1, **ALL_BOXES},
        ),
    }
    return [
        Experiment(f"tuning_{name}", f"G-DetKD (all), {label}", DISTILLED, options, seeds=1)
        for name, (label, options) in changes.items()
    ]


def larger_students() -> list[Experiment]:
    """On digits: Faster R-CNN students of two more sizes, on the teacher's own schedule.

    The teacher has 3.6 times the parameters of the configs' student; the paper's (Faster R-CNN of
    R50 and R18) 1.5 times. The wide student is nearer to that, 1.6 times smaller than its teacher,
    and the large one is as large. `schedules` has the same rows of the small student.
    """
    sizes = {
        "wide": ("a student of 32 channels", _WIDE_FPN),
        "large": ("a student of the teacher's size", _GROWN_FPN),
    }
    return [
        experiment
        for name, (label, grown) in sizes.items()
        for experiment in (
            Experiment(
                f"baseline_3000_{name}", f"Baseline, {label}, teacher's schedule", PLAIN,
                {f"model.{key}": value for key, value in grown.items()} | schedule(3000), seeds=3,
            ),
            Experiment(
                f"gdetkd_3000_{name}", f"G-DetKD (all), {label}, teacher's schedule", DISTILLED,
                {f"model.student.{key}": value for key, value in grown.items()} | schedule(3000), 3,
            ),
        )
    ]  # fmt: skip


def contrastive_ablations(benchmark: Benchmark) -> list[Experiment]:
    """Tables 1 to 3: memory, negatives, projection, for CKD alone."""
    config, setting = benchmark.distilled("faster_rcnn"), "model.components.contrastive"
    memory = {
        f"memory_{count}": Experiment(
            f"memory_{count}", f"CKD, K of {count} batches", config,
            # The paper's K counts the gathered batch itself.
            only("contrastive") | {f"{setting}.queue_capacity": (count - 1) * benchmark.proposals},
            seeds=3,
        )
        for count in MEMORIES
    }  # fmt: skip
    negatives = [
        Experiment(
            name, f"CKD, negatives up to IoU {threshold:g}", config,
            only("contrastive") | {f"{setting}.iou": threshold}, seeds=3,
        )
        for threshold, name in THRESHOLDS.items()
        if name != "contrastive"
    ]  # fmt: skip
    nonlinear = Experiment(
        "nonlinear", "CKD, nonlinear projection", config,
        only("contrastive") | {f"{setting}.projection": "nonlinear"}, seeds=5,
    )  # fmt: skip
    ours = [
        Experiment(f"memory_{name}", f"CKD, {label}", config, only("contrastive") | options, 3)
        for name, label, options in (
            ("fresh", "the queue projected anew", FRESH),
            ("learned", "the queue projected anew, with a gradient", LEARNED),
        )
    ]
    return [nonlinear, *negatives, *memory.values(), *ours]


# The queue keeps what the teacher saw, not what the projection of that step made of it ...
FRESH = {"model.components.contrastive.queue_content": "features"}
# ... and the projection learns from it as from the batch's own.
LEARNED = FRESH | {"model.components.contrastive.queue_gradient": True}
ALL_BOXES = {"model.components.imitation.boxes_per_image": None}
MEMORIES = (1, 5, 10, 15, 20)  # gathered batches: 8, 40, 80, 120 and 160 x 1024 in the paper
# Experiments by IoU; that of 0.5 is the configs' own.
THRESHOLDS = {
    value: "contrastive" if value == 0.5 else f"iou_{value:g}"
    for value in (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
}
EXTREMES = (0.1, 1.0)
DENSE = dict(retinanet="RetinaNet", fcos="FCOS")
BRANCHES = ("classification", "localization", "combined")
CONVERSIONS = ("object_scores", "none", "sigmoid")


def dense_students(benchmark: Benchmark) -> list[Experiment]:
    """Dense students of the two-stage teacher: all of it, Table 4's branches, section D."""
    made = []
    for student, label in DENSE.items():
        plain, distilled = benchmark.plain(student), benchmark.distilled(student)
        made += [
            Experiment(student, f"{label}: baseline", plain, seeds=5),
            Experiment(f"gdetkd_{student}", f"{label}: SGFI and CKD", distilled, seeds=5),
        ]
    config = benchmark.distilled("retinanet")
    made += [
        Experiment(
            f"branch_{branch}", f"RetinaNet: CKD, {branch} branch", config,
            only("contrastive") | {"model.student_adapter.branch": branch}, seeds=5,
        )
        for branch in BRANCHES
    ]  # fmt: skip
    made += [
        Experiment(
            f"conversion_{conversion}", f"RetinaNet: class KD, {text}", config,
            only("classification")
            | {
                "model.components.classification.weight": 1.0,
                "model.components.classification.conversion": conversion,
            },
            seeds=3,
        )
        for conversion, text in zip(
            CONVERSIONS, ("converted (section D)", "not converted", "by sigmoids"), strict=True
        )
    ]  # fmt: skip
    return made


TEACHERS = dict(
    c4="faster_rcnn_c4_r34_teacher", cascade="cascade_rcnn_r34_teacher", gfl="gfl_r34_teacher"
)


def own_teacher(benchmark: Benchmark, name: str) -> tuple[str, dict[str, Any]]:
    """The experiment that trains a teacher which is not shipped, and options to learn from it."""
    needs = f"teacher_{name}"
    last = benchmark.options.get("train_cfg.max_iters", 3000)  # the teachers' own schedule
    return needs, {
        "model.teacher.config": f"gdetkd::digits/{TEACHERS[name]}.py",
        "model.teacher.checkpoint": f"{benchmark.work_dir}/{needs}_0/iter_{last}.pth",
    }


def teacher_of(benchmark: Benchmark, name: str, label: str) -> Experiment:
    """The training of such a teacher."""
    needs, options = own_teacher(benchmark, name)
    return Experiment(needs, f"{label}: the teacher", options["model.teacher.config"], seeds=1)


# On digits the students of Table 6 grow from R18 with 16 channels to R34, then to their teacher.
_WIDE = {"backbone.base_channels": 32}
_GROWN = {"backbone.depth": 34} | _WIDE
_WIDE_FPN, _GROWN_FPN = (
    size | {"neck.in_channels": [32, 64, 128, 256]} for size in (_WIDE, _GROWN)
)
GROWN = {
    "c4_middle": {"backbone.depth": 34},
    "c4_large": _GROWN
    | {
        "rpn_head.in_channels": 128,
        "roi_head.shared_head.stage": 2,
        "roi_head.bbox_roi_extractor.out_channels": 128,
        "roi_head.bbox_head.in_channels": 256,
    },
    "cascade_middle": {"backbone.depth": 34},
    "cascade_large": _GROWN_FPN,
}
SIZES = {
    "": "",
    "_middle": ", middle student (R50; on digits R34)",
    "_large": ", large student (R101; on digits its teacher's size)",
}


def structures(benchmark: Benchmark) -> list[Experiment]:
    """Table 6: C4 and Cascade R-CNN pairs of three sizes of student."""
    made = []
    for student, label in STRUCTURES.items():
        needs, taught = None, {}
        if benchmark is not COCO:  # the zoo has those of COCO
            needs, taught = own_teacher(benchmark, student)
            made.append(teacher_of(benchmark, student, label))
        for size, text in SIZES.items():
            name = student + size
            # COCO has a config for every size, digits one for the smallest.
            config, grown = (name, {}) if benchmark is COCO else (student, GROWN.get(name, {}))
            made += [
                Experiment(
                    name, f"{label}{text}: baseline", benchmark.plain(config),
                    {f"model.{key}": value for key, value in grown.items()}, seeds=3,
                ),
                Experiment(
                    f"gdetkd_{name}", f"{label}{text}: G-DetKD", benchmark.distilled(config),
                    taught | {f"model.student.{key}": value for key, value in grown.items()}, 3,
                    needs,
                ),
            ]  # fmt: skip
    return made


def dense_pair(benchmark: Benchmark) -> list[Experiment]:
    """On digits: GFL teaches GFL, by features and contrast or by its distributions of edges."""
    needs, options = own_teacher(benchmark, "gfl")
    distilled = benchmark.distilled("gfl")
    # LD's own weight and temperature.
    localization = only() | {"model.components.localization.weight": 0.25}
    return [
        teacher_of(benchmark, "gfl", "GFL"),
        Experiment("gfl", "GFL: baseline", benchmark.plain("gfl"), seeds=3),
        Experiment("gdetkd_gfl", "GFL: SGFI and CKD", distilled, options, 3, needs),
        Experiment(
            "classification_gfl", "GFL: class KD alone", distilled,
            options | only("classification") | {"model.components.classification.weight": 1.0}, 3,
            needs,
        ),
        Experiment(
            "rival_localization", "GFL: localization distillation (LD)", distilled,
            options | localization, 3, needs,
        ),
    ]  # fmt: skip


def stages(benchmark: Benchmark) -> list[Experiment]:
    """On digits: which stage of a Cascade R-CNN teaches a Faster R-CNN best."""
    needs, options = own_teacher(benchmark, "cascade")
    # A Cascade R-CNN regresses one box for all classes, and its heads are others.
    options |= {"model.components.regression.weight": 0.0, "model.transfer_heads": False}
    return [
        Experiment(
            f"stage_{stage}", f"Taught by stage {stage + 1} of a Cascade R-CNN",
            benchmark.distilled("faster_rcnn"), options | {"model.teacher.stage": stage}, 3, needs,
        )
        for stage in range(3)
    ]  # fmt: skip


def rivals(benchmark: Benchmark) -> list[Experiment]:
    """What others imitate, at the weight of SGFI; class KD alone is among the components."""
    return [
        Experiment(
            f"rival_{name}", label, benchmark.distilled("faster_rcnn"),
            only() | {f"model.components.{name}.weight": benchmark.imitation}, seeds=3,
        )
        for name, label in (
            ("rigid", "Same-level imitation (FitNets)"),
            ("masked", "Same-level imitation in ground-truth boxes"),
            ("normalized", "Normalized same-level imitation (PKD)"),
        )
    ]  # fmt: skip


def of_digits(benchmark: Benchmark) -> list[Experiment]:
    """What the paper does not have: schedules, causes, rates, and pairs that only ours compares."""
    return [
        *schedules(),
        *longer_dense(),
        *causes(),
        *larger_students(),
        *attempts(),
        *tuning(),
        *stages(benchmark),
        *dense_pair(benchmark),
    ]


def experiments_of(benchmark: Benchmark) -> dict[str, Experiment]:
    """All experiments of a benchmark by name, the most important first."""
    made = [
        *components(benchmark),
        *dense_students(benchmark),
        *structures(benchmark),
        *(of_digits(benchmark) if benchmark is not COCO else []),
        *contrastive_ablations(benchmark),
        *rivals(benchmark),
    ]
    return {each.name: replace(each, options=each.options | benchmark.options) for each in made}


BENCHMARKS = {benchmark.name: benchmark for benchmark in (DIGITS, COCO, MINIATURE)}
EXPERIMENTS = experiments_of(DIGITS)

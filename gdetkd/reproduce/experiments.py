"""Where experiments run, and what one of them is: a config and the options that change it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from gdetkd.training.config import schedule

COMPONENTS = ("contrastive", "imitation", "classification", "regression")


@dataclass(frozen=True)
class Experiment:
    """A config with options, run once for each of `seeds` seeds.

    `needs` names the experiment that trains its teacher, where the teacher does not ship.
    """

    name: str
    label: str
    config: str
    options: dict[str, Any] = field(default_factory=dict)
    seeds: int = 2
    needs: str | None = None


@dataclass(frozen=True)
class Benchmark:
    """Where the tables are repeated.

    Attributes:
        folder: Folder of its configs; a detector's are `NAME.py` and, distilled, `gdetkd_NAME.py`.
        proposals: Sampled proposals in one gathered batch, the unit of the queue's size K.
        detectors: Names of its configs by the names that tables use.
        imitation: Weight of SGFI in its configs, and of the baselines of imitation.
        embedded: Trains in minutes on generated data: rows marked `embedded_only` run here, and
            teachers of other families are trained, while COCO's come from the zoo.
        trained_teacher: The family of the configs' teacher, where its weights are not shipped.
        changes: Options of the student by detector, for sizes that have no config of their own.
        options: What it changes in every config.
    """

    name: str
    folder: str
    proposals: int
    detectors: dict[str, str]
    imitation: float
    embedded: bool = False
    trained_teacher: str | None = None
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def work_dir(self) -> str:
        """The folder in which every run has its own folder of checkpoints."""
        return "work_dirs/" + ("reproduce" if self.name == "digits" else self.name)

    def student(self, detector: str, distilled: bool) -> tuple[str, dict[str, Any]]:
        """Config of a detector, alone or distilled, and the options that give it its size."""
        prefix = ("gdetkd_", "model.student.") if distilled else ("", "model.")
        changes = self.changes.get(detector, {})
        config = f"gdetkd::{self.folder}/{prefix[0]}{self.detectors[detector]}.py"
        return config, {prefix[1] + key: value for key, value in changes.items()}

    def teacher(self, family: str, steps: int) -> dict[str, Any]:
        """Options to learn from the detector that `teacher_FAMILY` trains in `steps` steps."""
        name = f"teacher_{family}"
        steps = self.options.get("train_cfg.max_iters", steps)
        return {
            "model.teacher.config": self.student(name, distilled=False)[0],
            "model.teacher.checkpoint": f"{self.work_dir}/{name}_0/iter_{steps}.pth",
        }


_STUDENTS = dict(
    faster_rcnn="faster_rcnn_r18", retinanet="retinanet_r18", fcos="fcos_r18",
    c4="faster_rcnn_c4_r18", cascade="cascade_rcnn_r18", gfl="gfl_r18", rtmdet="rtmdet",
    yolox="yolox",
)  # fmt: skip
# On digits, students grow from R18 with 16 channels to R34 with 32, the teacher's size.
_WIDE = {"backbone.base_channels": 32}
_LARGE = {"backbone.depth": 34} | _WIDE
_WIDE_NECK = {"neck.in_channels": [32, 64, 128, 256]}
_SIZES = {
    "faster_rcnn_wide": _WIDE | _WIDE_NECK,
    "faster_rcnn_large": _LARGE | _WIDE_NECK,
    "cascade_middle": {"backbone.depth": 34},
    "cascade_large": _LARGE | _WIDE_NECK,
    "c4_middle": {"backbone.depth": 34},
    "c4_large": _LARGE | {
        "rpn_head.in_channels": 128, "roi_head.shared_head.stage": 2,
        "roi_head.bbox_roi_extractor.out_channels": 128, "roi_head.bbox_head.in_channels": 256,
    },
}  # fmt: skip
DIGITS = Benchmark(
    "digits",
    folder="digits",
    proposals=8 * 48,
    detectors=_STUDENTS
    | {size: _STUDENTS[size.rpartition("_")[0]] for size in _SIZES}
    | dict(
        teacher_6000="faster_rcnn_r34_teacher",
        teacher_c4="faster_rcnn_c4_r34_teacher",
        teacher_cascade="cascade_rcnn_r34_teacher",
        teacher_gfl="gfl_r34_teacher",
    ),
    imitation=5.0,
    embedded=True,
    changes=_SIZES,
)
COCO = Benchmark(
    "coco", "coco", 8 * 1024,
    _STUDENTS
    | {
        f"{family}_{size}": _STUDENTS[family].replace("r18", layers)
        for family in ("c4", "cascade")
        for size, layers in (("middle", "r50"), ("large", "r101"))
    },
    imitation=1.0,
)  # fmt: skip
# Two pretrained EfficientNet-Lites. Here the configs' teacher is trained by a row of its own.
PHOTOS = Benchmark(
    "photos",
    folder="photos",
    proposals=4 * 48,
    detectors=dict(
        faster_rcnn="faster_rcnn_lite0", teacher_faster_rcnn="faster_rcnn_lite2_teacher"
    ),
    imitation=5.0,
    embedded=True,
    trained_teacher="faster_rcnn",
)
# Four steps on 32 images: it exercises the machinery in a minute, and its results mean nothing.
MINIATURE = replace(
    DIGITS,
    name="miniature",
    options=schedule(4)
    | {f"{split}_dataloader.dataset.indices": 32 for split in ("train", "val", "test")},
)
BENCHMARKS = {benchmark.name: benchmark for benchmark in (DIGITS, PHOTOS, COCO, MINIATURE)}
PLAIN, DISTILLED = (DIGITS.student("faster_rcnn", distilled)[0] for distilled in (False, True))


# --- Options that several tables use --------------------------------------------------------------


def component(name: str, **settings: Any) -> dict[str, Any]:
    """Options that change settings of a component of the objective."""
    return {f"model.components.{name}.{key}": value for key, value in settings.items()}


def only(*names: str) -> dict[str, Any]:
    """Options that switch off every other component of the configs, and head transfer."""
    options: dict[str, Any] = {"model.transfer_heads": False}
    for name in COMPONENTS:
        options |= {} if name in names else component(name, weight=0.0)
    return options

"""The config of a distillation, composed from a teacher, a student and a folder of data."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config, ConfigDict

from gdetkd.checkpoints.hub import PACKAGE, SHIPPED, find_checkpoint, find_config
from gdetkd.checkpoints.student import trained_classes
from gdetkd.datasets.config_check import class_names, leaves
from gdetkd.detectors.mmdet.building import is_type, type_name
from gdetkd.detectors.mmdet.config_errors import read_config, rename_types
from gdetkd.training.data import use_data, use_start
from gdetkd.training.last_checkpoint import last_checkpoint

BASE = "gdetkd::_base_/gdetkd.py"  # components, weights and hooks of the configs of full size
# Gathered batches that the queue holds beside the current one; the paper's K = 80 x 1024 is ten.
PRESETS = dict(recommended=0, paper=9)
# Of the gradient at the student's features, as the weights tuned on digits have them: a number as a
# weight is something else for every pair (`gdetkd reproduce balance`).
SHARES = dict(contrastive="50%", imitation="400%")
BOXES = 512  # per image, for a dense student
_HEADER = """\
# {student} learns from {teacher}.
# Written by `gdetkd distill`, yours to edit: weights are in model.components. Then
#   gdetkd train {path} [--gpus N] [--plan]
"""


def compose(
    teacher: str,
    student: str,
    data: Path,
    checkpoint: str | None = None,
    gpus: int = 1,
    transfer_heads: bool = False,
    start: str | None = None,
    preset: str = "recommended",
) -> Config:
    """The config in which a student learns from a teacher on a folder of data.

    The weights of contrast and imitation are shares of the gradient, and the contrast has no queue;
    `results/RECIPE.md` explains both. With the preset "paper" the weights are the numbers of the
    full-size configs, and the queue has room for as many batches as the paper's.

    Args:
        teacher: The work dir of its training; or its config: a file, `gdetkd::NAME` or
            `mmdet::NAME`.
        student: Its config; the evaluation, and for the data sets of the paper schedule and
            pipelines, are taken from it.
        data: COCO 2017 as unpacked, the digits, or what `gdetkd data` has prepared.
        checkpoint: The teacher's weights: a file, URL or `gdetkd::NAME`; by default the best or
            last ones in the work dir of its training, or those that MMDetection's zoo has.
        gpus: Processes of the training, whose proposals share the queue.
        transfer_heads: Put the teacher's heads into the student and freeze them.
        start: What the student's backbone starts from, as for `use_start`.
        preset: One of `PRESETS`.

    Raises:
        FileNotFoundError: No such config or data.
        ValueError: A config is not a detector's, no weights of the teacher are known, it was
            trained on other classes, or there is no such preset.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, got {preset!r}")
    config = _by_name(read_config(student))
    asked = teacher
    teacher, weights = find_teacher(teacher, checkpoint, data)
    teacher_config = read_config(teacher)
    for name, loaded in ((student, config), (teacher, teacher_config)):
        if not isinstance(loaded.get("model"), dict) or "type" not in loaded.model:
            raise ValueError(f"{name}: expected the config of a detector, got one without a model")
    if "train_dataloader" not in config:
        raise ValueError(f"{student}: expected a config with a train_dataloader, got none")
    if is_type(config.model, "DistilledDetector"):
        raise ValueError(
            f"{student}: expected a plain detector as the student, got a distilled one"
        )
    if start is not None:
        use_start(config.model, start)
    use_data(config, data)
    _check_classes(asked, _classes(teacher_config, weights), _classes(config), data)
    base = read_config(BASE)
    dense = not _two_stage(config.model)
    components = base.dense_components if dense else base.two_stage_components
    boxes = BOXES if dense else proposals(config.model)
    images = gpus * config.train_dataloader.batch_size
    components.contrastive.queue_capacity = PRESETS[preset] * images * boxes
    for name, share in SHARES.items() if preset == "recommended" else ():
        components[name].weight = share
    config.model = ConfigDict(
        type="DistilledDetector",
        student=config.model,
        teacher=dict(config=_portable(teacher), checkpoint=_portable(weights, weights=True)),
        components=components,
        **(dict(transfer_heads=True) if transfer_heads else {}),
        **(dict(student_adapter=dict(boxes_per_image=BOXES)) if dense else {}),
    )
    imports = (config.get("custom_imports") or {}).get("imports", [])
    imports = dict.fromkeys([*imports, *base.custom_imports.imports])
    config.custom_imports = dict(imports=list(imports))
    added = {type_name(hook) for hook in base.custom_hooks}
    hooks = [hook for hook in config.get("custom_hooks") or [] if type_name(hook) not in added]
    config.custom_hooks = [*hooks, *base.custom_hooks]
    return config


def find_teacher(teacher: str, checkpoint: str | None, data: Path) -> tuple[str, str]:
    """The teacher's config and weights, for `compose`.

    A training leaves its whole config in its work dir, with the classes of its data.

    Raises:
        FileNotFoundError, ValueError: There is no such config, or no weights are known.
    """
    folder = Path(teacher) if Path(teacher).is_dir() else Path("work_dirs") / _stem(teacher)
    if checkpoint is not None and "::" not in checkpoint:
        folder = Path(checkpoint).parent
    written = (
        sorted(folder.glob("*.py")) if Path(teacher).is_dir() else [folder / f"{_stem(teacher)}.py"]
    )
    config = str(written[0]) if len(written) == 1 and written[0].is_file() else teacher
    if config == teacher and Path(teacher).is_dir():
        raise FileNotFoundError(
            f"{teacher}: expected the work dir of a training, with its config, found "
            f"{len(written)} configs in it"
        )
    trained = checkpoint or (_trained(folder) if config != teacher else None)
    weights = trained or zoo_weights(teacher)
    if weights is None:
        find_config(teacher)
        raise ValueError(
            f"{teacher}: no weights are known, neither in {folder}/ nor in MMDetection's zoo. "
            f"Train the teacher on these classes first: gdetkd train {teacher} --data {data}; or "
            "name a file or URL as --checkpoint"
        )
    if not weights.startswith(("http://", "https://")):
        find_checkpoint(weights)  # before anything is written
    return config if weights == trained else teacher, weights


def _trained(folder: Path) -> str | None:
    """The best checkpoint of a training's folder, or else the last one."""
    best = [path for path in folder.glob("best_*.pth") if not path.stem.endswith("_student")]
    if best:
        return str(max(best, key=lambda path: path.stat().st_mtime))
    return last_checkpoint(folder)[0] if folder.is_dir() else None


def _classes(config: Config, weights: str | None = None) -> tuple[str, ...] | None:
    """The classes that a checkpoint was trained on, or else those of the config's data."""
    if weights and Path(weights).is_file() and (known := trained_classes(weights)):
        return known
    if "train_dataloader" not in config:
        return None
    return class_names("train", next(leaves(config.train_dataloader.dataset)))


def _check_classes(
    teacher: str, known: tuple[str, ...] | None, wanted: tuple[str, ...], data: Path
) -> None:
    if known is not None and known != wanted:
        first, second = (
            f"{len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for names in (known, wanted)
        )
        raise ValueError(
            f"the teacher {teacher} was trained on other classes, {first}, than those of {data}, "
            f"{second}. Train the teacher on these classes first: "
            f"gdetkd train {teacher} --data {data}"
        )


def check_pair(config: Config) -> None:
    """Build student and teacher, with the weights if they are here; nothing is written.

    Raises:
        ValueError: The pair cannot be distilled, or the weights do not fit the teacher's config.
    """
    from gdetkd.launch.plan import build_pair

    with tempfile.TemporaryDirectory() as folder:
        build_pair(config.model, Path(folder))


def _by_name(config: Config) -> Config:
    """A pure-Python ("lazy") config as one of text, whose types are names instead of classes."""
    if not Config._is_lazy_import(config.filename):
        return config
    content = config.to_dict()
    content.setdefault("default_scope", "mmdet")
    rename_types(content)
    return Config(content, filename=config.filename)


def _two_stage(model: ConfigDict) -> bool:
    if is_type(model, "TorchvisionDetector"):
        return "rcnn" in model.name
    # A Sparse R-CNN's boxes are those of its queries, sampled as a dense detector's.
    return model.get("roi_head", {}).get("type", "SparseRoIHead") != "SparseRoIHead"


def proposals(model: ConfigDict) -> int:
    """Proposals per image that a two-stage student samples."""
    if is_type(model, "TorchvisionDetector"):
        return model.get("box_batch_size_per_image", 512)
    stages = model.train_cfg.rcnn
    return (stages[0] if isinstance(stages, list) else stages).sampler.num


def write_config(config: Config, path: Path, teacher: str, student: str) -> None:
    """Write the config as a Python file: `_base_`, the student's, and what differs from it.

    Raises:
        ValueError: `path` is not a `.py`, or a file with other content is there: perhaps edited.
    """
    if path.suffix != ".py":
        raise ValueError(f"--out: expected the name of a Python file (.py), got {path}")
    text = _HEADER.format(student=student, teacher=teacher, path=path)
    text += config_text(config, student)
    if path.exists():
        if path.read_text() == text:
            return
        raise ValueError(
            f"{path} exists and differs from the config composed now; `gdetkd train {path}` trains "
            "it as it is, another --out keeps both"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def config_text(config: Config, student: str) -> str:
    """A distilled config as a program of MMEngine that inherits from the student's config."""
    base = read_config(student)
    if Config._is_lazy_import(base.filename):
        return config.pretty_text.rstrip() + "\n"  # no base of a config of text
    plain = config._cfg_dict.to_dict()
    model = plain.pop("model")
    changes = "".join(_assignments("student", base.model.to_dict(), model["student"]))
    rest = {**model, "student": "__student__"}
    different = _difference(base._cfg_dict.to_dict() | dict(model={}), dict(model={}) | plain)
    different.pop("_delete_", None)
    parts = dict(model=dict(_delete_=True, **rest), **different)
    blocks = "".join(f"{name} = {_code(part)}\n" for name, part in parts.items())
    return (
        f"_base_ = {[_portable(student)]!r}\nstudent = _base_.model\n{changes}"
        + blocks.replace("'__student__'", "student")
        + "del student\n"
    )


def _code(value: Any, indent: int = 0) -> str:
    """A value as Python code, on one line where it fits."""
    if isinstance(value, dict) and all(key.isidentifier() for key in value):
        items, (first, last) = (
            [f"{k}={_code(v, indent + 4)}" for k, v in value.items()],
            ("dict(", ")"),
        )
    elif isinstance(value, list | tuple) and value:
        items, (first, last) = (
            [_code(v, indent + 4) for v in value],
            ("[]" if isinstance(value, list) else "()"),
        )
    else:
        return repr(value)
    comma = "," if isinstance(value, tuple) and len(items) == 1 else ""
    line = first + ", ".join(items) + comma + last
    if len(line) + indent < 90 and "\n" not in line:
        return line
    inner = "".join(f"{' ' * (indent + 4)}{item},\n" for item in items)
    return f"{first}\n{inner}{' ' * indent}{last}"


def _assignments(place: str, old: Any, new: Any) -> Iterator[str]:
    """The statements that turn a part of a config into another."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() - new.keys():
            yield f"{place}.pop({key!r})\n"
        for key in new:
            if key not in old:
                yield f"{place}[{key!r}] = {new[key]!r}\n"
            else:
                yield from _assignments(f"{place}.{key}", old[key], new[key])
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, now) in enumerate(zip(old, new, strict=True)):
            yield from _assignments(f"{place}[{index}]", before, now)
    elif old != new:
        yield f"{place} = {new!r}\n"


def _difference(old: dict, new: dict) -> dict:
    """What a config has to say so that MMEngine's inheritance turns `old` into `new`."""
    if old.keys() - new.keys():
        return dict(_delete_=True, **new)
    found = {}
    for key, value in new.items():
        if key in old and isinstance(old[key], dict) and isinstance(value, dict):
            if old[key] != value:
                found[key] = _difference(old[key], value)
        elif key not in old or old[key] != value:
            found[key] = value
    return found


def zoo_weights(teacher: str) -> str | None:
    """The URL at which MMDetection keeps a config's weights, or the shipped digits teacher."""
    path = Path(find_config(teacher))
    if path == Path(find_config("gdetkd::digits/faster_rcnn_r34_teacher.py")):
        return "gdetkd::digits_faster_rcnn_r34.pth"
    index = path.parent / "metafile.yml"
    if not index.is_file():
        return None
    models = yaml.safe_load(index.read_text())
    models = models["Models"] if isinstance(models, dict) else models
    return next((m.get("Weights") for m in models if m["Name"] == path.stem), None)


def _stem(name: str) -> str:
    return Path(name.split("::")[-1]).stem


def _portable(name: str, weights: bool = False) -> str:
    """A file by its absolute path: the composed config may be moved and used from anywhere."""
    if "::" in name or name.startswith(("http://", "https://")):
        return name
    path = Path(name if weights else find_config(name)).resolve()
    if path.is_relative_to(PACKAGE / "configs"):
        return f"{SHIPPED}{path.relative_to(PACKAGE / 'configs')}"
    return str(path)

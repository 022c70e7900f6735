"""The configs of full size: built as they stand, and stepped once on small images."""

from functools import cache
from pathlib import Path

import mmdet
import pytest
import torch
import yaml
from helpers import batch, build, losses_of
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict

import gdetkd
from gdetkd.checkpoints.hub import find_config

ROOT = Path(gdetkd.__file__).parent / "configs"
FOLDERS = ("coco", "voc07", "bdd100k")
CONFIGS = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.py"))]
DISTILLED = [path for path in CONFIGS if path.stem.startswith("gdetkd_")]
PLAIN = [path for path in CONFIGS if path not in DISTILLED]


@cache
def load(path) -> Config:
    """A config, read once: MMEngine takes half a second for those that stand on MMDetection's."""
    return Config.fromfile(path)


def name(path):
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_a_config_says_how_it_is_run(path):
    config = load(path)
    head = path.read_text().split("_base_")[0].replace("\\\n#", "")
    script = gdetkd.__file__.replace("__init__.py", "launch/train_coco_8gpu.sh")
    if f"gdetkd train gdetkd::{name(path)}.py" not in head:
        assert "train_coco_8gpu.sh" in head and name(path) in Path(script).read_text()
    optimizer = config.optim_wrapper.optimizer
    assert optimizer.type == "SGD" and optimizer.weight_decay == 1e-4 and optimizer.momentum == 0.9
    dense = any(kind in path.stem for kind in ("retinanet", "fcos"))
    assert optimizer.lr == (0.01 if dense else 0.02)
    assert config.train_dataloader.batch_size == 2
    assert config.train_cfg.max_epochs in (12, 24)
    classes = dict(coco=80, voc07=20, bdd100k=10)[path.parent.name]
    model = config.model.get("student", config.model)
    heads = model.roi_head.bbox_head if "roi_head" in model else model.bbox_head
    for head in heads if isinstance(heads, list) else [heads]:
        assert head.num_classes == classes
    assert config.train_dataloader.dataset.data_root.rstrip("/").endswith(path.parent.name)


@pytest.mark.parametrize("path", DISTILLED, ids=name)
def test_the_student_is_the_plain_config(path):
    """The same model, data and schedule: a gain is that of the distillation."""
    config = load(path)
    plain_name = path.name.removeprefix("gdetkd_").replace("_3x_teacher", "")
    plain = load(path.parent / plain_name)
    assert config.model.student.to_dict() == plain.model.to_dict()
    for key in ("train_dataloader", "optim_wrapper", "param_scheduler", "train_cfg"):
        assert config[key] == plain[key], key
    assert config.model.components.contrastive.queue_capacity == 72 * 1024
    dense = "roi_head" not in plain.model
    assert set(config.model.components) == {"contrastive", "imitation"} | (
        set() if dense else {"classification", "regression"}
    )


@pytest.mark.parametrize("path", [p for p in DISTILLED if p.parent.name == "coco"], ids=name)
def test_a_teachers_weights_are_those_of_the_zoo(path):
    teacher = load(path).model.teacher
    config = teacher.config.removeprefix("mmdet::")
    index = Path(mmdet.__file__).parent / ".mim" / "configs" / config
    models = yaml.safe_load((index.parent / "metafile.yml").read_text())["Models"]
    listed = {m["Weights"] for m in models if m["Config"] == f"configs/{config}" and "Weights" in m}
    assert teacher.checkpoint in listed


# --- Built and stepped ----------------------------------------------------------------------------


def without_downloads(config) -> ConfigDict:
    """Its model, from random weights and with few boxes an image."""
    return ConfigDict(_without_downloads(config.model.to_dict()))


def _without_downloads(value):
    if isinstance(value, dict):
        if value.get("type") == "Pretrained":
            return None
        found = {key: _without_downloads(item) for key, item in value.items()}
        if found.get("type") == "RandomSampler":
            found["num"] = min(found["num"], 16)
        return found
    return [_without_downloads(item) for item in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights of a teacher by its config, saved once."""
    folder, made = tmp_path_factory.mktemp("teachers"), {}

    def of(config):
        if config not in made:
            model = without_downloads(load(find_config(config)))
            torch.manual_seed(1)
            path = folder / f"{len(made)}.pth"
            torch.save({"state_dict": MODELS.build(model).state_dict()}, path)
            made[config] = str(path)
        return made[config]

    return of


@pytest.mark.slow
@pytest.mark.parametrize("path", DISTILLED, ids=name)
def test_a_distilled_config_is_built_and_stepped(path, weights):
    """R101s and X101s on the CPU: two images of 64 px, 16 boxes an image."""
    model = without_downloads(load(path))
    model["teacher"]["checkpoint"] = weights(model["teacher"]["config"])
    if "student_adapter" in model or "roi_head" not in model["student"]:
        model["student_adapter"] = dict(model.get("student_adapter") or {}, boxes_per_image=16)
    detector = build(model)
    optimizer = torch.optim.SGD([p for p in detector.parameters() if p.requires_grad], lr=1e-4)
    losses = losses_of(detector, batch())
    total, logged = detector.parse_losses(losses)
    total.backward()
    optimizer.step()
    assert all(value.isfinite() for value in logged.values())
    assert sum("kd_" in name and "loss" in name for name in logged) >= len(model["components"])
    for name_, parameter in detector.distiller.objective.named_parameters():
        assert parameter.grad is not None and parameter.isfinite().all(), name_


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", [p for p in PLAIN if not (p.parent / f"gdetkd_{p.name}").exists()], ids=name
)
def test_a_plain_config_without_a_distilled_one_is_built(path):
    with torch.device("meta"):
        detector = MODELS.build(without_downloads(load(path)))
    assert sum(p.numel() for p in detector.parameters()) > 1e7

"""Configs of users: mistyped, incomplete, pure Python; and under MMDetection's own tools."""

import inspect

import pytest
import torch
from helpers import distilled, faster_rcnn, run_config
from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.registry.root import MODELS as ROOT  # noqa: F401  (fills the registries)
from mmengine.runner import Runner

from gdetkd.checkpoints.reading import CheckpointError
from gdetkd.evaluation.testing import test as evaluate
from gdetkd.launch.compose import compose, write_config
from gdetkd.training.config import load_config
from gdetkd.training.runner import resumable, train


def with_test_set(config):
    """With the validation's data as those to test on."""
    config.test_dataloader, config.test_cfg = config.val_dataloader, dict(type="TestLoop")
    config.test_evaluator = config.val_evaluator
    config.visualizer = dict(type="DetLocalVisualizer", name="visualizer")
    return config


@pytest.fixture(scope="module")
def plain(digits, tmp_path_factory):
    """The file of a plain detector's config."""
    folder = tmp_path_factory.mktemp("plain")
    with_test_set(run_config(faster_rcnn(), digits, folder / "work", steps=1)).dump(
        str(folder / "plain.py")
    )
    return str(folder / "plain.py")


@pytest.fixture(scope="module")
def trained(digits, teacher, tmp_path_factory):
    """The file of a distilled config without DistillationHook, and the folder of its run."""
    folder = tmp_path_factory.mktemp("distilled")
    config = run_config(
        distilled(faster_rcnn(), teacher), digits, folder / "work", steps=1,
        default_hooks__checkpoint=dict(interval=1, by_epoch=False),
        custom_hooks=[dict(type="EmptyCacheHook")],
    )  # fmt: skip
    with_test_set(config).dump(str(folder / "distilled.py"))
    train(load_config(str(folder / "distilled.py")))
    return str(folder / "distilled.py"), folder / "work"


# --- Mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("model.backbone.depht=18", "'depht'"),
        ("model.roi_head.bbox_head.loss_cls.type=CrosEntropyLoss", "CrosEntropyLoss is not in the"),
        ("optim_wrapper.optimizer.lrr=1", "'lrr'"),
        ("optim_wrapper.optimzer.lr=1", "'optimzer'"),
        ("train_cfg.max_iter=4", "'max_iter'"),
        ("train_dataloader.batchsize=4", "'batchsize'"),
        ("train_dataloader.dataset.pipelin=4", "'pipelin'"),
        ("default_hooks.logger.intervall=4", "'intervall'"),
        ("val_evaluator.metrik=bbox", "'metrik'"),
        ("optim_wrapper.type=AmpOptimWrapper", "mixed precision: expected a GPU"),
    ],
)
def test_a_mistyped_key_at_any_level_is_a_sentence(plain, tmp_path, option, said):
    if "Amp" in option and torch.cuda.is_available():
        pytest.skip("mixed precision works here")
    key, value = option.split("=")
    value = int(value) if value.isdecimal() else value
    with pytest.raises(ValueError, match=said):
        train(load_config(plain, {key: value}, work_dir=tmp_path))


@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_a_config_without_what_a_training_needs(plain, tmp_path, ending):
    content = Config.fromfile(plain).to_dict()
    del content["train_cfg"]
    file = str(tmp_path / f"config.{ending}")
    Config(content).dump(file)
    for use in (train, resumable):
        with pytest.raises(ValueError, match=f"config.{ending}: expected.* without train_cfg"):
            use(load_config(file, work_dir=tmp_path))


@pytest.mark.parametrize(
    ("checked", "message"),
    [(True, "nothing to train on: 0 of 16 images left; 16 without objects"),
     (False, "nothing to train on: none of the 16 images")],
    ids=["checked before", "not to be checked before"],
)  # fmt: skip
def test_a_training_on_nothing_annotated_is_refused(plain, tmp_path, checked, message):
    """Whatever the data set's class, of which some read no file of COCO's format."""
    options = {
        "train_dataloader.dataset.type": "gdetkd_unlabeled",
        "train_dataloader.dataset.metainfo": dict(classes=tuple("0123456789")),
    }
    from mmdet.datasets import CocoDataset
    from mmdet.registry import DATASETS

    class Unlabeled(CocoDataset):
        def load_data_list(self):
            return [dict(info, instances=[]) for info in super().load_data_list()]

    class Private(Unlabeled):
        def full_init(self):
            super().full_init()

    kind = Unlabeled if checked else Private
    DATASETS.register_module("gdetkd_unlabeled", module=kind, force=True)
    with pytest.raises(ValueError, match=message):
        train(load_config(plain, options, work_dir=tmp_path))


def test_a_distilled_run_keeps_its_hook(trained):
    """A list of hooks in a config replaces that of its base."""
    _, work_dir = trained
    assert (work_dir / "iter_1_student.pth").exists()


# --- MMDetection's own ways -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["iter_1.pth", "iter_1_student.pth"])
def test_mmdetections_tools_take_either_file_with_either_config(trained, plain, digits, name):
    """All four show the student's boxes; what tools/test.py calls is called here."""
    config, work_dir = trained
    image = str(next((digits / "val").iterdir()))
    weights = str(work_dir / name)
    found = []
    for each in (config, plain):
        detector = init_detector(each, weights, device="cpu")
        found.append(inference_detector(detector, image).pred_instances.scores.tolist())
        inferencer = DetInferencer(each, weights, device="cpu")
        (result,) = inferencer(image, no_save_vis=True, print_result=False)["predictions"]
        found.append(result["scores"])
        loaded = Config.fromfile(each)
        loaded.load_from = weights
        loaded.work_dir = str(work_dir / "tested")
        metrics = Runner.from_cfg(loaded).test()
        assert metrics.items() <= evaluate(load_config(each), weights).items()  # recall beside them
    assert found[0] and all(scores == pytest.approx(found[0]) for scores in found)


@pytest.mark.parametrize("name", ["iter_1.pth", "iter_1_student.pth"])
def test_an_inferencer_without_a_config_says_which_one_to_give(trained, tmp_path, name):
    """MMDetection's would run the text of a config that a checkpoint carries."""
    _, work_dir = trained
    with pytest.raises(CheckpointError, match=rf"{name}: expected a config.*distilled.py"):
        DetInferencer(weights=str(work_dir / name), device="cpu")
    copied = tmp_path / name
    copied.write_bytes((work_dir / name).read_bytes())
    with pytest.raises(CheckpointError, match="is not run; DetInferencer.*its training left"):
        DetInferencer(weights=str(copied), device="cpu")


# --- Pure-Python configs --------------------------------------------------------------------------


def pure_python(config):
    """The text of a config as MMEngine's "lazy" ones: types are classes, imported at the top."""
    from mmdet import registry

    known = [
        entry
        for _, entry in inspect.getmembers(registry)
        if isinstance(entry, Registry) and entry.scope == "mmdet"
    ]
    imports = set()

    def written(value, key=None):
        if isinstance(value, dict):
            entries = (f"{name!r}: {written(item, name)}" for name, item in value.items())
            return "{" + ", ".join(entries) + "}"
        if isinstance(value, (list, tuple)):
            return f"{type(value).__name__}([{', '.join(map(written, value))}])"
        if key == "type" and value not in ("BN", "RoIAlign", "nms"):
            found = next(found for entry in known if (found := entry.get(value)) is not None)
            imports.add(f"from {found.__module__} import {found.__name__}")
            return found.__name__
        return repr(value)

    lines = [f"{name} = {written(value)}" for name, value in config.items()]
    return "\n".join([*sorted(imports), *lines]) + "\n"


def test_pure_python_configs_are_trained_distilled_and_tested(digits, tmp_path):
    config = with_test_set(run_config(faster_rcnn(), digits, tmp_path / "work", steps=1))
    config.default_hooks.checkpoint.update(interval=1)
    config.custom_hooks = []
    file = tmp_path / "lazy.py"
    file.write_text(pure_python(config.to_dict()))
    # A function of that name hides the module: MMEngine cannot find the class by its path.
    assert "from mmdet.models.losses.smooth_l1_loss import L1Loss" in file.read_text()
    assert train(load_config(str(file))).iter == 1
    weights = str(tmp_path / "work" / "iter_1.pth")
    assert "coco/bbox_mAP" in evaluate(load_config(str(file)), weights)
    out = tmp_path / "distilled.py"
    write_config(compose(str(file), str(file), digits, weights), out, str(file), str(file))
    options = {"default_hooks.checkpoint.interval": 1}
    assert train(load_config(str(out), options, work_dir=tmp_path / "again")).iter == 1
    assert (tmp_path / "again" / "iter_1_student.pth").exists()

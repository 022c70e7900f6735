"""Checkpoints are data: good ones load and resume, hostile ones run nothing, through every door.

The older layouts below are made here; no real file of a model zoo was run.
"""

import os
import pickle
import re
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hostile_checkpoints import Call, payload, write
from mmdet.apis import init_detector
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import Runner, load_checkpoint
from torch import nn

import gdetkd
from gdetkd.checkpoints import unpickling
from gdetkd.checkpoints.hook import SafeCheckpointHook
from gdetkd.checkpoints.reading import CheckpointError, read_checkpoint
from gdetkd.checkpoints.student import export_student, student_state
from gdetkd.checkpoints.unpickling import allow_checkpoint_types
from gdetkd.ops.atomic_write import atomic_write

CLASSES, PALETTE = ("one", "two"), [(1, 2, 3), (4, 5, 6)]


# --- A run as small as MMEngine's Runner takes it -------------------------------------------------


class Toy(BaseModel):
    """Laid out as a distilled detector: a student, and an objective with weights of its own."""

    def __init__(self):
        super().__init__()
        self.distiller = nn.ModuleDict(
            dict(
                student=nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1)),
                objective=nn.Linear(1, 1),
            )
        )

    def forward(self, inputs, mode="tensor"):
        found = self.distiller["student"](torch.stack(inputs))
        return {"loss": self.distiller["objective"](found).square().mean()}


class Points(torch.utils.data.Dataset):
    metainfo = {"classes": CLASSES, "palette": PALETTE}

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {"inputs": torch.tensor([index / 8, 1.0])}


def make_runner(folder, epochs=1, hooks=(), **settings):
    return Runner(
        model=Toy(),
        work_dir=str(folder),
        train_dataloader=dict(
            dataset=Points(),
            batch_size=4,
            sampler=dict(type="DefaultSampler", shuffle=True),
            collate_fn=dict(type="pseudo_collate"),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.01)),
        param_scheduler=dict(type="MultiStepLR", milestones=[2]),
        default_hooks=dict(logger=dict(type="LoggerHook", interval=1)),
        custom_hooks=[SafeCheckpointHook(), *hooks],
        experiment_name=re.sub(r"\W", "_", str(folder)),
        log_level="ERROR",
        **settings,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint as a real Runner writes it, after two epochs of two steps."""
    folder = tmp_path_factory.mktemp("trained")
    make_runner(folder, epochs=2).train()
    return folder / "epoch_2.pth"


DETECTOR = dict(
    type="FasterRCNN",
    data_preprocessor=dict(type="DetDataPreprocessor"),
    backbone=dict(type="ResNet", depth=18, base_channels=4),
    neck=dict(type="FPN", in_channels=[4, 8, 16, 32], out_channels=8, num_outs=5),
    rpn_head=dict(
        type="RPNHead",
        in_channels=8,
        feat_channels=8,
        anchor_generator=dict(
            type="AnchorGenerator", scales=[8], ratios=[1.0], strides=[4, 8, 16, 32, 64]
        ),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder"),
    ),
    roi_head=dict(
        type="StandardRoIHead",
        bbox_roi_extractor=dict(
            type="SingleRoIExtractor",
            roi_layer=dict(type="RoIAlign", output_size=7),
            out_channels=8,
            featmap_strides=[4, 8, 16, 32],
        ),
        bbox_head=dict(
            type="Shared2FCBBoxHead", in_channels=8, fc_out_channels=16, num_classes=len(CLASSES)
        ),
    ),
    train_cfg=dict(rpn=None, rcnn=None),
    test_cfg=dict(
        rpn=dict(nms_pre=10, max_per_img=10, nms=dict(type="nms", iou_threshold=0.7)),
        rcnn=dict(score_thr=0.05, nms=dict(type="nms", iou_threshold=0.5), max_per_img=10),
    ),
)


def detector_config():
    return Config(
        dict(
            default_scope="mmdet",
            model=DETECTOR,
            test_dataloader=dict(dataset=dict(type="CocoDataset", metainfo=dict(classes=CLASSES))),
        )
    )


@pytest.fixture(scope="module")
def detector():
    register_all_modules()
    return MODELS.build(detector_config().model)


# --- Hostile files --------------------------------------------------------------------------------


DOORS = {
    "read_checkpoint": lambda path, folder: read_checkpoint(path),
    "export_student": lambda path, folder: export_student(path, folder / "student.pth"),
    "Runner.resume": lambda path, folder: make_runner(folder).resume(str(path)),
    "Runner.load_checkpoint": lambda path, folder: make_runner(folder).load_checkpoint(str(path)),
    "init_detector": lambda path, folder: init_detector(detector_config(), str(path), device="cpu"),
}


@pytest.mark.parametrize("kind", ["reduce", "eval", "getattr"])
def test_payloads_are_live(tmp_path, kind):
    """Unpickled without a check each leaves its mark: the tests below can fail."""
    marker = tmp_path / "marker"
    pickle.loads(pickle.dumps(payload(kind, marker), protocol=2))
    assert marker.exists()


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("layout", ["zip", "stream", "tar", "pickle"])
@pytest.mark.parametrize("kind", ["reduce", "eval", "getattr"])
def test_hostile_pickle_is_refused(tmp_path, trained, kind, layout, door):
    allow_checkpoint_types()
    marker, path = tmp_path / "marker", tmp_path / "hostile.pth"
    write(path, layout, payload(kind, marker), read_checkpoint(trained))
    with pytest.raises(CheckpointError) as caught:
        DOORS[door](path, tmp_path)
    assert not marker.exists()
    assert str(path) in str(caught.value) and "weights_only" not in str(caught.value)
    named = {"reduce": "system", "eval": "eval", "getattr": "__init__"}[kind]
    assert ("tar layout" if layout == "tar" else named) in str(caught.value)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("place", ["meta.config", "meta.cfg", "runtime_info.cfg"])
def test_code_in_the_config_is_not_run(tmp_path, trained, detector, place, door):
    marker, path = tmp_path / "marker", tmp_path / "hostile.pth"
    checkpoint = torch.load(trained, weights_only=True)
    if door == "init_detector":
        checkpoint["state_dict"] = detector.state_dict()
    holder, key = place.split(".")
    code = f"import os\nopen({str(marker)!r}, 'w').close()\n"
    (checkpoint["meta"] if holder == "meta" else checkpoint["message_hub"][holder])[key] = code
    torch.save(checkpoint, path)
    result = DOORS[door](path, tmp_path)
    assert not marker.exists()
    assert str(marker) not in str(result)
    if door == "export_student":
        assert str(marker) not in str(torch.load(tmp_path / "student.pth"))


def test_a_plain_runner_does_not_run_the_config(tmp_path, trained):
    """Without any hook of ours: MMEngine's reading itself is replaced."""
    marker, path = tmp_path / "marker", tmp_path / "hostile.pth"
    checkpoint = torch.load(trained, weights_only=True)
    checkpoint["meta"]["config"] = f"import os\nopen({str(marker)!r}, 'w').close()\n"
    torch.save(checkpoint, path)
    runner = make_runner(tmp_path)
    runner._hooks = [hook for hook in runner._hooks if not isinstance(hook, SafeCheckpointHook)]
    runner.resume(str(path))
    assert runner.iter == 4 and not marker.exists()


def test_strange_meta_is_refused(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(1)}, "meta": ["config"]}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth: expected a dictionary .*'meta', got list"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "state",
    [
        # Each of these, believed, makes numpy 2 read memory that is not the array's, or crash.
        (3, "<", (np.dtype("f8"), (1000,)), None, None, -1, -1, 0),
        (3, "<", None, ("a",), {"a": (np.dtype("i8"), 10**9)}, -1, -1, 0),
        (3, "<", None, None, None, 8000, -1, 0),
        (3, "<", None, None, None, -1, -1, 0x3F),
    ],
)
def test_false_number_types_are_refused(tmp_path, state):
    torch.save({"extra": Call(np.dtype, "f8", False, True, state=state)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="plain numpy number type"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("shape", [(3,), (-1, -2), (2**62, 4), "2", (2.0,)])
def test_false_shapes_are_refused(tmp_path, shape):
    reconstruct, arguments, (version, _, *rest) = np.zeros(2).__reduce__()
    array = Call(reconstruct, *arguments, state=(version, shape, *rest))
    torch.save({"extra": array}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="expected .* (numbers of type|array of numbers)"):
        read_checkpoint(tmp_path / "a.pth")


def test_arrays_of_objects_are_refused(tmp_path):
    torch.save({"extra": np.array([None, "x"], dtype=object)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="number type"):
        read_checkpoint(tmp_path / "a.pth")


def test_a_file_cannot_change_what_a_statistic_means(tmp_path):
    buffer = HistoryBuffer([1.0, 3.0], [1, 1])
    buffer._statistics_methods = {"mean": HistoryBuffer.max}
    torch.save({"buffer": buffer}, tmp_path / "a.pth")
    read = read_checkpoint(tmp_path / "a.pth")["buffer"]
    # (1 + 3) / (1 + 1) = 2, not the maximum 3, for this buffer and for any other.
    assert read.statistics("mean") == HistoryBuffer([1.0, 3.0], [1, 1]).statistics("mean") == 2


@pytest.mark.parametrize("name", ["register_statistics", "__init__", "_statistics_methods", "data"])
def test_getattr_gives_the_four_statistics_only(tmp_path, name):
    torch.save({"extra": Call(getattr, HistoryBuffer, name)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=name):
        read_checkpoint(tmp_path / "a.pth")


def test_the_unsafe_switch_is_ignored(tmp_path, monkeypatch):
    """With the variable set, a `torch.load` that does not ask for the check would run anything."""
    marker, path = tmp_path / "marker", tmp_path / "hostile.pth"
    torch.save({"extra": payload("reduce", marker)}, path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(CheckpointError, match="system"):
        read_checkpoint(path)
    assert not marker.exists()


def test_allowing_twice_changes_nothing():
    allow_checkpoint_types()
    allowed = set(torch.serialization.get_safe_globals())
    allow_checkpoint_types()
    assert set(torch.serialization.get_safe_globals()) == allowed
    assert getattr not in allowed and not any(getattr in entry for entry in unpickling._STAND_INS)


# --- Good files -----------------------------------------------------------------------------------


def test_a_real_checkpoint_resumes_with_its_history(tmp_path, trained):
    before = read_checkpoint(trained)["message_hub"]["log_scalars"]["train/loss"]
    assert type(before) is HistoryBuffer and len(before.data[0]) == 4
    assert [type(part) for part in before.data] == [np.ndarray, np.ndarray]

    runner = make_runner(tmp_path, epochs=3, load_from=str(trained), resume=True)
    runner.train()
    assert (runner.epoch, runner.iter) == (3, 6)
    after = runner.message_hub.get_scalar("train/loss").data[0]
    assert len(after) == 6
    np.testing.assert_array_equal(after[:4], before.data[0])
    assert "cfg" in runner.message_hub.runtime_info  # its own config text, not the file's

    # What the resumed run writes is again what any reader of MMEngine's files expects.
    again = read_checkpoint(tmp_path / "epoch_3.pth")["message_hub"]["log_scalars"]["train/loss"]
    np.testing.assert_array_equal(again.data[0], after)


@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
@pytest.mark.parametrize("layout", ["zip", "stream"])
def test_histories_of_numpy_1_and_2(tmp_path, core, layout):
    buffer = HistoryBuffer([0.5, 0.25], [1, 2])
    values = {"buffer": buffer, "int": np.arange(6).reshape(2, 3).T, "number": np.float32(0.1)}
    torch.save(values, tmp_path / "a.pth", _use_new_zipfile_serialization=layout == "zip")

    def rename(data):
        renamed = re.sub(rb"numpy\._?core\.multiarray", core + b".multiarray", data)
        assert core + b".multiarray" in renamed or b"numpy" not in data
        return renamed

    path = tmp_path / "b.pth"
    if layout == "zip":
        with zipfile.ZipFile(tmp_path / "a.pth") as old, zipfile.ZipFile(path, "w") as new:
            for name in old.namelist():
                new.writestr(name, rename(old.read(name)))
    else:
        path.write_bytes(rename((tmp_path / "a.pth").read_bytes()))
    read = read_checkpoint(path)
    np.testing.assert_array_equal(read["buffer"].data, buffer.data)
    np.testing.assert_array_equal(read["int"], values["int"])
    assert read["int"].dtype == values["int"].dtype
    assert read["number"] == values["number"] and type(read["number"]) is np.float32
    # Array and history are numpy's and MMEngine's own again when they are pickled.
    assert pickle.dumps(read["int"]) == pickle.dumps(values["int"])
    assert b"gdetkd" not in pickle.dumps(read)


def test_number_types_and_byte_orders(tmp_path):
    for code in ["?", "i1", "u2", "<i4", ">i8", "<f2", ">f4", "f8"]:
        array = np.array([0, 1, 1], dtype=code)
        torch.save({"array": array}, tmp_path / "a.pth")
        read = read_checkpoint(tmp_path / "a.pth")["array"]
        np.testing.assert_array_equal(read, array)
        # numpy itself turns foreign byte orders into the machine's when it unpickles.
        assert read.dtype == pickle.loads(pickle.dumps(array, protocol=2)).dtype


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda state: state, id="bare"),
        pytest.param(lambda state: {f"module.{k}": v for k, v in state.items()}, id="DataParallel"),
        pytest.param(lambda state: {"model": state, "epoch": 3}, id="model"),
        pytest.param(
            lambda state: {
                "state_dict": state,
                "meta": {"CLASSES": CLASSES, "PALETTE": PALETTE, "config": "x = 1", "epoch": 12},
            },
            id="MMDetection 2",
        ),
    ],
)
def test_older_layouts(tmp_path, detector, wrap, stream):
    source, slim = tmp_path / "zoo.pth", tmp_path / "slim.pth"
    torch.save(wrap(detector.state_dict()), source, _use_new_zipfile_serialization=not stream)
    state, which = student_state(read_checkpoint(source))
    assert which == "plain"
    assert_same(state, detector.state_dict())

    assert export_student(source, slim) == "plain"
    assert_loads_strictly(slim, detector.state_dict())
    meta = torch.load(slim)["meta"]
    if "meta" in wrap({}):
        assert meta["dataset_meta"] == {
            "classes": ["one", "two"],
            "palette": [[1, 2, 3], [4, 5, 6]],
        }
        assert meta["epoch"] == 12 and "x = 1" not in str(meta)


# --- The student alone ----------------------------------------------------------------------------


def assert_same(state, expected):
    assert list(state) == list(expected)
    for key, value in expected.items():
        assert torch.equal(state[key], value), key


def assert_loads_strictly(path, expected):
    """``init_detector`` gets every weight, and a strict load finds no key too many or few."""
    model = init_detector(detector_config(), str(path), device="cpu")
    assert_same(model.state_dict(), expected)
    load_checkpoint(MODELS.build(detector_config().model), str(path), strict=True)
    return model


def distilled(detector, **parts):
    """A distilled detector's checkpoint around a real student."""
    state = detector.state_dict()
    entries = OrderedDict((f"distiller.student.{key}", value) for key, value in state.items())
    entries._metadata = OrderedDict(
        (f"distiller.student.{k}".rstrip("."), v) for k, v in state._metadata.items()
    )
    entries["distiller.objective.temperature"] = torch.tensor(0.07)
    meta = {
        "dataset_meta": {"classes": CLASSES, "palette": PALETTE},
        "cfg": "secret = 1",
        "epoch": 2,
        "iter": 500,
    }
    return {"meta": meta, "state_dict": entries, **parts}


def test_exported_student_is_a_plain_detector(tmp_path, detector):
    source, out = tmp_path / "epoch_2.pth", tmp_path / "new" / "student.pth"
    torch.save(distilled(detector, optimizer={"state": torch.ones(1000)}), source)
    assert export_student(source, out) == "raw"
    model = assert_loads_strictly(out, detector.state_dict())
    assert list(model.dataset_meta["classes"]) == list(CLASSES)

    content = torch.load(out, weights_only=True)
    assert set(content) == {"meta", "state_dict"}
    assert content["meta"] == {
        "epoch": 2,
        "iter": 500,
        "weights": "raw",
        "half": False,
        "gdetkd_version": gdetkd.__version__,
        "dataset_meta": {"classes": ["one", "two"], "palette": [[1, 2, 3], [4, 5, 6]]},
    }
    # The versions by which modules convert old weights come along.
    assert content["state_dict"]._metadata == detector.state_dict()._metadata


def test_exported_student_gives_the_same_boxes(tmp_path, detector):
    torch.save(distilled(detector), tmp_path / "a.pth")
    export_student(tmp_path / "a.pth", tmp_path / "student.pth")
    model = init_detector(detector_config(), str(tmp_path / "student.pth"), device="cpu")
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    detector.eval()
    with torch.no_grad():
        for ours, theirs in zip(
            model.extract_feat(image), detector.extract_feat(image), strict=True
        ):
            assert torch.equal(ours, theirs)


def test_half_precision(tmp_path, detector):
    source, out = tmp_path / "a.pth", tmp_path / "half.pth"
    checkpoint = distilled(detector)
    # 65504 is the largest fp16 number: a variance above it would become infinite.
    large = "distiller.student.backbone.bn1.running_var"
    checkpoint["state_dict"][large] = torch.full((4,), 1e6)
    torch.save(checkpoint, source)
    export_student(source, out, half=True)
    content = torch.load(out)
    for key, value in content["state_dict"].items():
        original = checkpoint["state_dict"][f"distiller.student.{key}"]
        expected = torch.float16 if original.is_floating_point() else original.dtype
        assert value.dtype == (
            torch.float32 if f"distiller.student.{key}" == large else expected
        ), key
        # fp16 has 11 significant bits: rounding errs by at most 2^-11 of a value (2^-25 near zero).
        torch.testing.assert_close(value.to(original.dtype), original, rtol=2**-11, atol=2**-25)
    assert content["meta"]["half"] is True
    model = init_detector(detector_config(), str(out), device="cpu")
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_averaged_weights_are_told_apart(tmp_path):
    """A real EMAHook swaps the two sets when it saves; MMEngine tests the averaged ones."""
    runner = make_runner(
        tmp_path, hooks=[dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=0.5)]
    )
    runner.train()
    checkpoint = read_checkpoint(tmp_path / "epoch_1.pth")
    ema_hook = next(hook for hook in runner.hooks if type(hook).__name__ == "EMAHook")
    raw, ema = (
        runner.model.distiller.student.state_dict(),
        ema_hook.ema_model.module.distiller.student.state_dict(),
    )
    assert not torch.equal(raw["0.weight"], ema["0.weight"])

    for weights, expected, name in [("auto", ema, "ema"), ("ema", ema, "ema"), ("raw", raw, "raw")]:
        state, which = student_state(checkpoint, weights)
        assert which == name
        assert_same(state, expected)
    assert export_student(tmp_path / "epoch_1.pth", tmp_path / "student.pth") == "ema"
    exported = torch.load(tmp_path / "student.pth")
    assert exported["meta"]["weights"] == "ema"
    assert_same(exported["state_dict"], ema)

    # MMEngine's own loading for a test takes the same set.
    tested = make_runner(tmp_path / "test")
    tested.load_checkpoint(str(tmp_path / "epoch_1.pth"))
    assert_same(tested.model.distiller.student.state_dict(), ema)


def test_views_are_exported_without_the_storage_behind_them(tmp_path):
    torch.save({"state_dict": {"distiller.student.a": torch.zeros(10**6)[:2]}}, tmp_path / "a.pth")
    export_student(tmp_path / "a.pth", tmp_path / "b.pth")
    assert (tmp_path / "b.pth").stat().st_size < 10_000


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ({"meta": {}, "optimizer": {}}, "expected weights .*got the keys"),
        ({"state_dict": {}}, "expected weights"),
        (
            {"state_dict": [torch.ones(1)]},
            "expected a dictionary of weights by name.*got list",
        ),
        ({"state_dict": {"a": 1}}, "expected weights"),
        ({"state_dict": {"distiller.objective.a": torch.ones(1)}}, "expected a distilled detector"),
    ],
)
def test_no_student_is_refused(tmp_path, checkpoint, message):
    source, out = tmp_path / "a.pth", tmp_path / "b.pth"
    torch.save(checkpoint, source)
    with pytest.raises(CheckpointError, match=rf"a\.pth: {message}"):
        export_student(source, out)
    assert not out.exists()


def test_export_onto_itself_is_refused(tmp_path, trained):
    source = tmp_path / "a.pth"
    source.write_bytes(trained.read_bytes())
    (tmp_path / "link.pth").symlink_to(source)
    for destination in (source, tmp_path / "link.pth", tmp_path / "." / "a.pth"):
        with pytest.raises(CheckpointError, match="expected another file than the source"):
            export_student(source, destination)
    assert source.read_bytes() == trained.read_bytes()


def test_choice_of_weights_is_checked(trained):
    checkpoint = read_checkpoint(trained)
    with pytest.raises(CheckpointError, match="expected averaged .EMA. weights, got none"):
        student_state(checkpoint, "ema")
    with pytest.raises(ValueError, match="'auto', 'ema' or 'raw', got 'best'"):
        student_state(checkpoint, "best")


# --- Broken files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"some notes\n" * 100, "starts with b'some notes"),
        (b"<!DOCTYPE html><html>404</html>", "starts with b'<!DOCTYPE html>.*web page"),
        (bytes(range(256)) * 8, "cannot be read as one"),
        (b"PK\x03\x04 no archive", "the archive is damaged"),
    ],
)
def test_a_file_that_is_no_checkpoint(tmp_path, content, message):
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"a\.pth: expected a .*{message}.*again$"):
        read_checkpoint(path)


def test_missing_file_and_directory(tmp_path):
    with pytest.raises(CheckpointError, match=r"a\.pth: expected .* it does not exist"):
        read_checkpoint(tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="it is a directory"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("part", [0.01, 0.5, 0.99])
def test_truncated_file(tmp_path, part, stream):
    whole, cut = tmp_path / "whole.pth", tmp_path / "cut.pth"
    checkpoint = {"state_dict": {"a": torch.ones(5000)}, "meta": {}}
    torch.save(checkpoint, whole, _use_new_zipfile_serialization=not stream)
    data = whole.read_bytes()
    cut.write_bytes(data[: int(part * len(data))])
    with pytest.raises(CheckpointError, match=r"cut\.pth: expected "):
        read_checkpoint(cut)


def test_something_else_than_a_dictionary(tmp_path):
    torch.save([torch.ones(1)], tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="expected a dictionary of weights by name.*got list"):
        read_checkpoint(tmp_path / "a.pth")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.pth"
    with atomic_write(path) as file:
        torch.save({"a": 1}, file)
    with pytest.raises((pickle.PicklingError, AttributeError)), atomic_write(path) as file:
        torch.save({"a": torch.ones(1), "b": lambda: None}, file)
    assert read_checkpoint(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["a.pth"]

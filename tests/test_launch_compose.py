"""`gdetkd distill`: a config from two names and a folder, and the training that it starts."""

import json
import re

import pytest
from click.testing import CliRunner
from helpers import faster_rcnn, run_config, save_detector
from mmengine.config import Config
from processes import gdetkd

from gdetkd.cli import cli
from gdetkd.launch.compose import compose, proposals, write_config, zoo_weights

TEACHER, STUDENT = "gdetkd::digits/faster_rcnn_r34_teacher.py", "gdetkd::digits/faster_rcnn_r18.py"


def test_a_two_stage_student_gets_every_component_and_a_queue_of_its_size(digits):
    config = compose(TEACHER, STUDENT, digits, preset="paper")
    assert set(config.model.components) == {
        "contrastive", "imitation", "classification", "regression"
    }  # fmt: skip
    # Ten batches of the paper's K, one of them the present one: 8 images of 48 proposals.
    assert config.model.components.contrastive.queue_capacity == 9 * 8 * 48
    on_four = compose(TEACHER, STUDENT, digits, gpus=4, preset="paper")
    assert on_four.model.components.contrastive.queue_capacity == 4 * 9 * 8 * 48
    assert config.model.teacher.checkpoint == "gdetkd::digits_faster_rcnn_r34.pth"
    assert config.model.student == Config.fromfile(_file(STUDENT)).model
    assert "student_adapter" not in config.model
    recommended = compose(TEACHER, STUDENT, digits)
    assert recommended.model.components.contrastive.queue_capacity == 0
    weights = {name: each.weight for name, each in recommended.model.components.items()}
    assert weights == dict(contrastive="50%", imitation="400%", classification=1.0, regression=1.0)
    recommended.model.components.contrastive.update(weight=0.5, queue_capacity=9 * 8 * 48)
    recommended.model.components.imitation.weight = 1.0
    assert recommended.model == config.model
    with pytest.raises(ValueError, match="expected one of recommended, paper, got 'papers'"):
        compose(TEACHER, STUDENT, digits, preset="papers")


def test_at_the_papers_scale_the_queue_is_the_papers(tmp_path):
    coco = _empty_coco(tmp_path)
    teacher, student = (f"mmdet::faster_rcnn/faster-rcnn_r{n}_fpn_1x_coco.py" for n in (101, 50))
    config = compose(teacher, student, coco, gpus=8, preset="paper")
    assert config.model.components.contrastive.queue_capacity == 72 * 1024
    assert config.model.teacher.checkpoint.startswith("https://download.openmmlab.com/")
    assert proposals(config.model.student) == 512


def test_a_dense_student_gets_features_and_contrast(digits):
    config = compose(TEACHER, "gdetkd::digits/retinanet_r18.py", digits, preset="paper")
    assert set(config.model.components) == {"contrastive", "imitation"}
    assert config.model.student_adapter == dict(boxes_per_image=512)
    assert config.model.components.contrastive.queue_capacity == 9 * 8 * 512


def test_a_cascade_says_its_proposals_by_its_first_stage():
    assert proposals(Config.fromfile(_file("gdetkd::digits/cascade_rcnn_r18.py")).model) == 48


@pytest.mark.parametrize(
    "teacher, student, checkpoint, said",
    [
        (TEACHER, "gdetkd::digits/gdetkd_faster_rcnn_r18.py", None, "expected a plain detector"),
        (
            "gdetkd::digits/cascade_rcnn_r34_teacher.py",
            STUDENT,
            None,
            "first: gdetkd train gdetkd::digits/cascade_rcnn_r34_teacher.py --data",
        ),
        (TEACHER, "gdetkd::_base_/digits_schedule.py", None, "without a model"),
    ],
)
def test_what_cannot_be_composed_is_said(digits, teacher, student, checkpoint, said):
    with pytest.raises(ValueError, match=said):
        compose(teacher, student, digits, checkpoint)


def test_data_sets_are_found_inside_what_repeats_them(tmp_path):
    student = "mmdet::faster_rcnn/faster-rcnn_r50_fpn_ms-3x_coco.py"
    teacher = "mmdet::faster_rcnn/faster-rcnn_r101_fpn_1x_coco.py"
    config = compose(teacher, student, _empty_coco(tmp_path))
    outer = config.train_dataloader.dataset
    assert outer.type == "RepeatDataset" and "data_root" not in outer
    assert outer.dataset.data_root == f"{tmp_path}/"
    assert outer.dataset.ann_file == "annotations/instances_train2017.json"


def test_a_teacher_of_other_classes_is_to_be_trained_first(tmp_path):
    said = (
        "was trained on other classes, 10 (0, 1, 2, ...), than those of .*, 80 (person, bicycle, "
        f"car, ...). Train the teacher on these classes first: gdetkd train {TEACHER} --data "
    )
    with pytest.raises(ValueError, match=re.escape(said).replace(re.escape(".*"), ".*")):
        compose(TEACHER, STUDENT, _empty_coco(tmp_path))


def test_a_semantic_head_keeps_its_number_of_classes(tmp_path):
    student = teacher = "mmdet::htc/htc_r50_fpn_1x_coco.py"
    plain = Config.fromfile(_file(student)).model
    composed = compose(teacher, student, _empty_coco(tmp_path)).model.student
    number = plain.roi_head.semantic_head.num_classes
    assert composed.roi_head.semantic_head.num_classes == number != 80


def test_weights_that_are_not_there_are_missed_before_anything_is_written(digits):
    with pytest.raises(FileNotFoundError, match="there is no 'nowhere.pth'"):
        compose(TEACHER, STUDENT, digits, "nowhere.pth")


@pytest.mark.parametrize("student", [STUDENT, "gdetkd::digits/retinanet_r18.py",
                                     "gdetkd::digits/cascade_rcnn_r18.py",
                                     "gdetkd::own/faster_rcnn_r18.py"])  # fmt: skip
def test_what_is_written_is_short_and_says_the_same(student, digits, tmp_path):
    """`_base_` and the differences, read by MMEngine, are the config that was composed."""
    config = compose(TEACHER, student, digits, transfer_heads=True, start="none")
    write_config(config, tmp_path / "mine.py", TEACHER, student)
    assert len((tmp_path / "mine.py").read_text().splitlines()) < 60
    found = Config.fromfile(tmp_path / "mine.py")._cfg_dict.to_dict()
    assert _without_scopes(found) == _without_scopes(config._cfg_dict.to_dict())


def test_a_pair_that_does_not_fit_leaves_no_config(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["distill", TEACHER, "gdetkd::digits/retinanet_r18.py", "--data", str(digits),
                 "--transfer-heads"]  # fmt: skip
    done = CliRunner().invoke(cli, arguments)
    assert isinstance(done.exception, ValueError) and "transfer_heads" in str(done.exception)
    assert not list(tmp_path.iterdir())


def test_a_config_is_written_once_and_never_over_another(digits, tmp_path):
    config, path = compose(TEACHER, STUDENT, digits), tmp_path / "mine.py"
    write_config(config, path, TEACHER, STUDENT)
    write_config(config, path, TEACHER, STUDENT)  # the same: nothing is lost
    path.write_text("# edited")
    with pytest.raises(ValueError, match="exists and differs"):
        write_config(config, path, TEACHER, STUDENT)
    with pytest.raises(ValueError, match="expected the name of a Python file"):
        write_config(config, tmp_path / "mine.txt", TEACHER, STUDENT)


def test_a_folder_of_no_known_layout_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected COCO 2017 as unpacked"):
        compose(TEACHER, STUDENT, tmp_path)


def test_every_weight_that_the_zoo_lists_is_found():
    assert "faster_rcnn_r50_fpn_1x_coco" in zoo_weights(
        "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
    )
    assert zoo_weights(STUDENT) is None


@pytest.mark.slow
def test_the_command_writes_a_config_and_trains_it(digits, tmp_path):
    """Files as names, four steps, then what the config says to keep; an edited file is kept."""
    teacher = save_detector(faster_rcnn(base=6, channels=12, fc=24), tmp_path / "teacher.pth")
    kept = dict(interval=2, save_last=True)
    student = run_config(
        faster_rcnn(), digits, tmp_path / "plain", steps=4, default_hooks__checkpoint=kept
    )
    student.dump(str(tmp_path / "student.py"))
    Config(dict(model=teacher["config"])).dump(str(tmp_path / "teacher.py"))
    command = ("distill", "teacher.py", "student.py", "--data", digits, "--out", "mine.py",
               "--checkpoint", tmp_path / "teacher.pth", "--work-dir", "work")  # fmt: skip
    code, said = gdetkd(tmp_path, *command).wait()
    assert code == 0, said
    losses = [json.loads(line) for line in _log(tmp_path / "work").read_text().splitlines()]
    assert {"kd_contrastive_loss", "kd_imitation_loss", "kd_regression_loss"} <= set(losses[0])
    assert list((tmp_path / "work").glob("*_student.pth"))
    assert "gdetkd train mine.py" in (tmp_path / "mine.py").read_text()
    with (tmp_path / "mine.py").open("a") as file:
        file.write("# mine\n")
    code, said = gdetkd(tmp_path, *command).wait()
    assert code != 0 and "mine.py exists and differs" in said and "Traceback" not in said


def _file(name):
    from gdetkd.checkpoints.hub import find_config

    return find_config(name)


def _without_scopes(node):
    """MMEngine marks what a config takes from another package's."""
    if isinstance(node, dict):
        return {key: _without_scopes(each) for key, each in node.items() if key != "_scope_"}
    return type(node)(map(_without_scopes, node)) if isinstance(node, list | tuple) else node


def _log(work):
    (log,) = work.glob("*/vis_data/scalars.json")
    return log


def _empty_coco(root):
    """The tree of COCO 2017; composing does not read what the files hold."""
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        (root / "annotations" / f"instances_{split}2017.json").write_text("{}")
    return root

"""The worked example of gdetkd/distillation/README.md: relations between proposals."""

import re
from pathlib import Path

import pytest
import torch
from helpers import build, distilled, faster_rcnn, run, run_config, save_detector
from relational_component import Relation
from twins import falls

import gdetkd
from gdetkd.distillation import DetectorSpec, Objective, RoIOutputs
from gdetkd.distillation.component import COMPONENTS

SPEC = DetectorSpec("d", 3, 2, (4,), (7, 7), 2)


@pytest.fixture(scope="module", autouse=True)
def registered():
    """The example is there for this file alone."""
    yield
    del COMPONENTS["relation"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return save_detector(faster_rcnn(), tmp_path_factory.mktemp("component") / "teacher.pth")


def outputs(*rows):
    return RoIOutputs(torch.zeros(len(rows), 5), (), None, torch.tensor(rows).reshape(-1, 2))


def test_the_page_shows_the_code_that_is_tested():
    page = (Path(gdetkd.__file__).parent / "distillation" / "README.md").read_text()
    code = Path(__file__).with_name("relational_component.py").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len(blocks) == 2 and all(block in code for block in blocks)


def test_the_page_lists_every_component_and_what_it_needs():
    page = (Path(gdetkd.__file__).parent / "distillation" / "README.md").read_text()
    for name in set(COMPONENTS) - {"relation"}:
        (row,) = (line for line in page.splitlines() if re.match(rf"\|.*`{name}`.*\|.*\.py`", line))
        for field in (*COMPONENTS[name].student_fields, *COMPONENTS[name].teacher_fields):
            assert f"`{field}`" in row, name


def test_by_hand():
    # Distances 3, 4, 5 of mean 4; the teacher's are all equal: gaps -1/4, 0, 1/4.
    student = outputs([0.0, 0.0], [3.0, 0.0], [0.0, 4.0])
    teacher = outputs([0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5])
    output = Relation(SPEC, SPEC)(student, teacher)
    assert output.loss.item() == pytest.approx(2 * 0.25**2 / 2 / 3, rel=1e-4) and output.count == 3


def test_no_boxes_give_a_zero_that_reaches_the_student():
    student = outputs()
    student.representation.requires_grad_()
    losses = Objective(SPEC, SPEC, dict(relation=dict(weight=1)))(student, outputs())
    losses["kd_relation_loss"].backward()
    assert losses["kd_relation_loss"] == 0 and student.representation.grad is not None


def test_a_wrong_setting_is_refused_by_name():
    for settings, said in ((dict(beta=0), "relation: beta .* got 0"), (dict(gamma=1), "'gamma'")):
        with pytest.raises(ValueError, match=said):
            Objective(SPEC, SPEC, dict(relation=dict(settings, weight=1)))


def test_its_loss_falls(teacher):
    model = build(distilled(faster_rcnn(), teacher, dict(relation=dict(weight=1.0))))
    ((start, end),) = falls(model, steps=8).values()
    assert end < start


def test_it_trains_from_a_config_that_imports_it(teacher, digits, tmp_path):
    model = distilled(faster_rcnn(), teacher, dict(relation=dict(weight=1.0)))
    imports = ["gdetkd.detectors.mmdet", "relational_component"]
    config = run_config(model, digits, tmp_path, custom_imports=dict(imports=imports))
    _, recorded = run(config)
    assert all(log["kd_relation_loss"] > 0 for log in recorded.logs) and len(recorded.logs) == 3

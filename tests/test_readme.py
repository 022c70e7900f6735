"""The code in the README runs as it stands there."""

import re
from pathlib import Path

import pytest
import torch
from torchvision.models.detection import (
    fasterrcnn_mobilenet_v3_large_320_fpn,
    fasterrcnn_resnet50_fpn,
)

README = (Path(__file__).parents[1] / "README.md").read_text()


@pytest.mark.slow
def test_the_loop_of_ones_own_trains_and_leaves_a_plain_student(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = (
        block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "loader" in block
    )
    teacher = fasterrcnn_resnet50_fpn(num_classes=11, weights_backbone=None)
    torch.save(teacher.state_dict(), "teacher.pth")
    images = [torch.rand(3, 160, 200), torch.rand(3, 180, 160)]
    boxes = torch.tensor([[10, 20, 90, 100], [60, 30, 150, 140.0]])
    targets = [dict(boxes=boxes, labels=torch.tensor([1, 10])) for _ in images]
    names = dict(loader=[(images, targets)])
    exec(code, names)
    assert names["losses"]["kd_imitation_loss"].isfinite() and "loss_classifier" in names["losses"]
    plain = fasterrcnn_mobilenet_v3_large_320_fpn(num_classes=11, weights_backbone=None)
    before = plain.state_dict()["roi_heads.box_head.fc6.weight"].clone()
    plain.load_state_dict(torch.load("student.pth"))
    assert not torch.equal(plain.state_dict()["roi_heads.box_head.fc6.weight"], before)

"""Students as ONNX files: ONNX Runtime predicts what PyTorch does."""

from __future__ import annotations

import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from tiny_torchvision import detector
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.ssd import SSD

from gdetkd.cli import cli
from gdetkd.detectors import export_onnx


def run(path, image):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found = session.run(None, {"image": image.numpy()})
    return dict(zip(names, map(torch.from_numpy, found), strict=True))


@pytest.mark.filterwarnings("ignore")  # of the tracer, of sizes that are constants
@pytest.mark.parametrize("kind", [FasterRCNN, RetinaNet, SSD])
def test_a_detector_of_torchvision(kind, tmp_path):
    model = detector(kind=kind)
    model.score_thresh = 0.0  # of RetinaNet and SSD: untrained, they are sure of nothing
    export_onnx(model, tmp_path / "student.onnx", torch.rand(3, 60, 80))
    assert model.training
    model.eval()
    for size in ((60, 80), (72, 64)):  # another one than it was traced with
        image = torch.rand(3, *size)
        with torch.no_grad():
            (expected,) = model([image])
        found = run(tmp_path / "student.onnx", image)
        assert len(expected["scores"]) > 5
        assert torch.equal(found["labels"], expected["labels"])
        torch.testing.assert_close(found["scores"], expected["scores"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found["boxes"], expected["boxes"], rtol=1e-4, atol=1e-3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["detr", "conditional_detr"])
def test_a_detector_of_transformers(kind, tmp_path):
    transformers = pytest.importorskip("tiny_transformers", exc_type=ImportError)
    model = transformers.detr(kind)
    image = torch.rand(1, 3, 64, 64)
    export_onnx(model, tmp_path / "student.onnx", image)
    with torch.no_grad():
        expected = model.eval()(pixel_values=image)
    found = run(tmp_path / "student.onnx", image)
    for name in ("logits", "pred_boxes"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_the_command_writes_what_a_file_of_the_student_predicts(tmp_path):
    transformers = pytest.importorskip("tiny_transformers", exc_type=ImportError)
    model = transformers.detr("detr")
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "student.pth")
    given, out = str(tmp_path / "student.pth"), str(tmp_path / "student.onnx")
    arguments = ["export", given, out, "--onnx", str(tmp_path), "--size", "64", "64"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = model.eval()(pixel_values=image).logits
    torch.testing.assert_close(run(out, image)["logits"], expected, rtol=1e-4, atol=1e-4)
    done = CliRunner().invoke(cli, ["export", given, out, "--force", "--onnx", "no_such_model"])
    assert "expected a folder with a config.json, or --classes N and one of" in str(done.exception)
    known = ["--onnx", "fasterrcnn_mobilenet_v3_large_320_fpn", "--classes", "3"]
    done = CliRunner().invoke(cli, ["export", given, out, "--force", *known])
    assert "student.pth has other weights than fasterrcnn_mobilenet" in str(done.exception)


def test_others_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"got Linear of torch and \(3, 8, 8\)"):
        export_onnx(torch.nn.Linear(1, 1), tmp_path / "student.onnx", torch.rand(3, 8, 8))
    assert not list(tmp_path.iterdir())

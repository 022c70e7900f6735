"""The explorer's data and page: what detectors say of the same boxes, maps that are aligned."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder

from gdetkd.cli import cli
from gdetkd.detectors.mmdet.building import load_detector
from gdetkd.distillation.structures import RoIOutputs
from gdetkd.evaluation.exploration import apply_deltas, describe, explore
from gdetkd.evaluation.images import val_images
from gdetkd.evaluation.rois import forward_rois, match_truth, rpn_proposals
from gdetkd.training.config import load_config
from gdetkd.viz.explorer import aligned_layouts, explorer_data, write_explorer
from gdetkd.viz.explorer_widget import ProposalExplorer

CLASSES = ("cat", "</script>", "dog")
STUDENT = "gdetkd::digits/faster_rcnn_r18.py"
SHIPPED = {
    "teacher": ("gdetkd::digits/faster_rcnn_r34_teacher.py", "gdetkd::digits_faster_rcnn_r34.pth"),
    "distilled": (STUDENT, "gdetkd::digits_gdetkd_faster_rcnn_r18.pth"),
}


def outputs(rois, vectors, logits=None, deltas=None, valid_mask=None):
    return RoIOutputs(rois, (), None, vectors, logits, deltas, valid_mask=valid_mask)


@pytest.fixture(scope="module")
def scene():
    """40 boxes on four pictures, the first ten of each on an object; three detectors of them."""
    random = torch.Generator().manual_seed(0)
    truth = torch.tensor([[i, 10.0, 10, 40, 50] for i in range(4)])
    labels = torch.tensor([0, 1, 2, 0])
    away = torch.tensor([[0, 60.0, 60, 90, 90]])
    rois = torch.cat([truth.repeat_interleave(5, 0), (away + truth[:, :1] * away.new_tensor(
        [1, 0, 0, 0, 0])).repeat_interleave(5, 0)])  # fmt: skip
    shown = torch.cat([labels.repeat_interleave(5), torch.full((20,), 3)])
    vectors = torch.nn.functional.one_hot(shown, 200) + 0.3 * torch.rand(40, 200, generator=random)
    turn = torch.linalg.qr(torch.randn(200, 200, generator=random))[0]
    logits = 8.0 * torch.nn.functional.one_hot(shown, 4)
    found = {
        "teacher": outputs(rois, vectors, logits, torch.zeros(40, 3, 4)),
        "turned": outputs(rois, vectors @ turn, logits[:, :3] - 4),  # sigmoid, without boxes
        "silent": outputs(rois, torch.rand(40, 16, generator=random)),
    }
    pictures = [np.full((100, 120, 3), 60 * i, np.uint8) for i in range(4)]
    return describe(pictures, rois, truth, labels, CLASSES, found), shown, vectors


def test_labels_scores_and_boxes_are_what_the_outputs_say(scene):
    proposals, shown, _ = scene
    assert np.array_equal(proposals.labels, shown)
    assert np.allclose(proposals.ious, [1.0] * 20 + [0.0] * 20)
    teacher, turned, silent = proposals.detectors.values()
    assert np.array_equal(teacher.labels, shown)
    assert np.allclose(teacher.scores, np.exp(8) / (np.exp(8) + 3))  # softmax of 8, 0, 0, 0
    assert np.array_equal(teacher.boxes, proposals.rois[:, 1:])
    assert np.array_equal(turned.labels, shown)  # background: every sigmoid is below a half
    assert np.allclose(turned.scores[:20], 1 / (1 + np.exp(-4)))
    assert turned.boxes is None and silent.labels is None


def test_boxes_without_an_answer_are_left_out(scene):
    proposals, _, vectors = scene
    rois, truth = torch.from_numpy(proposals.rois), torch.zeros(0, 5)
    some = torch.arange(40) % 2 == 0
    none = torch.zeros(0, dtype=torch.long)
    both = dict(a=outputs(rois, vectors, valid_mask=some), b=outputs(rois, vectors))
    found = describe(proposals.pictures, rois, truth, none, CLASSES, both)
    assert np.array_equal(found.rois, proposals.rois[::2])
    assert (found.labels == 3).all()  # there are no objects
    with pytest.raises(ValueError, match="at least three proposals .* got 2 of 40"):
        describe(proposals.pictures, rois, truth, none, CLASSES,
                 dict(a=outputs(rois, vectors, valid_mask=torch.arange(40) < 2)))  # fmt: skip


def test_deltas_move_boxes_as_mmdetection_decodes_them():
    random = torch.Generator().manual_seed(0)
    boxes = torch.rand(20, 4, generator=random) * 50
    boxes[:, 2:] += boxes[:, :2] + 5
    deltas = torch.randn(20, 4, generator=random) * 0.5
    coder = DeltaXYWHBBoxCoder(target_stds=(1.0, 1.0, 1.0, 1.0), clip_border=False)
    torch.testing.assert_close(apply_deltas(boxes, deltas), coder.decode(boxes, deltas))


def test_the_page_keeps_cosines_and_needs_nothing_else(scene):
    proposals, shown, vectors = scene
    page = write_explorer(explorer_data(proposals), "cats & dogs")
    assert "<title>cats &amp; dogs</title>" in page
    assert not re.search(r"https?://|<link|src=[\"']?(?!data)[\w/.]+[\"' >]|@import", page)
    assert page.count("</script>") == 2  # that of the class's name does not end the data
    data = json.loads(re.search(r'id="gdetkd-data">(.+?)</script>', page, re.DOTALL)[1])
    assert data["classes"] == list(CLASSES) and data["label"] == shown.tolist()
    teacher, turned, silent = data["detectors"]
    rows = (
        np.frombuffer(base64.b64decode(teacher["vectors"]), np.int8).reshape(40, -1).astype(float)
    )
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    unit = torch.nn.functional.normalize(vectors, dim=1).numpy()
    assert np.abs(rows @ rows.T - unit @ unit.T).max() < 0.01  # bytes: 1/127 at most per row
    assert turned["agreement"] == pytest.approx(1)  # a rotation changes no cosine
    assert abs(silent["agreement"]) < 0.2 and silent["said"] is None
    (picture,) = {image["src"][:23] for image in data["images"]}
    assert picture == "data:image/jpeg;base64,"
    assert data["images"][1]["truth"] == [[[10, 10, 40, 50], 1]]


def test_maps_of_detectors_that_agree_are_aligned(scene):
    _, shown, vectors = scene
    unit = torch.nn.functional.normalize(vectors, dim=1).numpy()
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(200, 200)))[0]
    one, other = aligned_layouts(dict(a=unit, b=unit @ turn)).values()
    assert one.min() == 0 and one.max() == 1
    distance = np.linalg.norm(one - other, axis=1).mean()
    shuffled = np.linalg.norm(one - other[np.random.default_rng(2).permutation(40)], axis=1).mean()
    assert distance < 0.5 * shuffled


def test_the_widget_tells_what_is_picked(scene):
    explorer = ProposalExplorer(scene[0])
    recorded = []
    explorer.observe(lambda change: recorded.append(change.new), "picked")
    explorer.picked = 7
    assert recorded == [7] and explorer.brushed == []
    assert explorer.data["label"] == scene[1].tolist()
    assert "export default" in explorer._esm


@pytest.fixture(scope="module")
def digits_root(tmp_path_factory):
    """Three images of the digits on disk, as the benchmark has them, and no more."""
    import cv2

    root, images = tmp_path_factory.mktemp("digits"), val_images(3)
    (root / "val").mkdir()
    (root / "annotations").mkdir()
    content = dict(images=[], annotations=[],
                   categories=[dict(id=i, name=str(i)) for i in range(10)])  # fmt: skip
    for index, (picture, sample) in enumerate(zip(images.pictures, images.samples, strict=True)):
        cv2.imwrite(str(root / f"val/{index}.png"), picture[..., ::-1])
        content["images"].append(dict(id=index, file_name=f"{index}.png", width=128, height=128))
        objects = sample.gt_instances
        for (x1, y1, x2, y2), label in zip(objects.bboxes.tolist(), objects.labels.tolist(),
                                           strict=True):  # fmt: skip
            box = [x1, y1, x2 - x1, y2 - y1]
            content["annotations"].append(dict(
                id=len(content["annotations"]) + 1, image_id=index, category_id=label, bbox=box,
                area=box[2] * box[3], iscrowd=0,
            ))  # fmt: skip
    for split in ("train", "val"):
        (root / f"annotations/{split}.json").write_text(json.dumps(content))
    (root / "train").symlink_to(root / "val")
    (root / "manifest.json").write_text("{}")
    return root


def test_files_give_what_the_same_images_in_memory_give(digits_root):
    detectors = {
        name: (load_config(config, data=digits_root), weights)
        for name, (config, weights) in SHIPPED.items()
    }
    found = explore(detectors, count=36)
    images = val_images(3)
    loaded = {name: load_detector(*source) for name, source in SHIPPED.items()}
    rois = rpn_proposals(loaded["teacher"], images, per_image=12)
    assert np.allclose(found.rois, rois, atol=1e-3)
    assert np.array_equal(found.labels, match_truth(rois, images)[0])
    for name, detector in loaded.items():
        expected = forward_rois(detector, images, rois).representation
        # One image at a time instead of three: other sums in the convolutions.
        assert np.allclose(found.detectors[name].vectors, expected, atol=1e-3)


def test_the_command_writes_a_page(digits_root, tmp_path):
    out = tmp_path / "page.html"
    sources = [part for source in SHIPPED.values() for part in source]
    arguments = ["explore", *sources, "--data", str(digits_root), "--proposals", "30"]
    done = CliRunner().invoke(cli, [*arguments, "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "30 proposals on 3 images" in done.output and str(out) in done.output
    assert "digits_gdetkd_faster_rcnn_r18" in out.read_text()


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["a.py"], "expected pairs of CONFIG and CHECKPOINT, got 1 arguments"),
        (["a.py", "a.pth", "b.py", "a.pth"], "expected 2 different names"),
        (["a.py", "a.pth", "--name", "x", "--name", "y"], "expected 1 different names"),
        (["a.py", "a.pth", "--split", "test"], "expected --data with --split"),
    ],
)
def test_wrong_arguments_give_a_sentence(arguments, said):
    done = CliRunner().invoke(cli, ["explore", *arguments])
    assert done.exit_code == 2 and said in done.output

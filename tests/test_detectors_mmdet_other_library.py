"""Detectors of torchvision and transformers inside MMDetection's runner: the same numbers."""

import copy
import json

import pytest
import torch
from helpers import build, faster_rcnn
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from tiny_transformers import CONFIGS, detr, plain_batch
from torchvision.models import get_model, mobilenet_v3_large
from transformers import AutoModelForObjectDetection, DetrImageProcessor, RTDetrImageProcessor

from gdetkd import Distiller
from gdetkd.checkpoints.reading import CheckpointError
from gdetkd.checkpoints.student import export_student, read_student
from gdetkd.detectors import adapter_for
from gdetkd.detectors.mmdet.building import load_detector
from gdetkd.detectors.mmdet.other_library import LibraryDetector
from gdetkd.launch.compose import proposals
from gdetkd.launch.plan import noise

NAME, SIZES = "fasterrcnn_mobilenet_v3_large_320_fpn", dict(min_size=96, max_size=128)
TORCHVISION = dict(
    type="TorchvisionDetector", name=NAME, num_classes=3, box_score_thresh=0.0, **SIZES
)
COMPONENTS = dict(contrastive=dict(weight=0.5, dim=8), imitation=dict(weight=1.0, sampling_ratio=2))


def transformers_model(kind="rt_detr"):
    config = json.loads(CONFIGS[kind]().to_json_string(use_diff=False))
    return ConfigDict(type="TransformersDetector", config=config, num_classes=3)


def built(model, seed=0):
    torch.manual_seed(seed)
    return MODELS.build(copy.deepcopy(model))


def prepared(detector, height=96, width=128):
    """A batch of two images, the second one smaller and padded."""
    data = noise(2, height, width)
    data["inputs"][1] = data["inputs"][1][:, : height - 32, : width - 32].contiguous()
    sample = data["data_samples"][1]
    sample.set_metainfo(dict(img_shape=(height - 32, width - 32), scale_factor=(0.5, 0.5)))
    sample.gt_instances.bboxes.clamp_(max=height - 33)
    data = detector.data_preprocessor(data, True)
    return data["inputs"], data["data_samples"]


def plain(inputs, samples, first):
    """The same batch as a user of the library has it: RGB in 0 to 1, without padding."""
    shapes = [sample.img_shape for sample in samples]
    images = [image[:, :h, :w].clone() for image, (h, w) in zip(inputs, shapes, strict=True)]
    truths = [sample.gt_instances for sample in samples]
    return images, [dict(boxes=t.bboxes.clone(), labels=t.labels + first) for t in truths]


@pytest.mark.parametrize("model, first", [(TORCHVISION, 1), (transformers_model(), 0)])
def test_the_losses_are_the_librarys_own(model, first):
    detector = built(model).train()
    inputs, samples = prepared(detector)
    alone = copy.deepcopy(detector.model)
    torch.manual_seed(1)
    found = detector.loss(inputs, samples)
    torch.manual_seed(1)
    expected = adapter_for(alone, "alone").losses(*plain(inputs, samples, first))
    if first:
        torch.manual_seed(1)
        direct = alone(*plain(inputs, samples, first))
        assert {f"loss_{k}".replace("loss_loss", "loss") for k in direct} == set(found)
        assert sum(direct.values()).item() == sum(found.values()).item()
    assert sum(map(float, expected.values())) == sum(map(float, found.values()))
    total, logged = detector.parse_losses(found)
    own = sum(value for name, value in expected.items() if "loss" in name)
    assert total.item() == pytest.approx(own.item()) and logged["loss"].item() == total.item()


def test_torchvision_predicts_as_without_the_wrapper():
    detector = built(TORCHVISION).eval()
    inputs, samples = prepared(detector)
    images, _ = plain(inputs, samples, 1)
    with torch.no_grad():
        found, expected = detector.predict(inputs, samples), detector.model(images)
    for sample, each in zip(found, expected, strict=True):
        scale = sample.scale_factor[0]
        assert len(each["boxes"]) > 3
        torch.testing.assert_close(sample.pred_instances.bboxes, each["boxes"] / scale)
        torch.testing.assert_close(sample.pred_instances.scores, each["scores"])
        assert sample.pred_instances.labels.equal(each["labels"] - 1)


@pytest.mark.parametrize("kind, processor", [("rt_detr", RTDetrImageProcessor),
                                             ("detr", DetrImageProcessor)])  # fmt: skip
def test_the_best_queries_are_those_of_the_image_processor(kind, processor):
    model = detr(kind).eval()
    images, _ = plain_batch()
    adapter = adapter_for(model, "student")
    inputs = adapter.inputs(
        images, [dict(boxes=torch.zeros(0, 4), labels=torch.zeros(0).long())] * 2
    )
    del inputs.arguments["labels"]
    with torch.no_grad():
        output = model(**inputs.arguments)
    expected = processor().post_process_object_detection(
        output, threshold=0.0, target_sizes=inputs.extents
    )
    found = adapter.predictions(images, 12)
    for (boxes, scores, labels), each in zip(found, expected, strict=True):
        order = each["scores"].argsort(descending=True)[:12]
        torch.testing.assert_close(scores, each["scores"][order])
        torch.testing.assert_close(boxes, each["boxes"][order], rtol=1e-5, atol=1e-3)
        assert labels.equal(each["labels"][order])


@pytest.mark.parametrize("model, first", [(TORCHVISION, 1), (transformers_model(), 0)])
def test_distilled_by_the_runner_as_in_a_loop(model, first):
    """`DistilledDetector` and `Distiller` around the model itself give the same losses."""
    teacher = build(faster_rcnn(classes=3), 1).eval()
    wrapped = built(model).train()
    settings = dict(teacher=copy.deepcopy(teacher), components=COMPONENTS, seed=3)
    inner = Distiller(copy.deepcopy(wrapped.model), **settings).train()
    outer = Distiller(wrapped, **settings | dict(teacher=teacher)).train()
    inputs, samples = prepared(wrapped)
    torch.manual_seed(1)
    found = outer(inputs, samples)
    torch.manual_seed(1)
    expected = inner(*plain(inputs, samples, first))
    assert {"kd_contrastive_loss", "kd_imitation_loss"} < set(found)
    for name, value in expected.items():
        name = "loss_detector" if name == "loss" else name
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("model", [TORCHVISION, transformers_model()])
def test_the_weights_have_the_librarys_names(model, tmp_path):
    """Through a distilled detector's checkpoint and the exported file, and back."""
    config = faster_rcnn(classes=3)
    torch.save(dict(state_dict=build(config).state_dict()), tmp_path / "teacher.pth")
    teacher = dict(config=config, checkpoint=str(tmp_path / "teacher.pth"))
    distilled = built(
        dict(type="DistilledDetector", student=model, teacher=teacher, components=COMPONENTS)
    )
    torch.save(dict(state_dict=distilled.state_dict()), tmp_path / "whole.pth")
    export_student(tmp_path / "whole.pth", tmp_path / "student.pth")
    state = read_student(tmp_path / "student.pth")
    inside = distilled.student.model
    assert list(state) == list(inside.state_dict())
    if model is TORCHVISION:
        fresh = get_model(NAME, weights=None, weights_backbone=None, num_classes=4, **SIZES)
    else:
        fresh = AutoModelForObjectDetection.from_config(inside.config)
    fresh.load_state_dict(state)
    loaded = load_detector(dict(model), str(tmp_path / "student.pth"))
    assert isinstance(loaded, LibraryDetector) and not loaded.training
    for one, other in zip(loaded.parameters(), fresh.parameters(), strict=True):
        assert one.equal(other)
    distilled.load_state_dict(torch.load(tmp_path / "whole.pth")["state_dict"])
    copied = copy.deepcopy(distilled).state_dict()
    assert all(copied[name].equal(value) for name, value in distilled.state_dict().items())


def test_as_a_teacher_it_answers_for_a_student_of_mmdetection(tmp_path):
    torch.save(dict(state_dict=built(TORCHVISION).state_dict()), tmp_path / "teacher.pth")
    teacher = dict(config=dict(TORCHVISION), checkpoint=str(tmp_path / "teacher.pth"))
    student = faster_rcnn(classes=3)
    distilled = built(
        dict(type="DistilledDetector", student=student, teacher=teacher, components=COMPONENTS)
    ).train()
    losses = distilled.loss(*prepared(distilled))
    assert losses["kd_imitation_loss"] > 0 and losses["kd_contrastive_loss"] > 0
    with pytest.raises(ValueError, match=r"compile and cache of a detector of MMDetection.*Torch"):
        built(dict(type="DistilledDetector", student=student, components=COMPONENTS,
                   teacher=dict(teacher, compile=True)))  # fmt: skip


@pytest.mark.parametrize("kind", ["classifier", "detector"])
def test_a_backbone_starts_from_either(kind, tmp_path):
    source = mobilenet_v3_large() if kind == "classifier" else built(TORCHVISION, seed=5).model
    torch.save(source.state_dict(), tmp_path / "start.pth")
    start = dict(type="Pretrained", checkpoint=str(tmp_path / "start.pth"))
    model = dict(TORCHVISION, backbone=dict(init_cfg=start, norm_eval=True))
    detector = built(model)
    detector.init_weights()
    first = next(iter(source.parameters()))
    assert next(iter(detector.model.backbone.body.parameters())).equal(first)
    detector.train()
    assert detector.model.training and not detector.model.backbone.body["0"][1].training


def test_a_detector_of_transformers_starts_from_a_trained_one_of_other_classes(tmp_path):
    source = built(dict(transformers_model(), num_classes=5), seed=7).model
    source.save_pretrained(tmp_path / "trained")
    file = tmp_path / "trained" / "model.safetensors"
    start = dict(type="Pretrained", checkpoint=str(file))
    detector = built(dict(transformers_model(), backbone=dict(init_cfg=start)))
    before = {name: value.clone() for name, value in detector.model.state_dict().items()}
    detector.init_weights()
    for name, value in detector.model.state_dict().items():
        given = source.state_dict()[name]
        assert value.equal(given if given.shape == value.shape else before[name]), name
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="broken.safetensors: expected a file of safetensors"):
        read_student(tmp_path / "broken.safetensors")


def test_wrong_settings_and_weights_are_named(tmp_path):
    with pytest.raises(ValueError, match="expected one of .*retinanet.*, got 'yolo'"):
        built(dict(TORCHVISION, name="yolo"))
    with pytest.raises(ValueError, match="expected init_cfg and norm_eval, got depth"):
        built(dict(TORCHVISION, backbone=dict(depth=18)))
    torch.save(dict(a=torch.zeros(1)), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other.pth: expected the weights of this backbone.*a\. "):
        start = dict(type="Pretrained", checkpoint=str(tmp_path / "other.pth"))
        built(dict(TORCHVISION, backbone=dict(init_cfg=start))).init_weights()


def test_a_torchvision_students_proposals_are_counted():
    assert proposals(ConfigDict(TORCHVISION)) == 512
    assert proposals(ConfigDict(TORCHVISION, box_batch_size_per_image=64)) == 64

"""DETRs of transformers as students and teachers, with its own processors as the reference."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from tiny_torchvision import CLASSES, COMPONENTS, batch, detector, total
from tiny_transformers import CONFIGS, QUERIES, detr, plain_batch
from torch.nn.functional import linear
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms.functional import to_pil_image
from transformers import DetrImageProcessor, RTDetrImageProcessor

from gdetkd import Distiller
from gdetkd.detectors import adapter_for
from gdetkd.detectors.pixels import PixelConversion
from gdetkd.distillation.balance import gradient_norm, own_loss

WITHOUT_DELTAS = {name: COMPONENTS[name] for name in ("contrastive", "imitation", "classification")}
MASKED = [kind for kind in CONFIGS if kind not in ("rt_detr", "rt_detr_v2", "d_fine", "deimv2")]


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("transformers").setLevel("ERROR")


def losses_of(model, images, targets, seed=0):
    torch.manual_seed(seed)
    return model(images, targets)


def as_the_model_takes_them(kind):
    """The plain batch as its forward has it, computed here: pixels, mask and relative boxes."""
    images, targets = plain_batch()
    height, width, mean, std = 64, 64, 0.0, 1.0
    if kind in MASKED:
        mean, std = (
            torch.tensor(values)[:, None, None]
            for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        )
    pixels, mask, labels = torch.zeros(2, 3, 64, 64), torch.zeros(2, 64, 64).long(), []
    for index, (image, target) in enumerate(zip(images, targets, strict=True)):
        rows, columns = image.shape[1:]
        pixels[index, :, :rows, :columns] = (image - mean) / std
        mask[index, :rows, :columns] = 1
        height, width = (rows, columns) if kind in MASKED else (64, 64)
        x1, y1, x2, y2 = target["boxes"].unbind(1)
        sides = torch.tensor([width, height, width, height])
        boxes = torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], 1) / sides
        labels.append(dict(class_labels=target["labels"], boxes=boxes))
    given = dict(pixel_values=pixels, labels=labels)
    return given | (dict(pixel_mask=mask) if kind in MASKED else {})


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_students_own_loss_is_untouched(kind):
    plain, student = detr(kind), detr(kind)
    distiller = Distiller(student, detector(seed=1), WITHOUT_DELTAS)
    off = Distiller(detr(kind), None)
    torch.manual_seed(0)
    expected = plain(**as_the_model_takes_them(kind)).loss
    found, without = (losses_of(model, *plain_batch()) for model in (distiller, off))
    # Relative boxes are computed twice, in another order: float32 rounding, divided by 64.
    torch.testing.assert_close(found["loss"], expected, rtol=1e-5, atol=0)
    assert torch.equal(found["loss"], without["loss"])
    assert torch.equal(total(without), without["loss"])
    assert {f"kd_{name}_loss" for name in WITHOUT_DELTAS} < set(found)
    total(found).backward()
    assert all(p.grad.isfinite().all() for p in distiller.parameters() if p.grad is not None)
    hooks = [
        h for m in student.modules() for h in (m._forward_hooks | m._forward_pre_hooks).values()
    ]
    assert not [hook for hook in hooks if "gdetkd" in hook.__module__]  # its own are none of ours
    detr(kind, seed=5).load_state_dict(distiller.student_state_dict(), strict=True)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_batch_of_the_librarys_own_gives_the_same_bit_for_bit(kind):
    distiller = Distiller(detr(kind), detector(seed=1), WITHOUT_DELTAS)
    given = as_the_model_takes_them(kind)
    plain = detr(kind)
    torch.manual_seed(0)
    expected = plain(**given).loss
    labels = given.pop("labels")
    assert torch.equal(losses_of(distiller, given, labels)["loss"], expected)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_query_is_a_location(kind):
    """Its box is the one that the processor decodes, its embedding gives its scores."""
    student = detr(kind)
    adapter = adapter_for(student, "student", boxes_per_image=4096)
    given = as_the_model_takes_them(kind)
    torch.manual_seed(0)
    own = adapter.training_pass(*plain_batch())
    (outputs,) = own.outputs
    assert gradient_norm(own_loss(own.losses), outputs.pyramid) > 0
    torch.manual_seed(0)
    plain = student(**given)
    extents = [(50, 64), (64, 40)] if kind in MASKED else [(64, 64)] * 2
    meta = getattr(plain, "denoising_meta_values", None)
    queries = slice(meta["dn_num_split"][0] if meta else 0, None)
    plain.logits, plain.pred_boxes = (
        v[:, queries][:, :QUERIES] for v in (plain.logits, plain.pred_boxes)
    )
    assert plain.logits.shape[1] == QUERIES
    if not adapter.family.softmax:  # all queries, in their order, not the best of all scores
        plain.logits = torch.cat([plain.logits, torch.zeros(2, QUERIES, 1)], 2)
    decoded = DetrImageProcessor().post_process_object_detection(plain, -1.0, extents)
    for index, (height, width) in enumerate([(50, 64), (64, 40)]):
        here = outputs.rois[:, 0] == index
        boxes = decoded[index]["boxes"].detach()
        boxes[:, 0::2].clamp_(0, width)
        boxes[:, 1::2].clamp_(0, height)
        apart = (outputs.rois[here, None, 1:] - boxes).abs().amax(2)
        assert apart.amin(1).max() < 1e-4  # pixels, in float32
        found = plain.logits[index, apart.argmin(1)][:, : outputs.logits.shape[1]]
        torch.testing.assert_close(found, outputs.logits[here])
    if kind != "d_fine":  # it adds the quality of the box to the scores
        layers = adapter.class_layers()
        assert any(
            torch.allclose(
                linear(outputs.representation, each.weight, each.bias), outputs.logits, atol=1e-5
            )
            for each in layers
        )


@pytest.mark.parametrize("kind", ["detr", "rt_detr"])
def test_boxes_of_an_image_processor_are_in_the_same_place(kind):
    """DETR's processor counts the padding in, and says so by `size`."""
    images, targets = plain_batch()
    annotations = [
        dict(
            image_id=index,
            annotations=[
                dict(bbox=[x1, y1, x2 - x1, y2 - y1], category_id=label, area=1.0, iscrowd=0)
                for (x1, y1, x2, y2), label in zip(
                    t["boxes"].tolist(), t["labels"].tolist(), strict=True
                )
            ],
        )
        for index, t in enumerate(targets)
    ]
    processor = DetrImageProcessor(do_resize=False)
    if kind == "rt_detr":
        processor = RTDetrImageProcessor(size=dict(height=96, width=128))
    made = processor([to_pil_image(i) for i in images], annotations, return_tensors="pt")
    adapter = adapter_for(detr(kind), "student", processor=processor)
    inputs = adapter.inputs(made, None)
    for found, image, target in zip(inputs.gt_boxes(), images, targets, strict=True):
        height, width = image.shape[1:]
        scale = torch.tensor([128 / width, 96 / height] * 2) if kind == "rt_detr" else 1.0
        torch.testing.assert_close(found, target["boxes"] * scale)
    if kind == "detr":
        plain = adapter.inputs(*plain_batch())
        pixels, mask = (plain.arguments[key] for key in ("pixel_values", "pixel_mask"))
        assert torch.equal(mask, made["pixel_mask"]) and inputs.sizes == [(50, 64), (64, 40)]
        # a PIL image has 8 bits, cut off: a level of 255 in units of the smallest deviation
        assert (pixels - made["pixel_values"]).abs().max() < 1.001 / 255 / 0.224
    student = Distiller(adapter.detector, detector(seed=1), dict(imitation=dict(weight=1.0)))
    assert student(made, None)["kd_imitation_loss"].isfinite()


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_teacher_answers_by_the_query_that_covers_the_box(kind):
    teacher = detr(kind).eval()
    adapter = adapter_for(teacher, "teacher")
    given = as_the_model_takes_them(kind)
    given.pop("labels")
    with torch.no_grad():
        plain = teacher(**given)
    sizes = [(50, 64), (64, 40)]
    extents = sizes if kind in MASKED else [(64, 64)] * 2
    decoded = DetrImageProcessor().post_process_object_detection(
        type(plain)(logits=plain.logits.new_zeros(2, QUERIES, 3), pred_boxes=plain.pred_boxes),
        -1.0,
        extents,
    )
    boxes = decoded[1]["boxes"]
    boxes[:, 0::2].clamp_(0, 40)
    boxes[:, 1::2].clamp_(0, 64)
    large = ((boxes[:, 2:] - boxes[:, :2]) > 1).all(1).nonzero()[:, 0]
    query = int(large[0]) if len(large) else 0
    rois = torch.cat([torch.tensor([[1.0]]), boxes[query : query + 1]], 1)
    rois = torch.cat([rois, torch.tensor([[0, 1, 1, 1.5, 1.5]])])
    (outputs,) = adapter.forward_rois(given["pixel_values"], [rois], [0], sizes)
    if len(large):
        assert outputs.valid_mask[0]
        same = (boxes == boxes[query]).all(1)
        assert any(torch.equal(outputs.logits[0], each) for each in plain.logits[1, same])
    assert not outputs.valid_mask[1]
    (spec,) = adapter.specs()
    assert outputs.pooled.shape == (2, spec.channels, 7, 7)
    assert len(outputs.pyramid) == len(spec.strides)


def test_a_teacher_sees_the_pixels_that_its_processor_would_make():
    """Of a torchvision student's batch: resized by the student, normalized as the teacher's."""
    images, _ = batch()
    student = adapter_for(detector(), "student")
    transform = GeneralizedRCNNTransform(64, 96, (0, 0, 0), (1, 1, 1))  # resizes alone
    resized, _ = transform.eval()(images)
    torch.manual_seed(0)
    seen = student.training_pass(*batch())
    for kind, processor in (
        ("detr", DetrImageProcessor(do_resize=False, do_rescale=False, do_pad=False)),
        ("rt_detr", RTDetrImageProcessor(do_resize=False, do_rescale=False)),
    ):
        teacher = adapter_for(detr(kind).eval(), "teacher")
        given = PixelConversion(student.pixel_format(), teacher.pixel_format())(
            seen.images, seen.sizes
        )
        for index, (height, width) in enumerate(seen.sizes):
            own = resized.tensors[index, :, :height, :width]
            expected = processor([own], return_tensors="pt", input_data_format="channels_first")
            found = given[index, :, :height, :width]
            torch.testing.assert_close(found, expected["pixel_values"][0], atol=1e-5, rtol=1e-5)
            assert not given[index, :, height:].any() and not given[index, :, :, width:].any()


@pytest.mark.parametrize("kind", ["rt_detr", "detr"])
def test_each_component_alone_falls(kind):
    for name, settings in WITHOUT_DELTAS.items():
        alone = {key: value for key, value in settings.items() if key != "queue_capacity"}
        distiller = Distiller(detr(kind), detector(24, 48, seed=1), {name: alone})
        optimizer, values = torch.optim.Adam(distiller.parameters(), lr=2e-3), []
        for _ in range(10):
            distiller.undo()  # the same draws of boxes
            loss = losses_of(distiller, *copy.deepcopy(plain_batch()))[f"kd_{name}_loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            values.append(loss.item())
        assert sum(values[-3:]) / 3 < values[0], (name, values)


def test_scores_of_boxes_without_a_query_are_left_out():
    component = (
        Distiller(detr("rt_detr"), detr("detr"), dict(classification=dict(weight=1.0)))
        .objective[0]
        .components["classification"]
    )
    adapter = adapter_for(detr("rt_detr"), "student")
    (student,) = adapter.training_pass(*plain_batch()).outputs
    teacher = copy.copy(student)
    teacher.logits = torch.randn(len(student.rois), CLASSES + 1)
    teacher.valid_mask = torch.arange(len(student.rois)) < 3
    found = component(student, teacher)
    few = copy.copy(student)
    few.logits, few.rois = student.logits[:3], student.rois[:3]
    kept = copy.copy(teacher)
    kept.logits, kept.valid_mask = teacher.logits[:3], None
    assert torch.equal(found.loss, component(few, kept).loss) and found.count == 3
    teacher.valid_mask = torch.zeros(len(student.rois), dtype=torch.bool)
    nothing = component(student, teacher)
    assert nothing.loss == 0 and nothing.count == 0 and nothing.loss.requires_grad


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(ValueError, match="regression: expected deltas relative to the shared"):
        Distiller(detr(), detector(), dict(regression=dict(weight=1)))
    with pytest.raises(ValueError, match="settings of QueryAdapter: .*unexpected keyword"):
        Distiller(detr(), detector(), WITHOUT_DELTAS, student_adapter=dict(branch="combined"))

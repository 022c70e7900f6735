"""Dense detectors as students and teachers: what is recorded, decoded, computed and refused."""

import copy
import random

import numpy as np
import pytest
import torch
from dense import KINDS, dense
from helpers import (
    COMPONENTS,
    SIZE,
    backward,
    batch,
    build,
    distilled,
    faster_rcnn,
    losses_of,
    save_detector,
    views_of,
)
from torchvision.ops import box_iou, roi_align

from gdetkd.checkpoints.student import student_state
from gdetkd.detectors.locations import level_of
from gdetkd.detectors.mmdet.dense_maps import logits_at, rows_at
from gdetkd.detectors.mmdet.dense_readings import read_head

MAIN = ("RetinaNet", "FCOS in strides", "GFL", "ATSS")
DISTILL = {name: settings for name, settings in COMPONENTS.items() if name != "regression"}
VIEW = dict(boxes_per_image=16)


def pair(student, teacher, distill=DISTILL, **settings):
    """A built pair whose student's head predicts more than an untrained one does."""
    settings = {"student_adapter": VIEW, **settings}
    return build(distilled(student, teacher, distill, **settings))


def alive(head):
    """Random weights large enough that boxes and scores differ from place to place."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in head.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.3 * (2 / weight[0].numel()) ** 0.5, generator=generator)
            elif name.endswith("_reg.bias"):
                weight.fill_(1.0 if weight.numel() == 4 else 0.0)
    return head


def rows(levels, width):
    """(B, n, width) of maps (B, anchors x width, H, W), as MMDetection's losses lay them out."""
    return torch.cat(
        [level.permute(0, 2, 3, 1).reshape(len(level), -1, width) for level in levels], 1
    )


def pyramid(channels=8, side=32, images=2):
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(images, channels, size, size, generator=generator)
        for size in (-(-side // stride) for stride in (4, 8, 16, 32, 64))
    )


@pytest.fixture(scope="module")
def retina_teacher(tmp_path_factory):
    config = dense("RetinaNet", base=6, channels=12, feat=12)
    return save_detector(config, tmp_path_factory.mktemp("retina") / "teacher.pth")


# --- Boxes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_decoded_boxes_are_those_that_mmdetection_predicts(kind):
    """Every location and class, from a pass in training mode against `predict`."""
    settings = dict(nms_pre=10**6, score_thr=0.0, max_per_img=10**6, min_bbox_size=-1)
    settings["nms"] = dict(type="nms", iou_threshold=2.0)  # above any IoU: all are kept
    detector = build(dense(kind, classes=2, test_cfg=settings))
    head, levels = alive(detector.bbox_head), pyramid()
    samples = batch((1, 1), ((32, 32), (21, 30)))["data_samples"]  # the second image is padded
    with torch.no_grad():
        outputs = head.train()(levels)
        boxes = read_head(head, "").boxes(outputs, [sample.img_shape for sample in samples])
        theirs = head.eval().predict(levels, samples)
        looked_at = read_head(head, "").boxes(
            head(levels), [sample.img_shape for sample in samples]
        )
    # In eval mode, as a reader looks at one, some heads are in other units. Two roundings apart.
    torch.testing.assert_close(looked_at, boxes, rtol=1e-5, atol=1e-3)
    assert boxes.shape[1] == sum(level[0, 0].numel() for level in levels) * head.num_base_priors
    for mine, predicted in zip(boxes, theirs, strict=True):
        for label in range(2):
            other = predicted.bboxes[predicted.labels == label]
            assert len(other) == len(mine)
            away = (mine[:, None] - other).abs().amax(2)
            # float32 at 32 px, decoded in another order of operations.
            assert away.amin(0).max() < 1e-3 and away.amin(1).max() < 1e-3
    assert boxes[1, :, 0::2].max() == 30 and boxes[1, :, 1::2].max() == 21 and boxes.min() == 0
    assert len(boxes[0].round().unique(dim=0)) > 20


@pytest.mark.parametrize("kind", MAIN)
@pytest.mark.parametrize("sizes", [((SIZE, SIZE), (SIZE, SIZE)), ((SIZE, 40), (45, SIZE))])
def test_the_students_view_is_what_fed_its_loss(teacher, kind, sizes):
    model = pair(dense(kind), teacher)
    head = alive(model.student.bbox_head)
    fed, sampled, before, maps = [], [], [], []
    layer = next(m for m in head.children() if isinstance(m, torch.nn.Conv2d))
    layer.register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0]))
    loss = head.loss_by_feat
    head.loss_by_feat = lambda *args, **kwargs: fed.append(args) or loss(*args, **kwargs)
    model.distiller.sampling.register_forward_hook(lambda _, __, drawn: sampled.append(drawn))
    head.register_forward_pre_hook(lambda _, inputs: before.append(inputs[0]))
    data = batch(sizes=sizes)
    student, seen_by_teacher, losses = views_of(model, data)
    (image, index), scores = sampled[0], fed[0][0]
    assert len(fed) == len(before) == 1
    assert all(mine is level for mine, level in zip(student.pyramid, before[0], strict=True))
    assert torch.equal(student.logits, rows(scores, 10)[image, index])
    assert student.logits.grad_fn is not None and not student.rois.requires_grad
    assert torch.equal(student.rois[:, 0], image.float())
    boxes = read_head(head, "").boxes(fed[0][:2], sizes)
    assert torch.equal(student.rois[:, 1:], boxes[image, index])
    # The representation is what the layer saw that predicts the classes, at that location.
    assert all(
        torch.equal(layer(seen), score) for seen, score in zip(maps[:5], scores, strict=True)
    )
    place = index // head.num_base_priors
    assert torch.equal(student.representation, rows(maps[:5], 8)[image, place])
    for number, (height, width) in enumerate(sizes):
        mine = student.rois[student.rois[:, 0] == number, 1:]
        assert (mine[:, 2] <= width).all() and (mine[:, 3] <= height).all() and (mine >= 0).all()
        truth = data["data_samples"][number].gt_instances
        iou, best = box_iou(mine, truth.bboxes).max(1)
        expected = torch.where(iou > 0.5, truth.labels[best], 10)
        assert torch.equal(student.labels[student.rois[:, 0] == number], expected)
    assert torch.equal(seen_by_teacher.rois, student.rois) and student.pooled is None
    for name, grad in backward(model, losses).items():
        assert grad is not None and grad.isfinite().all(), name


@pytest.mark.parametrize("anchors", [1, 3])
def test_rows_are_read_from_their_level(anchors):
    levels = [torch.randn(2, anchors * 4, s, s, requires_grad=True) for s in (3, 2, 1)]
    count = 14 * anchors
    image, index = torch.arange(2).repeat_interleave(count), torch.arange(count).repeat(2)
    ours, plain = rows_at(levels, image, index, [anchors] * 3), rows(levels, 4).flatten(0, 1)
    assert torch.equal(ours, plain)
    weights = torch.randn_like(plain)
    gradients = [torch.autograd.grad((x * weights).sum(), levels) for x in (ours, plain)]
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other)  # one row per cell, but summed in another order
    none = rows_at(levels, image[:0], index[:0], [anchors] * 3)
    assert none.shape == (0, 4) and none.requires_grad


# --- Settings -------------------------------------------------------------------------------------


def test_branches(teacher):
    """Table 4: what is pulled is that branch's tower, and combined is the sum of both."""
    distill, seen = dict(contrastive=DISTILL["contrastive"]), {}
    for branch in ("classification", "localization", "combined"):
        model = pair(dense(), teacher, distill, student_adapter=dict(VIEW, branch=branch))
        alive(model.student.bbox_head)
        student, _, losses = views_of(model, batch())
        seen[branch] = student.representation.detach()
        losses["kd_contrastive_loss"].backward()
        towers = {
            "classification": model.student.bbox_head.cls_convs,
            "localization": model.student.bbox_head.reg_convs,
        }
        for name, tower in towers.items():
            reached = any(p.grad is not None and p.grad.any() for p in tower.parameters())
            assert reached == (branch in (name, "combined"))
    total = seen["classification"] + seen["localization"]
    torch.testing.assert_close(seen["combined"], total)
    assert not torch.equal(seen["classification"], seen["localization"])


def test_settings_reach_the_sampler(teacher):
    settings = dict(boxes_per_image=9, positive_fraction=1.0, candidates=20, seed=3)
    model = pair(dense(), teacher, student_adapter=settings)
    student, _, _ = views_of(model, batch())
    assert torch.bincount(student.rois[:, 0].long()).tolist() == [9, 9]
    assert (student.labels < 10).sum() > 5  # untrained boxes are anchors, which overlap the objects
    assert model.distiller.sampling.candidates == 20 and model.distiller.sampling.seed == 3


@pytest.mark.parametrize(
    "student, view, named",
    [
        (dense(), dict(branch="centerness"), "'centerness'"),
        (dense(), dict(boxes=3), "DenseAdapter"),
        (faster_rcnn(), dict(branch="combined"), "TwoStageAdapter"),
    ],
)
def test_wrong_settings_are_refused(teacher, student, view, named):
    with pytest.raises(ValueError, match=named):
        pair(student, teacher, student_adapter=view)


# --- Beside the plain detector --------------------------------------------------------------------


@pytest.mark.parametrize("kind", MAIN)
def test_the_students_own_losses_are_the_plain_detectors(teacher, kind):
    """The same start, and nothing drawn that the plain loss does not draw."""
    plain, model = build(dense(kind)), pair(dense(kind), teacher)
    for key, value in plain.state_dict().items():
        assert torch.equal(model.student.state_dict()[key], value), key
    results = []
    for detector in (plain, model):
        random.seed(0)
        np.random.seed(0)
        losses = losses_of(detector, batch())
        states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
        results.append((detector.parse_losses(losses)[1], *states[:2], states[2].tolist()))
    theirs, ours = results
    assert theirs[1:] == ours[1:] and set(theirs[0]) < set(ours[0])
    for name, value in theirs[0].items():
        assert name == "loss" or torch.equal(value, ours[0][name]), name


def test_nothing_stays_attached(teacher):
    model = pair(dense(), teacher)
    model.student.bbox_head.loss_by_feat = lambda *_, **__: 1 / 0
    with pytest.raises(ZeroDivisionError):
        losses_of(model, batch())
    for module in (*model.student.modules(), *model.teacher.modules()):
        assert not module._forward_hooks and not module._forward_pre_hooks


def test_the_samplers_position_is_saved_beside_the_student(teacher):
    model = pair(dense(), teacher)
    plain = build(dense())
    losses_of(model, batch())
    losses_of(model, batch())
    state = model.state_dict()
    assert state["distiller.sampling.steps"] == 2
    assert set(student_state(dict(state_dict=state))[0]) == set(plain.state_dict())
    resumed = pair(dense(), teacher)
    resumed.load_state_dict(copy.deepcopy(state))
    rois = [views_of(detector, batch())[0].rois for detector in (resumed, model)]
    assert torch.equal(*rois)
    assert not torch.equal(rois[0], views_of(model, batch())[0].rois)
    twin = copy.deepcopy(model)
    assert (
        twin.distiller.student_adapter.state
        is twin.distiller.sampling
        is not model.distiller.sampling
    )
    assert twin.distiller.student_adapter.detector is twin.student


def test_mixed_precision(teacher):
    model = pair(dense(), teacher)
    with torch.autocast("cpu", torch.bfloat16):
        student, _, losses = views_of(model, batch())
    assert student.logits.dtype == student.representation.dtype == torch.bfloat16
    assert student.rois.dtype == torch.float32
    for name, grad in backward(model, losses).items():
        assert grad is not None and grad.isfinite().all(), name


# --- Little or nothing to look at -----------------------------------------------------------------


def assert_sound(model, data):
    student, _, losses = views_of(model, data)
    _, logged = model.parse_losses(losses)
    assert all(value.isfinite() for value in logged.values())
    for name, grad in backward(model, losses).items():
        # A student without any box has nothing that reaches its boxes' loss but zeros.
        assert grad is not None and grad.isfinite().all(), name
    return student, {name: logged[name].item() for name in logged if name.startswith("kd_")}


@pytest.mark.parametrize("kind", MAIN)
@pytest.mark.parametrize("boxes", [(0, 2), (0, 0)])
def test_images_without_ground_truth(teacher, kind, boxes):
    model = pair(dense(kind), teacher)
    alive(model.student.bbox_head)
    student, logged = assert_sound(model, batch(boxes))
    assert ((student.labels == 10) | (student.rois[:, 0] == 1)).all()
    assert all(value > 0 for value in logged.values())


def test_no_box_at_all(teacher):
    """FCOS in strides may predict boxes without extent, all of them."""
    model = pair(dense("FCOS in strides"), teacher)
    torch.nn.init.constant_(model.student.bbox_head.conv_reg.bias, -10)
    student, logged = assert_sound(model, batch())
    assert student.rois.shape == (0, 5) and student.representation.shape == (0, 8)
    assert set(logged.values()) == {0.0}


# --- Teachers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MAIN)
def test_what_a_dense_teacher_gives(kind, tmp_path):
    teacher = save_detector(dense(kind, base=6, channels=12, feat=16), tmp_path / "t.pth")
    distill = dict(contrastive=DISTILL["contrastive"], imitation=DISTILL["imitation"])
    model = pair(dense("RetinaNet"), teacher, distill)
    student, view, losses = views_of(model, batch())
    head = model.teacher.bbox_head
    levels = model.teacher.extract_feat(model.data_preprocessor(batch(), True)["inputs"])
    towers = [head.cls_convs[1](head.cls_convs[0](level)) for level in levels]
    chosen = level_of(student.rois, read_head(head, "").sides).tolist()
    assert len(set(chosen)) > 1
    for maps, result in ((levels, view.pooled), (towers, view.representation)):
        expected = torch.cat(
            [
                roi_align(maps[k], roi[None], (7, 7), 1 / [4, 8, 16, 32, 64][k], -1, True)
                for roi, k in zip(student.rois, chosen, strict=True)
            ]
        )
        expected = expected if result.ndim == 4 else expected.mean((2, 3))
        torch.testing.assert_close(result, expected)
    scores = model.teacher.bbox_head(levels)[0]
    for roi, k, found in zip(student.rois, chosen, view.logits, strict=True):
        image, x1, y1, x2, y2 = roi.tolist()
        height, width = scores[k].shape[2:]
        stride = [4, 8, 16, 32, 64][k]
        row = min(int((y1 + y2) / 2 // stride), height - 1)
        column = min(int((x1 + x2) / 2 // stride), width - 1)
        cell = scores[k][int(image), :, row, column].view(-1, 10)  # an anchor each
        surest = max(range(len(cell)), key=lambda anchor: cell[anchor].max().item())
        assert torch.equal(found, cell[surest])
    assert view.deltas is None
    for name, grad in backward(model, losses).items():
        assert grad is not None and grad.isfinite().all(), name


def test_a_box_is_pooled_from_the_level_made_for_its_size():
    """Sides by hand: RetinaNet's anchors are 4 strides and up by thirds of an octave, ..."""
    sides = {kind: read_head(build(dense(kind)).bbox_head, "").sides for kind in MAIN}
    assert sides["RetinaNet"] == pytest.approx([4 * 2 ** (1 / 3) * s for s in (4, 8, 16, 32, 64)])
    assert sides["GFL"] == sides["ATSS"] == pytest.approx([32, 64, 128, 256, 512])
    assert sides["FCOS in strides"] == [16, 32, 64, 128, 256]
    rois = torch.tensor(
        [[0, 0, 0, w, h] for w, h in ((1, 1), (22, 22), (23, 23), (11, 50), (999, 999))]
    )
    assert level_of(rois.float(), [16, 32, 64]).tolist() == [0, 0, 1, 1, 2]  # from 16 sqrt 2 on


def test_a_single_level_without_limits_is_made_for_the_usual_size():
    head = build(dense("FCOS in strides")).bbox_head
    head.regress_ranges = ((-1, 1e8), (64, 1e8))
    head.prior_generator.strides = head.prior_generator.strides[:2]
    assert read_head(head, "").sides == [8.0 * head.prior_generator.strides[0][0], 128.0]


def test_a_dense_teacher_of_a_two_stage_student(retina_teacher):
    distill = dict(contrastive=DISTILL["contrastive"], imitation=DISTILL["imitation"])
    model = build(distilled(faster_rcnn(), retina_teacher, distill))
    student, view, losses = views_of(model, batch())
    assert view.representation.shape == (len(student.rois), 12)
    for name, grad in backward(model, losses).items():
        assert grad is not None and grad.isfinite().all(), name


def test_a_softmax_head_of_several_anchors_scores_by_its_surest_object():
    """The background, last, is no object: it does not make an anchor the surest."""
    config = dense("RetinaNet")
    config.bbox_head.loss_cls = dict(type="CrossEntropyLoss")
    head = build(config).bbox_head
    anchors = head.num_base_priors
    assert head.cls_out_channels == 11 and anchors == 9
    scores = [torch.zeros(1, anchors * 11, 2, 2), torch.zeros(1, anchors * 11, 1, 1)]
    scores[0].view(anchors, 11, 2, 2)[5, 3, 1, 0] = 4.0
    scores[0].view(anchors, 11, 2, 2)[7, 10, 1, 0] = 9.0
    rois = torch.tensor([[0, 0, 4, 4, 8], [0, 0, 0, 4, 4], [0, 7, 7, 900, 900.0]])
    where = dict(strides=[4, 8], anchors=[anchors] * 2, classes=10)
    found = logits_at(scores, rois, torch.tensor([0, 0, 1]), **where)
    assert found.shape == (3, 11)
    assert found[0, 3] == 4 and found.sum() == 4
    none = logits_at(scores, rois[:0], torch.zeros(0, dtype=torch.long), **where)
    assert none.shape == (0, 11)


def test_regression_of_a_dense_teacher_is_refused(retina_teacher):
    with pytest.raises(ValueError, match=r"teacher \(RetinaNet\)"):
        build(distilled(faster_rcnn(), retina_teacher, dict(regression=dict(weight=1.0))))


def test_regression_of_a_dense_student_is_refused(teacher):
    with pytest.raises(ValueError, match=r"regression.*student \(RetinaNet\)"):
        pair(dense(), teacher, dict(regression=dict(weight=1.0)))


# --- Head transfer --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MAIN)
def test_transferred_heads_are_the_teachers_frozen(kind, tmp_path):
    teacher = save_detector(dense(kind, base=6), tmp_path / "twin.pth")
    distill = dict(imitation=DISTILL["imitation"])
    model = pair(dense(kind), teacher, distill, transfer_heads=True)
    losses = losses_of(model.train(), batch())
    gradients = backward(model, losses)
    assert any(
        grad is not None and grad.any() for name, grad in gradients.items() if "neck" in name
    )
    for name, value in model.teacher.bbox_head.state_dict().items():
        assert torch.equal(model.student.bbox_head.state_dict()[name], value)
    assert all(grad is None for name, grad in gradients.items() if "bbox_head" in name)
    assert not any(child.training for child in model.student.bbox_head.children())
    # In the units of training (FCOS's differ when it predicts), as a head that is not frozen.
    plain = build(dense(kind))
    plain.bbox_head.load_state_dict(model.teacher.bbox_head.state_dict())
    for name, value in plain.parse_losses(losses_of(plain, batch()))[1].items():
        assert name == "loss" or torch.equal(value, model.parse_losses(losses)[1][name])


@pytest.mark.parametrize(
    "student, given, named",
    [
        (faster_rcnn(), dense(), r"rpn_head.rpn_conv.weight .* missing in the teacher"),
        (dense(), faster_rcnn(), r"bbox_head.cls_convs.0.conv.weight .* missing in the teacher"),
        (dense("GFL"), dense("ATSS"), r"bbox_head.* missing in the (student|teacher)"),
        (
            dense(feat=12),
            dense(),
            r".* is \(12, 8, 3, 3\) in the student and \(8, 8, 3, 3\)",
        ),
        (
            dense(bbox_head__anchor_generator__octave_base_scale=2),
            dense(),
            "bbox_head.prior_generator",
        ),
        (dense("FCOS in strides"), dense("FCOS"), "bbox_head.norm_on_bbox is True in the student"),
    ],
)
def test_transfer_between_other_heads_is_refused(tmp_path, student, given, named):
    teacher = save_detector(given, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=f"transfer_heads: {named}"):
        build(distilled(student, teacher, {}, transfer_heads=True))


# --- Learning -------------------------------------------------------------------------------------


def falls(model, names, steps=15, rate=5e-3):
    """Train on one batch, on distillation losses alone; whether each fell by a tenth and more."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    history = []
    for _ in range(steps):
        losses = losses_of(model, batch())
        kept = [losses[f"kd_{name}_loss"] for name in names]
        optimizer.zero_grad()
        sum(kept).backward()
        optimizer.step()
        history.append([loss.item() for loss in kept])
    assert np.isfinite(history).all()
    # The boxes move and are sampled again at every step, which makes the losses uneven.
    return (np.mean(history[-3:], 0) < 0.9 * np.array(history[0])).all()


@pytest.mark.parametrize("kind", ["RetinaNet", "FCOS"])
def test_each_component_falls(teacher, kind):
    distill = {name: dict(DISTILL[name], weight=1.0) for name in ("contrastive", "imitation")}
    model = pair(dense(kind), teacher, distill)
    alive(model.student.bbox_head)
    assert falls(model, distill)


@pytest.mark.parametrize("student", [faster_rcnn(), dense("FCOS")], ids=["two-stage", "dense"])
def test_each_component_of_a_dense_teacher_falls(retina_teacher, student):
    names = ("contrastive", "imitation", "classification")
    distill = {name: dict(DISTILL[name], weight=1.0) for name in names}
    model = build(distilled(student, retina_teacher, distill))
    if "bbox_head" in student:
        alive(model.student.bbox_head)
    assert falls(model, distill)


@pytest.mark.parametrize("conversion", ["none", "object_scores", "sigmoid"])
def test_prediction_conversions_fall_and_stay_finite(teacher, conversion):
    """Section D, beside no conversion and a plain sigmoid; from logits far beyond float's exp."""
    distill = dict(classification=dict(weight=1.0, conversion=conversion))
    model = pair(dense(), teacher, distill)
    assert falls(model, ["classification"], steps=10)
    with torch.no_grad():
        model.student.bbox_head.retina_cls.weight.normal_(0, 300)
        model.student.bbox_head.retina_cls.bias.normal_(0, 1000)
    student, _, losses = views_of(model, batch())
    assert student.logits.abs().max() > 1000
    assert losses["kd_classification_loss"].isfinite() and losses["kd_classification_loss"] > 0
    assert all(grad is None or grad.isfinite().all() for grad in backward(model, losses).values())

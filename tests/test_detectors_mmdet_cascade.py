"""Cascade R-CNN and its kin: a view and an objective of each stage."""

import copy
import gc
import weakref

import pytest
import torch
from helpers import COMPONENTS, SIZE, backward, batch, build, distilled, losses_of, save_detector
from mmengine.structures import PixelData
from twins import (
    alone,
    assert_exports_and_resumes,
    assert_gradients_reach_everything,
    assert_plain_without_weights,
    assert_view_of_head,
    falls,
    heard_by,
)

from gdetkd.reproduce.tiny_models import tiny_model

CASCADE = tiny_model("cascade_rcnn")
FASTER = tiny_model("faster_rcnn")
SHARED = tiny_model("faster_rcnn")  # one regression for all classes, as in the cascade
SHARED.roi_head.bbox_head.reg_class_agnostic = True
THREE = {name: dict(own) for name, own in COMPONENTS.items() if name != "regression"}


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    config = tiny_model("cascade_rcnn", base=12, width=24)
    return save_detector(config, tmp_path_factory.mktemp("cascade") / "teacher.pth")


@pytest.fixture(scope="module")
def faster(tmp_path_factory):
    config = tiny_model("faster_rcnn", base=12, width=24)
    config.roi_head.bbox_head.reg_class_agnostic = True
    return save_detector(config, tmp_path_factory.mktemp("faster") / "teacher.pth")


def all_views(model, data):
    """The views of student and teacher by stage, and the losses."""
    seen = []
    handles = [
        objective.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[:2]))
        for objective in model.distiller.objective
    ]
    losses = losses_of(model, data)
    for handle in handles:
        handle.remove()
    return [view for view, _ in seen], [view for _, view in seen], losses


def masked(config):
    data = batch(masks=True)
    if config.roi_head.type == "HybridTaskCascadeRoIHead":
        random = torch.Generator().manual_seed(0)
        for sample in data["data_samples"]:
            segments = torch.randint(10, (1, SIZE // 8, SIZE // 8), generator=random)
            sample.gt_sem_seg = PixelData(sem_seg=segments)
    return data


# --- Beside the plain detector --------------------------------------------------------------------


def test_without_weights_it_is_the_plain_detector_bit_for_bit(digits, tmp_path):
    assert_plain_without_weights(CASCADE, digits, tmp_path)


def test_the_students_own_losses_are_the_plain_detectors(cascade):
    plain, model = build(CASCADE), build(distilled(CASCADE, cascade))
    theirs, ours = losses_of(plain, batch()), losses_of(model, batch())
    for name, value in plain.parse_losses(theirs)[1].items():
        assert name == "loss" or torch.equal(value, model.parse_losses(ours)[1][name]), name


# --- The stages -----------------------------------------------------------------------------------


def test_every_stages_view_is_what_fed_its_loss(cascade):
    model = build(distilled(CASCADE, cascade))
    head = model.student.roi_head
    fed = heard_by(head.bbox_head)
    students, teachers, losses = all_views(model, batch())
    assert len(students) == len(teachers) == 3
    for stage, (view, given) in enumerate(zip(students, teachers, strict=True)):
        assert_view_of_head(view, fed[stage], head.bbox_head[stage])
        assert view.deltas.shape[1:] == (1, 4)
        pooled = head.bbox_roi_extractor[stage](view.pyramid, view.rois)
        assert torch.equal(view.pooled, pooled)
        assert torch.equal(given.rois, view.rois)
    # Later stages see boxes that the earlier ones refined.
    assert not any(torch.equal(students[0].rois, view.rois) for view in students[1:])


def test_the_teachers_same_stage_looks_at_each_stages_boxes(cascade):
    model, data = build(distilled(CASCADE, cascade)), batch()
    students, teachers, _ = all_views(model, data)
    teacher = model.teacher
    images = teacher.data_preprocessor(copy.deepcopy(data), True)["inputs"]
    with torch.no_grad():
        pyramid = teacher.extract_feat(images)
        for stage, (view, given) in enumerate(zip(students, teachers, strict=True)):
            found = teacher.roi_head._bbox_forward(stage, pyramid, view.rois)
            assert torch.equal(given.logits, found["cls_score"])
            stds = torch.tensor(teacher.roi_head.bbox_head[stage].bbox_coder.stds)
            torch.testing.assert_close(given.deltas, found["bbox_pred"].view(-1, 1, 4) * stds)
            assert not given.logits.requires_grad


def test_losses_are_named_and_weighed_by_stage(cascade):
    """The default weights of MMDetection's stages are 1, 0.5 and 0.25."""
    model = build(distilled(CASCADE, cascade))
    students, teachers, losses = all_views(model, batch())
    assert [spec.loss_weight for spec in model.distiller.student_adapter.specs()] == [1, 0.5, 0.25]
    names = {f"s{stage}.kd_{name}_loss" for stage in range(3) for name in COMPONENTS}
    assert names == {name for name in losses if "kd_" in name and "loss" in name}
    for stage, factor in enumerate((1, 0.5, 0.25)):
        component = model.distiller.objective[stage].components["classification"]
        alone, *_ = component(students[stage], teachers[stage])
        torch.testing.assert_close(losses[f"s{stage}.kd_classification_loss"], factor * alone)


def test_deltas_are_compared_in_common_units(faster):
    """Stage 2 divides its targets by 0.033, the teacher by 0.1: equal boxes, a loss of 0."""
    distill = dict(regression=dict(weight=1.0))
    model = build(distilled(CASCADE, faster, distill))
    students, teachers, _ = all_views(model, batch())
    for stage, weight in enumerate((1, 0.5, 0.25)):
        view, given = students[stage], teachers[stage]
        view.deltas = given.deltas.clone()
        losses = model.distiller.objective[stage](view, given)
        assert losses["kd_regression_loss"] < 1e-6
        # One of the student's own units off in x, everywhere: 1 by the share of objects.
        stds = CASCADE.roi_head.bbox_head[stage].bbox_coder.target_stds
        view.deltas = given.deltas + torch.tensor([stds[0], 0, 0, 0])
        objects = given.logits.softmax(1)[:, :-1].sum(1).mean()
        loss = model.distiller.objective[stage](view, given)["kd_regression_loss"]
        torch.testing.assert_close(loss, weight * objects, rtol=1e-4, atol=0)


def test_gradients_reach_every_stage(cascade):
    model = build(distilled(CASCADE, cascade))
    assert_gradients_reach_everything(model)
    for stage in range(3):
        only = {n: v for n, v in losses_of(model, batch()).items() if n.startswith(f"s{stage}.kd_")}
        gradients = backward(model, only)
        for other in range(3):
            grad = gradients[f"distiller.student.roi_head.bbox_head.{other}.fc_cls.weight"]
            assert (grad is not None and grad.any()) == (other == stage)


@pytest.mark.parametrize("name", COMPONENTS)
def test_each_component_falls_in_sum(cascade, name):
    model = build(distilled(CASCADE, cascade, {name: alone(name)}))
    found = falls(model)
    assert len(found) == 3
    assert sum(end for _, end in found.values()) < sum(start for start, _ in found.values())


# --- With a detector of one stage on the other side -----------------------------------------------


@pytest.mark.parametrize("stage", [None, 0, 1, 2])
def test_a_named_stage_teaches_a_student_of_one(cascade, stage):
    teacher = cascade if stage is None else dict(cascade, stage=stage)
    model, data = build(distilled(SHARED, teacher)), batch()
    (view,), (given,), losses = all_views(model, data)
    images = model.teacher.data_preprocessor(copy.deepcopy(data), True)["inputs"]
    which = 2 if stage is None else stage
    with torch.no_grad():
        pyramid = model.teacher.extract_feat(images)
        found = model.teacher.roi_head._bbox_forward(which, pyramid, view.rois)
    assert torch.equal(given.logits, found["cls_score"])
    stds = torch.tensor(model.teacher.roi_head.bbox_head[which].bbox_coder.stds)
    torch.testing.assert_close(given.deltas, found["bbox_pred"].view(-1, 1, 4) * stds)
    assert "kd_regression_loss" in losses
    assert_gradients_reach_everything(model)


def test_a_teacher_of_one_stage_teaches_all(faster):
    model = build(distilled(CASCADE, faster))
    students, teachers, losses = all_views(model, batch())
    assert len(students) == 3 and sum("kd_regression_loss" in name for name in losses) == 3
    for view, given in zip(students, teachers, strict=True):
        assert torch.equal(view.rois, given.rois)
        assert given.representation.shape[1] == 48
    assert_gradients_reach_everything(model)


# --- What is refused ------------------------------------------------------------------------------


def refusal(*args, **settings):
    with pytest.raises(ValueError) as error:
        build(distilled(*args, **settings))
    return str(error.value)


def test_a_regression_per_class_beside_a_shared_one_is_refused(cascade):
    text = refusal(FASTER, cascade)
    assert "student (FasterRCNN)" in text and "teacher (CascadeRCNN, stage 2)" in text
    assert "(N, 10, 4)" in text and "(N, 1, 4)" in text
    build(distilled(FASTER, cascade, THREE))  # without it the pair is fine


def test_the_ground_truth_class_of_a_shared_regression_is_refused(cascade):
    text = refusal(CASCADE, cascade, dict(regression=dict(weight=1.0, class_aware=False)))
    assert "student (CascadeRCNN, stage 0)" in text and "share one" in text


@pytest.mark.parametrize("stage, named", [(3, "expected 0 to 2, got 3"), (-1, "got -1")])
def test_a_stage_that_is_not_there_is_refused(cascade, stage, named):
    assert named in refusal(FASTER, dict(cascade, stage=stage), THREE)


def test_a_stage_where_there_is_nothing_to_choose_is_refused(cascade, faster):
    assert "teacher.stage" in refusal(CASCADE, dict(cascade, stage=1), THREE)
    assert "teacher.stage" in refusal(FASTER, dict(faster, stage=0), THREE)


def test_cascades_of_other_lengths_are_refused(cascade):
    two = copy.deepcopy(CASCADE)
    two.roi_head.update(
        num_stages=2, stage_loss_weights=[1, 0.5], bbox_head=two.roi_head.bbox_head[:2]
    )
    two.train_cfg.rcnn = two.train_cfg.rcnn[:2]
    assert "2 stages in the student and 3 in the teacher" in refusal(two, cascade, THREE)


def test_transfer_between_a_cascade_and_a_single_head_is_refused(faster):
    student = tiny_model("cascade_rcnn", base=8, width=24)
    text = refusal(student, faster, {}, transfer_heads=True)
    assert "roi_head.bbox_head.0." in text and "missing" in text


def test_transfer_between_cascades(tmp_path):
    given = save_detector(tiny_model("cascade_rcnn", base=12), tmp_path / "teacher.pth")
    model = build(distilled(CASCADE, given, {}, transfer_heads=True))
    theirs = model.teacher.roi_head.state_dict()
    for name, value in model.student.roi_head.state_dict().items():
        assert torch.equal(value, theirs[name]), name
    other = copy.deepcopy(CASCADE)
    other.roi_head.bbox_head[1].bbox_coder.target_stds = [0.1, 0.1, 0.2, 0.2]
    text = refusal(other, given, {}, transfer_heads=True)
    assert "roi_head.bbox_head.1.bbox_coder" in text


# --- Its kin --------------------------------------------------------------------------------------


def mask_variant(kind, shared):
    config = tiny_model(kind)
    if shared:  # masks are pooled by the boxes' extractor, as large as they
        config.roi_head.mask_roi_extractor = None
        for stage in config.train_cfg.rcnn:
            stage.mask_size = 14
    return config


@pytest.mark.parametrize(
    "kind, shared",
    [("cascade_mask_rcnn", False), ("cascade_mask_rcnn", True), ("htc", False)],
    ids=["masks", "masks, one extractor", "HTC"],
)
def test_variants_with_masks(tmp_path, kind, shared):
    config = mask_variant(kind, shared)
    given = save_detector(config, tmp_path / "teacher.pth")
    model = build(distilled(config, given))
    fed = heard_by(model.student.roi_head.bbox_head)
    students, teachers, losses = all_views(model, masked(config))
    for stage, view in enumerate(students):
        assert_view_of_head(view, fed[stage], model.student.roi_head.bbox_head[stage])
        layer = model.teacher.roi_head.bbox_head[stage].fc_cls
        with torch.no_grad():
            assert torch.equal(layer(teachers[stage].representation), teachers[stage].logits)
    assert any("mask" in name for name in losses)
    assert_gradients_reach_everything(model, masked(config))


def test_a_semantic_branch_is_part_of_what_htc_sees(tmp_path):
    """As its own forward pass has it, semantic features added to the pooled boxes."""
    config = tiny_model("htc")
    given = save_detector(config, tmp_path / "teacher.pth")
    model, data = build(distilled(FASTER, given, THREE)), batch()
    (view,), (seen,), _ = all_views(model, data)
    teacher = model.teacher
    images = teacher.data_preprocessor(copy.deepcopy(data), True)["inputs"]
    with torch.no_grad():
        pyramid = teacher.extract_feat(images)
        _, semantic = teacher.roi_head.semantic_head(pyramid)
        found = teacher.roi_head._bbox_forward(2, pyramid, view.rois, semantic_feat=semantic)
        without = teacher.roi_head._bbox_forward(2, pyramid, view.rois, semantic * 0)
    assert torch.equal(seen.logits, found["cls_score"])
    assert not torch.equal(seen.logits, without["cls_score"])


# --- Copies, checkpoints, little to look at -------------------------------------------------------


def test_a_copy_listens_to_itself_and_nothing_stays(cascade):
    model = build(distilled(CASCADE, cascade))
    copied = copy.deepcopy(model)
    assert copied.teacher is model.teacher and len(copied.distiller.objective) == 3
    fed = heard_by(copied.student.roi_head.bbox_head)
    students, _, _ = all_views(copied, batch())
    for view, given in zip(students, fed, strict=True):
        assert view.logits is given[0]
    for detector in (model, copied):
        for head in (*detector.student.roi_head.bbox_head, *detector.teacher.roi_head.bbox_head):
            assert not head._forward_hooks and "get_targets" not in vars(head)
    assert all(len(o.components["contrastive"].queue) == 0 for o in model.distiller.objective)


def test_the_features_of_a_step_do_not_outlive_it(cascade):
    model = build(distilled(CASCADE, cascade))
    students, teachers, losses = all_views(model, batch())
    pooled = [weakref.ref(view.pooled) for view in (*students, *teachers)]
    del students, teachers, losses
    gc.collect()
    assert all(ref() is None for ref in pooled)


def test_export_and_resume(cascade, digits, tmp_path):
    assert_exports_and_resumes(distilled(CASCADE, cascade), digits, tmp_path)


def test_images_without_objects(cascade):
    assert_sound(build(distilled(CASCADE, cascade)), batch(boxes=(0, 0)))


def test_no_box_at_all(cascade):
    """The cascade ends after its first stage; its other objectives get zeros."""
    empty = copy.deepcopy(CASCADE)
    empty.train_cfg.rpn_proposal.min_bbox_size = 1000
    model = build(distilled(empty, cascade))
    students, _, losses = all_views(model, batch(boxes=(0, 0)))
    assert [len(view.rois) for view in students] == [0, 0, 0]
    assert "s0.loss_bbox" in losses and not any(name.startswith("s1.loss") for name in losses)
    assert_sound(model, batch(boxes=(0, 0)))


def assert_sound(model, data):
    losses = losses_of(model, data)
    assert all(value.isfinite() for value in model.parse_losses(losses)[1].values())
    for name, grad in backward(model, losses).items():
        if name.startswith("distiller.objective."):
            assert grad is not None and grad.isfinite().all(), name

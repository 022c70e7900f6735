"""The distilled detector on real pairs of MMDetection: what it hears, adds and refuses.

Whole runs are in test_runner.py.
"""

import copy
import gc
import random
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
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
from mmdet.registry import MODELS
from mmengine.runner import load_checkpoint
from torch import nn
from torch.nn import functional as F

from gdetkd.detectors.mmdet.distilled import NonFiniteLossError
from gdetkd.detectors.mmdet.folding import fold_batch_norms, pool_by_gathering

ZERO = {name: {**settings, "weight": 0} for name, settings in COMPONENTS.items()}


def random_states():
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()


def grads_of_objective(gradients):
    return {
        name: grad for name, grad in gradients.items() if name.startswith("distiller.objective.")
    }


# --- What weight 0 leaves out ---------------------------------------------------------------------


def test_with_all_weights_0_there_is_no_teacher_and_nothing_to_train():
    nowhere = dict(config="nowhere.py", checkpoint="nowhere.pth")
    plain = build(faster_rcnn())
    model = build(distilled(faster_rcnn(), nowhere, ZERO))
    assert model.teacher is None and model.distiller.objective is None
    assert list(model.state_dict()) == [f"distiller.student.{key}" for key in plain.state_dict()]
    assert (
        len(list(model.modules())) == len(list(plain.modules())) + 2
    )  # the wrapper, the distiller
    ours, theirs = losses_of(model, batch()), losses_of(plain, batch())
    assert list(ours) == list(theirs)
    gradients = backward(model, ours)
    for name, grad in backward(plain, theirs).items():
        assert (grad is None) == (gradients[f"distiller.student.{name}"] is None)
        assert grad is None or torch.equal(gradients[f"distiller.student.{name}"], grad)


@pytest.mark.parametrize("left_out", COMPONENTS)
def test_a_component_of_weight_0_is_not_built(teacher, left_out):
    distill = {**COMPONENTS, left_out: ZERO[left_out]}
    model = build(distilled(faster_rcnn(), teacher, distill))
    assert set(model.distiller.objective[0].components) == set(COMPONENTS) - {left_out}
    losses = losses_of(model, batch())
    assert {key for key in losses if key.startswith("kd_") and "loss" in key} == {
        f"kd_{name}_loss" for name in COMPONENTS if name != left_out
    }


def test_of_a_left_out_component_even_a_setting_that_would_fail_is_fine(teacher):
    """reg_class_agnostic differs, which the regression refuses; it has weight 0."""
    student = faster_rcnn(roi_head__bbox_head__reg_class_agnostic=True)
    distill = {**COMPONENTS, "regression": ZERO["regression"]}
    losses_of(build(distilled(student, teacher, distill)), batch())


# --- The same start and the same draws as the plain detector --------------------------------------


@pytest.mark.parametrize("transfer", [False, True])
def test_the_students_initial_weights_are_those_of_the_plain_detector(twin, transfer):
    plain = build(faster_rcnn())
    states = random_states()
    model = build(distilled(faster_rcnn(), twin, transfer_heads=transfer))
    assert random_states() == states
    for key, value in plain.state_dict().items():
        if not (transfer and "head" in key):
            assert torch.equal(model.student.state_dict()[key], value), key


def test_the_added_modules_follow_their_own_seed(teacher):
    states = [
        build(
            distilled(faster_rcnn(), teacher, seed=own), seed=seed
        ).distiller.objective.state_dict()
        for own, seed in ((0, 0), (0, 1), (1, 0))
    ]
    key = "0.components.contrastive.student_projection.weight"
    assert torch.equal(states[0][key], states[1][key])
    assert not torch.equal(states[0][key], states[2][key])


def test_loss_draws_nothing_that_the_plain_loss_does_not(teacher):
    plain, model = build(faster_rcnn()), build(distilled(faster_rcnn(), teacher))
    random.seed(0)
    np.random.seed(0)
    theirs = losses_of(plain, batch())
    states = random_states()
    random.seed(0)
    np.random.seed(0)
    ours = losses_of(model, batch())
    assert random_states() == states
    assert set(theirs) < set(ours)
    for name, value in plain.parse_losses(theirs)[1].items():
        assert name == "loss" or torch.equal(value, model.parse_losses(ours)[1][name]), name


# --- The hooks ------------------------------------------------------------------------------------

DOUBLE = dict(
    roi_head=dict(
        _delete_=True,
        type="DoubleHeadRoIHead",
        reg_roi_scale_factor=1.3,
        bbox_roi_extractor=faster_rcnn()["roi_head"]["bbox_roi_extractor"],
        bbox_head=dict(
            type="DoubleConvFCBBoxHead",
            num_convs=1,
            num_fcs=2,
            in_channels=8,
            conv_out_channels=16,
            fc_out_channels=16,
            roi_feat_size=7,
            num_classes=10,
            bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_stds=[0.1, 0.1, 0.2, 0.2]),
        ),
    )
)
STUDENTS = {
    "plain": faster_rcnn(),
    "three levels": faster_rcnn(levels=3),
    # The first forward passes of the heads below choose samples; the last one feeds the loss.
    "OHEM": faster_rcnn(
        train_cfg__rcnn__sampler=dict(_delete_=True, type="OHEMSampler", num=8, pos_fraction=0.25)
    ),
    "PISA": faster_rcnn(
        roi_head__type="PISARoIHead",
        train_cfg__rcnn=dict(
            sampler=dict(type="ScoreHLRSampler", num=8, k=0.5, bias=0.0),
            isr=dict(k=2, bias=0),
            carl=dict(k=1, bias=0.2),
        ),
    ),
    "Double Head": faster_rcnn(**DOUBLE),
    "Mask R-CNN": faster_rcnn(mask=True),
    "Mask R-CNN, boxes' features shared": faster_rcnn(
        mask=True, roi_head__mask_roi_extractor=None, train_cfg__rcnn__mask_size=14
    ),
    "convolutions and normalization in the head": faster_rcnn(
        roi_head__bbox_head__type="Shared4Conv1FCBBoxHead",
        roi_head__bbox_head__conv_out_channels=8,
        roi_head__bbox_head__norm_cfg=dict(type="BN"),
    ),
    "all levels pooled": faster_rcnn(
        roi_head__bbox_roi_extractor=dict(
            _delete_=True,
            type="GenericRoIExtractor",
            roi_layer=dict(type="RoIAlign", output_size=7, sampling_ratio=2),
            out_channels=8,
            featmap_strides=[4, 8, 16, 32],
        )
    ),
    "ResNeXt": faster_rcnn(
        backbone=dict(type="ResNeXt", depth=50, base_channels=4, groups=2, base_width=4),
        neck__in_channels=[16, 32, 64, 128],
    ),
    "MobileNetV2": faster_rcnn(
        backbone=dict(
            _delete_=True, type="MobileNetV2", out_indices=(1, 2, 4, 6), widen_factor=0.1
        ),
        neck__in_channels=[8, 8, 16, 32],
    ),
}


@pytest.mark.parametrize("kind", STUDENTS)
def test_the_students_view_is_what_fed_its_loss(teacher, kind):
    model = build(distilled(STUDENTS[kind], teacher))
    head = model.student.roi_head.bbox_head
    fed = []
    loss = head.loss
    head.loss = lambda *args, **kwargs: fed.append(args) or loss(*args, **kwargs)
    passes = []
    counter = head.register_forward_hook(lambda *_: passes.append(1))
    student, seen_by_teacher, losses = views_of(model, batch(masks="Mask" in kind))
    counter.remove()
    assert len(passes) > 2 if kind in ("OHEM", "PISA") else len(passes) == 1
    logits, deltas, rois, labels, *_ = fed[-1]
    assert torch.equal(student.logits, logits) and student.logits.grad_fn is not None
    assert torch.equal(student.rois, rois) and len(rois) == len(logits) > 0
    assert torch.equal(student.labels, labels)
    stds = torch.tensor([0.1, 0.1, 0.2, 0.2])
    torch.testing.assert_close(student.deltas / stds, deltas.view(len(rois), -1, 4))  # one rounding
    # The representation is what the classification layer saw, after the ReLU before it ...
    assert torch.equal(
        F.linear(student.representation, head.fc_cls.weight, head.fc_cls.bias), logits
    )
    assert (student.representation >= 0).all() and (student.representation > 0).any()
    # ... and the pooled boxes are the RoI extractor's of that pyramid.
    pooled = model.student.roi_head.bbox_roi_extractor(student.pyramid, rois)
    assert torch.equal(student.pooled, pooled)
    assert [level.shape[-1] for level in student.pyramid] == [
        SIZE // stride for stride in model.student.roi_head.bbox_roi_extractor.featmap_strides
    ]
    assert torch.equal(seen_by_teacher.rois, rois)

    _, logged = model.parse_losses(losses)
    assert all(value.isfinite() for value in logged.values())
    gradients = backward(model, losses)
    missing = [name for name, grad in gradients.items() if grad is None and "student" not in name]
    assert not missing
    assert all(grad.isfinite().all() for grad in gradients.values() if grad is not None)


def nothing_attached(model):
    hooks = [
        hook
        for module in model.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    ]
    return not hooks and "get_targets" not in vars(model.student.roi_head.bbox_head)


def test_nothing_stays_attached(teacher):
    model = build(distilled(faster_rcnn(), teacher))
    losses_of(model, batch())
    assert nothing_attached(model) and nothing_attached_to_teacher(model)


def nothing_attached_to_teacher(model):
    head = model.teacher.roi_head.bbox_head
    return not head._forward_hooks and "get_targets" not in vars(head)


@pytest.mark.parametrize("where", ["student", "teacher"])
def test_nothing_stays_attached_after_an_error(teacher, where):
    class Broken(nn.Module):
        def forward(self, *_, **__):
            raise ArithmeticError("broken")

    model = build(distilled(faster_rcnn(), teacher))
    if where == "student":
        model.student.roi_head.bbox_head.loss_cls = Broken()
    else:
        model.teacher.roi_head.bbox_head.fc_reg = Broken()
    with pytest.raises(ArithmeticError):
        losses_of(model, batch())
    assert nothing_attached(model) and nothing_attached_to_teacher(model)


def test_the_features_of_a_step_do_not_outlive_it(teacher):
    model = build(distilled(faster_rcnn(), teacher))
    *views, losses = views_of(model, batch())
    pooled = [weakref.ref(view.pooled) for view in views]
    assert all(ref() is not None for ref in pooled)
    del views, losses
    gc.collect()
    assert all(ref() is None for ref in pooled)


def test_two_detectors_of_a_process_do_not_hear_each_other(teacher):
    one, other = (build(distilled(faster_rcnn(), teacher), seed) for seed in (0, 1))
    alone = losses_of(one, batch())
    one = build(distilled(faster_rcnn(), teacher), 0)  # its queue as empty as before
    with other.distiller.student_adapter.hook_outputs() as recording:
        beside = losses_of(one, batch())
        (stage,) = recording.stages
        assert stage.logits is None and stage.rois is None and stage.labels is None
    assert nothing_attached(other)
    for name in alone:
        if name.startswith("kd_"):
            assert torch.equal(alone[name], beside[name])


def test_a_head_that_is_not_read_at_its_last_pass_is_refused(teacher):
    """A RoI head whose loss ends with another pass over fewer boxes."""
    model = build(distilled(faster_rcnn(), teacher))
    head = model.student.roi_head
    bbox_loss = head.bbox_loss

    def one_more_pass(x, results):
        found = bbox_loss(x, results)
        head.bbox_head(found["bbox_feats"][:3])
        return found

    head.bbox_loss = one_more_pass
    with pytest.raises(
        RuntimeError, match=r"Shared2FCBBoxHead: .*\(20\), got 3 rows .*not supported"
    ):
        losses_of(model, batch())


# --- The teacher ----------------------------------------------------------------------------------


@pytest.fixture
def original(teacher):
    """The teacher as MMDetection alone builds and loads it; then made quick as ours is."""
    detector = build(teacher["config"], seed=5)
    load_checkpoint(detector, teacher["checkpoint"], map_location="cpu", strict=True)
    return detector.eval()


def test_the_teacher_sees_the_same_boxes(teacher, original):
    """What MMDetection's own teacher makes of the student's boxes; bit for bit if made as quick."""
    untouched = copy.deepcopy(original)
    fold_batch_norms(original, original.extract_feat)
    pool_by_gathering(original)
    original.to(memory_format=torch.channels_last)
    model, data = build(distilled(faster_rcnn(), teacher)), batch()
    student, view, _ = views_of(model, data)
    images = original.data_preprocessor(copy.deepcopy(data), True)["inputs"]
    with torch.no_grad():
        pyramid = original.extract_feat(images)
        found = original.roi_head._bbox_forward(pyramid, student.rois)
        levels = untouched.extract_feat(images)
        own = untouched.roi_head._bbox_forward(levels, student.rois)
        for mine, theirs in zip((*pyramid, found["bbox_feats"]), (*levels, own["bbox_feats"]),
                                strict=True):  # fmt: skip
            # float32 through the backbone, in another order
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert torch.equal(view.logits, found["cls_score"])
    assert torch.equal(view.pooled, found["bbox_feats"])
    for mine, theirs in zip(view.pyramid, pyramid, strict=True):
        assert torch.equal(mine, theirs)
    stds = torch.tensor([0.1, 0.1, 0.2, 0.2])
    deltas = found["bbox_pred"].view(len(student.rois), -1, 4) * stds
    torch.testing.assert_close(view.deltas, deltas)  # + 0, which may fuse
    fc = original.roi_head.bbox_head.fc_cls
    assert torch.equal(F.linear(view.representation, fc.weight, fc.bias), view.logits)
    tensors = (view.logits, view.deltas, view.representation, view.pooled, *view.pyramid)
    assert not any(tensor.requires_grad for tensor in tensors)


def test_the_teacher_has_no_part_in_the_training(teacher):
    model = build(distilled(faster_rcnn(), teacher))
    inside = {id(module) for module in model.teacher.modules()}
    assert not any(id(module) in inside for module in model.modules())
    weights = {id(tensor) for tensor in model.teacher.state_dict(keep_vars=True).values()}
    for tensors in (model.parameters(), model.buffers(), model.state_dict(keep_vars=True).values()):
        assert not any(id(tensor) in weights for tensor in tensors)
    assert not any("teacher." in name for name in model.state_dict())
    assert not any(p.requires_grad for p in model.teacher.parameters())

    before = copy.deepcopy(model.teacher.state_dict())
    model.eval()
    model.train()
    assert not any(module.training for module in model.teacher.modules())
    backward(model, losses_of(model, batch()))
    assert all(p.grad is None for p in model.teacher.parameters())
    for name, value in model.teacher.state_dict().items():  # its BatchNorm statistics too
        assert torch.equal(value, before[name])


def test_the_teacher_follows_to(teacher):
    model = build(distilled(faster_rcnn(), teacher))
    model.to(torch.float64)
    assert {p.dtype for p in model.teacher.parameters()} == {torch.float64}
    model.to("meta")  # the one other device that every machine has
    assert {p.device.type for p in model.teacher.parameters()} == {"meta"}
    # Where it puts images when it is measured; MMEngine keeps that apart from the weights.
    assert model.teacher.data_preprocessor.device.type == "meta"


def test_a_copy_shares_the_teacher_and_listens_to_itself(teacher):
    model = build(distilled(faster_rcnn(), teacher))
    copied = copy.deepcopy(model)
    assert copied.teacher is model.teacher
    assert copied.student is not model.student
    with torch.no_grad():
        copied.student.roi_head.bbox_head.fc_cls.bias[0] += 1  # so that the two differ
    head = copied.student.roi_head.bbox_head
    view, _, losses = views_of(copied, batch())
    assert torch.equal(
        F.linear(view.representation, head.fc_cls.weight, head.fc_cls.bias), view.logits
    )
    assert all(grad is not None for grad in grads_of_objective(backward(copied, losses)).values())
    assert all(p.grad is None for p in model.parameters())
    assert len(model.distiller.objective[0].components["contrastive"].queue) == 0
    assert nothing_attached(model) and nothing_attached(copied)


def test_a_teacher_of_other_pixels_sees_its_own(tmp_path):
    """Another mean, deviation, channel order and padding: the view is that of its own batch."""
    config = faster_rcnn(
        data_preprocessor=dict(
            _delete_=True,
            type="DetDataPreprocessor",
            mean=[103.5, 116.3, 123.7],
            std=[1.0, 1.0, 1.0],
            pad_size_divisor=32,
            pad_value=7,
        )
    )
    teacher = save_detector(config, tmp_path / "teacher.pth")
    model = build(distilled(faster_rcnn(), teacher))
    data = batch(sizes=((64, 50), (40, 64)))
    student, view, _ = views_of(model, data)
    images = model.teacher.data_preprocessor(copy.deepcopy(data), True)["inputs"]
    (own,) = model.distiller.teacher_adapter.forward_rois(images, [student.rois], [0])
    # Pixels agree to 1e-4 of 255 (test_detectors_pixels.py), which a dozen layers do not enlarge.
    torch.testing.assert_close(view.logits, own.logits, rtol=1e-3, atol=1e-3 * own.logits.std())
    images = model.data_preprocessor(data, True)["inputs"]
    (wrong,) = model.distiller.teacher_adapter.forward_rois(images, [student.rois], [0])
    assert (wrong.logits - own.logits).abs().mean() > 0.1 * own.logits.std()


@pytest.mark.parametrize(
    "student",
    [
        faster_rcnn(base=8),
        faster_rcnn(channels=16),
        faster_rcnn(fc=32),
        faster_rcnn(levels=3),
        faster_rcnn(channels=12, fc=24),  # as wide as the teacher: shared projection, no adapter
        faster_rcnn(data_preprocessor__mean=[0, 0, 0], data_preprocessor__std=[255, 255, 255]),
        faster_rcnn(
            roi_head__bbox_roi_extractor__roi_layer__output_size=5,
            roi_head__bbox_head__roi_feat_size=5,
        ),
        faster_rcnn(roi_head__bbox_head__bbox_coder__target_stds=[0.2, 0.2, 0.4, 0.4]),
    ],
    ids=["backbone", "FPN", "FC", "levels", "nothing", "pixels", "bins", "deviations"],
)
def test_what_may_differ(teacher, student):
    model = build(distilled(student, teacher))
    gradients = backward(model, losses_of(model, batch()))
    for name, grad in gradients.items():
        assert grad is not None and grad.isfinite().all(), name
    assert all(
        grad.any() for name, grad in grads_of_objective(gradients).items() if "bias" not in name
    )


# --- What is refused at build ---------------------------------------------------------------------


def refusal(*args, **settings):
    with pytest.raises(ValueError) as error:
        build(distilled(*args, **settings))
    return str(error.value)


def test_other_classes_are_refused(teacher):
    text = refusal(faster_rcnn(classes=7), teacher)
    assert "student (FasterRCNN)" in text and "teacher (FasterRCNN)" in text
    assert "(N, 8)" in text and "(N, 11)" in text


def test_a_regression_shared_by_the_classes_beside_one_that_is_not_is_refused(teacher):
    shared = faster_rcnn(roi_head__bbox_head__reg_class_agnostic=True)
    text = refusal(shared, teacher)
    assert "student (FasterRCNN)" in text and "teacher (FasterRCNN)" in text
    assert "(N, 1, 4)" in text and "(N, 10, 4)" in text


def test_transfer_between_heads_of_other_widths_is_refused(teacher):
    text = refusal(faster_rcnn(fc=24), teacher, transfer_heads=True)
    assert "rpn_head.rpn_conv.weight" in text
    assert "(8, 8, 3, 3) in the student" in text and "(12, 12, 3, 3) in the teacher" in text


@pytest.mark.parametrize(
    "change, named",
    [
        (dict(rpn_head__anchor_generator__scales=[8]), "rpn_head.prior_generator"),
        (
            dict(roi_head__bbox_head__bbox_coder__target_stds=[0.2, 0.2, 0.4, 0.4]),
            "roi_head.bbox_head.bbox_coder",
        ),
    ],
)
def test_transfer_between_heads_that_mean_other_boxes_is_refused(twin, change, named):
    """Their weights have the same shapes, and would speak of the teacher's boxes."""
    text = refusal(faster_rcnn(**change), twin, {}, transfer_heads=True)
    assert named in text and "in the student" in text and "in the teacher" in text


def test_transfer_of_a_head_that_the_teacher_lacks_is_refused(twin):
    text = refusal(faster_rcnn(mask=True), twin, {}, transfer_heads=True)
    assert "roi_head.mask_head" in text and "missing in the teacher" in text


@pytest.mark.parametrize("given", [None, {}, dict(config=faster_rcnn()), dict(checkpoint="a.pth")])
def test_a_teacher_that_is_needed_and_missing_is_refused(given):
    assert "expected dict(config=..., checkpoint=...)" in refusal(faster_rcnn(), given)
    text = refusal(faster_rcnn(), given, {}, transfer_heads=True)
    assert "expected dict(config=..., checkpoint=...)" in text


@pytest.mark.parametrize(
    "setting, named",
    [
        (dict(autocast="half"), "expected one of ('float16', 'bfloat16'), or None to run as"),
        (dict(weights="a.pth"), "expected config, checkpoint, stage, autocast"),
        (dict(cache="2GB"), "expected cache=dict(folder=..., megabytes=...), got '2GB'"),
        (dict(cache=dict(folder="a")), "expected cache=dict(folder=..., megabytes=...), got {'f"),
    ],
)
def test_a_setting_that_no_teacher_has_is_refused(teacher, setting, named):
    text = refusal(faster_rcnn(), dict(teacher, **setting))
    assert named in text and next(iter(setting)) in text


def test_a_checkpoint_that_is_not_there_is_named(teacher):
    nowhere = dict(teacher, checkpoint="nowhere.pth")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        build(distilled(faster_rcnn(), nowhere))


@pytest.mark.parametrize("wrong", ["missing", "surplus", "shape"])
def test_weights_that_do_not_fit_are_refused(teacher, tmp_path, wrong):
    state = torch.load(teacher["checkpoint"])["state_dict"]
    key = "roi_head.bbox_head.fc_cls.bias"
    if wrong == "missing":
        del state[key]
    elif wrong == "surplus":
        key = "roi_head.bbox_head.another.weight"
        state[key] = torch.zeros(1)
    else:
        state[key] = torch.zeros(81)
    torch.save({"state_dict": state}, tmp_path / "wrong.pth")
    text = refusal(faster_rcnn(), dict(teacher, checkpoint=str(tmp_path / "wrong.pth")))
    assert "wrong.pth" in text and key in text
    assert wrong != "shape" or ("[81]" in text and "[11]" in text)


@pytest.mark.parametrize(
    "distill, named",
    [
        (dict(contrast=dict(weight=1)), "contrast"),
        (dict(contrastive=dict(weight=1, gamma=0.1)), "gamma"),
        (dict(contrastive=dict(weight=1, projection="deep")), "deep"),
        (dict(contrastive=dict(weight=-1.0)), "-1.0"),
        (dict(imitation=dict(weight=float("nan"))), "nan"),
        (dict(imitation=dict(weight=float("inf"))), "inf"),
        (dict(imitation=dict(weight="1")), "'1'"),
        (dict(imitation=dict()), "None"),
    ],
)
def test_wrong_settings_are_refused(teacher, distill, named):
    assert named in refusal(faster_rcnn(), teacher, distill)


# --- Head transfer --------------------------------------------------------------------------------

HEADS_WITH_NORMALIZATION = dict(
    roi_head__bbox_head__type="Shared4Conv1FCBBoxHead",
    roi_head__bbox_head__conv_out_channels=8,
    roi_head__bbox_head__norm_cfg=dict(type="BN"),
)


def heads(model):
    state = model.state_dict()
    return {
        name: value for name, value in state.items() if "rpn_head" in name or "roi_head" in name
    }


@pytest.mark.parametrize("mask", [False, True])
def test_transferred_heads_are_the_teachers_frozen(tmp_path, mask):
    changes = dict(mask=mask, **HEADS_WITH_NORMALIZATION)
    teacher = save_detector(faster_rcnn(base=6, **changes), tmp_path / "teacher.pth")
    constructed = MODELS.build(distilled(faster_rcnn(**changes), teacher, transfer_heads=True))
    trained = {name for name, p in constructed.named_parameters() if p.requires_grad}
    assert trained and not any("_head" in name for name in trained)  # before an optimizer is built

    model = build(distilled(faster_rcnn(**changes), teacher, transfer_heads=True))
    moved = heads(model.student)
    assert any("mask_head" in name for name in moved) == mask
    assert any("running_mean" in name for name in moved)
    for _ in range(2):
        gradients = backward(model, losses_of(model, batch(masks=mask)))
        for name, grad in gradients.items():
            if "_head" in name:
                assert grad is None
            else:  # through the frozen heads into backbone and neck
                assert grad is not None and grad.isfinite().all()
        assert gradients["distiller.student.neck.fpn_convs.0.conv.weight"].any()
        assert gradients["distiller.student.backbone.conv1.weight"].any()
    theirs = heads(model.teacher)
    for name, value in heads(model.student).items():
        assert torch.equal(value, theirs[name]), name

    model.train()
    parts = [model.student.rpn_head, model.student.roi_head.bbox_head]
    layers = [module for part in parts for module in part.modules() if module is not part]
    assert not any(module.training for module in layers)
    assert model.student.backbone.training and model.student.neck.training


def test_transfer_alone_needs_no_component(twin):
    model = build(distilled(faster_rcnn(), twin, {}, transfer_heads=True))
    losses = losses_of(model, batch())
    assert model.distiller.objective is None and not any(name.startswith("kd_") for name in losses)
    assert torch.equal(model.student.rpn_head.rpn_cls.weight, model.teacher.rpn_head.rpn_cls.weight)


# --- Little or nothing to look at -----------------------------------------------------------------


def assert_sound(model, losses):
    """Finite losses; every parameter of the distillation gets a gradient, be it of zeros."""
    _, logged = model.parse_losses(losses)
    assert all(value.isfinite() for value in logged.values())
    for name, grad in grads_of_objective(backward(model, losses)).items():
        assert grad is not None and grad.isfinite().all(), name
    return {name: value.item() for name, value in logged.items() if name.startswith("kd_")}


@pytest.mark.parametrize("boxes", [(0, 2), (0, 0)])
def test_images_without_ground_truth(teacher, boxes):
    model = build(distilled(faster_rcnn(), teacher))
    student, _, losses = views_of(model, batch(boxes))
    assert ((student.labels == 10) | (student.rois[:, 0] == 1)).all()
    logged = assert_sound(model, losses)
    assert all(value > 0 for name, value in logged.items())


def test_ground_truth_regression_without_foreground(teacher):
    distill = dict(regression=dict(weight=1.0, class_aware=False))
    model = build(distilled(faster_rcnn(), teacher, distill))
    assert assert_sound(model, losses_of(model, batch((0, 0)))) == {"kd_regression_loss": 0.0}
    assert assert_sound(model, losses_of(model, batch()))["kd_regression_loss"] > 0


def test_one_proposal(teacher):
    student = faster_rcnn(train_cfg__rcnn__sampler__num=1)
    model = build(distilled(student, teacher))
    view, _, losses = views_of(model, batch((1,), ((SIZE, SIZE),)))
    assert view.rois.shape == (1, 5)
    logged = assert_sound(model, losses)
    assert logged["kd_contrastive_loss"] == 0  # no negatives yet: -log 1
    view, _, losses = views_of(model, batch((1,), ((SIZE, SIZE),), seed=1))
    assert assert_sound(model, losses)["kd_contrastive_loss"] > 0  # the queue has one now


def test_no_proposal_at_all(teacher):
    """The RPN finds nothing and nothing is there: MMDetection trains on, and so do we."""
    student = faster_rcnn(train_cfg__rpn_proposal__max_per_img=0)
    plain, model = build(student), build(distilled(student, teacher))
    assert "loss_bbox" in losses_of(plain, batch((0, 0)))
    view, _, losses = views_of(model, batch((0, 0)))
    assert view.rois.shape == (0, 5) and view.deltas.shape == (0, 10, 4)
    logged = assert_sound(model, losses)
    assert {value for name, value in logged.items()} == {0.0}
    assert not any(
        g.any()
        for g in grads_of_objective(backward(model, losses_of(model, batch((0, 0))))).values()
    )


# --- Numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_named(teacher, value):
    model = build(distilled(faster_rcnn(), teacher))
    with torch.no_grad():
        model.distiller.objective[0].components["contrastive"].student_projection.weight[0, 0] = (
            value
        )
    with pytest.raises(NonFiniteLossError, match="kd_contrastive_loss = nan") as error:
        model.parse_losses(losses_of(model, batch()))
    text = str(error.value)
    assert not any(name in text for name in ("kd_imitation", "loss_cls", "loss_rpn"))


def test_a_student_that_is_not_finite_is_named():
    """Also in a plain run of the distilled detector, with no teacher to blame."""
    model = build(distilled(faster_rcnn(), None, {}))
    with torch.no_grad():
        model.student.rpn_head.rpn_cls.bias.fill_(float("nan"))
    with pytest.raises(NonFiniteLossError, match="loss_rpn_cls = nan"):
        model.parse_losses(losses_of(model, batch()))


def in_full(view):
    tensors = {name: getattr(view, name) for name in ("pooled", "representation", "logits")}
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    return replace(view, **tensors, pyramid=tuple(level.float() for level in view.pyramid))


def test_mixed_precision(teacher):
    """bfloat16, which the CPU knows too; the student's own losses stay MMDetection's."""
    plain, model = build(faster_rcnn()), build(distilled(faster_rcnn(), teacher))
    with torch.autocast("cpu", torch.bfloat16):
        theirs = losses_of(plain, batch())
        student, seen_by_teacher, losses = views_of(model, batch())
    assert student.representation.dtype == student.logits.dtype == torch.bfloat16
    assert student.rois.dtype == student.deltas.dtype == torch.float32
    for name, value in plain.parse_losses(theirs)[1].items():
        assert name == "loss" or torch.equal(value, model.parse_losses(losses)[1][name]), name
    # The same views in full precision, through an objective that starts as this one did.
    objective = build(distilled(faster_rcnn(), teacher)).distiller.objective[0]
    for name, full in objective(in_full(student), in_full(seen_by_teacher)).items():
        assert losses[name].dtype == torch.float32
        # bfloat16 has 8 bits; two or three layers of the objective's own round to them.
        torch.testing.assert_close(losses[name], full, rtol=0.03, atol=0.01)
    for name, grad in backward(model, losses).items():
        assert grad is not None and grad.isfinite().all(), name


def test_a_teacher_in_half_precision(teacher):
    """Of a student in full precision, whose objective has no autocast to mend the difference."""
    whole = losses_of(build(distilled(faster_rcnn(), teacher)), batch())
    model = build(distilled(faster_rcnn(), dict(teacher, autocast="bfloat16")))
    _, seen_by_teacher, losses = views_of(model, batch())
    views = (seen_by_teacher.pooled, seen_by_teacher.representation, seen_by_teacher.logits)
    assert {tensor.dtype for tensor in views} == {torch.float32}
    for name, value in losses.items():
        if "kd_" in name:  # bfloat16 has 8 bits, and a teacher rounds to them layer by layer
            torch.testing.assert_close(value, whole[name], rtol=0.05, atol=0.02)
            assert "loss" not in name or not torch.equal(value, whole[name])  # it did run in half
    for name, grad in backward(model, losses).items():
        assert grad is not None and grad.isfinite().all(), name


@pytest.mark.parametrize("quicker", ["channels_last", "compile"])
def test_a_teacher_that_is_laid_out_or_compiled_sees_the_same(teacher, quicker):
    whole = losses_of(build(distilled(faster_rcnn(), teacher)), batch())
    given = dict(teacher, channels_last=quicker == "channels_last", compile=quicker == "compile")
    model = build(distilled(faster_rcnn(), given))
    last = model.teacher.backbone.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert last == (quicker == "channels_last")
    assert (model.teacher.neck._compiled_call_impl is not None) == (quicker == "compile")
    # What a compiler makes of the layers is PyTorch's to test, and takes it a minute.
    with torch.compiler.set_stance("force_eager"):
        losses = losses_of(model, batch())
    for name, value in whole.items():  # other kernels add up in another order
        both = zip(*(x if isinstance(x, list) else [x] for x in (losses[name], value)), strict=True)
        for ours, theirs in both:
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


# --- Prediction -----------------------------------------------------------------------------------


def test_it_predicts_as_the_student_alone(teacher):
    plain, model = build(faster_rcnn()).eval(), build(distilled(faster_rcnn(), teacher)).eval()
    with torch.no_grad():
        ours, theirs = (detector.val_step(batch()) for detector in (model, plain))
    for mine, other in zip(ours, theirs, strict=True):
        assert len(mine.pred_instances) > 0
        assert torch.equal(mine.pred_instances.bboxes, other.pred_instances.bboxes)
        assert torch.equal(mine.pred_instances.scores, other.pred_instances.scores)

"""DETRs as teachers: queries matched to given boxes, pooled features, and what they cannot give."""

import copy

import pytest
import torch
from helpers import COMPONENTS, batch, build, distilled, losses_of, save_detector, views_of
from mmengine.runner import load_checkpoint
from torchvision.ops import box_iou
from twins import alone, assert_gradients_reach_everything, falls

from gdetkd.detectors import adapter_for
from gdetkd.detectors.locations import best_of_image
from gdetkd.detectors.mmdet.folding import fold_batch_norms
from gdetkd.distillation.objective import Objective
from gdetkd.ops.roi_align import roi_align
from gdetkd.reproduce.tiny_models import tiny_model

FASTER = tiny_model("faster_rcnn")
TWO = {name: COMPONENTS[name] for name in ("contrastive", "imitation")}
# DINO's decoder is 256 wide whatever its config says, and so is Conditional DETR's.
KINDS = dict(deformable_detr=32, dino=256, detr=32, conditional_detr=256, dab_detr=32)


def saved(kind, folder):
    config = tiny_model(kind, base=8, width=KINDS[kind])
    return save_detector(config, folder / f"{kind}.pth")


@pytest.fixture(scope="module")
def deformable(tmp_path_factory):
    return saved("deformable_detr", tmp_path_factory.mktemp("detr"))


def original(given):
    """The teacher as MMDetection alone builds and loads it; then made quick as ours is."""
    detector = build(given["config"], seed=5)
    load_checkpoint(detector, given["checkpoint"], map_location="cpu", strict=True)
    detector.eval()
    fold_batch_norms(detector, detector.extract_feat)
    return detector


def test_the_best_box_of_the_same_image():
    predicted = torch.tensor(
        [
            [[0.0, 0, 10, 10], [0, 0, 20, 20], [30, 30, 40, 40]],
            [[0.0, 0, 12, 10], [50, 50, 60, 60], [0, 0, 1, 1]],
        ]
    )
    rois = torch.tensor(
        [[0.0, 0, 0, 10, 10], [1, 0, 0, 10, 10], [0, 0, 0, 16, 20], [1, 30, 30, 40, 40]]
    )
    query, overlap = best_of_image(rois, predicted)
    assert query[:3].tolist() == [0, 0, 1]
    torch.testing.assert_close(overlap, torch.tensor([1.0, 100 / 120, 0.8, 0.0]))
    query, overlap = best_of_image(rois[:0], predicted)
    assert query.shape == overlap.shape == (0,)


@pytest.mark.parametrize("kind", KINDS)
def test_a_box_is_represented_by_the_query_that_found_it(kind, tmp_path):
    """The boxes that MMDetection's own pass predicts, given back: known, each by its query."""
    detector = original(saved(kind, tmp_path))
    data = detector.data_preprocessor(batch(sizes=((64, 48), (40, 64))), False)
    images, samples = data["inputs"], data["data_samples"]
    with torch.no_grad():
        found = detector.forward_transformer(detector.extract_feat(images), samples)
        boxes = detector.bbox_head(**found)[1][-1]
        predicted = detector.predict(images, copy.deepcopy(samples), rescale=False)
    centers, sides = boxes.split(2, -1)
    extent = torch.tensor([[[48.0, 64.0]], [[64.0, 40.0]]])  # of what is not padding
    corners = torch.cat([(centers - sides / 2) * extent, (centers + sides / 2) * extent], -1)
    for own, size, sample in zip(corners, extent, predicted, strict=True):
        clipped = own.view(-1, 2, 2).minimum(size).clamp(min=0).flatten(1)
        detections = sample.pred_instances.bboxes  # in the pixels of these images
        apart = (detections[:, None] - clipped).abs().amax(-1).min(1)[0]
        assert len(detections) and apart.max() < 1e-3
    queries = (sides.amin(-1) * 64 > 1).nonzero()[::7]  # boxes of more than a pixel
    assert len(queries) > 5 and queries[:, 0].unique().tolist() == [0, 1]
    image, query = queries.T
    rois = torch.cat([image[:, None].float(), corners[image, query]], 1)
    with torch.no_grad():
        (view,) = adapter_for(detector, "teacher").forward_rois(
            images, [rois], [0], [sample.img_shape for sample in samples]
        )
    assert view.valid_mask.all() and view.deltas is None
    logits = detector.bbox_head(**found)[0][-1]
    torch.testing.assert_close(view.logits, logits[image, query])
    torch.testing.assert_close(view.representation, found["hidden_states"][-1][image, query])


def test_known_is_an_iou_of_a_half_with_some_query(deformable):
    model = build(distilled(FASTER, deformable, TWO))
    student, view, losses = views_of(model, batch())
    teacher = original(deformable)
    data = teacher.data_preprocessor(batch(), False)
    with torch.no_grad():
        found = teacher.forward_transformer(
            teacher.extract_feat(data["inputs"]), data["data_samples"]
        )
        states = found["hidden_states"][-1]
        centers, sides = teacher.bbox_head(**found)[1][-1].split(2, -1)
    boxes = torch.cat([centers - sides / 2, centers + sides / 2], -1) * 64
    assert 0 < view.valid_mask.sum() < len(view.valid_mask)
    for index, roi in enumerate(student.rois):
        overlap = box_iou(roi[None, 1:], boxes[int(roi[0])])[0]
        assert view.valid_mask[index] == (overlap.max() >= 0.5)
        best = states[int(roi[0]), overlap.argmax()]
        torch.testing.assert_close(view.representation[index], best)
    assert not view.representation.requires_grad and not view.pooled.requires_grad


def test_boxes_that_are_not_known_are_left_out_of_the_contrast(deformable):
    model = build(distilled(FASTER, deformable, TWO))
    student, view, losses = views_of(model, batch())
    contrastive = model.distiller.objective[0].components["contrastive"]
    count = int(view.valid_mask.sum())
    assert int(contrastive.queue.enqueued) == count < len(view.rois)
    contrastive.queue.load_state_dict(type(contrastive.queue)(40, 8).state_dict())
    first, number, _ = contrastive(student, view)
    assert number == count
    view.representation = view.representation.clone()
    view.representation[~view.valid_mask] = float("nan")
    contrastive.queue.load_state_dict(type(contrastive.queue)(40, 8).state_dict())
    assert torch.equal(contrastive(student, view)[0], first)
    view.valid_mask = torch.zeros_like(view.valid_mask)
    nothing, number, _ = contrastive(student, view)
    assert nothing == 0 and number == 0 and nothing.requires_grad


def test_pooled_from_the_level_for_its_size(deformable):
    """Strides 8 to 64: sides around 160, 320, 640 and 1,280 px; in between by ratio."""
    detector = original(deformable)
    adapter = adapter_for(detector, "teacher")
    (spec,) = adapter.specs()
    assert spec.strides == (8, 16, 32, 64) and spec.scores == "sigmoid" and spec.delta_stds is None
    sides = torch.tensor([20.0, 225, 228, 450, 454, 2000])
    rois = torch.zeros(6, 5)
    rois[:, 3:] = sides[:, None]
    images = torch.rand(1, 3, 512, 512)
    with torch.no_grad():
        (view,) = adapter.forward_rois(images, [rois], [0])
    for index, level in enumerate([0, 0, 1, 1, 2, 3]):
        pooled = roi_align(
            view.pyramid[level], rois[index : index + 1], (7, 7), 1 / spec.strides[level]
        )
        torch.testing.assert_close(view.pooled[index : index + 1], pooled)


def test_padding_is_masked_as_in_its_own_forward_pass(deformable):
    """Images of two sizes: the masks and shares of MMDetection's own samples."""
    model, data = build(distilled(FASTER, deformable, TWO)), batch(sizes=((64, 40), (33, 64)))
    student, view, _ = views_of(model, data)
    teacher = original(deformable)
    prepared = teacher.data_preprocessor(copy.deepcopy(data), False)
    with torch.no_grad():
        found = teacher.forward_transformer(
            teacher.extract_feat(prepared["inputs"]), prepared["data_samples"]
        )
    states = found["hidden_states"][-1]

    def distance(view):
        """How far each representation is from the nearest state of its image's queries."""
        near = [
            (states[int(roi[0])] - row).abs().amax(1).min()
            for row, roi in zip(view.representation, student.rois, strict=True)
        ]
        return torch.stack(near)

    assert distance(view).max() < 1e-5  # of values around 1
    with torch.no_grad():
        (blind,) = model.distiller.teacher_adapter.forward_rois(
            prepared["inputs"], [student.rois], [0]
        )
    assert distance(blind).max() > 1e-2


@pytest.mark.parametrize("name", TWO)
def test_each_component_falls(deformable, name):
    model = build(distilled(FASTER, deformable, {name: alone(name)}))
    ((start, end),) = falls(model).values()
    assert end < start


@pytest.mark.parametrize("student", ["faster_rcnn", "cascade_rcnn", "retinanet"])
def test_gradients(deformable, student):
    assert_gradients_reach_everything(build(distilled(tiny_model(student), deformable, TWO)))


def test_boxes_without_a_query_are_left_out_of_class_distillation(deformable):
    model = build(distilled(FASTER, deformable, {"classification": COMPONENTS["classification"]}))
    student, view, _ = views_of(model, batch())
    component = model.distiller.objective[0].components["classification"]
    first, number, _ = component(student, view)
    assert number == view.valid_mask.sum() and 0 < number < len(view.rois)
    view.logits = view.logits.clone()
    view.logits[~view.valid_mask] = float("nan")
    assert torch.equal(component(student, view)[0], first)


def test_too_few_cells_to_choose_queries_from_is_an_error(tmp_path):
    model = build(distilled(FASTER, saved("dino", tmp_path), TWO))
    model.teacher.num_queries = 10**4
    with pytest.raises(ValueError, match=r"teacher \(DINO\): expected images of at least 10000"):
        losses_of(model, batch())


def test_regression_is_refused_by_name(deformable):
    with pytest.raises(ValueError, match=r"regression: .*teacher \(DeformableDETR\)"):
        build(distilled(FASTER, deformable, {"regression": COMPONENTS["regression"]}))


def test_head_transfer_is_refused(deformable):
    with pytest.raises(ValueError, match=r"transfer_heads: rpn_head.* missing in the teacher"):
        build(distilled(FASTER, deformable, {}, transfer_heads=True))


def test_a_copy_shares_it(deformable):
    model = build(distilled(FASTER, deformable, TWO))
    copied = copy.deepcopy(model)
    assert copied.teacher is model.teacher
    assert isinstance(copied.distiller.objective[0], Objective)
    ours, theirs = (losses_of(m, batch()) for m in (copied, model))
    assert torch.equal(ours["kd_imitation_loss"], theirs["kd_imitation_loss"])

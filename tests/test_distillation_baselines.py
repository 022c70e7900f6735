"""Same-level imitation, the baselines of SGFI: hand values, loops, limits, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from dense import dense
from helpers import backward, batch, build, distilled, faster_rcnn, losses_of, save_detector

from gdetkd.distillation.fitnet import FitNet
from gdetkd.distillation.localization_distillation import LocalizationDistillation
from gdetkd.distillation.masked_imitation import MaskedImitation, inside_boxes
from gdetkd.distillation.pkd import PKD
from gdetkd.distillation.structures import DetectorSpec, RoIOutputs


def spec(channels=2, strides=(4, 8)) -> DetectorSpec:
    return DetectorSpec("d", 3, channels, strides, (7, 7), 8)


def view(*levels, gt_boxes=None) -> RoIOutputs:
    nothing = torch.zeros(0, 5)
    return RoIOutputs(nothing, levels, None, torch.zeros(0, 8), gt_boxes=gt_boxes)


def identity(component: FitNet) -> FitNet:
    for layer in component.adapt:
        torch.nn.init.dirac_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    return component


def test_rigid_by_hand():
    rigid = identity(FitNet(spec(), spec()))
    one, two = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 1, 1)
    teacher = view(one + 1, two + 3)  # errors 1 and 9, the levels weigh the same: 5
    loss, count, shown = rigid(view(one, two), teacher)
    assert loss.item() == 5 and count == 1 and shown == {}


def test_only_levels_of_one_stride_are_compared():
    rigid = identity(FitNet(spec(strides=(8, 16)), spec(strides=(4, 8))))
    student = view(torch.zeros(1, 2, 2, 2), torch.full((1, 2, 1, 1), torch.nan))
    teacher = view(torch.full((1, 2, 4, 4), torch.nan), torch.ones(1, 2, 2, 2))
    assert rigid(student, teacher)[0].item() == 1
    with pytest.raises(ValueError, match=r"\(8, 16\) from d and \(4,\) from d"):
        FitNet(spec(strides=(8, 16)), spec(strides=(4,)))


def test_a_teacher_padded_further_is_compared_where_both_have_pixels():
    rigid = identity(FitNet(spec(strides=(4,)), spec(strides=(4,))))
    teacher = torch.full((1, 2, 3, 3), 100.0)
    teacher[..., :2, :2] = 2
    assert rigid(view(torch.zeros(1, 2, 2, 2)), view(teacher))[0].item() == 4


def test_masked_is_rigid_on_the_cells_of_the_boxes():
    masked = identity(MaskedImitation(spec(strides=(4,)), spec(strides=(4,))))
    teacher = torch.arange(8.0).view(1, 2, 2, 2)
    # Only the upper left cell's center (2, 2) lies in the box: channels 0 and 4, (0 + 16) / 2.
    gt_boxes = torch.tensor([[0, 1, 1, 3, 3.0]])
    loss, *_ = masked(view(torch.zeros(1, 2, 2, 2), gt_boxes=gt_boxes), view(teacher))
    assert loss.item() == 8
    everything = torch.tensor([[0, 0, 0, 8, 8.0]])
    loss, *_ = masked(view(torch.zeros(1, 2, 2, 2), gt_boxes=everything), view(teacher))
    assert loss.item() == pytest.approx(teacher.square().mean().item())
    loss, *_ = masked(view(torch.zeros(1, 2, 2, 2), gt_boxes=gt_boxes[:0]), view(teacher))
    assert loss.item() == 0
    with pytest.raises(
        ValueError, match="masked_imitation: .*student's RoIOutputs to have gt_boxes"
    ):
        masked(view(torch.zeros(1, 2, 2, 2)), view(teacher))


def test_masked_counts_every_cell_once_whatever_its_level():
    masked = identity(MaskedImitation(spec(), spec()))
    # Four cells of the finer level lie inside, of error 1, and the one of the coarser, of error 9.
    gt_boxes = torch.tensor([[0, 0, 0, 8, 8.0]])
    student = view(torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 1, 1), gt_boxes=gt_boxes)
    loss, count, _ = masked(student, view(torch.ones(1, 2, 2, 2), torch.full((1, 2, 1, 1), 3.0)))
    assert loss.item() == pytest.approx(13 / 5) and count.item() == 5


def test_inside_boxes_against_a_loop():
    torch.manual_seed(0)
    corners = torch.rand(9, 2, 2).mul(40).sort(1).values.flatten(1)
    rois = torch.cat([torch.randint(3, (9, 1)).float(), corners], 1)
    found = inside_boxes(rois, 3, (8, 10), 4)
    for image in range(3):
        for row in range(8):
            for column in range(10):
                x, y = 4 * column + 2, 4 * row + 2
                inside = any(
                    r[0] == image and r[1] <= x <= r[3] and r[2] <= y <= r[4] for r in rois.tolist()
                )
                assert found[image, row, column] == inside


def test_normalized_is_one_less_the_correlation():
    normalized = identity(PKD(spec(1, (4,)), spec(1, (4,))))
    student, teacher = torch.randn(2, 1, 5, 5), torch.randn(2, 1, 5, 5)
    loss, *_ = normalized(view(student), view(teacher))
    correlation = torch.corrcoef(torch.stack([student.flatten(), teacher.flatten()]))[0, 1]
    assert loss.item() == pytest.approx(1 - correlation.item(), abs=1e-4)
    scaled, *_ = normalized(view(student), view(7 * teacher + 3))  # scale and shift do not matter
    assert scaled.item() == pytest.approx(loss.item(), abs=1e-4)
    assert normalized(view(student), view(student))[0].item() == pytest.approx(0, abs=1e-6)


def edges(bins=5, strides=(4, 8)) -> DetectorSpec:
    return DetectorSpec("d", 3, 2, strides, (7, 7), 8, "sigmoid", edge_bins=bins)


def maps(images=2, bins=5, sizes=((3, 4), (2, 2)), seed=0) -> RoIOutputs:
    random = torch.Generator().manual_seed(seed)
    made = view()
    made.class_maps, made.edge_maps = (
        tuple(torch.randn(images, width, *size, generator=random) * 3 for size in sizes)
        for width in (3, 4 * bins)
    )
    return made


def test_localization_against_a_loop():
    student, teacher = maps(), maps(seed=1)
    loss, count, _ = LocalizationDistillation(edges(), edges(), temperature=2.0)(student, teacher)
    total = weights = 0.0
    for mine, given, scores in zip(
        student.edge_maps, teacher.edge_maps, teacher.class_maps, strict=True
    ):
        for image in range(2):
            for row in range(mine.shape[2]):
                for column in range(mine.shape[3]):
                    weight = max(1 / (1 + math.exp(-x)) for x in scores[image, :, row, column])
                    for edge in range(4):
                        here = image, slice(5 * edge, 5 * edge + 5), row, column
                        p, q = ((x[here].double() / 2).softmax(0) for x in (given, mine))
                        total += weight / 4 * 4 * (p * (p / q).log()).sum().item()  # / 4 edges, T²
                    weights += weight
    assert loss.item() == pytest.approx(total / weights, rel=1e-5)
    assert count.item() == pytest.approx(weights, rel=1e-5)
    assert LocalizationDistillation(edges(), edges())(student, student)[0].item() == pytest.approx(
        0, abs=1e-6
    )


def test_localization_of_parts_of_a_batch_weighed_by_their_counts_is_that_of_the_batch():
    localization = LocalizationDistillation(edges(), edges())
    student, teacher = maps(), maps(seed=1)
    whole, count, _ = localization(student, teacher)
    parts = []
    for image in range(2):
        pair = view(), view()
        for part, of in zip(pair, (student, teacher), strict=True):
            part.class_maps = tuple(x[image : image + 1] for x in of.class_maps)
            part.edge_maps = tuple(x[image : image + 1] for x in of.edge_maps)
        parts.append(localization(*pair)[:2])
    mean = sum(loss * own for loss, own in parts) / count
    assert mean.item() == pytest.approx(whole.item(), rel=1e-6)


@pytest.mark.parametrize("student, teacher", [(None, 5), (5, None), (5, 9), (None, None)])
def test_localization_needs_the_same_distributions(student, teacher):
    with pytest.raises(
        ValueError, match=f"GFLHead.*got {student} bins from d and {teacher} from d"
    ):
        LocalizationDistillation(edges(student), edges(teacher))
    with pytest.raises(ValueError, match="localization_distillation: .*a stride in common"):
        LocalizationDistillation(edges(strides=(4,)), edges(strides=(8,)))


@pytest.mark.parametrize("name", ["fitnet", "masked_imitation", "pkd", "localization_distillation"])
def test_a_rival_trains_a_real_student_beside_its_own_losses(teacher, name, tmp_path):
    student, untouched = faster_rcnn(), "distiller.student.rpn_head.rpn_cls.weight"
    if name == "localization_distillation":
        student, untouched = dense("GFL"), "distiller.student.bbox_head.gfl_cls.weight"
        teacher = save_detector(dense("GFL", base=6, feat=12), tmp_path / "gfl.pth")
    model = build(distilled(student, teacher, {name: dict(weight=1.0)}))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    found = []
    for _ in range(8):
        losses = losses_of(model, batch())
        found.append(losses[f"kd_{name}_loss"].item())
        gradients = backward(model, {f"kd_{name}_loss": losses[f"kd_{name}_loss"]})
        optimizer.step()
    assert gradients["distiller.student.backbone.conv1.weight"].abs().sum() > 0
    assert gradients[untouched] is None
    assert found[-1] < 0.9 * found[0]


def test_scores_that_all_underflow_leave_nothing_to_imitate():
    student, teacher = maps(), maps(seed=1)
    teacher.class_maps = tuple(torch.full_like(level, -200.0) for level in teacher.class_maps)
    output = LocalizationDistillation(edges(), edges())(student, teacher)
    assert output.loss == 0 and output.count == 0

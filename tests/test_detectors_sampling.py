"""Which boxes of a dense student are drawn."""

import random

import numpy as np
import pytest
import torch

from gdetkd.detectors.sampling import BoxSampler, matched_labels

BACKGROUND = 10


def squares(*shape, seed=0, size=100.0):
    """Boxes of 10 to 30 px within an image."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(*shape, 2, generator=generator) * (size - 30)
    return torch.cat([corner, corner + 10 + 20 * torch.rand(*shape, 2, generator=generator)], -1)


def first(count, *shape):
    return (torch.arange(shape[-1]) < count).expand(shape).clone()


# --- Matching -------------------------------------------------------------------------------------


def test_a_box_has_the_class_it_overlaps_most():
    truth = torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 15.0, 10.0]])
    boxes = torch.tensor(
        [
            [0.0, 0.0, 10.0, 10.0],  # IoU 1 and 1/3
            [4.0, 0.0, 14.0, 10.0],  # 6/14 and 9/11
            [0.0, 0.0, 10.0, 5.0],  # exactly 1/2: not above
            [0.0, 0.0, 10.0, 5.1],
            [50.0, 50.0, 60.0, 60.0],
            [3.0, 3.0, 3.0, 3.0],
            [float("nan")] * 4,
        ]
    )
    labels = matched_labels(boxes, truth, torch.tensor([7, 0]), BACKGROUND)
    assert labels.tolist() == [7, 0, 10, 7, 10, 10, 10]


def test_without_ground_truth_all_is_background():
    none = torch.zeros(0, dtype=torch.long)
    assert matched_labels(squares(3), torch.zeros(0, 4), none, BACKGROUND).tolist() == [10] * 3
    assert matched_labels(torch.zeros(0, 4), squares(2), torch.ones(2).long(), 10).shape == (0,)


# --- Drawing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("positives, expected", [(0, 0), (3, 3), (10, 10), (60, 10)])
def test_a_quarter_is_positive_at_most_and_negatives_fill_up(positives, expected):
    image, index = BoxSampler(40)(squares(2, 100), first(positives, 2, 100))
    for number in range(2):
        mine = index[image == number]
        assert len(mine) == len(set(mine.tolist())) == 40
        hit = mine < positives
        assert hit.sum() == expected and hit[:expected].all()  # and positives come first
    assert image.tolist() == sorted(image.tolist())


def test_positives_left_over_are_no_negatives():
    image, index = BoxSampler(40)(squares(1, 50), first(45, 1, 50))
    assert len(index) == 10 + 5 and (index < 45).sum() == 10


def test_no_more_boxes_than_there_are():
    image, index = BoxSampler(512)(squares(2, 30), first(4, 2, 30))
    assert sorted(index[image == 1].tolist()) == list(range(30))
    image, index = BoxSampler(512)(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.bool))
    assert image.shape == index.shape == (0,)


def test_boxes_that_show_nothing_are_never_drawn():
    boxes = squares(1, 8)
    boxes[0, 0] = torch.tensor([5.0, 5.0, 5.0, 9.0])
    boxes[0, 1] = torch.tensor([5.0, 9.0, 15.0, 5.0])
    boxes[0, 2, 0] = torch.nan
    boxes[0, 3, 2] = torch.inf
    boxes[0, 4] = torch.tensor([5.0, 5.0, 5.9, 50.0])
    for positives in (0, 8):
        _, index = BoxSampler(8, positive_fraction=1.0)(boxes, first(positives, 1, 8))
        assert sorted(index.tolist()) == [5, 6, 7]
    image, index = BoxSampler(8)(torch.full((2, 5, 4), torch.nan), first(2, 2, 5))
    assert image.shape == index.shape == (0,)


def test_all_are_drawn_alike():
    sampler, counts = BoxSampler(20), torch.zeros(50)
    boxes, positive = squares(1, 50), first(10, 1, 50)
    for _ in range(400):
        counts += torch.bincount(sampler(boxes, positive)[1], minlength=50)
    # 5 of 10 positives and 15 of 40 negatives a step: means of 200 and 150, deviations of 10.
    assert (counts[:10] - 200).abs().max() < 50 and (counts[10:] - 150).abs().max() < 50


def test_candidates_are_the_confident_negatives():
    scores = torch.linspace(0, 1, 50)[None]
    for _ in range(5):
        _, index = BoxSampler(8, candidates=9)(squares(1, 50), first(4, 1, 50), scores)
        assert (index[:2] < 4).all() and (index[2:] >= 41).all() and len(index) == 8
    # Positives and what shows nothing take no place among the candidates.
    boxes = squares(1, 50)
    boxes[0, 45:] = 0
    _, index = BoxSampler(8, candidates=9)(boxes, ~first(48, 1, 50), scores)
    assert len(index) == 8 and ((index >= 36) & (index < 45)).all()


# --- Its own random stream ------------------------------------------------------------------------


def drawn(sampler, steps=3):
    return [sampler(squares(2, 90), first(30, 2, 90))[1].tolist() for _ in range(steps)]


def test_a_step_draws_from_the_seed_and_its_number():
    steps = drawn(BoxSampler(20))
    assert drawn(BoxSampler(20)) == steps
    assert steps[0] != steps[1] != steps[2]
    assert drawn(BoxSampler(20, seed=1))[0] != steps[0]


def test_it_leaves_the_global_streams_alone():
    states = torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()
    first_draws = drawn(BoxSampler(20))
    assert states == (
        torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),
    )
    torch.manual_seed(123)
    assert drawn(BoxSampler(20)) == first_draws


def test_a_resumed_training_draws_on():
    steps = drawn(BoxSampler(20), 5)
    sampler = BoxSampler(20)
    drawn(sampler, 3)
    resumed = BoxSampler(20)
    resumed.load_state_dict(sampler.state_dict())
    assert drawn(resumed, 2) == steps[3:]


@pytest.mark.parametrize(
    "settings", [dict(boxes_per_image=0), dict(positive_fraction=1.5), dict(candidates=0)]
)
def test_numbers_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=str(next(iter(settings.values())))):
        BoxSampler(**settings)


def test_a_step_taken_back_draws_again():
    sampler = BoxSampler(8)
    draws = [sampler(squares(1, 50), first(4, 1, 50))[1]]
    sampler.undo()
    draws += [sampler(squares(1, 50), first(4, 1, 50))[1] for _ in range(2)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[1], draws[2])
    assert int(sampler.steps) == 2


def test_candidates_need_scores():
    with pytest.raises(ValueError, match=r"scores \(B, n\) beside candidates=9, got None"):
        BoxSampler(8, candidates=9)(squares(1, 50), first(4, 1, 50))

"""The large memory's course: what explodes, what cannot, and its records."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from gdetkd.losses import contrastive_loss
from gdetkd.reproduce import explosion
from gdetkd.reproduce.explosion import SEEDS, SETTINGS, SIZES, STEPS, TEMPERATURE

RECORDS = Path(__file__).parents[1] / "results" / "digits" / "explosion.jsonl"
COSINE, PRODUCT = SETTINGS["cosine"], SETTINGS["product"]


@pytest.fixture(scope="module")
def given():
    """Representations of both detectors on 64 images of the benchmark."""
    return explosion.batches(8)


def test_a_course_learns_and_the_same_seed_repeats_it(given):
    first, again, other = (explosion.course(COSINE, 3, seed, given) for seed in (0, 0, 1))
    assert first == again != other
    assert first["exploded"] is None and first["steps"] == len(first["losses"]) == len(given)
    assert first["losses"][0] == pytest.approx(math.log(384), rel=0.3)
    assert first["losses"][-1] < first["losses"][0]


@pytest.mark.parametrize("setting", [PRODUCT, replace(COSINE, rate=PRODUCT.rate)])
def test_with_the_batch_alone_only_the_critic_differs(given, setting):
    """Until a second batch there is nothing in the queue, whatever its size."""
    small, large = (explosion.course(setting, size, 0, given[:1]) for size in (1, 60))
    assert small == large


def test_lengths_explode_at_a_high_rate_and_directions_do_not(given):
    hot = explosion.course(replace(PRODUCT, rate=0.1), 3, 0, given)
    assert hot["exploded"] is not None and hot["told_apart"] is None
    cool = explosion.course(replace(COSINE, rate=0.1), 3, 0, given)
    assert cool["exploded"] is None
    assert cool["highest_loss"] <= 2 / TEMPERATURE + math.log(3 * 384)


def test_what_the_projection_learns_from(given):
    """The same first loss; then every way goes its own."""
    names = ("cosine", "cosine_fresh", "cosine_constant", "cosine_learned")
    found = [explosion.course(SETTINGS[name], 3, 0, given)["losses"] for name in names]
    assert len({losses[0] for losses in found}) == 1
    assert len({losses[-1] for losses in found}) == len(names)


def test_clipping_bounds_what_a_step_moves(given):
    """Its recorded gradient is that before clipping, as in a training's log."""
    free, clipped = (
        explosion.course(setting, 1, 0, given[:2])
        for setting in (PRODUCT, SETTINGS["product_clipped"])
    )
    assert free["losses"][0] == clipped["losses"][0] != free["losses"][1]
    assert clipped["highest_gradient"] > 10
    assert clipped["losses"][1] != free["losses"][1]


@pytest.mark.parametrize("rows", [10, 5000])
def test_the_papers_critic_is_bounded(rows):
    """All negatives as alike as can be and the positive as unlike: 2 / gamma + ln(their number)."""
    queries = torch.eye(2, 8)[:1].double()
    keys, queue = -queries, queries.expand(rows, 8)
    worst = contrastive_loss(queries, keys, queue=queue, temperature=TEMPERATURE).item()
    assert worst == pytest.approx(2 / TEMPERATURE + math.log(rows), abs=1e-9)


# --- The committed records ------------------------------------------------------------------------


def test_every_course_is_on_record_once():
    frame = pd.DataFrame(explosion.load(RECORDS))
    assert not frame.duplicated(["setting", "batches", "seed"]).any()
    counts = frame.groupby(["setting", "batches"])["seed"].nunique()
    assert len(counts) == len(SETTINGS) * len(SIZES) and (counts == SEEDS).all()
    assert not frame["commit"].str.endswith("+").any()
    for _, one in frame.iterrows():
        assert one["rate"] == SETTINGS[one["setting"]].rate
        assert one["exploded"] == one["exploded"] or one["steps"] == STEPS
        if SETTINGS[one["setting"]].cosine:
            highest = 2 / TEMPERATURE + math.log(one["batches"] * 384)
            assert one["highest_loss"] <= highest


def test_the_page_and_the_figure_are_made_of_the_records(tmp_path):
    found = explosion.load(RECORDS)
    assert RECORDS.with_suffix(".md").read_text() == explosion.page(found)
    first, again = (explosion.draw(found, tmp_path / f"{name}.png") for name in "ab")
    assert first.read_bytes() == again.read_bytes()


def test_what_the_page_of_results_says_of_it():
    """Constants beside learned keys are the trouble, by explosion or by forgetting; no others."""
    frame = pd.DataFrame(explosion.load(RECORDS))
    product = frame[frame["setting"] == "product"]
    assert product.loc[product["batches"] == 1, "exploded"].isna().all()
    assert product.loc[product["batches"] >= 3, "exploded"].notna().all()
    assert frame.loc[frame["setting"] != "product", "exploded"].isna().all()
    apart = frame.pivot_table(index="batches", columns="setting", values="told_apart")
    assert (apart["cosine"].diff().dropna() < 0).all()
    assert (apart["cosine_fresh"] >= apart["cosine"]).all()
    assert apart.loc[60, "cosine_fresh"] - apart.loc[60, "cosine"] > 0.5
    for kind in ("product", "cosine"):
        assert (apart[f"{kind}_learned"].loc[3:] > apart[kind].loc[1] - 0.1).all()
        assert (apart[f"{kind}_constant"].loc[3:] > apart[f"{kind}_constant"].loc[1] - 0.3).all()

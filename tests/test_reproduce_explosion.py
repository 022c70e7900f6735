"""Training with a large memory: what explodes, what cannot, and the records of it."""

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
from gdetkd.reproduce.figures import draw_explosion

RECORDS = Path(__file__).parents[1] / "results" / "digits" / "explosion.jsonl"
COSINE, PRODUCT = SETTINGS["cosine"], SETTINGS["product"]


@pytest.fixture(scope="module")
def batches():
    """Representations of both detectors on 64 images of the benchmark."""
    return explosion.frozen_batches(8)


def test_it_learns_and_the_same_seed_repeats_it(batches):
    first, again, other = (
        explosion.train_projection(COSINE, 3, seed, batches) for seed in (0, 0, 1)
    )
    assert first == again != other
    assert first["exploded"] is None and first["steps"] == len(first["losses"]) == len(batches)
    assert first["losses"][0] == pytest.approx(math.log(384), rel=0.3)
    assert first["losses"][-1] < first["losses"][0]


@pytest.mark.parametrize("setting", [PRODUCT, replace(COSINE, rate=PRODUCT.rate)])
def test_with_the_batch_alone_only_the_critic_differs(batches, setting):
    """Until a second batch there is nothing in the queue, whatever its size."""
    small, large = (explosion.train_projection(setting, size, 0, batches[:1]) for size in (1, 60))
    assert small == large


def test_inner_products_explode_at_a_high_rate_and_cosines_do_not(batches):
    hot = explosion.train_projection(replace(PRODUCT, rate=0.1), 3, 0, batches)
    assert hot["exploded"] is not None and hot["information_bound"] is None
    cool = explosion.train_projection(replace(COSINE, rate=0.1), 3, 0, batches)
    assert cool["exploded"] is None
    assert cool["highest_loss"] <= 2 / TEMPERATURE + math.log(3 * 384)


def test_what_the_projection_learns_from(batches):
    """The first loss is the same for all; then each way has losses of its own."""
    names = ("cosine", "cosine_reencoded", "cosine_constant", "cosine_reencoded_gradient")
    found = [explosion.train_projection(SETTINGS[name], 3, 0, batches)["losses"] for name in names]
    assert len({losses[0] for losses in found}) == 1
    assert len({losses[-1] for losses in found}) == len(names)


def test_clipping_bounds_what_a_step_moves(batches):
    """The recorded gradient is the one before clipping, as in the log of a training."""
    free, clipped = (
        explosion.train_projection(setting, 1, 0, batches[:2])
        for setting in (PRODUCT, SETTINGS["product_clipped"])
    )
    assert free["losses"][0] == clipped["losses"][0] != free["losses"][1]
    assert clipped["highest_gradient"] > 10
    assert clipped["losses"][1] != free["losses"][1]


@pytest.mark.parametrize("rows", [10, 5000])
def test_the_papers_critic_is_bounded(rows):
    """Negatives at cosine 1 and the positive at -1: 2 / gamma + ln(number of negatives)."""
    queries = torch.eye(2, 8)[:1].double()
    keys, queue = -queries, queries.expand(rows, 8)
    worst = contrastive_loss(queries, keys, queue=queue, temperature=TEMPERATURE).item()
    assert worst == pytest.approx(2 / TEMPERATURE + math.log(rows), abs=1e-9)


# --- The committed records ------------------------------------------------------------------------


def test_every_training_is_on_record_once():
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
    drawn = draw_explosion(found, tmp_path / "explosion.png")
    assert drawn.read_bytes() == RECORDS.with_suffix(".png").read_bytes()


def test_what_the_page_of_results_says_of_it():
    """Only constants beside learned keys do harm: the loss explodes, or less is learned."""
    frame = pd.DataFrame(explosion.load(RECORDS))
    product = frame[frame["setting"] == "product"]
    assert product.loc[product["batches"] == 1, "exploded"].isna().all()
    assert product.loc[product["batches"] >= 3, "exploded"].notna().all()
    assert frame.loc[frame["setting"] != "product", "exploded"].isna().all()
    bounds = frame.pivot_table(index="batches", columns="setting", values="information_bound")
    assert (bounds["cosine"].diff().dropna() < 0).all()
    assert (bounds["cosine_reencoded"] >= bounds["cosine"]).all()
    assert bounds.loc[60, "cosine_reencoded"] - bounds.loc[60, "cosine"] > 0.5
    for kind in ("product", "cosine"):
        assert (bounds[f"{kind}_reencoded_gradient"].loc[3:] > bounds[kind].loc[1] - 0.1).all()
        assert (bounds[f"{kind}_constant"].loc[3:] > bounds[f"{kind}_constant"].loc[1] - 0.3).all()

"""Gains as numbers: the paper's by subtraction, ours paired by seed."""

import math

import pandas as pd
import pytest

from gdetkd.reproduce.comparison import closest_rows, gains
from gdetkd.reproduce.tables import half_width, interval


def frame(**aps):
    rows = [(name, seed, ap) for name, by_seed in aps.items() for seed, ap in by_seed.items()]
    return pd.DataFrame(rows, columns=["experiment", "seed", "AP"])


def test_gains_are_paired_and_know_what_has_not_run():
    found = gains(
        "table5",
        frame(baseline={0: 0.20, 1: 0.24}, regression={0: 0.26, 1: 0.28, 2: 0.9}),
    ).set_index("row")
    ground_truth, class_aware = found.iloc[0], found.iloc[1]
    assert class_aware["paper"] == pytest.approx(35.7 - 34.0)
    assert class_aware["ours"] == pytest.approx(5)  # 6 and 4; seed 2 has no partner
    assert class_aware["seeds"] == 2
    # Two gains of 6 and 4: deviation sqrt(2), error 1, and t is 12.706 with one degree of freedom.
    assert class_aware["half"] == pytest.approx(12.706, rel=1e-4)
    assert ground_truth["paper"] == pytest.approx(0.7)
    assert math.isnan(ground_truth["ours"]) and ground_truth["seeds"] == 0


def test_rows_have_their_own_baselines():
    found = gains("table6", frame(c4={0: 0.1}, gdetkd_c4={0: 0.15}))
    assert found["paper"].tolist() == pytest.approx([7.1, 2.8, 0.8, 3.9, 2.2, 0.8])
    assert found["ours"][0] == pytest.approx(5)


def test_closest_rows():
    runs = frame(memory_10={0: 0.30, 1: 0.32, 2: 0.9}, memory_15={0: 0.29, 1: 0.29})
    found = closest_rows("table1", runs)
    assert (found["best"], found["second"]) == ("memory_10", "memory_15")
    assert found["lead"] == pytest.approx(0.1)  # 37.1 and 37.0
    assert found["seeds"] == 2
    assert found["deviation"] == pytest.approx(2**0.5)  # of 1 and 3 points
    assert closest_rows("table5", runs)["lead"] == pytest.approx(1.0)  # 35.7 and 34.7
    assert math.isnan(closest_rows("table5", runs)["deviation"])


def test_half_width_is_that_of_the_interval():
    values = pd.Series([1.0, 2.0, 4.0, 4.5])
    assert half_width(values.std(), 4) == pytest.approx(interval(values)[1])

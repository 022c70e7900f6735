"""Intervals, gains paired by seed, claims: the paper's by subtraction, ours from records."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from reproduce_records import record

from gdetkd.reproduce import report, statistics
from gdetkd.reproduce.registry import TABLES
from gdetkd.reproduce.statistics import closest_rows, gains, half_width, interval, verdict


def test_interval_by_hand():
    # Mean 2, standard deviation 1, standard error 1 / sqrt(3); t(0.975, 2) = 4.30265.
    mean, half = statistics.interval(pd.Series([1.0, 2.0, 3.0]))
    assert mean == 2
    assert half == pytest.approx(4.30265 / 3**0.5, rel=1e-5)


def test_gain_is_paired_by_seed():
    rows = [record("baseline", 0, 0.1), record("baseline", 1, 0.3), record("baseline", 2, 0.9)]
    rows += [record("gdetkd", 1, 0.5), record("gdetkd", 0, 0.4)]
    gain = statistics.paired_gain(pd.DataFrame(rows), "gdetkd")
    assert gain.to_dict() == pytest.approx({0: 0.3, 1: 0.2})  # seed 2 has no partner


def test_noise_by_hand():
    runs = [("baseline", 20), ("baseline", 22), ("baseline", 21), ("gdetkd", 40), ("gdetkd", 44)]
    runs += [("gdetkd", 42), ("imitation", 30), ("retinanet", 10), ("retinanet", 14)]
    runs += [("retinanet", 12), ("gdetkd_retinanet", 30), ("gdetkd_retinanet", 30)]
    runs += [("gdetkd_retinanet", 30)]
    names = [name for name, _ in runs]
    frame = pd.DataFrame(
        dict(
            experiment=names,
            seed=[names[:i].count(name) for i, name in enumerate(names)],
            AP=[value / 100 for _, value in runs],
        )
    )
    found = statistics.noise_table(frame).set_index("")
    assert list(found.index) == [
        "Baseline", "G-DetKD (all)", "RetinaNet: baseline", "RetinaNet: SGFI and CKD",
    ]  # fmt: skip
    # Differences of 20, 22, 21; t of 2 and of 4 degrees of freedom is 4.303 and 2.776.
    assert list(found.loc["G-DetKD (all)"]) == [3, "2.00", "1.00", "2.5", "1.2", "7"]
    # Its baseline is RetinaNet's; a baseline has no gain.
    assert found.loc["RetinaNet: SGFI and CKD", "sd of the gain"] == "2.00"
    assert found.loc["RetinaNet: baseline", "sd of the gain"] == ""
    assert found.loc["Baseline", "± with 3 seeds"] == "2.5"
    assert list(statistics.noise_table(frame[:0]).columns) == statistics.NOISE_COLUMNS


def test_a_claim_is_the_papers_difference_and_ours():
    rows = [record("imitation", 0, 0.3), record("imitation", 1, 0.5), record("features", 0, 0.4)]
    found = statistics.claim_differences(pd.DataFrame(rows)).set_index("claim")
    together = found.loc["SGFI and CKD together beat SGFI"]
    assert together["paper"] == pytest.approx(0.9)  # 37.6 - 36.7
    assert (together["mean"], together["seeds"]) == (pytest.approx(10), 1)  # seed 1 has no partner
    assert together["verdict"] == "one seed"
    assert found.loc["SGFI helps", "verdict"] == "not run"
    table = report.claims_table(pd.DataFrame(rows), "main").set_index("claim")
    assert list(table.loc["SGFI and CKD together beat SGFI"]) == [
        "main", "+0.9", "+10.0", 1, "one seed",
    ]  # fmt: skip
    assert len(table) == len(TABLES["main"].claims)


@pytest.mark.parametrize(
    "differences, half, said",
    [
        ([], 0, "not run"),
        ([0.1], float("nan"), "one seed"),
        ([0.1, 0.3], 0.1, "confirmed"),
        ([-0.1, -0.3], 0.1, "contradicted"),
        ([-0.1, 0.3], 0.5, "not distinguishable"),
    ],
)
def test_verdicts(differences, half, said):
    assert verdict(pd.Series(differences, dtype=float), half) == said


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

"""A record of a run, made up, for the tests of `gdetkd.reproduce`."""

from __future__ import annotations


def record(experiment="baseline", seed=0, AP=0.2, **changes) -> dict:
    made = dict(
        experiment=experiment, config="c", options={}, config_hash="0" * 12, seed=seed, steps=800,
        AP=AP, AP50=0.5, APs=AP, APm=AP, losses={}, seconds=1.0, seconds_per_step=0.1,
        threads=1, device="CPU", commit="abc", versions={}, date="2026-01-01",
    )  # fmt: skip
    return made | changes

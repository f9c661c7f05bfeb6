"""Conformal intervals of mixed models, for rows of new groups."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import ebmeta


def frame(seed: int, groups: int, first: int = 0) -> pd.DataFrame:
    """Groups whose noise has heavy tails, and differs between groups."""
    rng = np.random.default_rng(seed)
    code = np.repeat(np.arange(groups), 6)
    effect, noise, x = rng.normal(size=groups), rng.gamma(2, 0.5, groups), rng.normal(size=len(code))
    y = 1 + x + effect[code] + noise[code] * rng.standard_t(3, len(code))
    return pd.DataFrame({"y": y, "x": x, "g": code + first})


@pytest.fixture(scope="module")
def fit() -> ebmeta.mixed.MixedModel:
    return ebmeta.mixed_model("y ~ x + (1 | g)", frame(0, 30))


def test_rows_of_new_groups_are_covered(fit: ebmeta.mixed.MixedModel) -> None:
    """False-alarm rate: with 90% coverage of 300 new groups, below 85% in one of 1,000 runs; the seeds are fixed."""
    new = frame(1, 300, first=1000)
    truth = new["y"].to_numpy().copy()
    new.loc[new.index % 6 < 2, "y"] = np.nan  # four labelled rows of each of these groups
    new.loc[new["g"] >= 1150, "y"] = np.nan  # and none
    found = fit.predict(new, 0.9, conformal=True)
    held, asked = (found["lower"] <= truth) & (truth <= found["upper"]), new["y"].isna().to_numpy()
    for part in (new["g"] < 1150, new["g"] >= 1150):
        assert 0.85 < held[asked & part.to_numpy()].mean() < 0.97
    plain = fit.predict(new, 0.9)
    np.testing.assert_array_equal(found[["mean", "sd"]], plain[["mean", "sd"]])
    assert not np.allclose(found["upper"], plain["upper"])
    again = fit.predict(new.iloc[::-1], 0.9, conformal=True).iloc[::-1]
    np.testing.assert_allclose(again["upper"], found["upper"], rtol=1e-6)


def test_too_few_groups_promise_nothing() -> None:
    few = ebmeta.mixed_model("y ~ x + (1 | g)", frame(2, 8))
    new = frame(3, 2, first=1000).drop(columns="y")
    assert np.isinf(few.predict(new, 0.9, conformal=True)[["lower", "upper"]]).all().all()
    assert np.isfinite(few.predict(new, 0.8, conformal=True)[["lower", "upper"]]).all().all()


def test_groups_with_more_labels_than_any_known_one_are_promised_nothing(fit: ebmeta.mixed.MixedModel) -> None:
    new = frame(3, 1, first=1000)
    new = pd.concat([new, new.assign(y=np.nan)])  # six labelled rows, as many as every known group has
    assert np.isinf(fit.predict(new, 0.9, conformal=True)[["lower", "upper"]]).all().all()


def test_counts_with_trials() -> None:
    rng = np.random.default_rng(4)
    rows = frame(4, 25)
    rows["n"] = rng.integers(5, 20, len(rows))
    rows["k"] = rng.binomial(rows["n"], 1 / (1 + np.exp(-rows["y"].clip(-3, 3))))
    fit = ebmeta.mixed_model("k ~ x + (1 | g)", rows[rows["g"] < 20], "binomial", size="n")
    found = fit.predict(rows[rows["g"] >= 20].drop(columns="k"), 0.8, conformal=True)
    assert (found["lower"] == found["lower"].round()).all()
    assert (found["upper"] >= found["lower"]).all()


def test_what_cannot_be_promised_is_refused(fit: ebmeta.mixed.MixedModel) -> None:
    with pytest.raises(ValueError, match=r"^conformal: expected rows of new groups alone, got one of the known"):
        fit.predict(frame(0, 30).iloc[18:20], conformal=True)
    rows = frame(0, 30)
    rows["h"] = rows.index % 5
    crossed = ebmeta.mixed_model("y ~ x + (1 | g) + (1 | h)", rows)
    with pytest.raises(ValueError, match=r"^conformal: expected one grouping factor, got g, h"):
        crossed.predict(rows, conformal=True)
    moved = ebmeta.mixed_model("y ~ 1 + (1 | g)", rows, offset="x")
    with pytest.raises(ValueError, match=r"^conformal: expected a model without offset and weights"):
        moved.predict(rows.assign(g=rows["g"] + 1000), conformal=True)

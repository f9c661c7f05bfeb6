"""Draws as a tree of labelled arrays."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats

from ebmeta.mixed.fit import mixed_model
from ebmeta.mixed.tree import tree_of
from ebmeta.prediction.arviz import compare, held_out, pit
from tests.mixed.worlds import frame
from tests.random_effects.test_quadrature import counts


@pytest.fixture(scope="module")
def fit():
    return mixed_model("y ~ x + (1 + x | g)", frame(num_groups=30)).propagate(256)


def test_draws_have_the_moments_of_the_tables(fit):
    """512 draws: means within four of their standard errors."""
    tree = tree_of(fit.engine, fit.draws, fit.design.common.names, 512, 0)
    effects = tree["posterior"]["effects_g"].sel(chain=0)
    table = fit.group_effects
    sd = table["sd"].to_numpy().reshape(30, 2)
    gap = (effects.mean("draw").to_numpy() - table["mean"].to_numpy().reshape(30, 2)) / sd
    assert np.abs(gap).max() < 4.5 / 512**0.5
    np.testing.assert_allclose(effects.std("draw"), sd, rtol=0.2)
    fixed = tree["posterior"]["fixed_effects"].sel(chain=0)
    np.testing.assert_allclose(fixed.std("draw"), fit.fixed_effects["std_error"], rtol=0.2)
    names = tree["posterior"]["component"].values.tolist()
    assert names == ["g sd(Intercept)", "g sd(x)", "g cor(Intercept, x)", "residual sd"]


def test_log_likelihoods_are_those_of_the_draws(fit):
    tree, rows = fit.tree, fit.engine.rows
    place, codes = tree["posterior"], rows.groupings[0].codes
    own = place["effects_g"].values[0][:, codes]
    eta = place["fixed_effects"].values[0] @ rows.x.T + (own * rows.groupings[0].z).sum(-1)
    sigma = place["variance_components"].sel(component="residual sd").values[0]
    exact = stats.norm(eta, sigma[:, None]).logpdf(rows.y)
    np.testing.assert_allclose(tree["log_likelihood"]["y"].values[0], exact, rtol=1e-6)
    np.testing.assert_array_equal(tree["observed_data"]["y"], rows.y)
    gap = tree["posterior_predictive"]["y"].values[0] - eta
    assert (gap / sigma[:, None]).std() == pytest.approx(1.0, abs=0.02)


def test_counts_have_a_tree_too():
    tree = mixed_model("poisson ~ x + (1 | g)", counts(), "poisson", size="n").tree
    found = tree["posterior_predictive"]["y"].values
    assert (found == np.round(found)).all()
    assert found.mean() == pytest.approx(counts()["poisson"].mean(), rel=0.1)


@pytest.mark.parametrize("likelihood", ["normal", "poisson"])
def test_a_shift_of_a_column_leaves_the_draws_of_labels_as_wide(likelihood):
    """A year next to an intercept: of 256 draws of each of 180 rows, standard deviations are the same within 2%."""
    rng = np.random.default_rng(0)
    g, x = np.repeat(np.arange(30), 6), rng.normal(size=180).round(2)
    eta = 0.5 + (0.4 + 0.4 * rng.normal(size=30)[g]) * x + 0.5 * rng.normal(size=30)[g]
    y = rng.poisson(np.exp(eta)) if likelihood == "poisson" else eta + rng.normal(size=180)
    trees = [
        mixed_model("y ~ x + (x | g)", pd.DataFrame({"y": y, "x": x + shift, "g": g}), likelihood).tree
        for shift in (0.0, 2e3, 1e6)
    ]
    near, *far = ([tree[part]["y"].values[0] for part in ("posterior_predictive", "log_likelihood")] for tree in trees)
    for labels, scores in far:
        assert labels.std(0).mean() == pytest.approx(near[0].std(0).mean(), rel=0.02)
        assert scores.mean() == pytest.approx(near[1].mean(), rel=0.02)


@pytest.mark.parametrize("name", ["chain", "draw", "term", "component", "row", "g/h"])
def test_groups_may_have_any_name(name):
    """Names of other dimensions were refused in words of xarray, or padded the table of common terms with NaN."""
    data = frame(num_groups=12)
    plain = mixed_model("y ~ x + (1 | g)", data).tree["posterior"]
    quoted = name if name.isidentifier() else f"`{name}`"
    found = mixed_model(f"y ~ x + (1 | {quoted})", data.rename(columns={"g": name})).tree["posterior"]
    axis = "g:h" if name == "g/h" else f"{name}_"
    variable = f"effects_{axis.removesuffix('_')}"
    assert found[variable].dims == ("chain", "draw", axis, f"term_{axis.removesuffix('_')}")
    np.testing.assert_array_equal(found[variable].values, plain["effects_g"].values)
    for common in ("fixed_effects", "variance_components"):
        assert found[common].dims == plain[common].dims
        np.testing.assert_array_equal(found[common].values, plain[common].values)


def test_draws_have_seen_the_labels(fit, tmp_path):
    """Scores of labels that the draws are conditioned on passed for scores of new ones."""
    file = tmp_path / "tree.nc"
    fit.tree.to_netcdf(file, engine="h5netcdf")
    for tree in (fit.tree, xr.open_datatree(file, engine="h5netcdf")):
        for score in (held_out, pit, lambda tree: compare({"a": tree, "b": tree})):
            with pytest.raises(ValueError, match="tree: expected labels that its draws have not seen, got ones"):
                score(tree)
        assert abs(float(pit(tree, seen=True).mean()) - 0.5) < 0.1

"""Groups simulated from each family of mixed models: a fit finds the true parameters, within what data leave open."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ebmeta.mixed.fit import FAMILIES as NAMES, mixed_model
from lib.mixed_families import FAMILIES, FORMULA, simulate, truth


def test_every_family_is_simulated():
    assert set(FAMILIES) == set(NAMES)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_fit_finds_the_truth(name):
    """Four standard errors, of logarithms for what is above 0: false alarms below 4e-4 a family for normal ones."""
    data, options = simulate(name, 0)
    fit = mixed_model(FORMULA, data, name, **options)
    assert fit.converged
    table = pd.concat([fit.fixed_effects, fit.variance_components.droplevel("factor")])
    exact = pd.Series(truth(name))
    assert set(table.index) == set(exact.index)
    table = table.loc[exact.index]
    above = ~table.index.isin(["Intercept", "x"])
    off = np.where(above, np.log(table["estimate"].clip(1e-9) / exact.clip(1e-9)), table["estimate"] - exact)
    error = np.where(above, table["std_error"] / table["estimate"], table["std_error"])
    assert (error < 1).all()  # the data say something
    assert (np.abs(off / error) < 4).all(), off / error

"""The table of a comparison, and what cannot be compared."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import ebmeta
from ebmeta.mixed.leave_out import groups_left_out
from tests.mixed.worlds import frame

ROWS = frame(4, 20, (3, 8))
ROWS["count"] = np.random.default_rng(0).poisson(3, len(ROWS))


def fitted(formula: str, rows: pd.DataFrame = ROWS, *args, **options):
    return ebmeta.mixed_model(formula, rows, *args, **options)


def test_fits_stand_in_order_each_tested_against_the_one_above():
    fits = [fitted("y ~ x + " + bar) for bar in ("(x | g)", "(1 | g)")] + [fitted("y ~ 1 + (1 | g)")]
    table = ebmeta.compare(*fits)
    assert table.index.tolist() == ["y ~ 1 + (1 | g)", "y ~ x + (1 | g)", "y ~ x + (x | g)"]
    assert table["parameters"].tolist() == [3, 4, 6]
    values = [fits[k].log_likelihood for k in (2, 1, 0)]
    assert table["log_likelihood"].tolist() == values
    np.testing.assert_allclose(table["aic"], -2 * np.array(values) + [6, 8, 12])
    twice = 2 * np.diff(values)
    np.testing.assert_allclose(table["statistic"].iloc[1:], twice)
    wanted = [stats.chi2.sf(twice[0], 1), (stats.chi2.sf(twice[1], 1) + stats.chi2.sf(twice[1], 2)) / 2]
    np.testing.assert_allclose(table["p_value"].iloc[1:], wanted)
    assert table["test"].tolist() == ["", "chi2(1)", "half chi2(1), half chi2(2)"]


def test_spreads_of_reml_fits_are_tested_too():
    table = ebmeta.compare(fitted("y ~ x + (1 | g)", reml=True), fitted("y ~ x + (x || g)", reml=True))
    assert table["test"].iloc[1] == "half chi2(0), half chi2(1)"


def test_no_test_where_a_model_is_no_special_case():
    table = ebmeta.compare(fitted("y ~ w + (1 | g)"), fitted("y ~ x + (x || g)"))
    assert table["test"].iloc[1] == "the row above is no special case: no test"
    assert table[["statistic", "p_value"]].iloc[1].isna().all()
    counts = [
        fitted("count ~ x + (1 | g)", ROWS.assign(x=ROWS.x - 2000), name) for name in ("poisson", "negative_binomial")
    ]
    table = ebmeta.compare(*counts)
    assert table["test"].iloc[1] == "another likelihood: no test"
    assert table.index.tolist() == ["count ~ x + (1 | g), poisson", "count ~ x + (1 | g), negative_binomial"]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (lambda: fitted("y ~ x + (1 | g)", ROWS[1:]), "expected fits of the same rows, got .* and .* of 'y ~ 1"),
        (lambda: fitted("y ~ x + (1 | g)", ROWS[::-1]), "expected fits of the same rows"),
        (lambda: fitted("I(y + 1) ~ x + (1 | g)"), "expected fits of the same labels, got others in"),
        (lambda: fitted("y ~ x + (1 | g)", weights="w"), "expected fits of the same weights"),
        (lambda: fitted("y ~ x + (1 | g)", hyperprior=True), "expected fits without a hyperprior"),
        (lambda: fitted("y ~ x + (1 | g)", reml=True), "expected fits by the same criterion, got REML for one of"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(other, said):
    with pytest.raises(ValueError, match=f"^compare: {said}[^\n]*$"):
        ebmeta.compare(fitted("y ~ 1 + (1 | g)"), other())


def test_restricted_likelihoods_of_other_common_terms_are_refused():
    with pytest.raises(
        ValueError, match="^compare: expected REML fits with the same common terms, got others in [^\n]*$"
    ):
        ebmeta.compare(fitted("y ~ 1 + (1 | g)", reml=True), fitted("y ~ x + (1 | g)", reml=True))


def test_probabilities_and_densities_are_not_compared():
    with pytest.raises(ValueError, match="expected probabilities or densities of labels, got both: normal and poisson"):
        ebmeta.compare(fitted("count ~ 1 + (1 | g)"), fitted("count ~ 1 + (1 | g)", ROWS, "poisson"))


def test_one_fit_is_no_comparison():
    with pytest.raises(ValueError, match="compare: expected at least two fits, got 1"):
        ebmeta.compare(fitted("y ~ x + (1 | g)"))


def test_scores_of_groups_left_out_stand_beside():
    fits = [fitted("y ~ 1 + (1 | g)"), fitted("y ~ x + (x | g)")]
    table = ebmeta.compare(*fits, loo=True)
    scores = [groups_left_out(fit)[0] for fit in fits]
    np.testing.assert_allclose(table["elpd"], [s.sum() for s in scores])
    gap = scores[0] - scores[1]
    np.testing.assert_allclose(table["elpd_diff"], [gap.sum(), 0.0])
    np.testing.assert_allclose(table["dse"], [np.sqrt(20) * gap.std(ddof=1), 0.0])
    assert (table["doubtful"] == 0).all()

"""A table that compares mixed models of the same rows: criteria, likelihood ratios, and scores of groups left out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ebmeta.foundation.checks import checked
from ebmeta.likelihood import LIKELIHOODS
from ebmeta.mixed.leave_out import groups_left_out
from ebmeta.mixed.nesting import nested, ratio_test
from ebmeta.mixed.result import MixedModel

__all__ = ["compare"]


@checked()
def compare(*fits: MixedModel, loo: bool = False) -> pd.DataFrame:
    """Compare mixed models of the same rows, from the fewest parameters to the most.

    Each is tested against the one above it by the likelihood ratio, where that is a special case of it. A spread that
    is 0 there is at the end of its range, and the distribution of the ratio is a mixture (`ebmeta.mixed.nesting`). They
    are those of many groups: with few, a test of a common term rejects too often, above all of one that is constant
    within groups. For normal labels the interval of `fixed_effects` by REML is the better test there.

    Args:
        *fits: at least two, by maximum likelihood, or by REML with the same common terms.
        loo: also estimate how well each predicts the labels of a group that it has not seen, the uncertainty of its
            parameters counted; for one grouping factor.

    Returns:
        One row for each fit, by its formula: `parameters`, `log_likelihood`, `aic`, `bic`, `statistic` (twice the gain
        over the row above), `p_value` and `test` (the distribution that this comes of, or why there is none). With
        `loo` also the sum of log densities of groups left out, `elpd` in nats, `elpd_diff` from the best, its standard
        error `dse` over groups, and `doubtful`, the number of groups that the estimate cannot be trusted for.

    Raises:
        ValueError: if there are fewer than two, rows or labels differ, labels are whole numbers in one and not in the
            other, one has a hyperprior, or REML fits have other common terms.

    Sources: Self and Liang 1987; Vehtari, Gelman and Gabry 2017, Practical Bayesian model evaluation using
    leave-one-out cross-validation and WAIC.

    Examples:
        >>> from ebmeta.mixed.fit import mixed_model
        >>> rows = pd.DataFrame({"g": np.repeat(np.arange(8), 4), "x": np.tile(np.arange(4.0), 8)})
        >>> rows["y"] = rows.x + np.sin(9.0 * rows.g) + np.cos(70.0 * np.arange(32)) / 3
        >>> table = compare(mixed_model("y ~ 1 + (1 | g)", rows), mixed_model("y ~ x + (1 | g)", rows))
        >>> table[["parameters", "test"]].to_numpy().tolist()
        [[3, ''], [4, 'chi2(1)']]
        >>> bool(table["p_value"].iloc[1] < 1e-6)
        True
    """
    if len(fits) < 2:
        raise ValueError(f"compare: expected at least two fits, got {len(fits)}")
    for fit in fits[1:]:
        _check_pair(fits[0], fit)
    ordered = sorted(fits, key=lambda fit: fit.num_parameters)
    alike = len({fit.likelihood for fit in fits}) == 1
    names = [fit.formula if alike else f"{fit.formula}, {fit.likelihood}" for fit in ordered]
    table = pd.DataFrame(
        {
            "parameters": [fit.num_parameters for fit in ordered],
            "log_likelihood": [fit.log_likelihood for fit in ordered],
            "aic": [fit.aic for fit in ordered],
            "bic": [fit.bic for fit in ordered],
        },
        index=pd.Index(names, name="formula"),
    )
    tests = [(np.nan, np.nan, ""), *(_test(a, b) for a, b in itertools.pairwise(ordered))]
    table[["statistic", "p_value", "test"]] = pd.DataFrame(tests, index=table.index)
    return table.join(_left_out(ordered, table.index)) if loo else table


def _check_pair(first: MixedModel, other: MixedModel) -> None:
    a, b, names = first.engine, other.engine, f"{first.formula!r} and {other.formula!r}"
    for fit in (first, other):
        if fit.engine.hyperprior:
            raise ValueError(
                f"compare: expected fits without a hyperprior, whose likelihoods are maxima, got one of {fit.formula!r}"
            )
        if not fit.converged:
            raise ValueError(f"compare: expected fits at a maximum, got {fit.formula!r}, which has not converged")
    if len(a.rows) != len(b.rows) or not first.design.index.equals(other.design.index):
        raise ValueError(
            f"compare: expected fits of the same rows, got {len(a.rows)} and {len(b.rows)} of {names} (rows that lack "
            "a value of a term are left out of a fit)"
        )
    for what, one, two in (
        ("labels", a.rows.y, b.rows.y),
        ("sizes or known noise", a.rows.size, b.rows.size),
        ("weights", a.rows.weights, b.rows.weights),
    ):
        if (one is None) != (two is None) or (one is not None and two is not None and not np.array_equal(one, two)):
            raise ValueError(f"compare: expected fits of the same {what}, got others in {names}")
    if LIKELIHOODS[first.likelihood].discrete != LIKELIHOODS[other.likelihood].discrete:
        raise ValueError(
            "compare: expected probabilities or densities of labels, got both: "
            f"{first.likelihood} and {other.likelihood}"
        )
    if a.reml != b.reml:
        raise ValueError(f"compare: expected fits by the same criterion, got REML for one of {names}")
    if a.reml and not (a.rows.x.shape == b.rows.x.shape and np.array_equal(a.rows.x, b.rows.x)):
        raise ValueError(
            f"compare: expected REML fits with the same common terms, got others in {names} (fit by reml=False: a "
            "restricted likelihood is one of other numbers for other common terms)"
        )


def _test(small: MixedModel, large: MixedModel) -> tuple[float, float, str]:
    more, gain = large.num_parameters - small.num_parameters, large.log_likelihood - small.log_likelihood
    if small.likelihood != large.likelihood:
        return np.nan, np.nan, "another likelihood: no test"
    if not more or not nested(small.engine, large.engine):
        return np.nan, np.nan, "the row above is no special case: no test"
    return ratio_test(small.engine, large.engine, gain, more)


def _left_out(fits: Sequence[MixedModel], index: pd.Index[str]) -> pd.DataFrame:
    found = [groups_left_out(fit) for fit in fits]
    labels = [fit.engine.rows.groupings[0].labels for fit in fits]
    if any(not np.array_equal(names, labels[0]) for names in labels):
        raise ValueError("loo: expected fits of the same groups, got other grouping factors")
    scores = np.stack([score for score, _ in found])
    gaps = scores - scores[scores.sum(1).argmax()]
    return pd.DataFrame(
        {
            "elpd": scores.sum(1),
            "elpd_diff": gaps.sum(1),
            "dse": np.sqrt(gaps.shape[1]) * gaps.std(1, ddof=1),
            "doubtful": [int(bad.sum()) for _, bad in found],
        },
        index=index,
    )

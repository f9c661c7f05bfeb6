"""The entry: a formula and a data frame in, a fitted mixed model out."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from ebmeta.formula.design import Design, Extras
from ebmeta.formula.elsewhere import named_here, words_of_likelihood
from ebmeta.foundation.checks import checked, found
from ebmeta.foundation.guarding import undisturbed
from ebmeta.likelihood import LIKELIHOODS, Likelihood
from ebmeta.likelihood.real import Normal
from ebmeta.mixed.new_rows import check_labels
from ebmeta.mixed.result import MixedModel
from ebmeta.random_effects.covariance import Factor
from ebmeta.random_effects.crossed import CrossedEngine
from ebmeta.random_effects.engine import Engine
from ebmeta.random_effects.normal import NormalEngine
from ebmeta.random_effects.quadrature import QuadratureEngine
from ebmeta.random_effects.rows import Grouping, Rows

__all__ = ["engine_of", "mixed_model"]

SPANNED = 1e-6  # of a row: less is left of an intercept that other terms give
#: Likelihoods of one number a row, with parameters that all groups share.
FAMILIES = tuple(name for name, kind in LIKELIHOODS.items() if not (kind.categorical or kind.has_level))


@named_here
@undisturbed()
@checked(size=None, offset=None, weights=None, known_noise=None)
def mixed_model(
    formula: str,
    data: Any,
    likelihood: str = "normal",
    *,
    size: Any = None,
    offset: Any = None,
    weights: Any = None,
    known_noise: Any = None,
    hyperprior: bool = False,
    reml: bool = False,
    na: Literal["drop", "raise"] = "drop",
) -> MixedModel:
    r"""Fit a mixed model (a hierarchical model with common terms and terms that differ between groups).

    $$ y \mid \eta \sim \text{likelihood}, \qquad \eta = x^\top \beta + z^\top b_g + \text{offset}, \qquad
       b_g \sim \mathcal N(0, \Sigma) $$

    The formula is that of lme4: `y ~ x + (1 + x | g)` has an intercept and a slope of x common to all, and of each
    group $g$ its own deviations from both, which may be correlated; two bars, `(x || g)`, say that they are not.

    Args:
        formula: response, common terms and terms of groups. For counts of successes the response is
            `cbind(successes, failures)` or `prop(successes, trials)`, or `size` gives the trials.
        data: rows, a frame of pandas, polars or pyarrow.
        likelihood: what labels are, a name of `ebmeta.likelihood.LIKELIHOODS`.
        size: trials, exposure or readings of each row, the name of a column or a number for each row.
        offset: known part of the linear predictor of each row, the same.
        weights: how much each row counts, the same; for normal labels, their inverse variance in units of
            $1 / \sigma^2$. A new row has weight 1, where it comes without the column.
        known_noise: known standard deviation of each label, the same, for normal labels, which then learn no noise. So
            `y ~ 1 + (1 | study)` of estimates and their standard errors is a meta-analysis. (That of
            `EmpiricalBayes.regressor`, which has no rows yet, is True or False.)
        hyperprior: add the log of a Gamma(2, 0.1) density of each spread, which keeps it from 0 where groups are few.
        reml: restricted maximum likelihood, for normal labels: spreads without the bias that comes of estimating the
            coefficients, and log likelihoods to compare only between models with the same common terms.
        na: "drop" leaves out rows that lack a value of a term (the summary counts them), "raise" refuses them. Rows
            without a label are never fitted.

    Raises:
        ValueError: if the formula is none, names a column that the frame lacks, a term is determined by others or the
            labels do not fit the likelihood.

    Source: Bates, Maechler, Bolker and Walker 2015, Fitting linear mixed-effects models using lme4.

    Examples:
        >>> import pandas as pd
        >>> rows = pd.DataFrame({"y": [1.0, 2.0, 4.0, 5.5, 2.5, 3.0], "shop": ["a", "a", "b", "b", "c", "c"]})
        >>> fit = mixed_model("y ~ 1 + (1 | shop)", rows, reml=True)
        >>> fit.fixed_effects.loc["Intercept"].round(3).to_dict()
        {'estimate': 3.0, 'std_error': 0.946, 'z': 3.17, 'df': 2.0, 'lower': -1.072, 'upper': 7.072}
    """
    if likelihood not in FAMILIES:
        words = f"{', '.join(FAMILIES)}, got {found(likelihood)}{words_of_likelihood(likelihood)}"
        raise ValueError(f"likelihood: expected one of {words}")
    design = Design(formula, data, Extras(size, offset, weights, known_noise), na)
    engine = engine_of(design, likelihood, reml, hyperprior)
    optimum = engine.maximise()
    engine.check(optimum.at)
    engine.settle(optimum.at)
    return MixedModel(design, engine, optimum, likelihood)


def engine_of(design: Design, likelihood: str, reml: bool, hyperprior: bool) -> Engine:
    """Return the criterion of the rows of a formula.

    Args:
        design: what columns became.
        likelihood: name of the likelihood.
        reml: as for `mixed_model`.
        hyperprior: the same.

    Raises:
        ValueError: if labels or groups do not fit the likelihood.
    """
    rows, response = design.rows, design.response
    if response.counts is not None and likelihood != "binomial":
        words = f"'binomial' for successes of trials, {design.formula.response}"
        raise ValueError(f"likelihood: expected {words}, got {likelihood!r}")
    if response.levels is not None and likelihood != "ordinal":
        raise ValueError(
            f"labels: expected numbers for a {likelihood} likelihood, got the ordered categories "
            f"{', '.join(str(level) for level in response.levels)} (likelihood='ordinal' takes these)"
        )
    known = design.given.known_noise is not None
    if known and likelihood != "normal":
        raise ValueError(f"known_noise: expected a normal likelihood, got {likelihood!r}")
    family = Normal(known=True) if known else LIKELIHOODS[likelihood].of(rows.y)
    _check_labels(family, rows)
    factors = [
        _factor(name, *design.terms_of(name), grouping)
        for name, grouping in zip(design.factors, rows.groupings, strict=True)
    ]
    return _engine(family, rows, factors, design.common.names, reml, hyperprior)


def _engine(
    family: Likelihood, rows: Rows, factors: list[Factor], names: list[str], reml: bool, hyperprior: bool
) -> Engine:
    if family.conjugate:
        kind = NormalEngine if len(factors) == 1 else CrossedEngine
        return kind(rows, factors, names, reml, hyperprior, family)
    if len(factors) > 1:
        raise ValueError(
            "formula: expected one grouping factor for labels that are not normal, got "
            f"{', '.join(f.name for f in factors)}"
        )
    if reml:
        raise ValueError(f"reml: expected False for labels that are not normal, got True for {family.name!r}")
    sizes = np.ones(len(rows)) if rows.size is None else rows.size
    if np.bincount(rows.groupings[0].codes).max() == 1 and family.alone(sizes):
        raise ValueError(
            f"groups: expected some of {factors[0].name!r} with several rows, got one row in each of {len(rows)}: the "
            f"spread of groups cannot be told from what a {family.name} label varies by itself"
        )
    return QuadratureEngine(rows, factors, names, family, hyperprior)


def _check_labels(family: Likelihood, rows: Rows) -> None:
    """Raise `ValueError` where labels are impossible, or the common terms lack an intercept that they need."""
    check_labels(family, rows, np.ones(len(rows), dtype=bool))
    ones = np.ones(len(rows)) if rows.size is None else rows.size
    if family.extreme(rows.y, ones):
        raise ValueError(
            f"labels: expected some that differ, got {rows.y[0]:g} in the first of {len(rows)} rows, and the like in "
            "all others: no spread can be learned"
        )
    if family.anchored:
        left = np.ones(len(rows)) - rows.x @ np.linalg.lstsq(rows.x, np.ones(len(rows)), rcond=None)[0]
        if np.abs(left).max() > SPANNED:
            raise ValueError(
                f"formula: expected an intercept among the common terms for an {family.name} likelihood, in the place "
                "of its first threshold, got none"
            )


def _factor(name: tuple[str, ...], terms: list[str], blocks: list[int], grouping: Grouping) -> Factor:
    label, num_groups = ":".join(name), len(grouping.labels)
    if num_groups < 2:
        raise ValueError(f"groups: expected at least two of {label!r}, got {num_groups}")
    for k, term in enumerate(terms):
        z = grouping.z[:, k]
        least, most = np.full(num_groups, np.inf), np.full(num_groups, -np.inf)
        np.minimum.at(least, grouping.codes, z)
        np.maximum.at(most, grouping.codes, z)
        if len(terms) > 1 and (least == most).all() and term != "Intercept" and "Intercept" in terms:
            raise ValueError(
                f"random term {term!r} of {label!r}: expected values that differ within groups, got one value in each "
                f"(its effect cannot differ between groups next to an intercept that does: make {term!r} a common term)"
            )
    return Factor(label, terms, blocks, grouping.z)

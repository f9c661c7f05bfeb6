"""A fitted mixed model: tables, a summary, and predictions with intervals."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from ebmeta.formula.design import Design, Extras
from ebmeta.formula.elsewhere import attribute_here
from ebmeta.foundation.checks import at_least, between, checked
from ebmeta.foundation.folders import write_folder
from ebmeta.foundation.guarding import Guarded, guarded, once
from ebmeta.mixed.as_model import as_model, feature_names, features_of
from ebmeta.mixed.conformal import group_intervals
from ebmeta.mixed.content import content_of
from ebmeta.mixed.forecasting import forecast
from ebmeta.mixed.new_rows import Groups, as_asked
from ebmeta.mixed.over_draws import common_of, effects_of, marginal_of
from ebmeta.mixed.profile import Region, profiled
from ebmeta.mixed.propagation import Draws, draw
from ebmeta.mixed.residuals import residual_table
from ebmeta.mixed.summary import narrow, sizes, text_of, warnings_of
from ebmeta.mixed.tables import common_table, components_table, effect_table, prediction_table
from ebmeta.mixed.tree import tree_of
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.random_effects.ascent import Optimum
from ebmeta.random_effects.boundary import Boundary, boundary_tests
from ebmeta.random_effects.covariance import Factor
from ebmeta.random_effects.effects import Effects, Estimate
from ebmeta.random_effects.engine import Engine

__all__ = ["MixedModel"]

Array = NDArray[np.float64]
LEVEL = 0.95  # of the intervals of tables
TREE = 256  # draws of a tree


class MixedModel(Guarded):
    r"""What `ebmeta.mixed_model` returns.

    The labels of a group depend on common terms $x$ (fixed effects) and on terms $z$ whose effects differ between
    groups (random effects),

    $$ \eta = x^\top \beta + z^\top b_g + \text{offset}, \qquad b_g \sim \mathcal N(0, \Sigma). $$

    Args:
        design: what columns became.
        engine: the criterion, on the labelled rows.
        optimum: where its maximum is.
        likelihood: its name.
        draws: of the parameters, where their uncertainty is propagated.
    """

    def __init__(self, design: Design, engine: Engine, optimum: Optimum, likelihood: str, draws: Draws | None = None):
        super().__init__()
        self.design, self.engine, self.optimum, self.likelihood, self.draws = design, engine, optimum, likelihood, draws

    def __getattr__(self, name: str) -> Any:
        if hasattr(type(self), name):  # one that failed inside: its own error
            return object.__getattribute__(self, name)
        raise AttributeError(f"MixedModel has no {name!r}{attribute_here(name)}")

    @property
    def formula(self) -> str:
        """The formula as it was given."""
        return self.design.text

    @property
    def converged(self) -> bool:
        """Whether the optimiser ended at a maximum."""
        return self.optimum.converged

    @once
    def estimate(self) -> Estimate:
        """The parameters in the units of the labels."""
        return self.engine.estimate(self.optimum.at)

    @property
    def log_likelihood(self) -> float:
        """The log likelihood in nats at the estimate; for REML that of the residuals."""
        return self.estimate.log_likelihood

    @property
    def num_parameters(self) -> int:
        """Number of parameters: common terms, spreads, correlations and those of the likelihood."""
        return len(self.estimate.beta) + self.engine.num_theta + len(self.estimate.learned)

    @property
    def aic(self) -> float:
        """Akaike's criterion, twice the number of parameters minus twice the log likelihood."""
        return 2 * self.num_parameters - 2 * self.log_likelihood

    @property
    def bic(self) -> float:
        """The Bayesian information criterion: parameters times the log of rows, minus twice the log likelihood."""
        return math.log(len(self.engine.rows)) * self.num_parameters - 2 * self.log_likelihood

    @once
    def _common(self) -> tuple[Array, Array]:
        """Estimates of the common terms, and their covariance."""
        return common_of(self.engine, self.optimum.at, self.draws)

    @once
    def fixed_effects(self) -> pd.DataFrame:
        """Estimate, standard error, their ratio `z` and 95% interval of every common term, the fixed effects.

        For normal labels the interval is that of Student's t with `df` degrees of freedom by Satterthwaite, and of
        normal numbers for other labels and after `propagate`.
        """
        freedom = self.engine.freedom(self.optimum.at) if self.draws is None else None
        return common_table(self.design.common.names, *self._common, LEVEL, freedom)

    @once
    def fixed_effects_covariance(self) -> pd.DataFrame:
        """Covariance of the estimates of the common terms."""
        names = pd.Index(self.design.common.names, name="term")
        return pd.DataFrame(self._common[1], index=names, columns=names)

    @once
    def variance_components(self) -> pd.DataFrame:
        """Estimate, standard error and 95% interval of every spread (a standard deviation) and correlation."""
        return components_table(self.engine, self.optimum.at, self.draws, LEVEL)

    @once
    def _effects(self) -> list[Effects]:
        """The effects of the groups of each grouping factor."""
        return effects_of(self.engine, self.optimum.at, self.draws)

    @once
    def group_effects(self) -> pd.DataFrame:
        """Posterior mean, sd and 95% interval of each group's effects (BLUPs, random effects); modes as of lme4 too.

        `sd` counts what is not known of the coefficients, and so does the interval; `conditional_sd` takes estimates
        for the truth, as `condVar` of lme4 does.
        """
        at = self.optimum.at
        found = marginal_of(self.engine, at, self.draws, self._effects)
        return effect_table(self.engine, found, self.engine.effects(at), LEVEL)

    @once
    def residuals(self) -> pd.DataFrame:
        """Label, fitted mean, residuals and PIT of each fitted row, at the estimate.

        `response` is the label less the mean, and `pearson` that over the standard deviation of labels. `pit` says
        where the label lies among what the other rows of its group let expect, from 0 to 1 and evenly where the model
        is right. `quantile` is the same as a standard normal number. Labels with gaps are spread at random, always in
        the same way.
        """
        at = self.optimum.at
        return residual_table(self.engine, at, self.engine.effects(at), self.design.index)

    @once
    def boundary(self) -> list[Boundary]:
        """Tests of every spread against 0."""
        with self.engine.unmoved(self.optimum.at):
            return boundary_tests(self.engine, self.optimum, self.variance_components)

    @checked(coverage=between(0, 1))
    @guarded
    def confint(self, coverage: float = 0.95, names: str | Sequence[str] = ()) -> pd.DataFrame:
        """Return intervals of common terms, spreads and correlations by the profile of the likelihood.

        Those of the tables are by standard errors. These need none: they hold all values with which some parameters
        are likely enough, and are the better ones where groups are few. As in lme4, the likelihood is the plain one
        for a fit by REML too, and so are the estimates.

        Args:
            coverage: of the intervals.
            names: one or several terms and components, as in the tables; all by default.

        Returns:
            Columns `estimate`, `lower` and `upper` by factor, which is "common" for common terms, and component. An
            end is infinite where the labels set none, and NaN where none was found, which a warning says.

        Raises:
            ValueError: if there is no such name, or the fit has a hyperprior.
        """
        if self.engine.hyperprior:
            raise ValueError("confint: expected a fit without a hyperprior, got one (propagate() has its intervals)")
        plain = self.engine.plain()
        optimum = self.optimum if plain is self.engine else plain.maximise(self.optimum.at)
        fit = MixedModel(self.design, plain, optimum, self.likelihood)
        spreads, boundary = fit.variance_components, fit.boundary
        with plain.unmoved(optimum.at):
            asked = [names] if isinstance(names, str) else names
            return profiled(Region(plain, optimum, coverage), self.design.common.names, boundary, spreads, asked)

    def summary(self) -> str:
        """Return the fit in words and tables: terms, spreads, criterion, groups, and what the data cannot tell."""
        return text_of(self.facts(), list(self.tables().items()), self.notes())

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the tables of the summary by their titles."""
        return {
            "Common terms (fixed effects), 95% intervals": self.fixed_effects,
            "Spreads between groups, and the rest": self.variance_components,
        }

    def facts(self) -> list[tuple[str, str]]:
        """Return what else the summary says, by name: formula, criterion, rows, groups and convergence."""
        return [
            ("formula", self.formula),
            ("labels", self.likelihood + " of known noise" * (self.design.given.known_noise is not None)),
            ("fitted by", self.engine.method),
            *([] if self.draws is None else [("draws", f"{len(self.draws.at)}, worth {self.draws.size:.0f}")]),
            *sizes(self.design, self.engine),
            ("log likelihood", f"{self.log_likelihood:.4f}"),
            ("AIC", f"{self.aic:.3f} ({self.num_parameters} parameters)"),
            ("BIC", f"{self.bic:.3f}"),
            ("converged", f"{'yes' if self.converged else 'NO'}, after {self.optimum.evaluations} evaluations"),
        ]

    def notes(self) -> list[str]:
        """Return what the data cannot tell, in sentences."""
        said = warnings_of(self.boundary, self.variance_components, self.converged)
        return said + (narrow(self.engine, self.optimum.at) if self.draws is None else [])

    __repr__ = summary

    @checked(coverage=between(0, 1))
    @guarded
    def predict(
        self,
        new_data: Any,
        coverage: float = 0.9,
        *,
        groups: Groups = "known",
        size: Any = None,
        offset: Any = None,
        known_noise: Any = None,
        conformal: bool = False,
    ) -> pd.DataFrame:
        """Return mean, standard deviation and interval of a new label for each row.

        Rows of a known group use what is known of it. Rows of a new group use its labelled rows, if there are any, and
        else what is known of groups. Labels of rows whose groups are all known are not used again.

        Args:
            new_data: rows, a frame with the formula's columns; labels may be absent, and weights, which are then 1.
            coverage: probability that a new label is in its interval, given coefficients and spreads, or draws of them.
            groups: "known" uses what is known of groups. "typical" takes all group effects for 0, as `re.form = NA` of
                lme4 does; a column of groups may be absent. "new" takes every group for one of which nothing is known.
            size: column, or a number for each row, in place of that of the fit.
            offset: the same.
            known_noise: the same.
            conformal: whether intervals of new groups are stretched until they hold labels of known groups, by fits
                that leave out folds of these; infinite where they are too few. For one grouping factor.

        Returns:
            Columns `mean`, `sd`, `lower`, `upper`, and the interval of the mean, `mean_lower` and `mean_upper`, in the
            order of the rows; NaN where a row lacks a value.

        Raises:
            ValueError: if a column is absent or has other values, a label is impossible, or `conformal` of known ones.
        """
        _ = conformal and self._only_factor("conformal")
        given = self.design.given_to(size=size, offset=offset, known_noise=known_noise)
        rows, whole = self.design.new(new_data, given, groups)
        likelihood = self.engine.likelihood(self.optimum.at)
        rows = as_asked(rows, [len(g.labels) for g in self.engine.rows.groupings], groups, likelihood)
        out, at = np.full((6 + (likelihood.num_labels or 0), len(whole)), np.nan), self.optimum.at
        if len(rows):
            effects = self._effects if self.draws is None else []  # each draw has its own
            out[:, whole] = forecast(self.engine, (at, self.draws, effects), rows, coverage, groups)
            if conformal:
                names = self.design.common.names
                out[2:4, whole] = group_intervals(self.engine, self.likelihood, names, rows, coverage)
        index = new_data.index if isinstance(new_data, pd.DataFrame) else pd.RangeIndex(len(whole))
        return prediction_table(out, index, self.design.response.levels)

    @checked(num_draws=at_least(2))
    @guarded
    def propagate(self, num_draws: int = 256, seed: int = 0) -> MixedModel:
        """Return the fit with draws of its parameters, so that tables and predictions carry their uncertainty.

        A fit alone takes its estimates for the truth. With few groups its intervals are too short.

        Args:
            num_draws: number of draws; predictions take as many times as long, and few that count are told of.
            seed: of the draws.
        """
        engine, optimum = self.engine, self.optimum
        return MixedModel(self.design, engine, optimum, self.likelihood, draw(engine, optimum.at, num_draws, seed))

    @once
    def tree(self) -> xr.DataTree:
        """Draws of parameters, group effects and labels, with log likelihoods, as a tree for `ebmeta.to_arviz`."""
        draws = draw(self.engine, self.optimum.at, TREE, 0) if self.draws is None else self.draws
        return tree_of(self.engine, draws, self.design.common.names, TREE, 0)

    @once
    def model(self) -> EmpiricalBayes:
        """The fit as an `EmpiricalBayes` regressor, whose features are those of `features`; for one grouping factor.

        Raises:
            ValueError: if there are several grouping factors, or offsets.
        """
        self._only_factor("model")
        return as_model(self.engine, self.optimum.at, self.likelihood, self.design.common.names)

    def features(self, data: Any) -> pd.DataFrame:
        """Return the features of rows for `model`: common and random terms without the intercept.

        Args:
            data: rows, as for `predict`; rows that lack a value are left out.

        Raises:
            ValueError: as for `predict`, or if there are several grouping factors.
        """
        factor, names = self._only_factor("features"), self.design.common.names
        rows, whole = self.design.new(data, Extras(), "new")
        columns, index = feature_names(names, factor), np.flatnonzero(whole)
        return pd.DataFrame(features_of(rows, names, factor), columns=columns, index=index)

    @checked()
    @guarded
    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Save the fit to a folder, as a whole or not at all; `ebmeta.load` reads it.

        The folder holds the fitted rows of the columns that the formula names, as a frame of lme4 does.

        Args:
            folder: where to; made where it does not exist.
            overwrite: replace also files `config.json` and `model.safetensors` that ebmeta did not write.

        Returns:
            The folder.

        Raises:
            OSError: if the folder cannot be written, or holds files of these names that are not of ebmeta.
            ValueError: if a column holds neither numbers, texts, categories nor times.
        """
        config, tensors = content_of(self.design, self.engine, self.optimum, self.likelihood, self.draws)
        write_folder(Path(folder), {"config": config}, tensors, overwrite)
        return Path(folder)

    def _only_factor(self, name: str) -> Factor:
        factors = self.engine.factors
        if len(factors) > 1:
            raise ValueError(f"{name}: expected one grouping factor, got {', '.join(f.name for f in factors)}")
        return factors[0]

r"""The fully Bayesian hierarchical model, in which the prior's parameters have a posterior too.

$$ y_i \sim p(y \mid \eta_i, n_i, \theta), \qquad \eta_i = z_i^\top w_{t(i)} + x_i^\top \beta, \qquad
   w_{tc} \sim \mathcal N(\mu, \mathrm{diag}(\tau)\, \Omega\, \mathrm{diag}(\tau)) $$

for rows $i$ of tasks (groups) $t$, with hyperpriors on everything that empirical Bayes would fix at one value:

========================  ====================  ========================================  ==========================
on paper                  site                  what                                      default hyperprior
========================  ====================  ========================================  ==========================
$\mu$                     `w_loc`               mean coefficients, `(P,)`                 $\mathcal N(0, 5^2)$
$\tau$                    `w_scale`             their SDs over tasks, `(P,)`              half-normal of scale 2.5
$\Omega$                  `w_correlation`       their correlations, `(P, P)`              LKJ(2); none for classes
$\beta$                   `fixed`               coefficients that all tasks share         $\mathcal N(0, 5^2)$
$\theta$: $\sigma$        `noise`               scale of the noise                        half-normal of scale 2.5
$\theta$: $\nu$           `freedom`             degrees of freedom of Student-t noise     Gamma(2, rate 0.1)
$\theta$: $\pi$           `inflation`           probability of a 0 beyond the count       Beta(1, 1)
$\theta$: $\phi$          `precision`           of shares                                 Gamma(2, rate 0.1)
$\theta$                  `gaps`                of the thresholds of ordered categories   log-normal(0, 1)
$\theta$: $r$, $k$        `shape`               of a negative binomial or a gamma         Gamma(2, rate 0.1)
========================  ====================  ========================================  ==========================

The defaults suit inputs, and labels with noise, of about unit scale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr

from ebmeta.foundation.checks import at_least, between, checked
from ebmeta.foundation.seeding import quietly
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.prediction.arviz import SEEN
from ebmeta.reference.arrays import SAMPLE_STATS, in_64_bits, label, rows_of
from ebmeta.reference.likelihoods import NumpyroLikelihood, get
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.columns import read_column, read_keys, read_rows

__all__ = ["Rows", "hierarchical", "hierarchical_model"]


@dataclass(frozen=True, eq=False)
class Rows:
    r"""Labelled rows of many tasks (groups), one below the other.

    Args:
        y: labels, shape `(N,)`.
        task: task of each row, numbers or names, shape `(N,)`.
        random: columns $z$ whose coefficients vary over tasks, shape `(N, P)`; the constant 1 by default.
        fixed: columns $x$ whose coefficients all tasks share, shape `(N, F)`; none by default.
        size: trials, exposure, or readings averaged, of each row (for normal noise of known variance $v_i$: give
            $1 / v_i$, and fix `noise` at 1), shape `(N,)`; 1 by default.
        way_mask: for class labels, True where a class exists in the task of a row, shape `(N, C)`; by default all up
            to the largest label do.

    Raises:
        ValueError: if lengths differ, there are no rows, or a number is not finite.

    Examples:
        >>> Rows([1.0, 2.0, 4.0], ["a", "b", "a"]).tasks.tolist()
        ['a', 'b']
    """

    y: Any
    task: Any
    random: Any = None
    fixed: Any = None
    size: Any = None
    way_mask: Any = None

    def __post_init__(self) -> None:
        y = read_column("y", self.y)
        number = len(y)
        if not number:
            raise ValueError("y: expected at least one row, got none")
        task = np.array(read_keys("task", self.task, number))
        random, fixed = (
            np.full((number, width), 1.0) if v is None else read_rows(name, v)[0]
            for name, v, width in (("random", self.random, 1), ("fixed", self.fixed, 0))
        )
        size = np.ones(number) if self.size is None else read_column("size", self.size, number)
        ways = None if self.way_mask is None else np.asarray(self.way_mask)
        for name, value in (("random", random), ("fixed", fixed), ("way_mask", ways)):
            if value is not None and (value.ndim != 2 or len(value) != number):
                raise ValueError(f"{name}: expected shape ({number}, columns), got {value.shape}")
        found = {"y": y, "task": task, "random": random, "fixed": fixed, "size": size, "way_mask": ways}
        for name, value in found.items():
            object.__setattr__(self, name, value)
        if (self.size <= 0).any():
            raise ValueError(f"size: expected numbers above 0, got {self.size.min():g}")

    @property
    def tasks(self) -> np.ndarray:
        """Names of the tasks, in order."""
        return np.unique(self.task)

    @classmethod
    @checked()
    def of_tasks(cls, model: EmpiricalBayes, batch: TaskBatch, observe: Literal["support", "both"] = "support") -> Rows:
        r"""Return the labelled rows of a batch, with $(z, x) = \phi(x)$ as the model's predictor makes them.

        $z$ are the features whose weights vary over tasks in the model's prior, $x$ the others.

        Args:
            model: the model; its refinement, and all else of its prior, are not used.
            batch: $T$ tasks.
            observe: the support rows alone, or support and query rows ("both").

        Raises:
            ValueError: if `observe` is unknown, query labels are needed and absent, or tasks have covariates.
        """
        model.check(batch)
        if batch.task_x is not None:
            raise ValueError(
                f"task_x: expected none for the hierarchical model, got {batch.task_x.shape[-1]} covariates per task; "
                "give Rows the products of features and covariates as fixed="
            )
        labelled = batch.pooled() if observe == "both" else batch
        rows = rows_of(model, labelled.support, batch.way_mask)
        mask = rows["mask"]
        task = np.nonzero(mask)[0]
        ways = rows["way_mask"][task] if model.likelihood.categorical else None
        x, common = rows["x"][mask], np.setdiff1d(np.arange(rows["x"].shape[-1]), model.prior.varying)
        own, fixed = (x, None) if not len(common) else (x[:, list(model.prior.varying)], x[:, common])
        return cls(rows["y"][mask], task, own, fixed, rows["size"][mask], ways)


def _hyperpriors(rows: Rows, form: NumpyroLikelihood, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a distribution, a number or None for every hyperparameter of the model."""
    quietly("jax")
    import numpyro.distributions as dist

    size = rows.random.shape[1]
    known: dict[str, Any] = {"w_loc": dist.Normal(0.0, 5.0), "w_scale": dist.HalfNormal(2.5)}
    known["w_correlation"] = dist.LKJCholesky(size, 2.0) if size > 1 and not form.categorical else None
    if rows.fixed.shape[1]:
        known["fixed"] = dist.Normal(0.0, 5.0)
    known |= form.hyperpriors(rows.y)
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"hyperpriors: expected some of {list(known)}, got {unknown}")
    return known | dict(given)


@checked()
def hierarchical_model(
    rows: Rows,
    likelihood: str = "normal",
    hyperpriors: Mapping[str, Any] | None = None,
    *,
    centered: bool = False,
) -> Callable[..., Any]:
    r"""Return the fully Bayesian model of some rows as a NumPyro model.

    Sites are those of this module's table, `w` (deterministic unless `centered`) and `y`, in the plate "row".

    Args:
        rows: the data.
        likelihood: a name in `LIKELIHOODS`.
        hyperpriors: by site, a NumPyro distribution (of a scalar, or of the site's shape), or a number or array,
            which fixes the parameter; for "w_correlation" an `LKJCholesky` or, for independent coefficients, None.
        centered: sample `w` itself. Better where every task has many informative rows; by default the standard
            normal $w - \mu$ in units of the prior is sampled, which is better where tasks have few.

    Returns:
        The program; `program(y=None)` samples labels.

    Raises:
        ValueError: if the likelihood has no NumPyro form, a site is unknown, or labels are of the wrong kind.
    """
    form = get(likelihood)
    priors = _hyperpriors(rows, form, hyperpriors or {})
    if form.categorical and rows.y.dtype.kind not in "iu":
        raise ValueError(f"y: expected integer class labels for a {likelihood} likelihood, got {rows.y.dtype}")
    ways, exists = 1, {}
    if form.categorical:
        exists["way_mask"] = np.ones((1, rows.y.max() + 1), bool) if rows.way_mask is None else rows.way_mask
        ways = exists["way_mask"].shape[1]
    group = np.searchsorted(rows.tasks, rows.task)
    (_, num_random), (_, num_fixed) = rows.random.shape, rows.fixed.shape

    def site(name: str, *shape: int) -> Any:
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist

        prior = priors[name]
        if not isinstance(prior, dist.Distribution):
            return jnp.broadcast_to(jnp.asarray(prior, float), shape)
        return numpyro.sample(name, prior.expand(shape).to_event(len(shape)))

    def coefficients() -> Any:
        import numpyro
        import numpyro.distributions as dist

        loc, scale = site("w_loc", num_random), site("w_scale", num_random)
        factor = None
        if priors["w_correlation"] is not None:
            factor = numpyro.sample("w_correlation_cholesky", priors["w_correlation"])
            numpyro.deterministic("w_correlation", factor @ factor.T)
        if centered:
            one = dist.Normal(loc, scale).to_event(1)
            if factor is not None:
                one = dist.MultivariateNormal(loc, scale_tril=scale[:, None] * factor)
            with numpyro.plate("task", len(rows.tasks)):
                return numpyro.sample("w", one.expand((ways,)).to_event(1))
        with numpyro.plate("task", len(rows.tasks)):
            unit = numpyro.sample("w_unit", dist.Normal(0.0, 1.0).expand((ways, num_random)).to_event(2))
        return numpyro.deterministic("w", loc + scale * (unit if factor is None else unit @ factor.T))

    def program(y: Any = rows.y) -> None:
        import jax.numpy as jnp
        import numpyro

        parameters = {name: site(name) for name in form.hyperpriors(rows.y)}
        eta = jnp.einsum("np,ncp->nc", rows.random, coefficients()[group])
        if num_fixed:
            shape = (ways, num_fixed) if form.categorical else (num_fixed,)
            eta = eta + (rows.fixed @ site("fixed", *shape).T).reshape(len(rows.fixed), ways)
        with numpyro.plate("row", len(rows.y)):
            labels = None if y is None else jnp.asarray(y)  # a binomial's constraint takes no array of NumPy
            numpyro.sample("y", form.distribution(eta, rows.size, **parameters, **exists), obs=labels)

    return program


@checked(num_warmup=at_least(1), num_draws=at_least(1), num_chains=at_least(1), target_accept=between(0, 1))
def hierarchical(
    rows: Rows,
    likelihood: str = "normal",
    hyperpriors: Mapping[str, Any] | None = None,
    *,
    centered: bool = False,
    num_warmup: int = 500,
    num_draws: int = 1000,
    num_chains: int = 4,
    target_accept: float = 0.9,
    seed: int = 0,
) -> xr.DataTree:
    """Draw from the posterior of all coefficients and hyperparameters by NUTS, chains side by side.

    Args:
        rows: the data.
        likelihood: a name in `LIKELIHOODS`.
        hyperpriors: see `hierarchical_model`.
        centered: see `hierarchical_model`.
        num_warmup: adaptation steps per chain.
        num_draws: draws kept per chain.
        num_chains: chains.
        target_accept: acceptance probability that the step size is tuned to; nearer 1 where draws diverge.
        seed: seed of JAX's generator.

    Returns:
        A `DataTree` with `posterior` (`w`, dimensions `(chain, draw, task, way, feature)` with the tasks' names as
        coordinates, and the sites of this module's table), `posterior_predictive`, `log_likelihood`,
        `observed_data` (each with `y`, dimension `row`), `constant_data` and `sample_stats`.

    Raises:
        ValueError: if an argument is out of range or the data do not fit the likelihood.
    """
    quietly("jax")
    import jax
    from numpyro.infer import MCMC, NUTS, Predictive, log_likelihood

    program = hierarchical_model(rows, likelihood, hyperpriors, centered=centered)
    with in_64_bits():
        mcmc = MCMC(
            NUTS(program, target_accept_prob=target_accept),
            num_warmup=num_warmup,
            num_samples=num_draws,
            num_chains=num_chains,
            chain_method="vectorized",
            progress_bar=False,
        )
        key, later = jax.random.split(jax.random.PRNGKey(seed))
        mcmc.run(key, extra_fields=tuple(SAMPLE_STATS))
        draws = mcmc.get_samples(group_by_chain=True)
        stats = {SAMPLE_STATS[name]: v for name, v in mcmc.get_extra_fields(group_by_chain=True).items()}
        stats["lp"] = -stats["lp"]
        scores = log_likelihood(program, draws, batch_ndims=2)["y"]
        labels = Predictive(program, draws, batch_ndims=2, return_sites=["y"])(later, y=None)["y"]

    dims = {
        "w": ("task", "way", "feature"),
        "w_loc": ("feature",),
        "gaps": ("gap",),
        "w_scale": ("feature",),
        "w_correlation": ("feature", "other_feature"),
        "fixed": ("way", "column") if get(likelihood).categorical else ("column",),
    }
    step, row = ("chain", "draw"), ("row",)
    shown = {name: v for name, v in draws.items() if name not in ("w_unit", "w_correlation_cholesky")}
    tree = label(
        {
            "posterior": {name: (step + dims.get(name, ()), v) for name, v in shown.items()},
            "posterior_predictive": {"y": (step + row, labels)},
            "log_likelihood": {"y": (step + row, scores)},
            "sample_stats": {name: (step, v) for name, v in stats.items()},
            "observed_data": {"y": (row, rows.y)},
            "constant_data": {
                "task_of_row": (row, np.searchsorted(rows.tasks, rows.task)),
                "size": (row, rows.size),
            },
        },
        {"task": rows.tasks},
    )
    tree["log_likelihood"]["y"].attrs[SEEN] = 1
    return tree

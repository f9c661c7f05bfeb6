r"""NUTS under the learned prior, with all tasks in one compiled program.

The exact targets that amortized posteriors are judged against,

$$ p(w_t \mid d^s_t) \propto p_\psi(w_t) \prod_i p(y^s_{ti} \mid \phi(x^s_{ti})^\top w_t), $$

and the same with the query labels. Each task is a chain of its own with its own step size, and all run side by side
under `jax.vmap`. With $w = \mu + L z$, $z$ standard normal under the prior, labels say nothing of the part of $z$
orthogonal to the rows $x_i^\top L$. Where a task has fewer rows than weights, NUTS moves in the span of its rows
alone, and the rest is drawn from the prior, which is its exact posterior:

$$ z = Q u + (I - Q Q^\top)\, e, \qquad u \sim p(u \mid d^s_t) \text{ by NUTS}, \quad e \sim \mathcal N(0, I), $$

with the columns of $Q$ an orthonormal basis of that span.

A joint model of inputs and labels has class means and proportions for latent variables, and inputs in its likelihood
(`ebmeta.reference.classes`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr

from ebmeta.foundation.checks import at_least, checked
from ebmeta.foundation.seeding import quietly
from ebmeta.foundation.standardization import ROUNDINGS
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.prediction.arviz import SEEN
from ebmeta.reference.arrays import SAMPLE_STATS, blank, in_64_bits, label, rows_of, side_by_side
from ebmeta.reference.classes import class_draws, class_program
from ebmeta.reference.likelihoods import NumpyroLikelihood, get, learned_parameters
from ebmeta.tasks.batch import TaskBatch

__all__ = ["numpyro_model", "nuts"]

#: Dimensions of what is drawn of each task.
LATENTS = {"w": ("way", "feature"), "m": ("way", "coordinate"), "pi": ("way",)}


@checked()
def numpyro_model(model: EmpiricalBayes) -> Callable[..., Any]:
    r"""Return the learned prior and likelihood as a NumPyro model, with their current values.

    $$ w_{tc} \sim \mathcal N(\mu, \Sigma) \;\text{(site "w")}, \qquad
       y_{ti} \sim p(y \mid \phi(x_{ti})^\top w_t) \;\text{(site "y")} $$

    JAX computes in 32 bits by default (see `numpyro.enable_x64`), and then refuses labels that differ in later digits.
    The program takes features `x`, shape `(T, N, P)`, as `model.predictor.features` makes them, and optionally
    `y` `(T, N)`, sampled where absent; `mask`, True where a row is real; `size`, trials or exposure of each row;
    for class labels, `way_mask` `(T, C)`, True where a class exists; and `task_x` `(T, G)`, where the prior has
    covariates of groups. It returns `w`, shape `(T, C, P)`.

    The program of a joint model has the sites "m" `(T, C, D)` and "pi" `(T, C)` and sums the labels of queries out,

    $$ m_{tc} \sim \mathcal N(\mu, b I), \qquad \pi_t \sim \mathrm{Dir}(\alpha), \qquad
       x^s_{ti} \sim \mathcal N(m_{t y_i}, s I), \qquad x^q_{ti} \sim \sum_c \pi_{tc}\, \mathcal N(m_{tc}, s I) . $$

    It takes features `support_x` and `query_x`, the labels `support_y`, and optionally `query_y`, which are observed
    then; by name `support_mask`, `query_mask`, `way_mask` and `concentration`, as of a `TaskBatch`. Where tasks differ
    in their numbers of classes, "pi" follows from the site "shares", and is 0 for classes that do not exist.

    Args:
        model: the model; later training does not change the program.

    Raises:
        ValueError: if the likelihood has no NumPyro form.

    Examples:
        >>> import numpyro, torch
        >>> from ebmeta import EmpiricalBayes
        >>> model = EmpiricalBayes.regressor(num_features=1)
        >>> phi = model.predictor.features(torch.tensor([[[0.0], [1.0]]])).numpy()
        >>> w = numpyro.handlers.seed(numpyro_model(model), 0)(phi, [[1.0, 3.0]])
        >>> w.shape  # task, output, weight
        (1, 1, 2)
    """
    quietly("jax")
    if model.joint:
        return class_program(model)
    likelihood, parameters = get(model.likelihood.name), learned_parameters(model.likelihood)
    scale, own = _scale(model), list(model.prior.varying)
    everything = len(own) == len(scale)

    def program(
        x: Any, y: Any = None, mask: Any = True, way_mask: Any = None, size: Any = 1.0, task_x: Any = None
    ) -> Any:
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist

        if way_mask is None:
            if likelihood.categorical:
                raise ValueError("way_mask: expected which classes exist, shape (T, C), got None")
            way_mask = np.ones((len(x), 1), bool)
        if isinstance(y, np.ndarray | list) and not likelihood.categorical:
            carried = model.likelihood.transformed(torch.from_numpy(np.asarray(y, dtype=float))).cpu().numpy()
            _check_carried(carried, float(np.finfo(jnp.asarray(0.0).dtype).eps), parameters.get("unit", 1.0))
        known = None if task_x is None else torch.as_tensor(np.asarray(task_x, dtype=float))
        loc = _loc(model, len(x), known)[:, None]
        at, by = loc[..., own], scale[own]
        one = dist.Normal(at, by).to_event(1) if by.ndim == 1 else dist.MultivariateNormal(at, scale_tril=by)
        with numpyro.plate("task", len(x)):
            w = numpyro.sample(
                "w" if everything else "varying", one.expand((len(x), np.shape(way_mask)[-1])).to_event(1)
            )
            if not everything:
                w = numpyro.deterministic("w", jnp.broadcast_to(loc, (*w.shape[:-1], len(scale))).at[..., own].set(w))
            labels = _labels(likelihood, parameters, jnp.asarray(x) @ w.mT, np.asarray(way_mask), size)
            numpyro.sample("y", labels.mask(mask).to_event(1), obs=None if y is None else jnp.asarray(y))
        return w

    return program


def _check_carried(y: np.ndarray, eps: float, unit: float) -> None:
    """Raise `ValueError` where the rounding of JAX's numbers would show in units of the labels."""
    largest = float(np.abs(y).max(initial=0.0))
    if ROUNDINGS * eps * largest > unit:
        raise ValueError(
            f"y: expected a spread of at least {ROUNDINGS:,} roundings of JAX's numbers, got {unit:.3g} among labels "
            f"up to {largest:.3g}; call numpyro.enable_x64() first"
        )


def _labels(form: NumpyroLikelihood, parameters: Mapping[str, Any], eta: Any, way_mask: Any, size: Any) -> Any:
    """Return the distribution of labels, batch shape `(..., N)`, for a linear predictor of shape `(..., N, C)`."""
    ways = {"way_mask": way_mask[..., None, :]} if form.categorical else {}
    return form.distribution(eta, size, **parameters, **ways)


@torch.no_grad()
def _loc(model: EmpiricalBayes, num_tasks: int, task_x: torch.Tensor | None) -> np.ndarray:
    """Return the location of the prior of an output in every task, `(T, P)`, which covariates of groups move."""
    loc: torch.Tensor = model.prior(num_tasks, 1, task_x).loc[:, 0]
    return loc.cpu().double().numpy()


@torch.no_grad()
def _scale(model: EmpiricalBayes) -> np.ndarray:
    """Return standard deviations `(P,)`, or a factor `(P, R)` of the covariance, of one output's prior.

    The factor has rows of 0 for weights without spread, and is lower triangular in the others.
    """
    precision = model.prior.gaussian().precision.double()
    if precision.dim() < 2:
        return precision.rsqrt().cpu().numpy()
    factor = torch.linalg.cholesky(torch.linalg.inv(precision)).cpu()
    every = torch.zeros(len(model.prior.loc), len(factor), dtype=factor.dtype)
    return every.index_put_((torch.tensor(model.prior.varying),), factor).numpy()


@cache
def _sampler(form: NumpyroLikelihood, num_warmup: int, num_draws: int) -> Callable[..., Any]:
    """Return a compiled function from keys `(chain, task)` and tasks to draws `(chain, task, draw, C, P)`."""
    import jax
    import jax.numpy as jnp
    from numpyro.infer.hmc import hmc

    def run(key: Any, own: dict[str, Any], loc: Any, scale: Any, parameters: Any) -> tuple[Any, Any]:
        rows = own["x"] * scale if scale.ndim == 1 else own["x"] @ scale
        basis = jnp.linalg.qr(rows.T)[0]
        projected, shift = rows @ basis, own["x"] @ loc
        key, later = jax.random.split(key)

        def potential(u: Any) -> Any:
            eta = shift[:, None] + projected @ u.T
            labels = _labels(form, parameters, eta, own["way_mask"], own["size"])
            return (u**2).sum() / 2 - labels.mask(own["mask"]).log_prob(own["y"]).sum()

        start, step = hmc(potential, algo="NUTS")
        state = start(jnp.zeros((own["way_mask"].shape[0], basis.shape[1])), num_warmup, rng_key=key)

        def advance(s: Any, _: None) -> tuple[Any, Any]:
            s = step(s)
            return s, (s.z, {name: getattr(s, name) for name in SAMPLE_STATS})

        # Warm-up and draws in one loop: the sampler is compiled once.
        path = jax.lax.scan(advance, state, None, length=num_warmup + num_draws)[1]
        u, stats = jax.tree.map(lambda values: values[num_warmup:], path)
        z = u @ basis.T
        if scale.shape[-1] > basis.shape[1]:
            free = jax.random.normal(later, z.shape)
            z = z + free - (free @ basis) @ basis.T
        return loc + (z * scale if scale.ndim == 1 else z @ scale.T), stats

    return side_by_side(run, 2)


@cache
def _scorer(form: NumpyroLikelihood, labelled: bool) -> Callable[..., Any]:
    """Return a compiled function from draws of `w` to labels and, where labelled, log likelihoods, task by task."""
    import jax

    def one_task(task: tuple[Any, Any, dict[str, Any]], parameters: Any) -> dict[str, Any]:
        key, w, own = task
        labels = _labels(form, parameters, own["x"] @ w.mT, own["way_mask"], own["size"])
        out = {"y": labels.sample(key)}
        return out | ({"log_likelihood": labels.log_prob(own["y"])} if labelled else {})

    out: Callable[..., Any] = jax.jit(lambda tasks, p: jax.lax.map(lambda task: one_task(task, p), tasks))
    return out


@checked(num_warmup=at_least(1), num_draws=at_least(1), num_chains=at_least(1))
def nuts(
    model: EmpiricalBayes,
    batch: TaskBatch,
    *,
    observe: Literal["support", "both"] = "support",
    num_warmup: int = 300,
    num_draws: int = 500,
    num_chains: int = 2,
    seed: int = 0,
) -> xr.DataTree:
    """Draw from the exact posterior of every task by NUTS.

    Args:
        model: the model; its prior and likelihood are taken as they are.
        batch: $T$ tasks.
        observe: condition on the support labels alone, or on support and query labels ("both").
        num_warmup: adaptation steps per chain.
        num_draws: draws kept per chain.
        num_chains: chains per task.
        seed: seed of JAX's generator.

    Returns:
        The tree of `predict`, less its closed-form summaries: `posterior/w`, dimensions
        `(chain, draw, task, way, feature)`, of a joint model also `posterior/m`, class means over `(..., way,
        coordinate)`, and `posterior/pi` over `(..., way)`; `posterior_predictive` and, for labelled tasks,
        `log_likelihood` and `observed_data`, each with `query_y`; `constant_data`; and `sample_stats`, `(chain, draw,
        task)`: `diverging`, `n_steps`, `acceptance_rate`, `lp` (log density of what is moved up to a constant, nats)
        and `energy`.

    Raises:
        ValueError: if `observe` is unknown, a count is below 1, query labels are needed and absent, the likelihood
            has no NumPyro form, or tasks of a joint model may have outliers.
    """
    quietly("jax")
    import jax

    form, parameters = get(model.likelihood.name), learned_parameters(model.likelihood)
    model.check(batch)
    support = (batch.pooled() if observe == "both" else batch).support
    labelled_rows, queries = (rows_of(model, rows, batch.way_mask) for rows in (support, batch.query))
    with in_64_bits():
        key, later = jax.random.split(jax.random.PRNGKey(seed))
        keys = jax.random.split(key, (num_chains, batch.num_tasks))
        if model.joint:
            drawn, stats = class_draws(model, batch, observe, keys, (num_warmup, num_draws), seed)
        else:
            law = _loc(model, batch.num_tasks, batch.task_x), _scale(model)
            w, stats = _sampler(form, num_warmup, num_draws)(keys, labelled_rows, *law, parameters)
            drawn = {"w": np.asarray(w)}
        w = drawn["w"]
        by_task = w.swapaxes(0, 1).reshape(batch.num_tasks, -1, *w.shape[3:])
        labelled = batch.query_y is not None
        new = _scorer(form, labelled)((jax.random.split(later, batch.num_tasks), by_task, queries), parameters)

    per_row, per_draw = ("chain", "draw", "task", "query"), ("chain", "draw", "task")
    mask = queries["mask"]
    shaped = {  # (task, chain * draw, query) -> (chain, draw, task, query)
        name: np.moveaxis(np.asarray(v).reshape(len(mask), num_chains, num_draws, -1), 0, 2) for name, v in new.items()
    }
    by_name = {SAMPLE_STATS[name]: np.asarray(v).swapaxes(1, 2) for name, v in stats.items()}
    by_name["lp"] = -by_name["lp"]
    groups: dict[str, dict[str, tuple[tuple[str, ...], Any]]] = {
        "posterior": {name: ((*per_draw, *LATENTS[name]), np.moveaxis(v, 1, 2)) for name, v in drawn.items()},
        "posterior_predictive": {"query_y": (per_row, blank(shaped["y"], mask))},
        "sample_stats": {name: (per_draw, v) for name, v in by_name.items()},
        "constant_data": {
            "support_y": (("task", "support"), blank(batch.support_y.cpu().numpy(), batch.support_mask.cpu().numpy())),
            "support_mask": (("task", "support"), batch.support_mask.cpu().numpy()),
            "query_mask": (("task", "query"), mask),
            "way_mask": (("task", "way"), queries["way_mask"]),
        },
    }
    if labelled:
        groups["log_likelihood"] = {"query_y": (per_row, blank(shaped["log_likelihood"], mask))}
        groups["observed_data"] = {"query_y": (per_row[2:], blank(queries["y"], mask))}
    tree = label(groups)
    if labelled and observe == "both":
        tree["log_likelihood"]["query_y"].attrs[SEEN] = 1
    return tree

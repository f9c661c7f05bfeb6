r"""Reference posteriors by NumPyro: NUTS on the learned model, all tasks in one compiled program.

The exact targets that amortized posteriors are judged against,

$$ p(w_t \mid d^s_t) \propto p_\psi(w_t) \prod_i p(y^s_{ti} \mid \phi(x^s_{ti})^\top w_t), $$

and the same with the query labels. Each task is a chain of its own with its own step size, and all run
side by side under `jax.vmap`. JAX and NumPyro are imported when a function of this module is called.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
import xarray as xr

from ebmeta.model import EmpiricalBayes
from ebmeta.predict import evaluating
from ebmeta.tasks import TaskBatch

__all__ = ["numpyro_model", "nuts"]


def numpyro_model(w_loc: Any, w_scale_tril: Any, x: Any, y: Any, mask: Any, way_mask: Any, noise: Any) -> None:
    r"""State one task of the learned model in NumPyro: site "w", and labels at site "y".

    $$ w_c \sim \mathcal N(\mu, L L^\top), \qquad y_i \sim p(y \mid x_i^\top w) $$

    Args:
        w_loc: $\mu$, shape `(P,)`.
        w_scale_tril: $L$, shape `(P, P)`.
        x: features of the observed rows, shape `(N, P)`.
        y: their labels, shape `(N,)`; integers for classes.
        mask: True where a row is real, shape `(N,)`.
        way_mask: True where a class exists, shape `(C,)`.
        noise: noise standard deviation of a normal likelihood; None for classes.
    """
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    prior = dist.MultivariateNormal(w_loc, scale_tril=w_scale_tril).expand(way_mask.shape).to_event(1)
    w = numpyro.sample("w", prior)
    eta = x @ w.T
    if noise is None:
        likelihood = dist.Categorical(logits=jnp.where(way_mask, eta, -1e30))
    else:
        likelihood = dist.Normal(eta[:, 0], noise)
    numpyro.sample("y", likelihood.mask(mask).to_event(1), obs=y)


def _arguments(model: EmpiricalBayes, batch: TaskBatch, observe: str) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return what all tasks share, and what each has of its own, as NumPy arrays."""
    if observe == "both":
        batch = batch.pooled()
    parameter = next(model.parameters())
    with torch.no_grad(), evaluating(model):
        x = model.predictor.features(batch.support_x.to(parameter), batch.support_mask.to(parameter.device))
        prior = model.prior.gaussian()
        precision = prior.precision if prior.precision.dim() == 2 else torch.diag(prior.precision)
        scale_tril = torch.linalg.cholesky(torch.linalg.inv(precision.double()))
        noise = None if model.likelihood.categorical else float(model.likelihood.dispersion()) ** 0.5
    own = (x.double(), batch.support_y, batch.support_mask, batch.way_mask)
    shared = (prior.loc.detach().cpu().double().numpy(), scale_tril.cpu().numpy())
    return (*shared, noise), tuple(v.cpu().numpy() for v in own)


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
        A `DataTree` with `posterior/w`, dimensions `(chain, draw, task, way, feature)`, and
        `sample_stats/diverging`, `(chain, draw, task)`.

    Raises:
        ValueError: if `observe` is unknown, a count is below 1, query labels are needed and absent, or
            the likelihood has no NumPyro form.
    """
    import jax
    from numpyro.infer.hmc import hmc
    from numpyro.infer.util import log_density

    if observe not in ("support", "both"):
        raise ValueError(f"observe: expected 'support' or 'both', got {observe!r}")
    for name, count in (("num_warmup", num_warmup), ("num_draws", num_draws), ("num_chains", num_chains)):
        if count < 1:
            raise ValueError(f"{name}: expected at least 1, got {count}")
    if model.likelihood.name not in ("categorical", "normal"):
        raise ValueError(f"likelihood: expected categorical or normal, got {model.likelihood.name}")
    model.check(batch)
    (loc, scale_tril, noise), own = _arguments(model, batch, observe)
    shape = (batch.way_mask.shape[1], len(loc))

    def run(key: Any, x: Any, y: Any, mask: Any, way_mask: Any) -> tuple[Any, Any]:
        def potential(z: Any) -> Any:
            # Unit normal under the prior: one step size suits every weight.
            w = loc + z @ scale_tril.T
            return -log_density(numpyro_model, (loc, scale_tril, x, y, mask, way_mask, noise), {}, {"w": w})[0]

        start, step = hmc(potential, algo="NUTS")
        state = start(jax.numpy.zeros(shape), num_warmup, rng_key=key)
        state = jax.lax.fori_loop(0, num_warmup, lambda _, s: step(s), state)

        def advance(s: Any, _: None) -> tuple[Any, tuple[Any, Any]]:
            s = step(s)
            return s, (s.z, s.diverging)

        _, (z, diverging) = jax.lax.scan(advance, state, None, length=num_draws)
        return loc + z @ scale_tril.T, diverging

    keys = jax.random.split(jax.random.PRNGKey(seed), (num_chains, batch.num_tasks))
    per_task = jax.vmap(run, in_axes=(0, 0, 0, 0, 0))
    w, diverging = jax.jit(jax.vmap(per_task, in_axes=(0, None, None, None, None)))(keys, *own)
    posterior = xr.Dataset({"w": (("chain", "task", "draw", "way", "feature"), np.asarray(w))})
    stats = xr.Dataset({"diverging": (("chain", "task", "draw"), np.asarray(diverging))})
    order = ("chain", "draw", "task", ...)
    return xr.DataTree.from_dict(
        {
            f"/{name}": data.assign_coords({str(d): np.arange(n) for d, n in data.sizes.items()}).transpose(*order)
            for name, data in (("posterior", posterior), ("sample_stats", stats))
        }
    )

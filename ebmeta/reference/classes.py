r"""NUTS for class means and proportions of a joint model, labels of queries summed out.

$$ p(m, \pi \mid d^s, x^q) \propto q_0(m)\, \mathrm{Dir}(\pi) \prod_i \sum_c \pi_c\, \mathcal N(x_i; m_c, s I) $$

with the exact $q_0$, which knows the support set. With $m_c = \mu_c + \Lambda_c^{-1/2} z_c$, $z$ standard normal under
$q_0$, let the columns of $Q$ be an orthonormal basis of the span of the queries and of the locations $\mu_c$. Queries
have no part orthogonal to it, which is an observation too: it is judged by the length of that part of a class mean,

$$ \lVert x_i - m_c \rVert^2 = \lVert Q^\top x_i - Q^\top \mu_c - \Lambda_c^{-1/2} u_c \rVert^2 + \rho_c / \Lambda_c,
   \qquad u_c = Q^\top z_c, \quad \rho_c = \lVert z_c \rVert^2 - \lVert u_c \rVert^2 , $$

and by nothing else; under $q_0$ it is $\rho_c \sim \chi^2_{D - R}$. So NUTS moves in $u$, $\log \rho$ and the
logarithms of Gamma variables whose shares are $\pi$; the direction of the orthogonal part is uniform. Chains begin near
the location of $q_0$, where the labelled rows are: the posterior has a mode for every exchange of classes, and from
distant draws chains end in those that the labelled rows make unlikely. Only their agreement tells whether they mix.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import numpy as np
import torch

from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.parts.class_gaussian import ClassGaussian
from ebmeta.parts.class_prior import EQUAL
from ebmeta.prediction.trees import evaluating
from ebmeta.reference.arrays import SAMPLE_STATS, side_by_side
from ebmeta.tasks.batch import TaskBatch

__all__ = ["class_draws", "class_program"]

NEVER = -1e30  # log proportion of a class that does not exist
NEAR = 0.1  # standard deviations of q_0 about its location, where chains begin


def class_program(model: EmpiricalBayes) -> Callable[..., Any]:
    """Return the program of a joint model; see `numpyro_model`."""
    with torch.no_grad():
        one = cast(ClassGaussian, model.prior(1, 1)).double()
        loc, scale, spread = one.loc[0, 0].cpu().numpy(), float(one.scale[0, 0, 0]), float(one.spread)
        learned, constant = float(one.shares[0, 0]), one.constant

    def program(
        support_x: Any,
        support_y: Any,
        query_x: Any,
        query_y: Any = None,
        *,
        support_mask: Any = True,
        query_mask: Any = True,
        way_mask: Any = None,
        concentration: Any = None,
    ) -> Any:
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist

        if way_mask is None:
            raise ValueError("way_mask: expected which classes exist, shape (T, C), got None")
        ways, a = jnp.asarray(way_mask), jnp.full(len(way_mask), learned)
        if concentration is not None:
            known = jnp.asarray(concentration)
            a = jnp.where(jnp.isnan(known), a, jnp.minimum(known, EQUAL))
        with numpyro.plate("task", len(ways)):
            means = dist.Normal(loc, scale).expand((ways.shape[1], len(loc))).to_event(2)
            m = numpyro.sample("m", means)
            # Shares of some classes among themselves do not depend on those of others.
            every = bool(np.all(way_mask))
            pi = numpyro.sample("pi" if every else "shares", dist.Dirichlet(jnp.where(ways, a[:, None], 1.0)))
            if not every:
                pi = jnp.where(ways, pi, 0.0)
                pi = numpyro.deterministic("pi", pi / pi.sum(-1, keepdims=True))
            log_share = jnp.where(ways, jnp.log(jnp.where(ways, pi, 1.0)), NEVER)
            bias = (log_share - (m**2).sum(-1) / (2 * spread)) / constant
            w = numpyro.deterministic("w", jnp.concatenate([m / spread, bias[..., None]], -1))
            each = [_log_normal(jnp.asarray(x)[..., :-1], m, spread) for x in (support_x, query_x)]
            own = jnp.take_along_axis(each[0], jnp.asarray(support_y)[..., None], -1)[..., 0]
            numpyro.factor("support_x", jnp.where(support_mask, own, 0.0).sum(-1))
            both = each[1] + log_share[:, None]
            total = jnp.log(jnp.exp(both - both.max(-1, keepdims=True)).sum(-1)) + both.max(-1)
            numpyro.factor("query_x", jnp.where(query_mask, total, 0.0).sum(-1))
            if query_y is not None:
                labels = dist.Categorical(logits=both).mask(query_mask).to_event(1)
                numpyro.sample("query_y", labels, obs=jnp.asarray(query_y))
        return w

    return program


def _log_normal(x: Any, m: Any, spread: float) -> Any:
    """Return log densities of rows `(T, N, D)` about class means `(T, C, D)` in nats, shape `(T, N, C)`."""
    import jax.numpy as jnp

    square = (x**2).sum(-1)[..., None] + (m**2).sum(-1)[..., None, :] - 2 * x @ jnp.swapaxes(m, -1, -2)
    return -square / (2 * spread) - x.shape[-1] / 2 * np.log(2 * np.pi * spread)


@cache
def _sampler(num_warmup: int, num_draws: int, outside: int) -> Callable[..., Any]:
    """Return a compiled function from keys `(chain, task)` and tasks to draws `(chain, task, draw, ...)`.

    Args:
        num_warmup: adaptation steps per chain.
        num_draws: draws kept per chain.
        outside: dimensions orthogonal to the basis.
    """
    import jax
    import jax.numpy as jnp
    from numpyro.infer.hmc import hmc

    def parts(z: Any, own: dict[str, Any]) -> tuple[Any, Any, Any]:
        """Return scaled offsets, squared lengths of what is outside, and log-Gamma variables."""
        u, h, g = z[:, : own["loc"].shape[1]], z[:, own["loc"].shape[1]], z[:, -1]
        length = jnp.exp(jnp.log(outside) + g * (2 / outside) ** 0.5) if outside else jnp.zeros(len(z))
        return u, length, jnp.log(own["shares"]) + h / jnp.sqrt(own["shares"])

    def run(key: Any, own: dict[str, Any], spread: Any) -> tuple[Any, Any]:
        ways, precision = own["way_mask"], own["precision"]

        def potential(z: Any) -> Any:
            u, length, log_gamma = parts(z, own)
            m = own["loc"] + u / jnp.sqrt(precision)[:, None]
            square = ((own["x"] ** 2).sum(-1)[:, None] + (m**2).sum(-1) - 2 * own["x"] @ m.T) + length / precision
            log_share = jax.nn.log_softmax(jnp.where(ways, log_gamma, NEVER))
            both = log_share - square / (2 * spread)
            known = jnp.take_along_axis(both, jnp.maximum(own["y"], 0)[:, None], -1)[:, 0]
            rows = jnp.where(own["y"] >= 0, known, jax.scipy.special.logsumexp(both, axis=-1))
            total = jnp.where(own["mask"], rows, 0.0).sum() - (u**2).sum() / 2
            total = total + (own["shares"] * log_gamma - jnp.exp(log_gamma)).sum()
            if outside:
                total = total + (outside * jnp.log(length) - length).sum() / 2
            return -total

        start, step = hmc(potential, algo="NUTS")
        key, first = jax.random.split(key)
        number, size = own["loc"].shape
        # All that moves is one array: of several the sampler takes twice as long to compile.
        begin = NEAR * jax.random.normal(first, (number, size + (2 if outside else 1)))
        state = start(begin, num_warmup, rng_key=key)

        def advance(s: Any, _: None) -> tuple[Any, Any]:
            s = step(s)
            return s, (parts(s.z, own), {name: getattr(s, name) for name in SAMPLE_STATS})

        path = jax.lax.scan(advance, state, None, length=num_warmup + num_draws)[1]
        return jax.tree.map(lambda values: values[num_warmup:], path)  # type: ignore[no-any-return]

    return side_by_side(run)


def class_draws(
    model: EmpiricalBayes, batch: TaskBatch, observe: str, keys: Any, counts: tuple[int, int], seed: int
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return draws of `w`, `m` and `pi` of every task, each `(chain, task, draw, ...)`, and statistics of the sampler.

    Args:
        model: a joint model.
        batch: $T$ tasks.
        observe: "support" for labels of the support set alone, or "both".
        keys: of JAX's generator, shape `(chain, task, ...)`.
        counts: adaptation steps and draws per chain.
        seed: seed of the directions outside the basis.

    Raises:
        ValueError: if tasks may have outliers.
    """
    if batch.outliers is not None and bool(batch.outliers.any()):
        raise ValueError("nuts: expected tasks without outliers, got some")
    device = next(model.parameters()).device
    with torch.no_grad(), evaluating(model):
        inferred = model.infer(batch.to(device), 0)
        q0, x = cast(ClassGaussian, inferred.path[0].double()), inferred.setting.real_x[..., :-1].double()
    rows, size = torch.cat([x, q0.loc], 1), x.shape[-1]
    eye = torch.eye(size, dtype=x.dtype, device=device).expand(len(x), -1, -1)
    basis = torch.linalg.qr(rows.mT)[0] if rows.shape[1] < size else eye
    own = {"x": x @ basis, "loc": q0.loc @ basis, "precision": q0.precision[..., 0], "way_mask": batch.way_mask}
    own |= {"shares": torch.where(q0.real, q0.shares, 1.0), "mask": batch.query_mask}
    # One program, compiled once, for labels that are known and for those that are not, of class -1.
    labelled = (
        cast(torch.Tensor, batch.query_y)
        if observe == "both"
        else torch.full_like(batch.query_mask, -1, dtype=torch.long)
    )
    own["y"] = labelled
    outside = size - basis.shape[-1]
    arrays = {name: value.cpu().numpy() for name, value in own.items()}
    frame = basis.cpu().numpy()
    (u, length, log_gamma), stats = _sampler(*counts, outside)(keys, arrays, float(q0.spread))
    z = np.einsum("ktscr,tdr->ktscd", np.asarray(u), frame, optimize=True)
    if outside:
        free = np.random.default_rng(seed).standard_normal(z.shape)
        within = np.einsum("ktscd,tdr->ktscr", free, frame, optimize=True)
        free -= np.einsum("ktscr,tdr->ktscd", within, frame, optimize=True)
        free *= np.sqrt(np.asarray(length) / (free**2).sum(-1))[..., None]
        z += free
    m = q0.loc.cpu().numpy()[:, None] + z / np.sqrt(arrays["precision"])[:, None, :, None]
    share = np.where(arrays["way_mask"][:, None], np.asarray(log_gamma), -np.inf)
    share = np.exp(share - share.max(-1, keepdims=True))
    pi = share / share.sum(-1, keepdims=True)
    values = {"m": torch.from_numpy(m).transpose(1, 2), "pi": torch.from_numpy(pi).transpose(1, 2)}
    w = q0.weights({name: v.to(device) for name, v in values.items()}).transpose(1, 2).cpu().numpy()
    return {"w": w, "m": m, "pi": pi}, stats

"""The generalised linear mixed model by NUTS, refitted with the labelled rows of new groups."""

from __future__ import annotations

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from scipy import special, stats

from ebmeta import reference
from lib.groups.counted import Counted, Split

__all__ = ["average", "design", "exact_log_density", "log_density", "log_pmf"]

WARMUP, DRAWS, CHAINS, ACCEPT = 300, 400, 4, 0.9


def _standardised(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    center, scale = values[rows].mean(0), values[rows].std(0)
    out: np.ndarray = (values - center) / np.where(scale > 0, scale, 1.0)
    return out


def design(data: Counted, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Return the columns $z$ whose coefficients vary over groups and $x$ whose do not, for every row.

    The model is that of `EmpiricalBayes.regressor`: features (where the set has slopes) and the constant vary,
    covariates of groups move the means of both.

    Args:
        data: the set.
        train: rows of training groups, whose units are taken.
    """
    features, constant = _standardised(data.X, train), np.ones((len(data.y), 1))
    phi = np.c_[features, constant]
    fixed = np.empty((len(phi), 0))
    if data.covariates is not None:
        moved = _standardised(data.covariates, train)[:, :, None] * phi[:, None, :]
        fixed = moved.reshape(len(phi), -1)
    return (phi, fixed) if data.slopes else (constant, np.c_[features, fixed])


def log_pmf(
    likelihood: str, y: np.ndarray, eta: np.ndarray, size: np.ndarray, shape: np.ndarray | float = 1.0
) -> np.ndarray:
    """Return log probabilities of labels in nats; all arguments broadcast."""
    if likelihood in ("binomial", "bernoulli"):
        trials = special.gammaln(size + 1) - special.gammaln(y + 1) - special.gammaln(size - y + 1)
        return np.asarray(trials + y * special.log_expit(eta) + (size - y) * special.log_expit(-eta))
    mean = size * np.exp(eta)
    if likelihood == "poisson":
        return np.asarray(stats.poisson.logpmf(y, mean))
    return np.asarray(stats.nbinom.logpmf(y, shape, shape / (shape + mean)))


def average(
    data: Counted, queries: np.ndarray, z: np.ndarray, x: np.ndarray, draws: dict[str, np.ndarray], tasks: np.ndarray
) -> np.ndarray:
    """Return log predictive probabilities of query rows in nats, averaged over draws, shape `(Q,)`.

    Coefficients of a group that is not among those drawn are integrated out under every draw.

    Args:
        data: the set.
        queries: query rows.
        z: columns whose coefficients vary, for every row, shape `(N, P)`.
        x: columns whose coefficients do not, shape `(N, F)`.
        draws: `w` of shape `(S, T, P)`, `w_loc` and `w_scale` `(S, P)`, `w_correlation` `(S, P, P)`, `fixed`
            `(S, F)` and `shape` `(S,)`.
        tasks: the groups that `w` is of.
    """
    size = np.ones(len(data.y)) if data.size is None else data.size
    number, shape = {name: i for i, name in enumerate(tasks)}, draws["shape"][:, None]
    nodes, weights = hermegauss(40)
    out = []
    for q in queries:
        shift, group = draws["fixed"] @ x[q], data.groups[q]
        if group in number:
            eta, weight = (draws["w"][:, number[group]] @ z[q] + shift)[:, None], np.ones(1)
        else:
            each = draws["w_scale"] * z[q]
            deviation = np.sqrt(np.einsum("sp,spr,sr->s", each, draws["w_correlation"], each))
            eta = (draws["w_loc"] @ z[q] + shift)[:, None] + deviation[:, None] * nodes
            weight = weights / weights.sum()
        terms = log_pmf(data.likelihood, data.y[q], eta, size[q], shape)
        out.append(special.logsumexp(terms, b=weight / len(eta)))
    return np.array(out)


def exact_log_density(data: Counted, split: Split) -> np.ndarray:
    """Return what `log_density` tends to with more draws, by sums over a grid, for groups of one row and one intercept.

    Args:
        data: a set without features and covariates, one row a group.
        split: its rows.
    """
    nodes, weights = hermegauss(60)
    mu, log_tau = np.linspace(-6, 4, 121)[:, None, None], np.linspace(-4, 2.2, 101)[:, None]
    tau, size = np.exp(log_tau), np.ones(len(data.y)) if data.size is None else data.size
    log_p = (-((mu / 5) ** 2) / 2 + log_tau - (tau / 2.5) ** 2 / 2)[..., 0]

    def of_row(i: int) -> np.ndarray:
        each = log_pmf(data.likelihood, data.y[i], mu + tau * nodes, size[i])
        return np.asarray(special.logsumexp(each, -1, b=weights / weights.sum()))

    log_p = log_p + sum(of_row(i) for i in split.train)
    log_p = log_p - special.logsumexp(log_p)
    return np.array([special.logsumexp(log_p + of_row(i)) for i in split.query])


def log_density(data: Counted, split: Split, *, seed: int = 0) -> tuple[np.ndarray, float, int]:
    """Fit training groups and labelled rows of new groups at once, and average over draws.

    Args:
        data: the set.
        split: its rows.
        seed: seed of the draws.

    Returns:
        Log predictive probability of every query row in nats, shape `(Q,)`, the largest R-hat and the divergences.
    """
    import jax
    from numpyro.diagnostics import split_gelman_rubin
    from numpyro.infer import MCMC, NUTS

    rows = np.concatenate([split.train, split.support])
    z, x = design(data, split.train)
    size = None if data.size is None else data.size[rows]
    given = reference.Rows(data.y[rows], data.groups[rows], z[rows], x[rows], size)
    program = reference.hierarchical_model(given, data.likelihood)
    settings = {"num_chains": CHAINS, "chain_method": "vectorized", "progress_bar": False}
    mcmc = MCMC(NUTS(program, target_accept_prob=ACCEPT), num_warmup=WARMUP, num_samples=DRAWS, **settings)
    mcmc.run(jax.random.PRNGKey(seed))
    chains = {k: np.asarray(v, float) for k, v in mcmc.get_samples(group_by_chain=True).items()}
    draws = {k: v.reshape(-1, *v.shape[2:]) for k, v in chains.items()}
    number = len(draws["w_loc"])
    missing = {
        "w_correlation": np.broadcast_to(np.eye(z.shape[1]), (number, z.shape[1], z.shape[1])),
        "fixed": np.empty((number, 0)),
        "shape": np.ones(number),
    }
    draws = missing | draws | {"w": draws["w"][:, :, 0]}
    rhat = max(float(split_gelman_rubin(chains[k]).max()) for k in ("w_loc", "w_scale"))
    divergences = int(mcmc.get_extra_fields()["diverging"].sum())
    return average(data, split.query, z, x, draws, given.tasks), rhat, divergences

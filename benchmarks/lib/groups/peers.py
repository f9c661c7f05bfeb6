"""What a statistician would do with a new group: pooled fit, own fit, mixed models, a Gaussian process.

Every method is a function of the training rows that returns a function of one new group's (support X, support y,
covariates, query X) to predictive means and standard deviations.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from lib.groups.data import Groups

__all__ = ["PEERS", "Predict", "em", "gaussian_process", "mixed", "own", "pooled"]

Predict = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def _design(data: Groups) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return standardised features with an intercept, their centre and scale, and the scale of the labels."""
    center, scale = data.X.mean(0), data.X.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    return np.c_[(data.X - center) / scale, np.ones(len(data.X))], center, scale, float(data.y.std())


def _conditional(mu: np.ndarray, sigma: np.ndarray, noise: float, center: np.ndarray, scale: np.ndarray) -> Predict:
    """Return exact predictions of a random-coefficient model w ~ N(mu, sigma), y = x'w + noise."""

    def phi(X: np.ndarray) -> np.ndarray:
        return np.c_[(X - center) / scale, np.ones(len(X))]

    def predict(X: np.ndarray, y: np.ndarray, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, q = phi(X), phi(query)
        gain = sigma @ x.T @ np.linalg.inv(x @ sigma @ x.T + noise * np.eye(len(x)))
        w, cov = mu + gain @ (y - x @ mu), sigma - gain @ x @ sigma
        return q @ w, np.sqrt(np.einsum("np,pr,nr->n", q, cov, q).clip(0) + noise)

    return predict


def pooled(data: Groups) -> Predict:
    """One least-squares fit of all training rows, blind to groups."""
    x, center, scale, _ = _design(data)
    w, *_ = np.linalg.lstsq(x, data.y, rcond=None)
    noise = float(((data.y - x @ w) ** 2).sum() / max(1, len(x) - x.shape[1]))
    return _conditional(w, np.zeros((len(w), len(w))), noise, center, scale)


def own(data: Groups) -> Predict:
    """Fit the new group's rows alone, by a ridge of the strength that suits the training labels' scale."""
    x, center, scale, deviation = _design(data)
    w, *_ = np.linalg.lstsq(x, data.y, rcond=None)
    noise = float(((data.y - x @ w) ** 2).mean())
    flat = np.zeros(x.shape[1])
    flat[-1] = data.y.mean()
    return _conditional(flat, (3 * deviation) ** 2 * np.eye(len(flat)), noise, center, scale)


def em(data: Groups, iterations: int = 300) -> Predict:
    """Fit the random-coefficient model with full covariance by expectation-maximisation."""
    x, center, scale, _ = _design(data)
    names, code = np.unique(data.groups, return_inverse=True)
    groups, size = len(names), x.shape[1]
    gram, moment = np.zeros((groups, size, size)), np.zeros((groups, size))
    np.add.at(gram, code, x[:, :, None] * x[:, None, :])
    np.add.at(moment, code, x * data.y[:, None])
    square, total = float((data.y**2).sum()), len(data.y)
    mu, *_ = np.linalg.lstsq(x, data.y, rcond=None)
    noise = float(((data.y - x @ mu) ** 2).mean()) / 2
    sigma = noise * np.eye(size)
    for _ in range(iterations):
        inverse = np.linalg.inv(sigma)
        cov = np.linalg.inv(inverse + gram / noise)
        w = np.einsum("gpr,gr->gp", cov, inverse @ mu + moment / noise)
        mu = w.mean(0)
        second = cov + w[:, :, None] * w[:, None, :]
        sigma = cov.mean(0) + (w - mu).T @ (w - mu) / groups + 1e-9 * np.eye(size)
        noise = (square - 2 * (w * moment).sum() + np.einsum("gpr,gpr->", gram, second)) / total
    return _conditional(mu, sigma, float(noise), center, scale)


def mixed(data: Groups) -> Predict:
    """Fit statsmodels' MixedLM by restricted maximum likelihood; random intercepts where coefficients fail."""
    import statsmodels.api as sm

    x, center, scale, _ = _design(data)
    for random in (x, x[:, -1:]):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fit = sm.MixedLM(data.y, x, groups=data.groups, exog_re=random).fit(maxiter=100)
            cov = np.asarray(fit.cov_re)
            if np.isfinite(cov).all() and np.isfinite(fit.fe_params).all() and fit.scale > 0:
                break
        except (np.linalg.LinAlgError, ValueError):
            continue
    else:
        return pooled(data)
    sigma = np.zeros((x.shape[1], x.shape[1]))
    start = x.shape[1] - len(cov)
    sigma[start:, start:] = cov
    return _conditional(np.asarray(fit.fe_params), sigma, float(fit.scale), center, scale)


def gaussian_process(data: Groups) -> Predict:
    """Fit scikit-learn's Gaussian process to the new group's rows alone, in the units of the training rows."""
    _, center, scale, deviation = _design(data)
    mean = data.y.mean()
    kernel = ConstantKernel(1.0) * RBF(1.0, (0.1, 30.0)) + WhiteKernel(0.1, (1e-4, 3.0))

    def predict(X: np.ndarray, y: np.ndarray, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = GaussianProcessRegressor(kernel).fit((X - center) / scale, (y - mean) / deviation)
            m, s = fit.predict((query - center) / scale, return_std=True)
        return mean + deviation * m, deviation * s

    return predict


PEERS: dict[str, Callable[[Groups], Predict]] = {
    "pooled": pooled,
    "own": own,
    "em": em,
    "em_basis": em,
    "mixedlm": mixed,
    "gp": gaussian_process,
}

"""Empirical Bayes on the classics: eight schools, eighteen batters, and recovery of simulated priors.

`python benchmarks/shrinkage.py [--only schools batting recovery few_groups boundary]`
"""

from __future__ import annotations

import argparse
import json
import math
import zipfile
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

import ebmeta
from ebmeta import EmpiricalBayes, TaskBatch
from ebmeta.model.base import PredictiveModel
from ebmeta.model.units import in_units
from lib.common import data_folder, read, write

NAME = "shrinkage.json"
SEEDS, GROUPS, ROWS = 20, 60, 12


def intercepts(y: np.ndarray, size: np.ndarray) -> TaskBatch:
    """Return tasks of one labelled row each and no features."""
    x, labels, sizes = (torch.from_numpy(v).double() for v in (np.empty((len(y), 1, 0)), y[:, None], size[:, None]))
    return TaskBatch(x, labels, x, labels, support_size=sizes, query_size=sizes)


def labelled_once(batch: TaskBatch) -> TaskBatch:
    """Return tasks whose rows are queries alone, so that evidence counts each of them once."""
    return TaskBatch(
        batch.support_x[:, :0], batch.support_y[:, :0], batch.query_x, batch.query_y, query_size=batch.query_size
    )


def posterior_means(model: PredictiveModel, batch: TaskBatch) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of every group's intercept, in units of the label."""
    with torch.no_grad():
        inferred = model.infer(batch)
        loc, cov = inferred.each(lambda part: in_units(model, part.path[-1]))
        mean, variance = inferred.blend(loc[:, :, 0, -1], cov[:, :, 0, -1, -1])
        return mean.numpy(), variance.sqrt().numpy()


def as_published(model: EmpiricalBayes) -> Tensor:
    """Return the log hyperprior mu ~ N(0, 5), tau ~ half-Cauchy(0, 5) in units of the label, tau by its logarithm."""
    loc, cov = in_units(model, model.prior(1, 1))
    mu, tau = loc[0, 0, 0], cov[0, 0, 0, 0].sqrt()
    return -(mu / 5).square() / 2 - torch.log1p((tau / 5).square()) + tau.log()


def schools() -> dict[str, Any]:
    """Eight schools: the boundary, and school effects against the reference draws."""
    folder = data_folder() / "reference" / "eight_schools"
    with zipfile.ZipFile(folder / "data.json.zip") as archive:
        data = json.loads(archive.read(archive.namelist()[0]))
    with zipfile.ZipFile(folder / "reference_draws.json.zip") as archive:
        chains = json.loads(archive.read(archive.namelist()[0]))
    y, se = np.asarray(data["y"], dtype=float), np.asarray(data["sigma"], dtype=float)
    draws = np.stack([np.concatenate([c[f"theta[{j + 1}]"] for c in chains]) for j in range(8)], 1)
    batch = intercepts(y, 1 / se**2)

    def model() -> EmpiricalBayes:
        return EmpiricalBayes.regressor(0, num_steps=0, known_noise=True).double()

    plain, kept = model(), model()
    found = ebmeta.fit_evidence(plain, labelled_once(batch))
    unit = float(plain.likelihood.unit)
    careful = ebmeta.fit_evidence(kept, labelled_once(batch), hyperprior=True)
    bayes = model()
    ebmeta.fit_evidence(bayes, labelled_once(batch), hyperprior=as_published)
    ensemble = ebmeta.propagate(bayes, labelled_once(batch), hyperprior=as_published, num_draws=1000, new_groups=False)
    mean, std = posterior_means(ensemble, batch)
    gap = np.abs(mean - draws.mean(0)) / draws.std(0)
    return {
        "tau_maximum": float(found.scales[-1]) * unit,
        "at_boundary": found.at_boundary,
        "gain": float(found.gain[-1]),
        "words": str(found),
        "tau_hyperprior": float(careful.scales[-1]) * unit,
        "mean": mean.round(3).tolist(),
        "std": std.round(3).tolist(),
        "reference_mean": draws.mean(0).round(3).tolist(),
        "reference_std": draws.std(0).round(3).tolist(),
        "largest_gap": float(gap.max()),
        "largest_std_ratio": float(np.abs(np.log(std / draws.std(0))).max()),
    }


def james_stein(z: np.ndarray, variance: np.ndarray | float) -> np.ndarray:
    """Return Efron and Morris's estimator: towards the mean, by 1 - (k - 3) variance / sum of squares."""
    center = z.mean()
    shrink = 1 - (len(z) - 3) * np.mean(variance) / ((z - center) ** 2).sum()
    out: np.ndarray = center + max(shrink, 0.0) * (z - center)
    return out


def exact_averages(hits: np.ndarray, bats: np.ndarray) -> np.ndarray:
    """Return posterior mean averages of the binomial model under the same hyperprior, by sums over a grid of both."""
    mu, log_s = np.linspace(-2.0, 0.0, 401)[:, None, None], np.linspace(-8, 1.5, 191)[:, None]
    z, weight = np.polynomial.hermite_e.hermegauss(40)
    chance = 1 / (1 + np.exp(-(mu + np.exp(log_s) * z)))
    log_p, means = (log_s - 0.1 * np.exp(log_s))[None, :, 0].repeat(len(mu), 0), []
    for h, n in zip(hits, bats, strict=True):
        each = weight * chance**h * (1 - chance) ** (n - h)
        log_p = log_p + np.log(each.sum(-1))
        means.append((each * chance).sum(-1) / each.sum(-1))
    p = np.exp(log_p - log_p.max())
    return np.array([(p * m).sum() / p.sum() for m in means])


def published_table(estimates: dict[str, np.ndarray], rest: np.ndarray, names: list[str]) -> dict[str, Any]:
    """Return total squared errors on the arcsine scale, with the rest of the season as in the table of 1975.

    That table has a Williams of Chicago in the American League, .256 over 270 times at bat, where the file with season
    totals has his namesake of the National League. Source: data set EfronMorris of the R package pscl.
    """
    truth = rest.copy()
    truth[names.index("Williams")] = 0.256

    def scale(average: np.ndarray) -> np.ndarray:
        out: np.ndarray = math.sqrt(45) * np.arcsin(2 * average - 1)
        return out

    return {
        "arcsine": {k: float(((scale(v) - scale(truth)) ** 2).sum()) for k, v in estimates.items()},
        "averages": {k: float(((v - truth) ** 2).sum()) for k, v in estimates.items()},
    }


def batting() -> dict[str, Any]:
    """Eighteen batters after 45 times at bat: squared error against the rest of the season."""
    table = pd.read_csv(data_folder() / "regression" / "efron_morris_1975.tsv", sep="\t")
    hits, bats = table["Hits"].to_numpy(float), table["At-Bats"].to_numpy(float)
    rest, average = table["RemainingAverage"].to_numpy(float), hits / bats
    raw = james_stein(average, average.mean() * (1 - average.mean()) / 45)
    arcsine = math.sqrt(45) * np.arcsin(2 * average - 1)
    back = (np.sin(james_stein(arcsine, 1.0) / math.sqrt(45)) + 1) / 2
    batch = intercepts(hits, bats)
    model = EmpiricalBayes.regressor(0, "binomial", num_steps=0).double()
    found = ebmeta.fit_evidence(model, labelled_once(batch), hyperprior=True, num_draws=64)
    ensemble = ebmeta.propagate(model, labelled_once(batch), num_draws=1000, new_groups=False)
    one = intercepts(hits, bats)
    one = TaskBatch(one.support_x, one.support_y, one.query_x, None, support_size=one.support_size)

    def chance(fitted: PredictiveModel) -> np.ndarray:
        with torch.no_grad():
            mean: np.ndarray = fitted.infer(one).predict(-1)["mean"][:, 0].numpy()
        return mean

    plain = EmpiricalBayes.regressor(0, "binomial", num_steps=0).double()
    boundary = ebmeta.fit_evidence(plain, labelled_once(batch), num_draws=64)
    estimates = {
        "own_average": average,
        "pooled": np.full(18, average.mean()),
        "james_stein": raw,
        "james_stein_arcsine": back,
        "ebmeta": chance(ensemble),
        "ebmeta_maximum": chance(plain),
        "ebmeta_penalised": chance(model),
        "exact": exact_averages(hits, bats),
    }
    return {
        "names": (table["FirstName"] + " " + table["LastName"]).tolist(),
        "rest_of_season": rest.tolist(),
        "estimates": {k: v.round(4).tolist() for k, v in estimates.items()},
        "squared_error": {k: float(((v - rest) ** 2).sum()) for k, v in estimates.items()},
        "published": published_table(estimates, rest, table["LastName"].tolist()),
        "scale": float(found.scales[-1]),
        "scale_maximum": float(boundary.scales[-1]),
        "words": str(boundary),
    }


#: Truth of the recovery study: prior of intercept and slope in the units of features and labels.
LOC, COV = np.array([0.5, -0.3]), np.array([[0.25, 0.1], [0.1, 0.36]])


def simulate(name: str, seed: int, groups: int = GROUPS) -> TaskBatch:
    """Draw groups from a likelihood's own model, with unit noise, shape 2 and 5 degrees of freedom."""
    rng = np.random.default_rng((seed, 17))
    w = LOC + rng.standard_normal((groups, 2)) @ np.linalg.cholesky(COV).T
    x = rng.standard_normal((groups, ROWS, 1))
    eta = x[..., 0] * w[:, :1] + w[:, 1:]
    size = rng.integers(2, 8, eta.shape).astype(float)
    if name == "normal":
        size, y = np.ones_like(size), eta + 0.7 * rng.standard_normal(eta.shape)
    elif name == "normal_per_task":
        size = np.ones_like(size)
        y = eta + 0.7 * np.exp(0.4 * rng.standard_normal((groups, 1))) * rng.standard_normal(eta.shape)
    elif name == "student_t":
        size, y = np.ones_like(size), eta + 0.7 * rng.standard_t(5, eta.shape)
    elif name == "bernoulli":
        size, y = np.ones_like(size), (rng.random(eta.shape) < 1 / (1 + np.exp(-eta))).astype(float)
    elif name == "binomial":
        y = rng.binomial(size.astype(int), 1 / (1 + np.exp(-eta))).astype(float)
    elif name == "poisson":
        y = rng.poisson(size * np.exp(eta)).astype(float)
    else:
        y = rng.negative_binomial(2, 2 / (2 + size * np.exp(eta))).astype(float)
    tensors = [torch.from_numpy(v) for v in (x, y, size)]
    (sx, qx), (sy, qy), (ss, qs) = ((v[:, :4], v[:, 4:]) for v in tensors)
    sized = {} if name == "bernoulli" else {"support_size": ss, "query_size": qs}
    return TaskBatch(sx, sy, qx, qy, **sized)


TRUTH = {
    "slope": LOC[0],
    "intercept": LOC[1],
    "log_scale_slope": math.log(COV[0, 0]) / 2,
    "log_scale_intercept": math.log(COV[1, 1]) / 2,
    "correlation": COV[0, 1] / math.sqrt(COV[0, 0] * COV[1, 1]),
    "log_noise": math.log(0.7),
    "log_ratio": math.log(0.4),
    "log_freedom": math.log(3.0),
    "log_shape": math.log(2.0),
}


def coverage(model: EmpiricalBayes, batch: TaskBatch, seed: int) -> float:
    """Return how often the central 90% holds a label; a count counts with the share of its probability inside."""
    with torch.no_grad():
        inferred = model.infer(batch)
        top = inferred.cdf(-1, batch.query_y)
        discrete = model.likelihood.discrete
        bottom = inferred.cdf(-1, batch.query_y - 1) if discrete else top
    share = torch.from_numpy(np.random.default_rng(seed).random(top.shape))
    place = bottom + share * (top - bottom)
    return float(((place > 0.05) & (place < 0.95)).double().mean())


def recovery(name: str) -> dict[str, Any]:
    """Fit 20 simulated data sets; compare parameters with the truth, and intervals of new groups with theirs."""
    found: dict[str, list[float]] = {}
    covered = []
    for seed in range(SEEDS):
        batch = simulate(name, seed)
        model = EmpiricalBayes.regressor(1, name, num_steps=0).double()
        ebmeta.fit_evidence(model, batch, num_draws=32, seed=seed)
        loc, cov = (v[0, 0].detach() for v in in_units(model, model.prior(1, 1)))
        scale = cov.diagonal().sqrt()
        values = {
            "slope": loc[0],
            "intercept": loc[1],
            "log_scale_slope": scale[0].log(),
            "log_scale_intercept": scale[1].log(),
            "correlation": cov[0, 1] / scale.prod(),
        }
        for parameter, tensor in model.likelihood.named_parameters():
            unit = model.likelihood.unit.log() if parameter == "log_noise" else 0.0
            values[parameter] = tensor.detach() + unit
        for key, value in values.items():
            found.setdefault(key, []).append(float(value))
        covered.append(coverage(model, simulate(name, 1000 + seed, 400), seed))
    out: dict[str, Any] = {
        "coverage": float(np.mean(covered)),
        "coverage_error": float(np.std(covered, ddof=1) / 20**0.5),
    }
    for key, each in found.items():
        error = np.std(each, ddof=1) / len(each) ** 0.5
        out[key] = {
            "truth": TRUTH[key],
            "mean": float(np.mean(each)),
            "standard_error": float(error),
            "z": float((np.mean(each) - TRUTH[key]) / error),
            "z_single": float(np.abs((np.asarray(each) - TRUTH[key]) / np.std(each, ddof=1)).max()),
        }
    return out


def few_groups(groups: int, repeats: int = 100) -> dict[str, Any]:
    """Coverage of 90% intervals of new groups with 2 labelled rows, after training on few groups of 12 rows."""
    covered: dict[str, list[float]] = {"maximum": [], "hyperprior": [], "propagated": []}
    for seed in range(repeats):
        batch, test = simulate("normal", 2000 + seed, groups), simulate("normal", 5000 + seed, 200)
        new = TaskBatch(test.support_x[:, :2], test.support_y[:, :2], test.query_x, test.query_y)
        plain, kept = (EmpiricalBayes.regressor(1, num_steps=0).double() for _ in range(2))
        ebmeta.fit_evidence(plain, batch)
        ebmeta.fit_evidence(kept, batch, hyperprior=True)
        careful = ebmeta.propagate(kept, batch, seed=seed)
        for name, model in (("maximum", plain), ("hyperprior", kept), ("propagated", careful)):
            covered[name].append(coverage(model, new, seed))
    return {
        name: {"coverage": float(np.mean(v)), "standard_error": float(np.std(v, ddof=1) / len(v) ** 0.5)}
        for name, v in covered.items()
    }


def boundary(groups: int, repeats: int = 200) -> dict[str, Any]:
    """How often a slope that is the same in all groups, and one that is not, is said to differ between groups."""
    found: dict[str, list[float]] = {"same": [], "different": []}
    for seed in range(repeats):
        rng = np.random.default_rng((seed, 23))
        x, w = rng.standard_normal((groups, 6, 1)), rng.standard_normal((groups, 2))
        noise = rng.standard_normal((groups, 6))
        for name, spread in (("same", 0.0), ("different", 0.5)):
            y = torch.from_numpy((1 + spread * w[:, :1]) * x[..., 0] + w[:, 1:] + noise)
            rows = torch.from_numpy(x)
            batch = TaskBatch(rows[:, :0], y[:, :0], rows, y)
            fit = ebmeta.fit_evidence(EmpiricalBayes.regressor(1, num_steps=0).double(), batch)
            found[name].append(float(0 not in fit.at_boundary))
    return {name: float(np.mean(v)) for name, v in found.items()} | {"repeats": repeats}


def main() -> None:
    """Run what is asked for, and keep the rest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=["schools", "batting", "recovery", "few_groups", "boundary"])
    arguments = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    result = read(NAME)
    for name, run in (("schools", schools), ("batting", batting)):
        if name in arguments.only:
            result[name] = run()
            write(NAME, result)
    for name, study in (("few_groups", few_groups), ("boundary", boundary)):
        if name in arguments.only:
            result[name] = {str(k): study(k) for k in tqdm((5, 10, 20, 40), desc=name, disable=None)}
            write(NAME, result)
    if "recovery" in arguments.only:
        for name in tqdm([n for n in ebmeta.likelihood.LIKELIHOODS if n != "categorical"], disable=None):
            if name not in result.setdefault("recovery", {}):
                result["recovery"][name] = recovery(name)
                write(NAME, result)


if __name__ == "__main__":
    main()

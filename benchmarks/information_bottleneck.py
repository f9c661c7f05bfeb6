"""Information and its bounds in simulated families, rate and distortion over beta, and synthetic beside true gradients.

The linear-Gaussian family has an exact posterior, and its information in closed form.
`python benchmarks/information_bottleneck.py`
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from scipy import integrate, stats

import ebmeta
from ebmeta.app import demo
from ebmeta.diagnostics import (
    generalization_gap,
    linear_gaussian_information,
    mutual_information,
    rate_distortion,
    rate_distortion_plot,
    synthetic_gradient_plot,
    synthetic_gradients,
)
from ebmeta.plots.axes import save_figure
from ebmeta.simulate.linear_gaussian import LinearGaussianTasks
from ebmeta.tasks.drawing import generator
from lib.class_worlds import uncorrected
from lib.classifier import KINDS, classifier
from lib.common import ROOT, read, write
from lib.linear_gaussian import COUPLING, LOC, SCALE

NAME = "information_bottleneck.json"
FIGURES = ROOT.parent / "docs" / "_static" / "information_bottleneck"
POWERS = (0.25, 0.5, 1.0, 2.0, 4.0)  # times the trained one
BETAS = (0.001, 0.01, 0.1, 1.0)
ITERATIONS, LEARNING_RATE, TASKS, TEST_TASKS = 150, 0.03, 600, 200


@dataclass(frozen=True)
class YesNo:
    """Tasks of yes and no: logistic regression with two features, weights of the same law as `LinearGaussianTasks`."""

    n_support: int
    n_query: int = 20
    seed: int = 0

    def sample(self, num_tasks: int, index: int = 0) -> ebmeta.TaskBatch:
        """Draw tasks."""
        rng = generator(self.seed, index)
        w = LOC + rng.standard_normal((num_tasks, 3)) @ SCALE.T
        x = rng.standard_normal((num_tasks, self.n_support + self.n_query, 2))
        eta = np.einsum("tnp,tp->tn", x, w[:, :2]) + w[:, 2:]
        y = (rng.random(eta.shape) < 1 / (1 + np.exp(-eta))).astype(np.float32)
        inputs, labels, s = torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y), self.n_support
        return ebmeta.TaskBatch(inputs[:, :s], labels[:, :s], inputs[:, s:], labels[:, s:])


@dataclass(frozen=True)
class Clouds:
    """Five classes: a normal cloud around each one's centre in eight dimensions, queries of random class."""

    n_shot: int
    n_query: int = 50
    seed: int = 0

    def sample(self, num_tasks: int, index: int = 0) -> ebmeta.TaskBatch:
        """Draw tasks."""
        rng = generator(self.seed, index)
        centre = rng.standard_normal((num_tasks, 5, 8))
        support = np.tile(np.repeat(np.arange(5), self.n_shot), (num_tasks, 1))
        query = np.stack([rng.permutation(np.repeat(np.arange(5), self.n_query // 5)) for _ in range(num_tasks)])
        y = np.concatenate([support, query], 1)
        x = np.take_along_axis(centre, y[..., None], 1) + rng.standard_normal((*y.shape, 8))
        inputs, labels, s = torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y), 5 * self.n_shot
        return ebmeta.TaskBatch(inputs[:, :s], labels[:, :s], inputs[:, s:], labels[:, s:])


def with_true_prior(likelihood: str, noise: float = 1.0) -> ebmeta.EmpiricalBayes:
    """Return a model without refinement that knows prior and noise."""
    model = ebmeta.EmpiricalBayes.regressor(2, likelihood, num_steps=0, standardize=False).double()
    scale = torch.from_numpy(SCALE)
    with torch.no_grad():
        model.prior.loc.copy_(torch.from_numpy(LOC))
        model.prior.log_scale.copy_(scale.diagonal().log())
        model.prior.lower.copy_(scale / scale.diagonal()[:, None])
        if likelihood == "normal":
            model.likelihood.log_noise.fill_(np.log(noise))
    return model


def exact_information() -> dict[str, Any]:
    """Compare the information with closed forms that need no draws, and with two estimates that know no formula."""
    one_row = LinearGaussianTasks(np.zeros(3), np.eye(3), noise=0.7, n_support=1)
    integral = integrate.quad(lambda s: np.log1p((1 + s) / 0.49) * stats.chi2.pdf(s, 2) / 2, 0, 200)[0]
    means = LinearGaussianTasks(np.zeros(1), np.ones((1, 1)), noise=0.5, n_support=4)
    checks = {
        "one_row": (float(linear_gaussian_information(one_row, 200_000)["total"]), integral),
        "intercept": (float(linear_gaussian_information(means, 2)["total"]), np.log(17) / 2),
    }
    family = LinearGaussianTasks(LOC, SCALE, 0.5, n_support=5, n_query=1, seed=2)
    exact = float(linear_gaussian_information(family, 200_000)["total"])
    model = with_true_prior("normal", 0.5)
    rate = rate_distortion(model, family.sample(200_000))["rate"][0, 0]
    bracket = mutual_information(model, family.sample(4000))
    spare = [float((bracket["rate"] - bracket[side])[0]) for side in ("lower", "upper")]
    checks |= {"rate": (float(rate), exact), "lower": (float(rate) - spare[0], exact)}
    checks |= {"upper": (float(rate) - spare[1], exact)}
    return {name: {"found": f, "exact": e, "relative": f / e - 1} for name, (f, e) in checks.items()}


def row(data: xr.Dataset, rows: str, step: int, **more: Any) -> dict[str, Any]:
    """Return one row of the table of bounds."""
    part = data.sel(rows=rows).isel(step=step)
    names = ("gap", "gap_half_width", "rate", "proxy_per_row", "bound_rate", "tightness_rate")
    optional = ("bound_information", "tightness_information")
    out = {name: float(part[name]) for name in (*names, *(n for n in optional if n in part))}
    out = {name: value if np.isfinite(value) else "-" for name, value in out.items()}
    holds = bool(part["gap"] - part["gap_half_width"] <= part["bound_rate"])
    if "bound_information" in part:
        holds &= bool(part["gap"] - part["gap_half_width"] <= part["bound_information"])
    return out | {"holds": "yes" if holds else "no", "verdict": data.attrs["verdict"]} | more


def linear_gaussian() -> dict[str, Any]:
    """Return the table for exact posteriors, whose information is known."""
    out = {}
    for noise in (0.5, 2.0):
        for rows in (2, 5, 20, 50):
            tasks = LinearGaussianTasks(LOC, SCALE, noise, n_support=rows, n_query=20, seed=3)
            exact = linear_gaussian_information(tasks, 20_000)
            total, model = float(exact["total"]), with_true_prior("normal", noise)
            data = generalization_gap(model, tasks.sample(20_000), information=total, num_draws=8)
            fixed = float((2 * exact["proxy_per_row"] * exact["given_task"]) ** 0.5)
            gap = float(exact["gap"])
            out[f"noise_{noise:g}_rows_{rows}".replace(".", "p")] = row(
                data,
                "support",
                0,
                information=total,
                given_inputs={
                    "information": float(exact["given_task"]),
                    "gap": gap,
                    "bound": fixed,
                    "tightness": fixed / gap,
                },
            )
    return out


def coupled(iterations: int = 1000) -> dict[str, Any]:
    """Return both gaps of a trained refiner where inputs inform the weights."""
    source = {
        seed: LinearGaussianTasks(LOC, SCALE, 0.5, COUPLING, n_support=3, n_query=20, seed=seed) for seed in (0, 9)
    }
    model = ebmeta.EmpiricalBayes.regressor(2, beta=0.0, standardize=False)
    ebmeta.fit(model, source[0], 500, 64, objective="evidence", learning_rate=2e-2, device="cpu", progress=False)
    ebmeta.fit(model, source[0], iterations, 64, learning_rate=5e-3, device="cpu", progress=False)
    model = model.double()
    data = generalization_gap(model, source[9].sample(20_000), num_draws=8)
    seen = LinearGaussianTasks(LOC, SCALE, 0.5, COUPLING, n_support=3, n_query=10, seed=9)
    found = mutual_information(model, seen.sample(2000))
    exact = float(linear_gaussian_information(seen, 20_000, transductive=True)["total"])
    steps = {f"{name}_by_step": found[name].values.tolist() for name in ("rate", "lower", "upper")}
    rows = {
        f"{rows}_{'initial' if k == 0 else 'last'}": row(data, rows, k)
        for rows in ("support", "query")
        for k in (0, -1)
    }
    return rows | steps | {"exact_transductive_information": exact}


def yes_no() -> dict[str, Any]:
    """Return the table for logistic regression with the true prior."""
    out: dict[str, Any] = {}
    model = with_true_prior("bernoulli")
    for rows in (5, 20):
        tasks = YesNo(rows, seed=4)
        found = mutual_information(model, tasks.sample(4000))
        upper = min(float(found["upper"][0]), float(found["rate"][0]))
        for loss in ("nll", "error"):
            data = generalization_gap(model, tasks.sample(20_000), loss=loss, information=upper, num_draws=8)
            out[f"{loss}_rows_{rows}"] = row(data, "support", 0, information=[float(found["lower"][0]), upper])
    return out


def classes() -> dict[str, Any]:
    """Return the table for a trained classifier of simulated clouds, before and after refinement."""
    out: dict[str, Any] = {}
    for shots in (1, 5):
        model = ebmeta.EmpiricalBayes.classifier(8, num_steps=3)
        ebmeta.fit(model, Clouds(shots), 500, 16, learning_rate=1e-2, device="cpu", progress=False)
        tasks = Clouds(shots, seed=5)
        for loss in ("nll", "error"):
            data = generalization_gap(model, tasks, 4000, loss=loss)
            for k, name in ((0, "initial"), (-1, "last")):
                for rows in ("support", "query"):
                    out[f"{loss}_shots_{shots}_{rows}_{name}"] = row(data, rows, k)
    return out


def digits(num_tasks: int) -> dict[str, Any]:
    """Return rate, distortion and the gap on new digits over beta; each model is trained anew."""
    sources, models = demo.samplers(0), {}
    for beta in BETAS:
        model = models[f"{beta:g}"] = ebmeta.EmpiricalBayes.classifier(demo.SIDE**2, demo.NUM_STEPS, beta)
        objective = ebmeta.Objective(anytime=demo.ANYTIME)
        how = {"objective": objective, "learning_rate": LEARNING_RATE, "device": "cpu", "progress": False}
        run = ebmeta.fit(model, sources["train"], ITERATIONS, **how)
        print(f"beta {beta:g}: trained in {run.seconds:.0f} s", flush=True)
    test = sources["test"].sample(num_tasks)
    curve = rate_distortion(models, test, num_draws=16)
    save_figure(rate_distortion_plot(curve), FIGURES / "rate_distortion.png", overwrite=True)
    out: dict[str, Any] = {}
    for name, model in models.items():
        scores, gap = ebmeta.evaluate(model, test), generalization_gap(model, test, loss="error", num_draws=16)
        out[name.replace(".", "p")] = {
            "beta": model.beta,
            **{str(key): values.values.tolist() for key, values in curve.sel(model=name).items()},
            "accuracy": scores["accuracy"].values.tolist(),
            "ece": scores["ece"].values.tolist(),
            "gap": row(gap, "support", -1),
        }
    return out


def powers(num_tasks: int) -> dict[str, Any]:
    """Return rate and distortion of the joint model of CIFAR-FS over the power of its likelihood, set at inference.

    Its steps correct nothing: network and temperature are trained for one power. With these there is one more point.
    """
    out: dict[str, Any] = {}
    for name, kind in KINDS.items():
        tasks, curves = kind.sampler("val", 23).sample(num_tasks), {}
        for factor in POWERS:
            model = uncorrected(classifier())
            with torch.no_grad():
                model.prior.log_power.add_(float(np.log(factor)))
            curves[f"{factor:g}"] = model
        curves["network"] = classifier()
        data = rate_distortion(curves, tasks, num_draws=8)
        save_figure(rate_distortion_plot(data), FIGURES / f"power_{kind.n_shot}.png", overwrite=True)
        out[name] = {}
        for factor, model in curves.items():
            found = {str(key): v.values.round(4).tolist() for key, v in data.sel(model=factor).items()}
            out[name][factor.replace(".", "p")] = found | {"power": round(float(model.prior.power.detach()), 4)}
        print(name, out[name], flush=True)
    return out


def report(data: xr.Dataset) -> dict[str, Any]:
    """Return every number of a report on synthetic gradients."""
    numbers = {str(n): v.values.tolist() for n, v in data.items() if v.dims == ("step",)}
    return numbers | {name: data.attrs[name] for name in ("num_tasks", "verdict", "words")}


def gradients(num_tasks: int) -> dict[str, Any]:
    """Return the reports of the CIFAR-FS model on validation classes."""
    model, out = classifier("mixture"), {}
    for kind in KINDS.values():
        data = synthetic_gradients(model, kind.sampler("val", 21), num_tasks)
        save_figure(synthetic_gradient_plot(data), FIGURES / f"gradients_{kind.n_shot}.png", overwrite=True)
        out[f"shots_{kind.n_shot}"] = report(data)
    return out


def main() -> None:
    """Run all parts, or those asked for, and write after each."""
    parts = {
        "exact": exact_information,
        "linear_gaussian": linear_gaussian,
        "coupled": coupled,
        "yes_no": yes_no,
        "classes": classes,
        "powers": lambda: powers(TEST_TASKS),
        "gradients": lambda: gradients(TASKS),
        "digits": lambda: digits(TEST_TASKS),
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=list(parts), default=list(parts), help="parts to run")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    kept = {name: value for name, value in read(NAME).items() if name in ("cpu_seconds", *parts)}
    for name in arguments.only:
        started = time.process_time()
        kept[name] = parts[name]()
        kept.setdefault("cpu_seconds", {})[name] = round(time.process_time() - started, 1)
        print(name, kept["cpu_seconds"][name], "s", flush=True)
        write(NAME, {"tasks": TASKS, "test_tasks": TEST_TASKS, "iterations": ITERATIONS} | kept)


if __name__ == "__main__":
    main()

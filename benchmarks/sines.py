"""Few-shot regression of sines in the published setting: 5 support points, in range and out of range.

A regression model on a basis of learned frequencies, on other bases and on a small network. Settings are chosen on
validation tasks by the negative log likelihood of single labels in range; test tasks are scored once. The oracle
knows the family and integrates amplitude and phase out. Scores of a task are means over its queries:

- `mse`: squared error of the predictive mean against noisy labels, over the 195 queries; `mse_200`: over all 200
  points of the task, the 5 of support among them, as the code of NGGP has it;
- `nll`: negative log likelihood of single labels in nats, over the queries;
- `joint_nll`: the score that the code of NGGP prints: minus the logarithm of the *joint* density of the labels of all
  200 points given the 5 of support, divided by 200.

Methods may be run one at a time; the result file keeps the others: `python benchmarks/sines.py [METHOD ...]`
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import ebmeta
from ebmeta.parts.basis import FourierBasis, build_basis
from ebmeta.parts.gaussian import FullGaussian
from ebmeta.plots.curves import fitted_curve
from ebmeta.simulate import conjugate
from ebmeta.simulate.sines import SineTasks
from ebmeta.tasks.batch import TaskBatch
from lib.common import ROOT, read, write

RANGES = {"in_range": (-5.0, 5.0), "out_of_range": (-5.0, 10.0)}
FAMILY = SineTasks(seed=0)
VALIDATION_TASKS, VALIDATION_SEED = 500, 1
TEST_TASKS, TEST_SEED = 1000, 2
BATCH, ITERATIONS = 64, 1000
Z90 = 1.6448536269514722
#: `notebooks/Sines_results.ipynb` in the code of Sendera et al. 2021; `nll` there is `joint_nll` here.
PUBLISHED = {
    "dkt_rbf": {"in_range": {"mse": 1.357, "nll": -0.760}, "out_of_range": {"mse": 2.942, "nll": -0.694}},
    "dkt_spectral": {"in_range": {"mse": 0.019, "nll": -0.835}, "out_of_range": {"mse": 0.036, "nll": -0.698}},
    "nggp_spectral": {"in_range": {"mse": 0.018, "nll": -0.833}, "out_of_range": {"mse": 0.026, "nll": -0.799}},
}
FIGURE = ROOT.parent / "docs" / "_static" / "sines" / "curves.png"


def network() -> nn.Module:
    """Return the network of the published deep kernels: two hidden layers of 40 units."""
    return nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU())


def embedder(kind: str) -> tuple[nn.Module, int]:
    """Return features of the input, measured on training tasks where they are a basis, and their number."""
    if kind == "network":
        return network(), 40
    name, _, count = kind.partition("_")
    size = "num_knots" if name == "spline" else "num_frequencies"
    learned = {"learned": True} if name == "fourier" else {}
    basis = build_basis({"name": name, size: int(count), **learned})
    basis.measure(FAMILY.training().sample(200).support_x)
    return basis, basis.num_features


def candidate(features: str, objective: str, steps: int = 0, rate: float = 2e-2, length: int = 1) -> dict[str, Any]:
    """Return the settings of one training run."""
    return {
        "features": features,
        "objective": objective,
        "steps": steps,
        "rate": rate,
        "iterations": length * ITERATIONS,
    }


OBJECTIVES = ("evidence", "predictive")
#: What is tried for each method; validation tasks choose.
CANDIDATES: dict[str, list[dict[str, Any]]] = {
    "fourier": [candidate(f"fourier_{count}", objective) for count in (1, 2, 4, 8) for objective in OBJECTIVES],
    "refined": [candidate("fourier_4", "predictive", steps=3)],
    "random": [candidate("random_16", objective) for objective in OBJECTIVES],
    "spline": [candidate(f"spline_{count}", "evidence", length=3) for count in (8, 16)],
    "network": [
        candidate("network", objective, rate=rate, length=3) for objective in OBJECTIVES for rate in (5e-3, 1e-2)
    ],
}


def train(settings: dict[str, Any]) -> tuple[ebmeta.EmpiricalBayes, float]:
    """Return a trained model and the seconds that its training took."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        features, count = embedder(settings["features"])
    beta = 0.1 if settings["steps"] else 0.0
    model = ebmeta.EmpiricalBayes.regressor(count, num_steps=settings["steps"], beta=beta, embedder=features)
    run = ebmeta.fit(
        model,
        FAMILY.training(),
        settings["iterations"],
        BATCH,
        objective=settings["objective"],
        learning_rate=settings["rate"],
        device="cpu",
        progress=sys.stderr.isatty(),
    )
    return model, run.seconds


def everything(batch: TaskBatch) -> tuple[Tensor, Tensor]:
    """Return inputs and labels of all points of every task, the support first."""
    return torch.cat([batch.support_x, batch.query_x], 1), torch.cat([batch.support_y, batch.query_y], 1)


@torch.no_grad()
def scores(model: ebmeta.EmpiricalBayes, batch: TaskBatch) -> dict[str, np.ndarray]:
    """Return every score of every task."""
    x, y = everything(batch)
    s = batch.support_x.shape[1]
    table = ebmeta.predict(model, TaskBatch(batch.support_x, batch.support_y, x), num_draws=0)["predictive"]
    mean, std, labels = table["mean"].values[-1], table["std"].values[-1], y.double().numpy()
    z = (labels - mean) / std
    path = model.double().posterior(batch.to(torch.float64))
    q, ways = FullGaussian(path[-1].loc, path[-1].precision), torch.ones(y.shape, dtype=torch.bool)
    features, noise = model.predictor.features(x.double()), model.likelihood.dispersion()
    joint = -conjugate.log_evidence(q, features, y.double(), ways, noise).numpy() / y.shape[1]
    model.float()
    return {
        "mse": np.square(labels - mean)[:, s:].mean(1),
        "mse_200": np.square(labels - mean).mean(1),
        "nll": (z**2 / 2 + np.log(std) + np.log(2 * np.pi) / 2)[:, s:].mean(1),
        "joint_nll": joint,
        "coverage_90": (np.abs(z) <= Z90)[:, s:].mean(1),
    }


def oracle(family: SineTasks, batch: TaskBatch) -> dict[str, np.ndarray]:
    """Return the scores of the exact predictions of one who knows the family."""
    x, y = everything(batch)
    mean, nll = family.exact(batch)
    again = family.log_evidence(torch.cat([batch.support_x, x], 1), torch.cat([batch.support_y, y], 1))
    joint = (family.log_evidence(batch.support_x, batch.support_y) - again) / y.shape[1]
    assert batch.query_y is not None  # these tasks are labelled
    error = (batch.query_y.double() - mean).square().mean(1)
    return {"mse": error.numpy(), "nll": nll.mean(1).numpy(), "joint_nll": joint.numpy()}


def summary(values: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """Return mean and standard error over tasks of every score."""
    return {k: [round(float(v.mean()), 5), round(float(v.std(ddof=1) / len(v) ** 0.5), 5)] for k, v in values.items()}


def found(model: ebmeta.EmpiricalBayes) -> dict[str, Any]:
    """Return what evidence made of the noise and, for a Fourier basis, of the frequencies."""
    with torch.no_grad():
        out: dict[str, Any] = {"noise": round(float(model.likelihood.dispersion()) ** 0.5, 5)}
    basis = model.predictor.embedder
    if isinstance(basis, FourierBasis):
        out["pairs"] = basis.multiples.shape[1]
        fresh, _ = embedder(f"fourier_{basis.multiples.shape[1]}")
        out["start"] = np.round(fresh.angular_frequencies.detach()[0].double().numpy(), 4).tolist()
        out["frequencies"] = np.round(basis.angular_frequencies.detach()[0].double().numpy(), 4).tolist()
        away = [abs(abs(f) - 1) for f in out["frequencies"]]
        nearest = int(np.argmin(away))
        out["nearest_start"], out["nearest_error"] = out["start"][nearest], round(away[nearest], 5)
        out["pairs_at_1"] = sum(a < 0.02 for a in away)
        out["pairs_at_0"] = sum(abs(f) < 0.02 for f in out["frequencies"])
    return out


def figure(model: ebmeta.EmpiricalBayes, path: Path) -> None:
    """Draw three tasks in range and three out of range."""
    from matplotlib.figure import Figure

    axes = Figure(figsize=(9.6, 5.0), layout="constrained").subplots(2, 3, sharex="row", sharey=True)
    for row, (name, x_range) in zip(axes, RANGES.items(), strict=True):
        family = SineTasks(x_range=x_range, seed=3)
        batch, x = family.sample(3), np.linspace(*x_range, 200)[:, None]
        truth = family.curves(family.truth(3), torch.from_numpy(x).expand(3, -1, -1))
        for t, ax in enumerate(row):
            fitted_curve(model, batch.support_x[t], batch.support_y[t], x, truth=truth[t, 0], ax=ax)
            ax.set_title(f"{name.replace('_', ' ')}, task {t + 1}", fontsize=9)
    whole = axes[0, 0].figure
    whole.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole.savefig(path, dpi=80)


def report(method: str, validation: TaskBatch, tests: dict[str, TaskBatch]) -> dict[str, Any]:
    """Train every candidate of a method, choose on validation tasks, and score the choice on test tasks."""
    runs, models = [], []
    for settings in CANDIDATES[method]:
        model, seconds = train(settings)
        value = summary(scores(model, validation))
        runs.append({**settings, "seconds": round(seconds, 1), "validation": value, "found": found(model)})
        models.append(model)
        print(method, settings, value, flush=True)
    best = min(range(len(runs)), key=lambda k: runs[k]["validation"]["nll"][0])
    if method == "fourier":
        figure(models[best], FIGURE)
    test = {name: summary(scores(models[best], batch)) for name, batch in tests.items()}
    return {"chosen": runs[best], **test, "candidates": runs}


def main(methods: list[str]) -> None:
    """Run the methods named, all by default, and write the result."""
    unknown = set(methods) - {*CANDIDATES, "oracle"}
    if unknown:
        raise SystemExit(f"expected methods of {[*CANDIDATES, 'oracle']}, got {sorted(unknown)}")
    families = {name: SineTasks(x_range=x_range, seed=TEST_SEED) for name, x_range in RANGES.items()}
    tests = {name: family.sample(TEST_TASKS) for name, family in families.items()}
    validation = SineTasks(seed=VALIDATION_SEED).sample(VALIDATION_TASKS)
    result: dict[str, Any] = {k: v for k, v in read("sines.json").items() if k in {*CANDIDATES, "oracle"}}
    for method in methods or [*CANDIDATES, "oracle"]:
        if method == "oracle":
            result[method] = {name: summary(oracle(families[name], batch)) for name, batch in tests.items()}
        else:
            result[method] = report(method, validation, tests)
        print(method, {name: result[method][name] for name in RANGES}, flush=True)
    settings = {
        "training_tasks": BATCH * ITERATIONS,
        "validation_tasks": VALIDATION_TASKS,
        "test_tasks": TEST_TASKS,
        "seeds": {"training": FAMILY.seed, "validation": VALIDATION_SEED, "test": TEST_SEED},
        "published": PUBLISHED,
    }
    write("sines.json", settings | result)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Real grouped data: a new group with 1, 3, 5 or 10 labelled rows, ebmeta beside what a statistician would do.

Ten splits by group; every method gets the same rows and features. Which likelihood ebmeta takes, whether covariates of
groups move its prior, and on which basis of the features it works, is chosen on training groups of the first split, by
the log score of held-out ones. Where that is another basis than the one given, EM runs on it too.
Resumable: each (set, method) is a piece. `python benchmarks/hierarchical_regression.py [--only SET ...]`
"""

from __future__ import annotations

import argparse
import time
from functools import cache
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import ebmeta
from lib.common import read, write
from lib.groups.data import GIVEN, SETS, Groups, load, splits
from lib.groups.peers import PEERS
from lib.groups.scores import LEVELS, normal_scores, scores

NAME = "hierarchical_regression.json"
SPLITS, SUPPORT, FOLDS = 10, (1, 3, 5, 10), 2
LIKELIHOODS = ("normal", "normal_per_task")

Task = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]


def held_out_tasks(held: Groups, support: int, seed: int) -> list[Task]:
    """Return support X, support y, query X, query y and covariates of each held-out group that has rows enough."""
    tasks = []
    for number, group in enumerate(np.unique(held.groups)):
        own = held.rows(held.groups == group)
        if len(own.y) <= support:
            continue
        order = np.random.default_rng((seed, number)).permutation(len(own.y))
        s, q = order[:support], order[support:]
        covariates = None if own.covariates is None else own.covariates[0]
        tasks.append((own.X[s], own.y[s], own.X[q], own.y[q], covariates))
    return tasks


def fitted(train: Groups, likelihood: str, covariates: bool) -> ebmeta.EmpiricalBayes:
    """Fit a model by the evidence of all training rows, with the uncertainty of its parameters."""
    group_X = train.covariates if covariates else None
    sampler = ebmeta.GroupSampler(train.X, train.y, train.groups, n_support=0, group_X=group_X)
    wide = 0 if group_X is None else group_X.shape[1]
    model = ebmeta.EmpiricalBayes.regressor(train.X.shape[1], likelihood, num_steps=0, num_covariates=wide).double()
    ebmeta.fit_evidence(model, sampler, hyperprior=True, boundary=False)
    return ebmeta.propagate(model, sampler)


def score_model(model: ebmeta.EmpiricalBayes, tasks: list[Task]) -> list[dict[str, float]]:
    """Score a model on all tasks at once."""

    def as_tensors(i: int) -> list[torch.Tensor]:
        return [torch.from_numpy(task[i]) for task in tasks]  # type: ignore[arg-type]

    task_x = torch.from_numpy(np.stack([t[4] for t in tasks])) if model.prior.num_covariates else None
    batch = ebmeta.TaskBatch.from_tasks(as_tensors(0), as_tensors(1), as_tensors(2), as_tensors(3), task_x=task_x)
    with torch.no_grad():
        inferred = model.infer(batch)
        mean = inferred.predict(-1)["mean"]
        log_density = inferred.log_prob(-1, batch.query_y, torch.zeros(1), predictive=True)
        quantiles = inferred.quantile(-1, torch.from_numpy(LEVELS))
    out = []
    for t, real in enumerate(batch.query_mask):
        parts = (v[t][real].numpy() for v in (batch.query_y, mean, log_density))
        out.append(scores(*parts, quantiles[:, t][:, real].numpy().T))
    return out


def choose(train: Groups) -> tuple[str, bool, str]:
    """Return likelihood, use of covariates and basis of the best log score at 3 support rows, on training groups.

    Covariates and basis are chosen with normal noise, and the likelihood after them.
    """
    covariates = (False,) if train.covariates is None else (False, True)
    options = [("normal", use, basis) for basis in (GIVEN, *train.bases) for use in covariates]
    best = min(options, key=lambda option: held_out_nll(train, *option))
    return min([(name, *best[1:]) for name in LIKELIHOODS], key=lambda option: held_out_nll(train, *option))


@cache
def held_out_nll(train: Groups, likelihood: str, covariates: bool, basis: str) -> float:
    """Return the NLL at 3 support rows of held-out training groups, a mean over folds."""
    nll = []
    for seed in range(FOLDS):
        part, rest = splits(train.on(basis), seed=99 + seed)
        scored = score_model(fitted(part, likelihood, covariates), held_out_tasks(rest, 3, seed))
        nll.append(np.mean([s["nll"] for s in scored]))
    return float(np.mean(nll))


def piece(name: str, method: str) -> dict[str, Any]:
    """Return the scores of one method on one set, a list over splits for each number of support rows."""
    data = load(name)
    option = choose(splits(data, 0)[0]) if method == "ebmeta" else None
    chosen = () if option is None else zip(("likelihood", "covariates", "basis"), option, strict=True)
    out: dict[str, Any] = dict(chosen)
    basis = GIVEN if option is None else option[2]
    if method == "em_basis":
        basis = stored()[name]["ebmeta"]["basis"]
        if basis == GIVEN:
            return {}
    data = data.on(basis)
    started = time.process_time()
    rows: dict[str, list[dict[str, float]]] = {str(s): [] for s in SUPPORT}
    for seed in range(SPLITS):
        train, held = splits(data, seed)
        unit = train.y.std()
        model = fitted(train, *option[:2]) if option is not None else PEERS[method](train)
        for support in SUPPORT:
            tasks = held_out_tasks(held, support, seed)
            if not tasks:
                continue
            if isinstance(model, ebmeta.EmpiricalBayes):
                each = score_model(model, tasks)
            else:
                each = [normal_scores(y, *model(sx, sy, x)) for sx, sy, x, y, _ in tasks]
            mean = {key: float(np.mean([s[key] for s in each])) for key in each[0]}
            rows[str(support)].append(
                {
                    "rmse": mean["squared_error"] ** 0.5 / unit,
                    "nll": mean["nll"],
                    "crps": mean["crps"] / unit,
                    "coverage": mean["coverage"],
                    "width": mean["width"] / unit,
                    "groups": len(tasks),
                }
            )
    out["cpu_seconds"] = round(time.process_time() - started, 2)
    out["support"] = {
        s: {key: np.round([r[key] for r in each], 5).tolist() for key in each[0]} for s, each in rows.items() if each
    }
    return out


def main() -> None:
    """Run what is not in the results yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=list(SETS), choices=list(SETS))
    parser.add_argument("--methods", nargs="*", default=["ebmeta", *PEERS])
    parser.add_argument("--again", action="store_true", help="do pieces again that are there")
    arguments = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    for name, method in tqdm([(n, m) for n in arguments.only for m in arguments.methods], disable=None):
        wanted = arguments.again or method not in stored().get(name, {})
        if wanted and (found := piece(name, method)):
            result = stored()  # read again: another process may have written its own pieces
            result.setdefault(name, {})[method] = found
            write(NAME, {"splits": SPLITS, "sets": result})


def stored() -> dict[str, Any]:
    """Return the pieces that are done."""
    done: dict[str, Any] = read(NAME).get("sets", {})
    return done


if __name__ == "__main__":
    main()

"""Mixed models beside mixedlm, mixedlm-rs, gpboost and statsmodels: the same estimates, and the time of one thread.

Estimates on data sets of the field, and processor seconds of whole calls (formula and frame in, standard errors out) on
simulated groups of some five rows. Peers run in an interpreter of their own. Resumable: each set and size is a piece.
`OMP_NUM_THREADS=1 python benchmarks/mixed_models.py --peers PYTHON [--only sets crossed time growth]`
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

import ebmeta
from lib.common import data_folder, read, write

NAME = "mixed_models.json"
PEERS = Path(__file__).parent / "lib" / "groups" / "formula_peers.py"
#: Name: file, our formula, theirs where it differs, likelihood, REML.
SETS: dict[str, tuple[str, str, str | None, str, bool]] = {
    "sleepstudy": ("sleepstudy", "Reaction ~ Days + (Days | Subject)", None, "normal", True),
    "sleepstudy_ml": ("sleepstudy", "Reaction ~ Days + (Days | Subject)", None, "normal", False),
    "oxboys": ("oxboys", "height ~ age + (age | Subject)", None, "normal", True),
    "exam": ("exam", "normexam ~ standLRT + (standLRT | school)", None, "normal", True),
    "radon": ("radon_minnesota", "radon ~ basement + uranium + (basement | county)", None, "normal", True),
    "cbpp": ("cbpp", "prop(incidence, size) ~ period + (1 | herd)", "share ~ period + (1 | herd)", "binomial", False),
    "grouseticks": ("grouseticks", "TICKS ~ YEAR + cHEIGHT + (1 | BROOD)", None, "poisson", False),
    "toenail": ("toenail", "y ~ treatment * time + (1 | patientID)", None, "bernoulli", False),
}
TEXTS = {"period": "str", "YEAR": "str"}
NODES = 25  # of the peer's quadrature
SIZES = {"normal": (1_000, 20_000, 125_066), "poisson": (1_000, 5_000), "bernoulli": (1_000, 5_000)}
#: Name: users, items, rows.
CROSSED = {"small": (200, 50, 5_000), "large": (20_000, 2_000, 1_000_000)}
TRUE, LARGE = (0.6, 0.4), 100_000  # spreads of users and items; rows from which no peer is asked
RESPONSES = {"normal": "y", "poisson": "c", "bernoulli": "z"}
NESTED = "normexam ~ standLRT + (1 | school/intake)"  # of exam, by REML
GROWTH = (1_000, 10_000, 100_000, 1_000_000)
PIECES = ["sets", "crossed", "time", "growth"]
REPEATS = {"normal": 5, "poisson": 15, "bernoulli": 15}  # turns
SLOW, WARM = 20.0, 60  # a peer that takes longer than SLOW seconds runs once; rows of a call before the timed one


def load(name: str) -> pd.DataFrame:
    data = pd.read_csv(data_folder() / "regression" / f"{name}.csv", dtype=TEXTS)
    data = data.rename(columns={"log.radon": "radon", "county.name": "county_name"})
    if name == "cbpp":
        data["share"] = data["incidence"] / data["size"]
    if name == "toenail":
        data["y"] = (data["outcome"] == "moderate or severe").astype(int)
    return data


def simulated(num_groups: int) -> pd.DataFrame:
    """Return groups of one row and a Poisson number of mean 4 more, with labels of three kinds."""
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(num_groups), rng.poisson(4, num_groups) + 1)
    x = rng.normal(size=len(g))
    eta = 0.3 + 0.5 * x + 0.7 * rng.normal(size=num_groups)[g]
    labels = {"c": rng.poisson(np.exp(eta)), "z": rng.binomial(1, 1 / (1 + np.exp(-eta)))}
    return pd.DataFrame({"y": eta + rng.normal(size=len(g)), **labels, "x": x, "g": g})


def ask(peers: Path, **job: Any) -> dict[str, Any]:
    """Return the answer of one package, or why there is none."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    run = subprocess.run(
        [peers, PEERS, json.dumps({"effects": False, "nodes": 1, "reml": False, "texts": TEXTS} | job)],
        env=os.environ | threads,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    lines = (run.stdout.strip() or run.stderr.strip() or "no answer").splitlines()
    return json.loads(lines[-1]) if run.returncode == 0 else {"error": lines[-1][:200]}


def far(ours: Any, theirs: Any) -> float:
    """Return the largest difference, relative to the largest number."""
    a, b = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    return float(np.abs(a - b).max() / np.abs(b).max())


def compare(name: str, peers: Path, folder: Path) -> dict[str, Any]:
    """Return our estimates on one set, and how far they are from the peer's."""
    file, formula, other, likelihood, reml = SETS[name]
    data = load(file)
    data.to_csv(folder / "data.csv", index=False)
    fit = ebmeta.mixed_model(formula, data, likelihood, reml=reml)
    size = "size" if name == "cbpp" else None
    job = {"file": str(folder / "data.csv"), "formula": other or formula, "likelihood": likelihood, "reml": reml}
    peer = ask(peers, package="mixedlm", nodes=NODES, effects=True, size=size, **job)
    if "error" in peer:
        raise SystemExit(f"{name}: {peer['error']}")
    factor = fit.engine.factors[0]
    covariance = factor.covariance(fit.estimate.theta, fit.estimate.sigma)
    effects = np.stack([peer["effects"][t] for t in peer["effects"]], 1)
    sd = np.sqrt(np.einsum("gkk->gk", fit._effects[0].covariance))
    modes = fit._effects[0].mean if fit._effects[0].mode is None else fit._effects[0].mode  # which peers give
    return {
        "terms": list(fit.fixed_effects.index),
        "estimate": fit.fixed_effects["estimate"].round(6).tolist(),
        "std_error": fit.fixed_effects["std_error"].round(6).tolist(),
        "spread": np.sqrt(np.diag(covariance)).round(6).tolist(),
        "log_likelihood": round(fit.log_likelihood, 5),
        "peer_log_likelihood": round(peer["log_likelihood"], 5),
        "far": {
            "estimate": far(fit.estimate.beta, peer["beta"]),
            "std_error": far(fit.fixed_effects["std_error"], peer["std_error"]),
            "covariance": far(covariance, peer["covariance"]),
            "log_likelihood": abs(fit.log_likelihood - peer["log_likelihood"]),
            "effects_in_sd": float((np.abs(modes - effects) / sd).max()),
            "means_in_sd": float((np.abs(fit._effects[0].mean - effects) / sd).max()),
        },
    }


def clock(likelihood: str, num_groups: int, peers: Path, folder: Path) -> dict[str, Any]:
    """Return the median seconds of all packages, in turns, and where their maxima are."""
    data, response = simulated(num_groups), RESPONSES[likelihood]
    data.to_csv(folder / "data.csv", index=False)
    formula = f"{response} ~ x + (1 | g)"
    packages = ["mixedlm", "gpboost", *(["mixedlm_rs"] if likelihood == "normal" else [])]
    packages += ["statsmodels"] if likelihood == "normal" and num_groups == 1_000 else []
    seconds: dict[str, list[float]] = {name: [] for name in ("ebmeta", *packages)}
    answers: dict[str, dict[str, Any]] = {}
    for _ in range(REPEATS[likelihood]):
        ebmeta.mixed_model(formula, data[:WARM], likelihood)
        begin = time.process_time()
        fit = ebmeta.mixed_model(formula, data, likelihood)
        _ = fit.fixed_effects
        seconds["ebmeta"].append(time.process_time() - begin)
        for name in packages:
            if max(seconds[name], default=0.0) > SLOW or "error" in answers.get(name, {}):
                continue
            job = {"formula": formula, "common": f"{response} ~ x", "random": "1", "likelihood": likelihood}
            answers[name] = ask(peers, package=name, file=str(folder / "data.csv"), warm=WARM, **job)
            seconds[name] += [answers[name]["seconds"]] if "seconds" in answers[name] else []
    spread = float(fit.variance_components["estimate"].iloc[0])
    out: dict[str, Any] = {
        "rows": len(data),
        "spread": round(spread, 5),
        "log_likelihood": round(fit.log_likelihood, 4),
    }
    out["median"] = {name: round(float(np.median(times)), 4) for name, times in seconds.items() if times}
    out["ratio"] = {  # of turns
        name: round(float(np.median([a / b for a, b in zip(seconds["ebmeta"], times, strict=False)])), 3)
        for name, times in seconds.items()
        if times
    }
    out["peers"] = {
        name: {
            k: round(v, 5) if isinstance(v, float) else v
            for k, v in found.items()
            if k in ("log_likelihood", "spread", "error")
        }
        for name, found in answers.items()
    }
    return out


def crossed(name: str, peers: Path, folder: Path) -> dict[str, Any]:
    """Return spreads of crossed or nested groups, and where the peer finds them; of the largest, beside the truth."""
    num_users, num_items, num_rows = CROSSED[name]
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, num_users, num_rows), rng.integers(0, num_items, num_rows)
    x, own = rng.normal(size=num_rows), (TRUE[0] * rng.normal(size=num_users), TRUE[1] * rng.normal(size=num_items))
    y = 3 + 0.5 * x + own[0][user] + own[1][item] + rng.normal(size=num_rows)
    data, formula = pd.DataFrame({"y": y, "x": x, "u": user, "i": item}), "y ~ x + (1 | u) + (1 | i)"
    begin = time.process_time()  # of one thread, on a machine that others use too
    fit = ebmeta.mixed_model(formula, data)
    _ = fit.fixed_effects
    seconds = time.process_time() - begin
    table = fit.variance_components
    out = {
        "cpu_seconds": round(seconds, 1),
        "spread": table["estimate"].round(5).tolist(),
        "std_error": table["std_error"].round(5).tolist(),
        "slope": round(fit.fixed_effects.loc["x", "estimate"], 5),
        "peak_gigabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "log_likelihood": round(fit.log_likelihood, 4),
    }
    if num_rows < LARGE:
        data.to_csv(folder / "data.csv", index=False)
        job = {"file": str(folder / "data.csv"), "formula": formula, "likelihood": "normal"}
        peer = ask(peers, package="mixedlm", **job)
        out |= {"peer_log_likelihood": round(peer["log_likelihood"], 4), "peer_seconds": round(peer["seconds"], 1)}
    return out


def nested(peers: Path, folder: Path) -> dict[str, Any]:
    """Return estimates of groups within groups, and how far they are from the peer's."""
    data = load("exam")
    data.to_csv(folder / "data.csv", index=False)
    fit = ebmeta.mixed_model(NESTED, data, reml=True)
    peer = ask(peers, package="mixedlm", file=str(folder / "data.csv"), formula=NESTED, likelihood="normal", reml=True)
    return {
        "estimate": fit.fixed_effects["estimate"].round(6).tolist(),
        "spread": fit.variance_components["estimate"].round(6).tolist(),
        "log_likelihood": round(fit.log_likelihood, 5),
        "peer_log_likelihood": round(peer["log_likelihood"], 5),
        "far": {
            "estimate": far(fit.estimate.beta, peer["beta"]),
            "std_error": far(fit.fixed_effects["std_error"], peer["std_error"]),
            "spread": far(fit.variance_components["estimate"].iloc[0], np.sqrt(peer["covariance"][0][0])),
        },
    }


def grow(num_groups: int) -> dict[str, float]:
    """Return processor seconds and peak memory of one fit of normal labels, in a process of its own."""
    data = simulated(num_groups)[["y", "x", "g"]]
    ebmeta.mixed_model("y ~ x + (1 | g)", data[:WARM])
    begin = time.process_time()
    fit = ebmeta.mixed_model("y ~ x + (1 | g)", data)
    _ = fit.fixed_effects
    seconds = time.process_time() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "rows": len(data),
        "cpu_seconds": round(seconds, 4),
        "peak_gigabytes": round(peak, 2),
        "spread": round(float(fit.variance_components["estimate"].iloc[0]), 5),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--peers", type=Path, required=True, help="an interpreter with mixedlm, mixedlm-rs, gpboost, statsmodels"
    )
    parser.add_argument("--only", nargs="*", choices=PIECES, default=PIECES)
    arguments = parser.parse_args()
    result: dict[str, Any] = {name: {} for name in PIECES} | read(NAME)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for each in tqdm([s for s in SETS if s not in result["sets"] and "sets" in arguments.only]):
            result["sets"][each] = compare(each, arguments.peers, folder)
            write(NAME, result)
        for each in tqdm([c for c in CROSSED if c not in result["crossed"] and "crossed" in arguments.only]):
            result["crossed"] |= {each: crossed(each, arguments.peers, folder)}
            write(NAME, result)
        if "exam" not in result["crossed"] and "crossed" in arguments.only:
            result["crossed"] |= {"exam": nested(arguments.peers, folder)}
            write(NAME, result)
        for size in tqdm([n for n in GROWTH if str(n) not in result["growth"] and "growth" in arguments.only]):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                result["growth"] |= {str(size): pool.submit(grow, size).result()}
            write(NAME, result)
        for likelihood, sizes in SIZES.items() if "time" in arguments.only else ():
            part = result["time"].setdefault(likelihood, {})
            for num_groups in tqdm([n for n in sizes if str(n) not in part]):
                part[str(num_groups)] = clock(likelihood, num_groups, arguments.peers, folder)
                write(NAME, result)


if __name__ == "__main__":
    main()

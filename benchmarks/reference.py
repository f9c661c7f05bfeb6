"""Reference posteriors: the fully Bayesian model against published ones, NumPyro for 100 tasks against Pyro.

`python benchmarks/reference.py` writes results/reference.json:

- `eight_schools`, `radon`: for every parameter, the distance of its posterior mean from the published one, and of its
  standard deviation, in published standard deviations; the largest of each;
- `speed`: NUTS on 100 five-way one-shot tasks of handwritten digits, all in one NumPyro program; and Pyro's NUTS on
  `model.model`, one task after the other, for the first few of them, with the time for all 100 extrapolated. Agreement
  is the difference of posterior means in its Monte-Carlo standard error.

Times are wall-clock seconds, compilation included, and processor seconds, which count what other work on the machine
does not.
"""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import arviz as az
import numpy as np
import numpyro.distributions as dist
import pandas as pd
import pyro
import torch
from pyro.infer import MCMC, NUTS

import ebmeta
from ebmeta import reference
from ebmeta.app import demo
from lib.common import data_folder, write

NUM_TASKS, PYRO_TASKS = 100, 3
SETTINGS = {"num_warmup": 500, "num_draws": 1000, "num_chains": 4}


def published(name: str) -> Any:
    """Return one file of the eight schools."""
    with zipfile.ZipFile(data_folder() / "reference" / "eight_schools" / f"{name}.json.zip") as file:
        return json.loads(file.read(file.namelist()[0]))


def distances(draws: dict[str, np.ndarray], moments: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
    """Return for every parameter the distance of mean and of SD, in published SDs, and convergence diagnostics."""
    out: dict[str, Any] = {}
    for name, values in draws.items():
        loc, scale = (np.asarray(m) for m in moments[name])
        mean, std = values.mean((0, 1)), values.std((0, 1))
        data = az.convert_to_dataset({"x": values})
        out[name] = {
            "mean": np.round(mean, 4).tolist(),
            "sd": np.round(std, 4).tolist(),
            "mean_off": float(np.abs((mean - loc) / scale).max()),
            "sd_off": float(np.abs((std - scale) / scale).max()),
            "rhat": float(az.rhat(data)["x"].max()),
            "ess": float(az.ess(data)["x"].min()),
        }
    worst = {k: max(v[k] for v in out.values()) for k in ("mean_off", "sd_off", "rhat")}
    return {"parameters": out} | worst | {"ess": min(v["ess"] for v in out.values())}


def timed(run: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Return what a function returns, and its wall-clock and processor seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    value = run()
    return value, {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def eight_schools() -> dict[str, Any]:
    """Compare with 10,000 reference draws of posteriordb."""
    data, chains = published("data"), published("reference_draws")
    sd = np.array(data["sigma"], float)
    tree, seconds = timed(
        lambda: reference.hierarchical(
            reference.Rows(np.array(data["y"], float), np.arange(1, 9), size=1 / sd**2),
            hyperpriors={"w_loc": dist.Normal(0, 5), "w_scale": dist.HalfCauchy(5), "noise": 1.0},
            num_draws=5000,
            target_accept=0.95,
            seed=1,
        )
    )
    names = [f"theta[{j}]" for j in range(1, 9)]
    stacked = {name: np.concatenate([c[name] for c in chains]) for name in (*names, "mu", "tau")}
    moments = {name: (v.mean(), v.std()) for name, v in stacked.items()}
    draws = {name: tree["posterior/w"].values[:, :, j, 0, 0] for j, name in enumerate(names)}
    draws |= {"mu": tree["posterior/w_loc"].values[..., 0], "tau": tree["posterior/w_scale"].values[..., 0]}
    return distances(draws, moments) | seconds | {"divergences": int(tree["sample_stats/diverging"].sum())}


def radon() -> dict[str, Any]:
    """Compare with the moments of a long run of inference_gym."""
    folder = data_folder() / "reference"
    table = pd.read_csv(folder / "radon_minnesota_contextual.csv")
    known = json.loads((folder / "inference_gym_moments.json").read_text())["radon_contextual_effects_minnesota"]
    floor = table["floor"].to_numpy(float)
    of_county = table.groupby("county_idx")["floor"].transform("mean").to_numpy()
    columns = np.stack([table["log_uranium"].to_numpy(), floor, of_county], 1)
    unit, wide = dist.Normal(0, 1), dist.Uniform(0, 100)
    tree, seconds = timed(
        lambda: reference.hierarchical(
            reference.Rows(table["log_radon"].to_numpy(), table["county_idx"].to_numpy(), fixed=columns),
            hyperpriors={"w_loc": unit, "fixed": unit, "w_scale": wide, "noise": wide},
            num_draws=2500,
            seed=1,
        )
    )
    posterior = {str(name): v.values for name, v in tree["posterior"].to_dataset().items()}
    draws = {
        "COUNTY_EFFECT": posterior["w"][..., 0, 0],
        "COUNTY_EFFECT_MEAN": posterior["w_loc"][..., 0],
        "COUNTY_EFFECT_SCALE": posterior["w_scale"][..., 0],
        "LOG_RADON_SCALE": posterior["noise"],
        "WEIGHT": posterior["fixed"],
    }
    moments = {name: (known[f"IDENTITY_{name}_MEAN"], known[f"IDENTITY_{name}_STANDARD_DEVIATION"]) for name in draws}
    return distances(draws, moments) | seconds | {"divergences": int(tree["sample_stats/diverging"].sum())}


def statistics(draws: np.ndarray) -> dict[str, np.ndarray]:
    """Return mean, R-hat and effective size of every parameter of draws `(chain, draw, ...)`."""
    data = az.convert_to_dataset({"x": draws})
    return {"mean": draws.mean((0, 1)), "rhat": az.rhat(data)["x"].values, "ess": az.ess(data)["x"].values}


def pyro_nuts(model: ebmeta.EmpiricalBayes, batch: ebmeta.TaskBatch, seed: int) -> np.ndarray:
    """Return draws `(chain, draw, way, feature)` of one task by Pyro's NUTS on the model's own program."""
    pyro.set_rng_seed(seed)
    chains = []
    for _ in range(SETTINGS["num_chains"]):
        mcmc = MCMC(
            NUTS(model.model, jit_compile=True, ignore_jit_warnings=True),
            num_samples=SETTINGS["num_draws"],
            warmup_steps=SETTINGS["num_warmup"],
            disable_progbar=True,
        )
        with pyro.get_param_store().scope():
            mcmc.run(batch, "support")
        chains.append(mcmc.get_samples()["w"][:, 0].numpy())
    return np.stack(chains)


def speed() -> dict[str, Any]:
    """Run NUTS on the same tasks in NumPyro, all at once, and in Pyro, one by one."""
    samplers = demo.samplers(0)
    model = ebmeta.EmpiricalBayes.classifier(64)
    ebmeta.fit(model, samplers["train"], 100, progress=False)
    model.requires_grad_(False)
    batch = samplers["test"].sample(NUM_TASKS)
    tree, seconds = timed(lambda: reference.nuts(model, batch, **SETTINGS, seed=1))
    _, again = timed(lambda: reference.nuts(model, batch, **SETTINGS, seed=2))
    w = tree["posterior/w"].values
    ours = statistics(w)
    print("numpyro", seconds, again, ours["rhat"].max(), flush=True)
    tasks, z, ratio = [], [], []
    for t in range(PYRO_TASKS):
        draws, spent = timed(lambda t=t: pyro_nuts(model, batch[t : t + 1], t))
        theirs = statistics(draws)
        std = w[:, :, t].std((0, 1))
        error = np.sqrt(std**2 / ours["ess"][t] + draws.std((0, 1)) ** 2 / theirs["ess"])
        z.append((ours["mean"][t] - theirs["mean"]) / error)
        ratio.append(std / draws.std((0, 1)))
        tasks.append(spent | {"rhat": float(theirs["rhat"].max()), "ess": float(theirs["ess"].min())})
        print("pyro", tasks[-1], float(np.abs(z[-1]).max()), flush=True)
    extrapolated = {k: NUM_TASKS * float(np.mean([task[k] for task in tasks])) for k in ("seconds", "cpu_seconds")}
    return {
        "settings": SETTINGS,
        "tasks": NUM_TASKS,
        "weights_per_task": int(np.prod(w.shape[3:])),
        "numpyro": seconds
        | {"seconds_without_compilation": again["seconds"], "cpu_seconds_without_compilation": again["cpu_seconds"]}
        | {"rhat": float(ours["rhat"].max()), "ess": float(ours["ess"].min())}
        | {"divergences": int(tree["sample_stats/diverging"].sum())},
        "pyro": {"tasks": PYRO_TASKS, "each": tasks, "extrapolated": extrapolated},
        "times_faster": extrapolated["seconds"] / seconds["seconds"],
        "times_faster_cpu": extrapolated["cpu_seconds"] / seconds["cpu_seconds"],
        "agreement": {
            "weights": int(np.size(z)),
            "largest_z": float(np.abs(z).max()),
            "rms_z": float(np.sqrt(np.mean(np.square(z)))),
            "sd_ratio": [float(np.min(ratio)), float(np.mean(ratio)), float(np.max(ratio))],
        },
    }


def main() -> None:
    """Run the comparisons and write the result."""
    torch.set_num_threads(1)
    result = {"eight_schools": eight_schools(), "radon": radon(), "speed": speed()}
    result["libraries"] = {name: version(name) for name in ("numpyro", "jax", "pyro-ppl", "arviz")}
    for name in ("eight_schools", "radon"):
        print(name, {k: v for k, v in result[name].items() if k != "parameters"})
    write("reference.json", result)


if __name__ == "__main__":
    main()

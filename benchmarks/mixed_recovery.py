"""Every family of mixed models on data with a known answer, and beside NUTS with the same priors.

Twenty sets of 100 groups of eight rows are drawn from each family by NumPy and fitted: the bias of each parameter in
units of its standard error, and how often the 95% intervals of the common terms hold the truth. The first set is also
drawn by NUTS: the differences of posterior means from those of `propagate`, in posterior standard deviations.
Resumable: each (family, side) is a piece. `python benchmarks/mixed_recovery.py [--only FAMILY ...] [--sides fits nuts]`
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from tqdm import tqdm

import ebmeta
from ebmeta.reference import Rows, hierarchical
from lib.common import read, write
from lib.mixed_families import COMMON, FAMILIES, FORMULA, simulate, truth

NAME = "mixed_recovery.json"
SEEDS, DRAWS = 20, 512
WIDE = 20.0  # a standard deviation that stands for a flat density


def table_of(fit: ebmeta.mixed.MixedModel) -> pd.DataFrame:
    """Return estimates and intervals of all parameters by name."""
    return pd.concat([fit.fixed_effects, fit.variance_components.droplevel("factor")])


def fits(name: str) -> dict[str, Any]:
    """Return bias and coverage over the seeds."""
    exact, off, held, seconds, converged = pd.Series(truth(name)), [], [], [], 0
    for seed in range(SEEDS):
        data, options = simulate(name, seed)
        begin = time.process_time()
        fit = ebmeta.mixed_model(FORMULA, data, name, **options)
        table = table_of(fit).loc[exact.index]
        seconds.append(time.process_time() - begin)
        converged += fit.converged
        off.append((table["estimate"] - exact) / table["std_error"])
        held.append((table["lower"] <= exact) & (exact <= table["upper"]))
    bias, inside = pd.DataFrame(off), pd.DataFrame(held)
    return {
        "bias": {k: round(float(v), 3) for k, v in bias.mean().items()},
        "scatter": {k: round(float(v), 3) for k, v in bias.std(ddof=1).items()},
        "coverage": {k: round(float(v), 3) for k, v in inside.mean().items()},
        "coverage_of_common_terms": round(float(inside[list(COMMON)].to_numpy().mean()), 4),
        "largest_bias": round(float(bias.mean().abs().max()), 3),
        "converged": int(converged),
        "seconds": round(float(np.median(seconds)), 3),
    }


def site_of(drawn: xr.DataTree, name: str) -> np.ndarray:
    """Return the draws of a site, or of the sum of its first entries, as many as stand after a point."""
    site, _, place = name.partition(".")
    values = drawn[site].to_numpy()
    return values[..., : int(place)].sum(-1).ravel() if place else values.ravel()


def nuts(name: str) -> dict[str, Any]:
    """Return how far posterior means and standard deviations of `propagate` are from those of NUTS."""
    import numpyro.distributions as dist

    data, options = simulate(name, 0)
    size = data["n"].to_numpy() if "size" in options else None
    sites = FAMILIES[name].sites
    flat = {"w_loc": dist.Normal(0.0, WIDE), "fixed": dist.Normal(0.0, WIDE), "w_scale": dist.HalfNormal(WIDE)}
    rows = Rows(data["y"].to_numpy(), data["g"].to_numpy(), None, data[["x"]].to_numpy(), size)
    begin = time.process_time()
    tree = hierarchical(rows, name, flat | FAMILIES[name].flat(), num_warmup=500, num_draws=500, num_chains=4)
    seconds = time.process_time() - begin
    drawn = tree["posterior"]
    names = {"Intercept": "w_loc", "x": "fixed", "sd(Intercept)": "w_scale"} | sites
    found = table_of(ebmeta.mixed_model(FORMULA, data, name, **options).propagate(DRAWS)).loc[list(names)]
    values = {ours: site_of(drawn, theirs) for ours, theirs in names.items()}
    mean, sd = (np.array([f(v) for v in values.values()]) for f in (np.mean, np.std))
    far, wide = (found["estimate"] - mean) / sd, found["std_error"] / sd
    return {
        "difference": {k: round(float(v), 3) for k, v in far.items()},
        "ratio_of_sds": {k: round(float(v), 3) for k, v in wide.items()},
        "largest_difference": round(float(far.abs().max()), 3),
        "divergences": int(tree["sample_stats"]["diverging"].sum()),
        "seconds": round(seconds, 1),
    }


SIDES = {"fits": fits, "nuts": nuts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    options = parser.parse_args()
    result = read(NAME)
    result |= {"seeds": SEEDS, "families": {name: result.get("families", {}).get(name, {}) for name in FAMILIES}}
    for side in options.sides:
        for name in tqdm(options.only, desc=side):
            if side not in result["families"][name]:
                result["families"][name][side] = SIDES[side](name)
                write(NAME, result)


if __name__ == "__main__":
    main()

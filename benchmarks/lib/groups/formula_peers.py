"""Fits of other packages, in an interpreter that has them: one job in, read from JSON, one answer out.

Run by `mixed_models.py` as `PYTHON formula_peers.py JOB`, a job being a package, a file and a formula.
It imports none of ebmeta, which that interpreter lacks.
Times are of the processor, and leave out imports and the reading of the file.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from typing import Any

import numpy as np
import pandas as pd


def of_mixedlm(data: pd.DataFrame, job: dict[str, Any]) -> dict[str, Any]:
    import mixedlm

    if job["likelihood"] == "normal":
        fit = mixedlm.lmer(job["formula"], data, REML=job["reml"])
    else:
        family = mixedlm.families.Poisson() if job["likelihood"] == "poisson" else mixedlm.families.Binomial()
        fit = mixedlm.glmer(job["formula"], data, family=family, nAGQ=job["nodes"], weights=job.get("size"))
    spread = next(group.cov for group in fit.VarCorr().groups.values())
    effects = next(iter(dict(fit.ranef()).values())) if job["effects"] else {}
    return {
        "beta": [float(v) for v in fit.fixef().values()],
        "std_error": np.sqrt(np.diag(fit.vcov())).tolist(),
        "covariance": np.asarray(spread).tolist(),
        "log_likelihood": float(fit.logLik().value),
        "effects": {name: np.asarray(value).tolist() for name, value in effects.items()},
    }


def of_mixedlm_rs(data: pd.DataFrame, job: dict[str, Any]) -> dict[str, Any]:
    import mixedlm_rs

    fit = mixedlm_rs.mixedlm(job["common"], data, groups="g", re_formula=job["random"]).fit(reml=job["reml"])
    return {"log_likelihood": float(fit.llf)}


def of_statsmodels(data: pd.DataFrame, job: dict[str, Any]) -> dict[str, Any]:
    import statsmodels.formula.api as smf

    fit = smf.mixedlm(job["common"], data, groups="g", re_formula=job["random"]).fit(reml=job["reml"])
    return {"log_likelihood": float(fit.llf)}


def of_gpboost(data: pd.DataFrame, job: dict[str, Any]) -> dict[str, Any]:
    import gpboost

    names = {"normal": "gaussian", "poisson": "poisson", "bernoulli": "bernoulli_logit"}
    response = job["common"].partition("~")[0].strip()
    model = gpboost.GPModel(group_data=data["g"].to_numpy(), likelihood=names[job["likelihood"]])
    x = np.column_stack([np.ones(len(data)), data["x"]])
    model.fit(y=data[response].to_numpy(dtype=float), X=x)
    model.get_coef(std_err=True)
    variance = float(np.asarray(model.get_cov_pars()).ravel()[-1])
    return {"log_likelihood": -float(model.get_current_neg_log_likelihood()), "spread": variance**0.5}


PACKAGES = {"mixedlm": of_mixedlm, "mixedlm_rs": of_mixedlm_rs, "statsmodels": of_statsmodels, "gpboost": of_gpboost}


if __name__ == "__main__":
    task = json.loads(sys.argv[1])
    warnings.simplefilter("ignore")
    rows = pd.read_csv(task["file"], dtype=task.get("texts"))
    PACKAGES[task["package"]](rows[: task.get("warm", len(rows))], task)  # imports and compiles
    begin = time.process_time()
    found = PACKAGES[task["package"]](rows, task)
    print("\n" + json.dumps(found | {"seconds": time.process_time() - begin}))

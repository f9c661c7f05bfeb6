"""The same netCDF files, read and diagnosed under both major lines of ArviZ.

    python benchmarks/arviz_versions.py PYTHON [PYTHON ...]

writes predictions, NUTS draws of the fully Bayesian model, and the importance ratios behind the k-hat of
`check_posteriors`, to netCDF files; has each interpreter (this one first) read them, run what
`ebmeta.prediction.arviz` offers and ArviZ's own k-hat, and draw ArviZ's figures of them; and writes what each found,
with the largest difference between them, to results/arviz_versions.json. The other interpreters need ArviZ, h5netcdf,
h5py and matplotlib, and neither torch nor ebmeta: `ebmeta/prediction/arviz.py` is loaded by itself.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

ROOT = Path(__file__).resolve().parent.parent
FILES = ("steps_0", "steps_3", "classes", "hierarchical")
RATIO_TASKS = 100
PACKAGES = ("arviz", "arviz-base", "arviz-stats", "arviz-plots", "xarray", "h5netcdf", "numpy", "torch")


def make(folder: Path) -> None:
    """Write the files: predictions before and after refinement, of classes, and draws of the hierarchical model."""
    import torch

    import ebmeta
    from ebmeta import reference
    from ebmeta.simulate.linear_gaussian import LinearGaussianTasks

    torch.set_num_threads(1)
    tasks = LinearGaussianTasks(np.zeros(3), np.eye(3), 0.5, n_support=3, n_query=6)
    batch = tasks.sample(12)
    model = ebmeta.EmpiricalBayes.regressor(2)
    ebmeta.fit(model, tasks, 100, 16, progress=False)
    for steps in (0, 3):
        tree = ebmeta.predict(model, batch, num_steps=steps, num_draws=1000)
        tree.to_netcdf(folder / f"steps_{steps}.nc", engine="h5netcdf")
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(12), 20)
    features = rng.normal(size=(12, 8))[label] + rng.normal(size=(240, 8))
    episodes = ebmeta.EpisodeSampler(features, label, 3, 2, 4)
    tree = ebmeta.predict(ebmeta.EmpiricalBayes.classifier(8), episodes.sample(4), num_draws=200)
    tree.to_netcdf(folder / "classes.nc", engine="h5netcdf")
    sd = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])
    rows = reference.Rows(np.array([28.0, 8, -3, 7, -1, 1, 18, 12]), list("ABCDEFGH"), size=1 / sd**2)
    tree = reference.hierarchical(rows, hyperpriors={"noise": 1.0}, num_draws=500)
    tree.to_netcdf(folder / "hierarchical.nc", engine="h5netcdf")
    write_ratios(folder)


def write_ratios(folder: Path) -> None:
    """Write importance ratios of Poisson tasks, after one step of the initializer, and their k-hat."""
    import torch

    from ebmeta.diagnostics import check_posteriors
    from ebmeta.diagnostics.passes import passes
    from lib.count_tasks import count_tasks

    model, batch = count_tasks("poisson", RATIO_TASKS, 7)
    model.initializer.num_steps = 1
    checks = check_posteriors(model, batch, num_draws=1000, seed=3)
    with torch.no_grad():
        ratios = [part.draw(-1).log_ratio.T for part in passes(model, batch, "support", None, 1000, 3)]
    data = {"log_ratio": (("task", "draw"), torch.cat(ratios).numpy()), "khat": ("task", checks["khat"][-1].values)}
    xr.Dataset(data).to_netcdf(folder / "ratios.nc", engine="h5netcdf")


def _interop() -> Any:
    spec = importlib.util.spec_from_file_location("interop", ROOT / "ebmeta" / "prediction" / "arviz.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(folder: Path) -> dict[str, Any]:
    """Diagnose the files under the installed ArviZ; return versions and numbers."""
    warnings.simplefilter("ignore")
    import arviz
    import matplotlib

    matplotlib.use("Agg")
    interop = _interop()
    old = hasattr(arviz, "from_datatree")
    trees = {name: xr.open_datatree(folder / f"{name}.nc", engine="h5netcdf").load() for name in FILES}
    before, after, classes, nuts = (trees[name] for name in FILES)
    numbers: dict[str, Any] = {}

    z = np.random.default_rng(0).normal(size=4000)
    for scale in (0.5, 2.0):  # a normal that is too narrow, and one that is too wide, for a standard normal
        numbers[f"khat_scale_{scale}"] = float(interop.psis((1 - scale**2) * z**2 / 2)[1])
    ratios = xr.open_dataset(folder / "ratios.nc", engine="h5netcdf").load()
    log_ratio = ratios["log_ratio"]
    by_arviz = arviz.psislw(log_ratio.values)[1] if old else (-log_ratio).azstats.psislw(dim="draw")[1]
    numbers["khat_tasks"] = interop.psis(log_ratio.values)[1].tolist()
    numbers["khat_tasks_by_arviz"] = np.asarray(by_arviz).tolist()
    numbers["khat_tasks_by_check_posteriors"] = ratios["khat"].values.tolist()
    for name, tree in (("loo", nuts), ("loo_predictions", after)):
        result = interop.loo(tree)
        numbers[f"{name}_elpd"] = float(result["elpd_loo"] if old else result.elpd)
        numbers[f"{name}_khat"] = np.ravel(result.pareto_k).tolist()
    table = interop.compare({"K=0": before, "K=3": after})
    numbers["compare"] = {name: float(table["elpd_diff"][name]) for name in ("K=0", "K=3")}
    seen = interop.compare({"a": nuts, "b": nuts.isel(draw=slice(250))}, seen=True)
    numbers["compare_seen_rows"] = len(seen)
    numbers["held_out_classes"] = float(interop.held_out(classes).sum())
    numbers["pit"] = interop.pit(after).values.ravel().tolist()
    numbers["loo_pit"] = interop.pit(nuts, seen=True).values.tolist()
    one, many = interop.summary(after, var_names=["w"]), interop.summary(nuts, var_names=["w_loc", "w_scale"])
    numbers["summary_rhat"] = {"one_chain": "r_hat" in one, "four_chains": "r_hat" in many}
    numbers["summary_rows"] = len(one)
    data = interop.to_arviz(nuts)
    numbers["rhat"] = float(np.ravel(arviz.rhat(data, var_names=["w_scale"])["w_scale"])[0])
    numbers["ess"] = float(np.ravel(arviz.ess(data, var_names=["w_scale"])["w_scale"])[0])
    figures = {
        "plot_trace": lambda: arviz.plot_trace(data, var_names=["w_scale"]),
        "plot_forest": lambda: arviz.plot_forest(data, var_names=["w"]),
        "plot_khat": lambda: arviz.plot_khat(interop.loo(nuts)),
        "plot_loo_pit": lambda: arviz.plot_loo_pit(data, **({"y": "y"} if old else {})),
        "plot_posterior": lambda: (arviz.plot_posterior if old else arviz.plot_dist)(
            interop.to_arviz(after.isel(task=slice(2)))
        ),
    }
    for draw in figures.values():
        draw()
        matplotlib.pyplot.close("all")
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "absent"
    return {
        "python": platform.python_version(),
        "versions": versions,
        "figures": list(figures),
        "numbers": numbers,
    }


def run(python: str, folder: Path) -> dict[str, Any]:
    """Run `check` under an interpreter.

    Raises:
        RuntimeError: if it fails there.
    """
    plain = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run([python, __file__, "--check", str(folder)], capture_output=True, text=True, env=plain)
    if done.returncode:
        raise RuntimeError(f"{python}: expected the checks to run, got\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _flat(value: Any) -> np.ndarray:
    return np.ravel(list(value.values()) if isinstance(value, dict) else value).astype(float)


def difference(one: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """Return the largest absolute difference between two runs, by name of the number."""
    return {name: float(np.abs(_flat(value) - _flat(other[name])).max()) for name, value in one.items()}


def khats(found: dict[str, Any]) -> dict[str, float]:
    """Return the largest difference of k-hat from ArviZ's own, of the interface and of `check_posteriors`."""
    ours, own, checked = (_flat(found[f"khat_tasks{of}"]) for of in ("", "_by_arviz", "_by_check_posteriors"))
    return {
        "tasks": len(own),
        "share_above": float((own > 0.7).mean()),
        "interface": float(np.abs(ours - own).max()),
        "check_posteriors": float(np.abs(checked - own).max()),
        "same_side": float(((checked > 0.7) == (own > 0.7)).mean()),
    }


def main() -> None:
    """Write the files, run the checks under every interpreter, and write the result."""
    from lib.common import write

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder)
        runs = [run(python, folder) for python in (sys.executable, *sys.argv[1:])]
    lines = {f"arviz_{r['versions']['arviz'].partition('.')[0]}": r for r in runs}
    first, *others = lines
    result: dict[str, Any] = {"lines": lines, "khat": {name: khats(r["numbers"]) for name, r in lines.items()}}
    result["differences"] = {name: difference(lines[first]["numbers"], lines[name]["numbers"]) for name in others}
    write("arviz_versions.json", result)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--check"]:
        print(json.dumps(check(Path(sys.argv[2]))))
    else:
        main()

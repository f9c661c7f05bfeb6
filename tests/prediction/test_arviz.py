"""ArviZ takes the trees."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import arviz as az
import numpy as np
import pytest
import torch
import xarray as xr
from builders import class_tasks, classifier, real_tasks, regressor
from scipy import stats
from scipy.special import logsumexp

import ebmeta
from ebmeta.prediction import arviz as interop


def test_arviz_summarises_the_draws():
    tree = ebmeta.predict(regressor(), real_tasks(supports=(4, 4), queries=(6, 6)), num_draws=50)
    data = interop.to_arviz(tree)
    draws = tree["posterior/w"]
    table = az.summary(data, var_names=["w"], kind="stats", round_to=8)
    np.testing.assert_allclose(table["mean"].to_numpy(), draws.mean(("chain", "draw")).values.ravel(), atol=1e-6)


def test_loo_of_nearly_constant_weights_is_the_mean_log_likelihood():
    """With narrow posteriors importance weights are flat: the harmonic and arithmetic means meet."""
    batch = real_tasks(supports=(1000, 1000), queries=(6, 6), noise=1.0)
    tree = ebmeta.predict(regressor(num_steps=0, scale=0.0), batch, num_draws=4000)
    result = interop.loo(tree)
    logp = tree["log_likelihood/query_y"].values[0]
    exact = -(logsumexp(-logp, axis=0) - np.log(len(logp)))  # importance sampling without smoothing
    np.testing.assert_allclose(np.ravel(result["loo_i"].values), exact.ravel(), atol=0.05)
    assert float(np.max(result["pareto_k"].values)) < 0.7


def test_trees_that_cannot_be_judged():
    batch = class_tasks()
    for tree, message in (
        (ebmeta.predict(classifier(), batch.unlabelled()), "expected predictions of labelled tasks"),
        (ebmeta.predict(classifier(), batch), "expected tasks of equal size, got padded queries"),
    ):
        with pytest.raises(ValueError, match=message):
            interop.loo(tree)
    with pytest.raises(ValueError, match="expected a tree with posterior draws, got groups"):
        interop.to_arviz(ebmeta.predict(classifier(), batch, num_draws=0))


def hand_made(y, new, score, ways=1):
    """Build a tree of labels, replicated labels and log likelihoods; draws lead."""
    shape = {"chain": 1, "draw": len(score)}
    rows = ("chain", "draw", "task", "query")
    groups = {
        "/posterior": {"w": ((*shape, "task", "way"), np.zeros((1, len(score), len(y), ways)))},
        "/posterior_predictive": {"query_y": (rows, new[None])},
        "/log_likelihood": {"query_y": (rows, score[None])},
        "/observed_data": {"query_y": (rows[2:], y)},
    }
    return xr.DataTree.from_dict({name: xr.Dataset(variables) for name, variables in groups.items()})


def test_khat_has_the_right_sign_and_weights_the_right_mean():
    """A proposal of scale s for a standard normal has k = 1 - s^2: it is heavy where the proposal is too narrow."""
    z = np.random.default_rng(0).normal(size=(20000,))
    for scale, low, high in ((0.5, 0.55, 0.95), (0.8, 0.1, 0.6), (2.0, -9, 0)):
        weights, shape = interop.psis((1 - scale**2) * z**2 / 2)  # draws are scale * z
        assert low < shape < high
        np.testing.assert_allclose(logsumexp(weights), 0, atol=1e-8)
    np.testing.assert_allclose(np.exp(weights) @ (2.0 * z) ** 2, 1.0, rtol=0.05)  # the variance of the target


def test_held_out_score_and_comparison():
    rng = np.random.default_rng(0)
    y, score = rng.normal(size=(4, 3)), rng.normal(size=(2, 50, 4, 3))
    y[0, 2] = score[:, :, 0, 2] = np.nan
    trees = {name: hand_made(y, score[k], score[k]) for k, name in enumerate(("a", "b"))}
    exact = logsumexp(score, axis=1) - np.log(50)
    np.testing.assert_allclose(interop.held_out(trees["b"]).values, exact[1])
    per_task = np.nansum(exact, 2)
    best = int(per_task.sum(1).argmax())
    table = interop.compare(trees)
    assert list(table.index) == ["ab"[best], "ab"[1 - best]]
    np.testing.assert_allclose(table["elpd"], per_task.sum(1)[[best, 1 - best]])
    gap = per_task[1 - best] - per_task[best]
    np.testing.assert_allclose(table.iloc[1][["elpd_diff", "dse"]].astype(float), [gap.sum(), 2 * gap.std(ddof=1)])
    np.testing.assert_allclose(table["se"], 2 * per_task.std(1, ddof=1)[[best, 1 - best]])


def test_only_the_same_labels_are_compared():
    """Other labels of as many rows were compared without a word."""
    batch, model = real_tasks(supports=(4, 4), queries=(6, 6)), regressor()
    tree = ebmeta.predict(model, batch, num_draws=50)
    other = ebmeta.predict(model, replace(batch, query_y=batch.query_y.flip(0)), num_draws=50)
    single = ebmeta.predict(regressor(dtype=torch.float32), batch.to(torch.float32), num_draws=50)
    for seen in (False, True):
        with pytest.raises(ValueError, match="trees: expected the same labels, got other ones for 'a' and 'b'"):
            interop.compare({"a": tree, "b": other}, seen=seen)
    assert len(interop.compare({"a": tree, "b": single})) == 2


def test_the_held_out_score_of_classes_is_that_of_what_is_predicted():
    """Probabilities of a joint model are more than a mean over draws of weights, which was scored in their place."""
    model, batch = classifier(synthetic_gradient="joint").eval(), class_tasks()
    tree = ebmeta.predict(model, batch, num_draws=30)
    probs = tree["predictive/probs"].values[-1]
    got = interop.held_out(tree)
    assert got.dims == ("task", "query")
    for t in range(len(batch)):
        n = int(batch.num_queries[t])
        np.testing.assert_allclose(got.values[t, :n], np.log(probs[t, np.arange(n), batch.query_y[t, :n].numpy()]))
        assert np.isnan(got.values[t, n:]).all()
    drawn = np.log(np.exp(tree["log_likelihood/query_y"].values[0]).mean(0))
    assert np.nanmax(np.abs(drawn - got.values)) > 0.05


def test_pit_of_numbers_counts_and_labels_to_leave_out():
    rng = np.random.default_rng(0)
    # Normal predictions N(0, 1), seen by no draw: the transform is the normal cdf.
    y, new = rng.normal(size=(5, 4)), rng.normal(size=(4000, 5, 4))
    tree = hand_made(y, new, np.zeros_like(new))
    np.testing.assert_allclose(interop.pit(tree).values, stats.norm.cdf(y), atol=5 * 0.5 / np.sqrt(4000))
    # Counts: between the cdf below and at the count.
    count, counts = rng.poisson(2.0, (5, 4)), rng.poisson(2.0, (4000, 5, 4))
    u = interop.pit(hand_made(count, counts, np.zeros(counts.shape))).values
    assert (u > stats.poisson.cdf(count - 1, 2.0) - 0.04).all()
    assert (u < stats.poisson.cdf(count, 2.0) + 0.04).all()
    # One normal mean, flat prior, 10 labels: without label i, it is predicted by the mean of the others.
    y = rng.normal(size=(1, 10))
    mean = y.mean() + rng.normal(size=8000) / np.sqrt(10)
    new = mean[:, None, None] + rng.normal(size=(8000, 1, 10))
    score = stats.norm.logpdf(y, mean[:, None, None])
    others = (y.sum() - y) / 9
    u = interop.pit(hand_made(y, new, score), seen=True)
    np.testing.assert_allclose(u.values, stats.norm.cdf(y, others, np.sqrt(1 + 1 / 9)), atol=0.03)


def test_r_hat_is_for_several_chains():
    tree = ebmeta.predict(regressor(), real_tasks(supports=(4, 4), queries=(6, 6)), num_draws=40)
    assert "r_hat" not in interop.summary(tree)
    split = tree["posterior"].to_dataset()
    chains = [split.isel(draw=slice(k, None, 2)).assign_coords(draw=np.arange(20)) for k in range(2)]
    two = xr.DataTree.from_dict({"/posterior": xr.concat(chains, "chain")})
    assert "r_hat" in interop.summary(two)


def test_bad_arguments():
    rng = np.random.default_rng(0)
    tree = hand_made(np.zeros((2, 3)), np.zeros((30, 2, 3)), rng.normal(size=(30, 2, 3)))
    other = hand_made(np.zeros((2, 2)), np.zeros((30, 2, 2)), np.zeros((30, 2, 2)))
    classes = hand_made(np.zeros((2, 3)), np.zeros((30, 2, 3)), np.zeros((30, 2, 3)), ways=3)
    for call, message in (
        (lambda: interop.psis(np.zeros(10)), "log_ratios: expected at least 25 draws, got 10"),
        (lambda: interop.psis(np.full(30, np.nan)), "log_ratios: expected finite numbers, got nan at 0"),
        (lambda: interop.compare({"a": tree}), r"trees: expected at least two models, got \['a'\]"),
        (lambda: interop.compare({"a": tree, "b": other}), "trees: expected the same labels, got other ones"),
        (lambda: interop.pit(classes), "pit: expected labels that are numbers, got classes"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_files_are_diagnosed_under_the_other_line_of_arviz(tmp_path):
    """An interpreter with ArviZ 1.x, h5netcdf and matplotlib finds in a file what this one finds in it."""
    other = os.environ.get("EBMETA_OTHER_ARVIZ")
    if not other:
        pytest.skip("name the interpreter of an environment with ArviZ 1.x (Python 3.12) in EBMETA_OTHER_ARVIZ")
    tree = ebmeta.predict(regressor(), real_tasks(supports=(4, 4), queries=(6, 6)), num_draws=200)
    tree.to_netcdf(tmp_path / "tree.nc", engine="h5netcdf")
    code = """
import importlib.util, json, sys, types
import numpy as np, xarray as xr, arviz
checks = types.ModuleType("ebmeta.foundation.checks")  # the package's own needs torch
checks.checked, checks.array = (lambda **kinds: lambda function: function), (lambda **kind: None)
sys.modules |= {n: types.ModuleType(n) for n in ("ebmeta", "ebmeta.foundation")} | {"ebmeta.foundation.checks": checks}
spec = importlib.util.spec_from_file_location("interop", sys.argv[1])
interop = importlib.util.module_from_spec(spec)
spec.loader.exec_module(interop)
tree = xr.open_datatree(sys.argv[2], engine="h5netcdf").load()
z = np.random.default_rng(0).normal(size=4000)
print(json.dumps({
    "arviz": arviz.__version__,
    "khat": [float(interop.psis((1 - s**2) * z**2 / 2)[1]) for s in (0.5, 2.0)],
    "held_out": float(interop.held_out(tree).sum()),
    "pareto_k": np.ravel(interop.loo(tree).pareto_k).tolist(),
    "rows": len(interop.summary(tree)),
}))
"""
    command = ["-W", "ignore", "-c", code, interop.__file__, str(tmp_path / "tree.nc")]
    plain = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    ours, theirs = (
        json.loads(subprocess.run([p, *command], check=True, capture_output=True, env=plain).stdout)
        for p in (sys.executable, other)
    )
    assert ours["arviz"].split(".")[0] != theirs["arviz"].split(".")[0]
    assert ours["rows"] == theirs["rows"]
    np.testing.assert_allclose(ours["held_out"], theirs["held_out"])
    for name in ("khat", "pareto_k"):
        np.testing.assert_allclose(ours[name], theirs[name], atol=0.15)


def test_arviz_is_imported_again_where_another_process_was_in_the_way(monkeypatch):
    """On its first import of a day ArviZ moves a file that another process may have moved."""
    tries = []

    def late(name):
        tries.append(name)
        if len(tries) < times:
            raise FileNotFoundError(2, "No such file or directory", "daily_warning.tmp")
        return az

    monkeypatch.setattr(interop.importlib, "import_module", late)
    times = 3
    assert interop._library() is az
    assert tries == ["arviz"] * 3
    tries, times = [], 100
    with pytest.raises(FileNotFoundError, match="daily_warning"):
        interop._library()

"""ArviZ takes the trees."""

import arviz as az
import numpy as np
import pytest
from builders import class_tasks, classifier, real_tasks, regressor
from scipy.special import logsumexp

import ebmeta
from ebmeta import interop


def test_arviz_summarises_the_draws():
    tree = ebmeta.predict(regressor(), real_tasks(supports=(4, 4), queries=(6, 6)), num_draws=50)
    data = interop.to_arviz(tree)
    draws = tree["posterior/w"]
    table = az.summary(data, var_names=["w"], kind="stats", round_to=8)
    np.testing.assert_allclose(table["mean"].to_numpy(), draws.mean(("chain", "draw")).values.ravel(), atol=1e-6)


def test_loo_of_nearly_constant_weights_is_the_mean_log_likelihood():
    """With narrow posteriors importance weights are flat: the harmonic and arithmetic means meet."""
    batch = real_tasks(supports=(60, 60), queries=(6, 6), noise=1.0)
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

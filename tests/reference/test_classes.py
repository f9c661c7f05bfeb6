"""NUTS for class means: beside conjugate posteriors, sums over all labellings, and the Pyro program."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import arviz as az
import jax
import numpy as np
import numpyro
import pytest
import torch
from builders import class_tasks, classifier, joint_model
from jax_programs import density
from pyro import poutine

from ebmeta import TaskBatch, reference
from ebmeta.diagnostics import against_reference
from ebmeta.diagnostics.class_passes import told
from ebmeta.prediction.arviz import held_out
from ebmeta.reference.arrays import in_64_bits
from ebmeta.reference.classes import class_draws
from ebmeta.simulate.gaussian_classes import GaussianClasses

#: Fewer rows than features, so that some directions are seen by the length of their part alone.
CLOUDS = GaussianClasses(12, between=0.5, within=1.0, concentration=2.0, n_way=3, n_query=4)


@cache
def tasks() -> TaskBatch:
    return CLOUDS.sample(4).to(torch.float64)


@cache
def tree(observe="support"):
    return reference.nuts(joint_model(CLOUDS), tasks(), observe=observe, num_draws=1500, seed=1)


def agree(draws, mean, scale) -> None:
    """Means and deviations within 5 Monte-Carlo standard errors each (6e-7)."""
    data = az.convert_to_dataset({"x": draws})
    ess = az.ess(data)["x"].values
    assert ess.min() > 200
    assert float(np.abs((draws.mean((0, 1)) - mean) / (scale / ess**0.5)).max()) < 5
    assert float(np.abs(draws.std((0, 1)) / scale - 1).max()) < 5 / (2 * 200) ** 0.5


@torch.no_grad()
def test_with_all_labels_the_posterior_is_conjugate():
    inferred = joint_model(CLOUDS).infer(tasks())
    known = told(inferred.path[0], inferred.setting, tasks().query_y)
    posterior = tree("both")["posterior"]
    agree(posterior["m"].values, known.loc.numpy(), known.scale.numpy())
    # squared distances from the mean are of chi-squared, whatever the directions that rows tell of: 5 errors (6e-7)
    off = ((posterior["m"].values - known.loc.numpy()) ** 2 * known.precision.numpy()).sum(-1)
    assert abs(off.mean() - 12) < 5 * (2 * 12 / (off[0, 0].size * 200)) ** 0.5
    total = known.shares.sum(1, keepdim=True)
    share = (known.shares / total).numpy()
    agree(posterior["pi"].values, share, np.sqrt(share * (1 - share) / (total.numpy() + 1)))


@torch.no_grad()
def test_without_queries_the_posterior_is_that_of_the_support_set():
    """No public road leads to a task whose queries are all padding."""
    query = tasks().query
    batch = TaskBatch._of(tasks().support, replace(query, mask=torch.zeros_like(query.mask)), tasks().facts)
    with in_64_bits():
        keys = jax.random.split(jax.random.PRNGKey(0), (2, 4))
        drawn, _ = class_draws(joint_model(CLOUDS), batch, "support", keys, (300, 1500), 0)
    q0 = joint_model(CLOUDS).posterior(tasks(), 0)[0]
    agree(np.moveaxis(drawn["m"], 1, 2), q0.loc.numpy(), q0.scale.numpy())
    agree(np.moveaxis(drawn["pi"], 1, 2), 1 / 3, (2 / 63) ** 0.5)


def test_labels_are_summed_out():
    """Mean probabilities of draws beside those of all labellings; and so their scores."""
    _, exact = CLOUDS.exact(tasks())
    eta = joint_model(CLOUDS).predictor.features(tasks().query_x).numpy()[:, None] @ np.swapaxes(
        np.moveaxis(tree()["posterior/w"].values.reshape(-1, 4, 3, 13), 1, 0), -1, -2
    )
    probs = np.exp(eta - eta.max(-1, keepdims=True))
    probs = (probs / probs.sum(-1, keepdims=True)).mean(1)
    np.testing.assert_allclose(probs, exact, atol=0.05)
    assert np.abs(probs - exact.numpy()).mean() < 0.015
    score = held_out(tree()).transpose("task", "query").values
    own = np.take_along_axis(probs, tasks().query_y.numpy()[..., None], -1)[..., 0]
    np.testing.assert_allclose(score, np.log(own), atol=1e-6)


def test_the_tree_is_that_of_other_models_with_means_and_proportions():
    found = tree()
    assert found["posterior/w"].dims == ("chain", "draw", "task", "way", "feature")
    assert found["posterior/m"].dims == ("chain", "draw", "task", "way", "coordinate")
    w, m, pi = (found[f"posterior/{name}"].values for name in ("w", "m", "pi"))
    np.testing.assert_allclose(w[..., :-1], m, rtol=1e-12)  # the spread is 1
    np.testing.assert_allclose(w[..., -1], np.log(pi) - (m**2).sum(-1) / 2, rtol=1e-9)
    np.testing.assert_allclose(pi.sum(-1), 1)
    assert int(found["sample_stats/diverging"].sum()) == 0
    assert set(found["posterior_predictive/query_y"].values.ravel()) == {0, 1, 2}


def test_posteriors_are_compared_with_the_draws():
    """Given the support set alone q_0 is far off; after the steps less so."""
    near = against_reference(joint_model(CLOUDS), tasks(), tree())
    assert float(near["kl"][-1].mean()) < float(near["kl"][0].mean())


TWO = replace(CLOUDS, num_features=3, n_way=2, n_query=6)


@cache
def two_way_tasks() -> TaskBatch:
    """Six tasks; the queries of the last three are far from all classes."""
    batch = TWO.sample(6).to(torch.float64)
    far = torch.tensor([1.0, 1.0, 1.0, 3.0, 3.0, 3.0], dtype=torch.float64)[:, None, None]
    return batch.with_rows(query=replace(batch.query, x=far * batch.query.x))


@cache
def tree_beside_a_class_that_does_not_exist():
    padded = replace(two_way_tasks(), way_mask=torch.tensor([[True, True, False]]).expand(6, -1))
    return reference.nuts(joint_model(TWO), padded, num_draws=1500, seed=2)


def test_classes_that_do_not_exist_have_no_share():
    """Two-way tasks beside one of three ways: beside the exact answer of two ways."""
    found = tree_beside_a_class_that_does_not_exist()
    assert (found["posterior/pi"].values[..., 2] == 0).all()
    score = held_out(found).transpose("task", "query").values
    _, exact = TWO.exact(two_way_tasks())
    own = exact.gather(-1, two_way_tasks().query_y.unsqueeze(-1)).squeeze(-1).numpy()
    np.testing.assert_allclose(np.exp(score[:3]), own[:3], atol=0.03)  # with far rows, chains keep to one mode


def test_rows_are_of_no_class_that_does_not_exist():
    """Far rows would be: the shares of two classes are the exact ones within 5 errors of six tasks (4e-6).

    Given all labels the expected share of a class is (a + its queries) / (2 a + 6), so that it is linear in the
    probabilities of the queries' classes.
    """
    share = tree_beside_a_class_that_does_not_exist()["posterior/pi"].values[..., 0]
    _, probs = TWO.exact(two_way_tasks())
    exact = (2.0 + probs[..., 0].sum(1).numpy()) / (2 * 2.0 + 6)
    error = share.std((0, 1)) / az.ess(az.convert_to_dataset({"x": share}))["x"].values ** 0.5
    assert error.max() < 0.01
    assert float(np.abs((share.mean((0, 1)) - exact) / error).max()) < 5


@torch.no_grad()
def test_the_numpyro_program_has_the_density_of_the_pyro_program():
    model = classifier(4, scale=0.0, synthetic_gradient="joint").eval()
    batch = replace(
        class_tasks((3, 3), (1, 2), (4, 6)), concentration=torch.tensor([2.0, torch.nan], dtype=torch.float64)
    )
    features = [model.predictor.features(rows.x, rows.mask).detach().numpy() for rows in (batch.support, batch.query)]
    rng = np.random.default_rng(0)
    values = {"m": rng.normal(size=(2, 3, 4)), "pi": rng.dirichlet(np.ones(3), 2)}
    for observe in ("support", "both"):
        data = {name: torch.from_numpy(value) for name, value in values.items()}
        traced = poutine.trace(poutine.condition(model.model, data=data)).get_trace(batch, observe)
        if observe == "support":
            traced.nodes.pop("query_y", None)
        labels = batch.query_y.numpy() if observe == "both" else None
        arguments = (features[0], batch.support_y.numpy(), features[1], labels)
        named = {"support_mask": batch.support_mask.numpy(), "query_mask": batch.query_mask.numpy()}
        named |= {"way_mask": batch.way_mask.numpy(), "concentration": batch.concentration.numpy()}
        with in_64_bits():
            log_joint = density(reference.numpyro_model(model), arguments, named, values)
        np.testing.assert_allclose(float(log_joint), float(traced.log_prob_sum()), rtol=1e-6)


@torch.no_grad()
def test_classes_that_do_not_exist_have_no_share_in_numpyro():
    """They had one, which others lacked; the density of what is left is that of each task alone."""
    model, batch = classifier(4, scale=0.0, synthetic_gradient="joint").eval(), class_tasks((3, 2), (1, 2), (4, 4))
    features = [model.predictor.features(rows.x, rows.mask).numpy() for rows in (batch.support, batch.query)]
    arguments = (features[0], batch.support_y.numpy(), features[1], batch.query_y.numpy())
    masks = {"support_mask": batch.support_mask.numpy(), "query_mask": batch.query_mask.numpy()}
    named = masks | {"way_mask": batch.way_mask.numpy()}
    program = numpyro.handlers.seed(reference.numpyro_model(model), 0)
    with in_64_bits():
        drawn = numpyro.handlers.trace(program).get_trace(*arguments, **named)
    pi = np.asarray(drawn["pi"]["value"])
    np.testing.assert_array_equal(pi > 0, batch.way_mask.numpy())
    np.testing.assert_allclose(pi.sum(-1), 1)
    values = {"m": torch.tensor(np.asarray(drawn["m"]["value"])), "pi": torch.tensor(pi)}
    traced = poutine.trace(poutine.condition(model.model, data=values)).get_trace(batch, "both")
    traced.compute_log_prob()
    for name in ("support_x", "query_x", "query_y"):
        site = drawn[name]
        with in_64_bits():
            log_prob = np.asarray(site["fn"].log_prob(site["value"]))
        np.testing.assert_allclose(log_prob, traced.nodes[name]["log_prob"].numpy(), rtol=1e-6)


def test_bad_input_is_refused():
    model = classifier(4, scale=0.0, synthetic_gradient="joint")
    batch = replace(class_tasks(), outliers=torch.tensor([False, True, False, False]))
    with pytest.raises(ValueError, match="nuts: expected tasks without outliers, got some"):
        reference.nuts(model, batch)
    with pytest.raises(ValueError, match="pooled: expected query labels, got unlabelled tasks"):
        reference.nuts(model, class_tasks().unlabelled(), observe="both")
    with pytest.raises(ValueError, match="way_mask: expected which classes exist"):
        numpyro.handlers.seed(reference.numpyro_model(model), 0)(np.ones((1, 1, 5)), [[0]], np.ones((1, 1, 5)))

"""Prediction trees: named, numbered, masked, reproducible, and blind to query labels."""

import dataclasses
import importlib

import numpy as np
import pytest
import torch
import xarray as xr
from builders import class_tasks, classifier, number_tasks, real_tasks, regressor

import ebmeta
from ebmeta.refine.base import Refiner, SyntheticGradient
from ebmeta.refine.class_synthetic_gradient import ClassSyntheticGradient


def test_the_tree_of_a_classifier():
    batch, model = class_tasks(), classifier()
    tree = ebmeta.predict(model, batch, num_draws=7)
    assert set(tree.children) == {
        "posterior",
        "posterior_predictive",
        "log_likelihood",
        "observed_data",
        "constant_data",
        "predictive",
    }
    assert tree["posterior/w"].dims == ("chain", "draw", "task", "way", "feature")
    assert tree["posterior_predictive/query_y"].dims == ("chain", "draw", "task", "query")
    assert tree["predictive/probs"].dims == ("step", "task", "query", "way")
    for group in tree.children.values():
        for dim in group.dims:
            assert group[dim].values.tolist() == list(range(group.sizes[dim]))
    probs, real = tree["predictive/probs"], batch.query_mask.numpy()
    sums = probs.sum("way", skipna=True).values
    np.testing.assert_allclose(sums[:, real], 1, atol=1e-12)
    assert np.isnan(probs.values[:, ~real]).all()
    ways = batch.way_mask.numpy()
    assert np.isnan(probs.values[-1, 0, 0, ~ways[0]]).all()
    assert (tree["posterior_predictive/query_y"].values[:, :, ~real] == -1).all()
    assert (tree["observed_data/query_y"].values[real] == batch.query_y.numpy()[real]).all()


def test_summaries_agree_with_the_draws():
    # 40,000 draws of labels for 22 real queries x up to 5 ways; 5 sigma: false alarm below 1e-4.
    batch, model = class_tasks(), classifier()
    tree = ebmeta.predict(model, batch, num_draws=40_000)
    y, p = tree["posterior_predictive/query_y"].isel(chain=0), tree["predictive/probs"].isel(step=-1)
    for c in range(batch.way_mask.shape[1]):
        expected = p.isel(way=c).fillna(0.0)
        sigma = np.sqrt(expected * (1 - expected) / y.sizes["draw"]) + 1e-5
        gap = np.abs((y == c).mean("draw") - expected).where(p.isel(way=c).notnull(), 0.0)
        assert float((gap / sigma).max()) < 5
    q = model.posterior(batch)[-1]
    w = tree["posterior/w"].isel(chain=0)
    z = (w.mean("draw").values - q.loc.detach().numpy()) / q.scale.detach().numpy() * np.sqrt(w.sizes["draw"])
    assert np.abs(z).max() < 5


def test_the_tree_of_a_regressor():
    batch, model = real_tasks(), regressor()
    tree = ebmeta.predict(model, batch, num_draws=40_000)
    y = tree["posterior_predictive/query_y"].isel(chain=0)
    mean, std = tree["predictive/mean"].isel(step=-1), tree["predictive/std"].isel(step=-1)
    z = (y.mean("draw") - mean) / std * np.sqrt(y.sizes["draw"])  # 22 queries at 5 sigma: below 2e-5
    assert float(np.abs(z).max()) < 5
    np.testing.assert_allclose((y.std("draw") / std).fillna(1.0), 1, atol=0.025)
    assert np.isnan(y.values[:, ~batch.query_mask.numpy()]).all()


def test_log_likelihood_is_that_of_the_drawn_weights():
    batch, model = real_tasks(), regressor()
    tree = ebmeta.predict(model, batch, num_draws=3)
    w = torch.from_numpy(tree["posterior/w"].values[0])
    eta = torch.einsum("tqp,dtcp->dtqc", model.predictor.features(batch.query_x), w)[..., 0]
    expected = torch.distributions.Normal(eta, model.likelihood.log_noise.exp()).log_prob(batch.query_y)
    real = batch.query_mask.numpy()
    got = tree["log_likelihood/query_y"].values[0]
    np.testing.assert_allclose(got[:, real], expected.detach().numpy()[:, real], rtol=1e-10)


@pytest.mark.parametrize(("model", "batch"), [(classifier(), class_tasks()), (regressor(), real_tasks())])
def test_labels_of_queries_are_never_used(model, batch, rng_untouched):
    changed = dataclasses.replace(batch, query_y=torch.zeros_like(batch.query_y))
    labelled, other, blind = (ebmeta.predict(model, b) for b in (batch, changed, batch.unlabelled()))
    for group in ("posterior", "posterior_predictive", "predictive", "constant_data"):
        assert labelled[group].identical(other[group])
        assert labelled[group].identical(blind[group])
    assert "observed_data" not in blind
    assert "log_likelihood" not in blind


def test_steps_and_draws():
    batch, model = class_tasks(), classifier()
    full, none = ebmeta.predict(model, batch), ebmeta.predict(model, batch, num_steps=0, num_draws=0)
    assert none["predictive"].sizes["step"] == 1
    xr.testing.assert_equal(none["predictive/probs"].isel(step=0), full["predictive/probs"].isel(step=0))
    assert "posterior" not in none
    assert full.identical(ebmeta.predict(model, batch))
    assert not full["posterior/w"].equals(ebmeta.predict(model, batch, seed=1)["posterior/w"])
    for arguments, message in (
        ({"num_draws": -1}, "num_draws: expected at least 0, got -1"),
        ({"num_steps": -1}, "num_steps: expected at least 0, got -1"),
        ({"seed": -2}, "seed: expected a non-negative integer of at most 63 bits, got -2"),
    ):
        with pytest.raises(ValueError, match=message):
            ebmeta.predict(model, batch, **arguments)


def test_chunks_change_nothing(monkeypatch):
    batch, model = class_tasks(), classifier()
    whole = ebmeta.predict(model, batch, num_draws=0)
    monkeypatch.setattr(importlib.import_module("ebmeta.prediction.trees"), "CELLS", 1)
    xr.testing.assert_allclose(whole["predictive/probs"], ebmeta.predict(model, batch, num_draws=0)["predictive/probs"])


def test_wrong_feature_count():
    with pytest.raises(ValueError, match="expected 5 features per input, got shape \\(4,\\)"):
        ebmeta.predict(classifier(features=5), class_tasks())


def test_the_tree_comes_back_from_a_file(tmp_path):
    tree = ebmeta.predict(regressor(), real_tasks(supports=(4, 4), queries=(6, 6)), num_draws=50)
    tree.to_netcdf(tmp_path / "tree.nc", engine="h5netcdf")
    with xr.open_datatree(tmp_path / "tree.nc", engine="h5netcdf") as back:
        assert back.load().identical(tree)


@pytest.mark.parametrize("likelihood", ["normal", "poisson"])
def test_quantiles_are_those_of_the_estimator_and_blank_where_nothing_is(likelihood):
    batch, model, levels = number_tasks(likelihood, sizes=False), regressor(likelihood=likelihood), (0.05, 0.5, 0.95)
    tree = ebmeta.predict(model, batch, num_draws=0, quantiles=levels)
    got = tree["predictive/quantile"]
    assert got.dims == ("level", "task", "query")
    assert tuple(got["level"].values) == levels
    for t in range(batch.num_tasks):
        s, q = batch.support_mask[t], batch.query_mask[t]
        reg = ebmeta.FewShotRegressor(model).fit(batch.support_x[t][s], batch.support_y[t][s])
        expected = reg.quantiles(batch.query_x[t][q], levels)
        np.testing.assert_allclose(got.values[:, t, q.numpy()].T, expected, atol=1e-9)
        assert np.isnan(got.values[:, t, ~q.numpy()]).all()
    assert "quantile" not in ebmeta.predict(model, batch, num_draws=0)["predictive"]
    assert got.sel(level=0.5).shape == batch.query_mask.shape


def test_quantiles_that_do_not_exist():
    with pytest.raises(ValueError, match="quantiles: expected labels that are numbers, got a categorical likelihood"):
        ebmeta.predict(classifier(), class_tasks(), quantiles=(0.5,))
    with pytest.raises(ValueError, match="quantiles: expected a number between 0 and 1, got 1"):
        ebmeta.predict(regressor(), real_tasks(), quantiles=(0.5, 1.0))


class _Scaled(SyntheticGradient):
    """That of a model, times a number."""

    def __init__(self, own, by):
        super().__init__()
        self.own, self.by = own, by

    reads_inputs = True

    def forward(self, state):
        return self.by * self.own(state)

    def inputs(self, state):
        return self.own.inputs(state)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_synthetic_gradient_that_is_not_finite_is_refused(bad):
    """Predictions were NaN without a word."""
    model, batch = regressor(num_steps=1), real_tasks()
    model.refiner.synthetic_gradient = _Scaled(model.refiner.synthetic_gradient, bad)
    said = "refiner, step 0, or its synthetic gradient: expected a posterior of finite numbers, got NaN or infinity"
    for ask in (ebmeta.predict, ebmeta.evaluate):
        with pytest.raises(ValueError, match=said):
            ask(model, batch)
    rows = batch.support_x[0].numpy()
    with pytest.raises(ValueError, match=said):
        ebmeta.FewShotRegressor(model).fit(rows, batch.support_y[0].numpy()).predict(rows)
    ebmeta.predict(model, batch, num_steps=0)  # the labelled rows alone
    two = regressor(num_steps=2)
    two.refiner.synthetic_gradient = _Scaled(two.refiner.synthetic_gradient, bad)
    with pytest.raises(ValueError, match="expected finite precisions, got NaN or infinity .*synthetic gradient"):
        ebmeta.predict(two, batch)


def test_a_step_that_is_not_finite_is_refused_by_its_number():
    class Own(Refiner):
        def step(self, k, state):
            return state.q.with_(state.q.loc / (1 - k), state.q.precision)

    model, batch = regressor(num_steps=2), real_tasks()
    model.refiner = Own(model.refiner.synthetic_gradient, 2)
    with pytest.raises(ValueError, match="refiner, step 1, or its"):
        ebmeta.predict(model, batch)
    got = ebmeta.predict(model, batch, num_steps=1)["predictive/mean"].values
    np.testing.assert_array_equal(got[0], got[1])


def test_a_belief_of_classes_that_is_nan_is_refused():
    class Own(ClassSyntheticGradient):
        def correction(self, reading):
            return super().correction(reading) * np.nan

    model, batch = classifier(), class_tasks()
    model.refiner.synthetic_gradient = Own(8).double()
    with pytest.raises(ValueError, match="refiner, step 0, or its synthetic gradient: expected"):
        ebmeta.predict(model, batch)

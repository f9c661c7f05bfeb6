"""Rate, distortion, information and the gap bound against exact answers.

Statistical checks allow six standard errors: a false alarm in 500 million.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import class_tasks, classifier, close, generator, joint_model, real_tasks, regressor

import ebmeta
from ebmeta.diagnostics import (
    generalization_gap,
    linear_gaussian_information,
    mutual_information,
    rate_distortion,
)
from ebmeta.simulate.gaussian_classes import GaussianClasses
from ebmeta.simulate.linear_gaussian import LinearGaussianTasks

SIX = 6 / 1.959964  # half widths of a 95% interval in six standard errors
ROWS, NOISE = 4, 0.5
#: Means of groups: $w \sim N(0.3, 1)$ and four labels each, which every formula is simple for.
MEANS = LinearGaussianTasks(np.array([0.3]), np.ones((1, 1)), NOISE, n_support=ROWS, n_query=20, seed=1)
OWN = 1 + ROWS / NOISE**2  # precision of the exact posterior
CLOUDS = GaussianClasses(2, between=2.0, within=1.0, concentration=2.0, n_way=3, n_query=6)


def means_model(loc: float = 0.3, scale: float = 1.0) -> ebmeta.EmpiricalBayes:
    model = ebmeta.EmpiricalBayes.regressor(0, num_steps=0, standardize=False).double()
    with torch.no_grad():
        model.prior.loc.fill_(loc)
        model.prior.log_scale.fill_(math.log(scale))
        model.likelihood.log_noise.fill_(math.log(NOISE))
    return model


# Rate and distortion ----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [regressor(), classifier()], ids=["real", "classes"])
def test_rate_and_distortion_are_those_of_the_objective(model) -> None:
    batch = class_tasks() if model.likelihood.categorical else real_tasks()
    data = rate_distortion(model, batch, num_draws=4000).isel(model=0)
    terms = ebmeta.Objective("gibbs", num_draws=4000).terms(model, batch, generator=generator(1))
    close(torch.from_numpy(data["rate"].values), terms.kl.mean(1).detach())
    half = 1.959964 * terms.kl.std(1) / 2
    close(torch.from_numpy(data["rate_half_width"].values), half.detach(), 1e-6)
    nll = (terms.nll / batch.num_queries).mean(1).detach()
    # Draws of classes: the two estimates have 4,000 each, and their errors are far below 0.05.
    close(torch.from_numpy(data["expected_nll"].values), nll, 0.05 if model.likelihood.categorical else 1e-9)
    scores = ebmeta.evaluate(model, batch)
    np.testing.assert_allclose(data["predictive_nll"], scores["nll"], rtol=1e-9)
    assert (data["expected_nll"] >= data["predictive_nll"]).all()


def test_models_of_several_beta_stand_side_by_side() -> None:
    models = {"free": classifier(num_steps=1, beta=0.0), "dear": classifier(num_steps=2, beta=2.0, seed=1)}
    data = rate_distortion(models, class_tasks())
    assert data["rate"].dims == ("model", "step")
    assert data["beta"].values.tolist() == [0.0, 2.0]
    assert data["model"].values.tolist() == ["free", "dear"]
    assert np.isnan(data["rate"].values).tolist() == [[False, False, True], [False, False, False]]
    alone = rate_distortion(models["dear"], class_tasks())
    np.testing.assert_array_equal(data["predictive_nll"].sel(model="dear"), alone["predictive_nll"][0])


@pytest.mark.parametrize("function", [rate_distortion, generalization_gap])
def test_unlabelled_tasks_are_refused(function) -> None:
    with pytest.raises(ValueError, match=f"{function.__name__}: expected query labels, got unlabelled"):
        function(regressor(), real_tasks().unlabelled())
    with pytest.raises(ValueError, match="tasks: expected at least 2, got 1"):
        function(regressor(), real_tasks()[:1])


def test_no_model_is_refused() -> None:
    with pytest.raises(ValueError, match="models: expected at least one, got none"):
        rate_distortion({}, real_tasks())


@torch.no_grad()
def test_rate_and_distortion_of_class_means_are_those_of_draws() -> None:
    """Of 4,000 draws on either side: the two agree within 5 standard errors of a mean over 20 tasks."""
    model, batch = joint_model(CLOUDS, 2, scale=0.1), CLOUDS.sample(20).to(torch.float64)
    data, inferred = rate_distortion(model, batch, num_draws=4000).isel(model=0), model.infer(batch)
    close(torch.from_numpy(data["rate"].values), inferred.kl().mean(1))
    for k in range(3):
        q = inferred.path[k]
        eta = model.predictor(inferred.x, q.weights(q.draw(4000, generator(7))))
        scores = -model.likelihood.log_prob(batch.query_y, eta, batch.way_mask).mean(-1)
        error = float((scores.var(0) / 4000).mean()) ** 0.5 / 20**0.5
        assert abs(float(data["expected_nll"][k]) - float(scores.mean())) < 5 * 2**0.5 * error


# Information ------------------------------------------------------------------------------------------


def test_information_of_the_exact_posterior_is_within_one_percent() -> None:
    exact = math.log(OWN) / 2
    assert float(linear_gaussian_information(MEANS, 2)["total"]) == pytest.approx(exact, rel=1e-6)
    rate = rate_distortion(means_model(), replace(MEANS, n_query=1).sample(100_000))["rate"][0, 0]
    assert float(rate) == pytest.approx(exact, rel=0.01)
    found = mutual_information(means_model(), MEANS.sample(1500)).isel(step=0)
    # The prior is the true one, so what the bounds leave of the rate is bias of few tasks.
    assert abs(float(found["rate"] - found["lower"])) < 0.01
    assert abs(float(found["rate"] - found["upper"])) < 0.01
    assert float(found["lower"]) < float(found["upper"])
    assert abs(float(found["rate"]) - exact) < SIX * float(found["rate_half_width"])


def test_a_wrong_prior_leaves_a_gap_between_rate_and_information() -> None:
    loc, scale = -0.5, 2.0
    model, exact_own = means_model(loc, scale), scale**-2 + ROWS / NOISE**2
    pull = ROWS / NOISE**2 / exact_own
    mean = loc + pull * (0.3 - loc)
    var = 1 / exact_own + pull**2 * (1 + NOISE**2 / ROWS)  # of w, over tasks and posterior
    gap = (var / scale**2 - 1 - math.log(var / scale**2) + (mean - loc) ** 2 / scale**2) / 2
    information = math.log(var * exact_own) / 2
    found = mutual_information(model, MEANS.sample(1500)).isel(step=0)
    error = SIX * np.hypot(found["rate_half_width"], found["lower_half_width"])
    assert float(found["rate"]) == pytest.approx(information + gap, abs=SIX * float(found["rate_half_width"]))
    assert gap > 0.15
    for side in ("lower", "upper"):
        assert float(found["rate"] - found[side]) == pytest.approx(gap, abs=float(error))
        assert float(found[side]) == pytest.approx(information, abs=SIX * float(found[f"{side}_half_width"]))
    assert float(found["lower"]) < float(found["upper"]) < float(found["rate"])


def test_a_posterior_that_ignores_its_task_stores_nothing() -> None:
    model = classifier(num_steps=0, scale=0.0)
    batch = class_tasks((3,) * 40, (1,) * 40, (4,) * 40)
    empty = replace(batch, support_mask=torch.zeros_like(batch.support_mask))
    found = mutual_information(model, empty)
    assert float(found["rate"][0]) == pytest.approx(0, abs=1e-9)
    assert float(found["lower"][0]) == pytest.approx(0, abs=1e-9)
    assert float(found["upper"][0]) == pytest.approx(0, abs=1e-9)


def test_information_of_exact_class_means_is_known() -> None:
    """Each of 3 classes and 2 coordinates stores log(1 + n b / s) / 2; proportions are not learned from the support."""
    exact = 3 * 2 / 2 * math.log(1 + 2.0)
    found = mutual_information(joint_model(CLOUDS, 0), CLOUDS.sample(1500).to(torch.float64)).isel(step=0)
    assert abs(float(found["rate"]) - exact) < SIX * float(found["rate_half_width"])
    for side in ("lower", "upper"):
        assert abs(float(found[side]) - exact) < 0.1
    assert float(found["lower"]) < float(found["upper"])


def test_steps_are_kept_apart_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = regressor(num_steps=2), real_tasks((3,) * 9, (5,) * 9)
    whole = mutual_information(model, batch)
    assert whole["rate"].shape == (3,)
    np.testing.assert_allclose(whole["rate"], rate_distortion(model, batch)["rate"][0])
    monkeypatch.setattr("ebmeta.diagnostics.bottleneck.CELLS", 1)
    np.testing.assert_allclose(mutual_information(model, batch)["upper"], whole["upper"])
    assert mutual_information(model, batch, num_steps=0).sizes["step"] == 1


def test_information_needs_comparable_tasks() -> None:
    with pytest.raises(ValueError, match="expected one number of classes in all tasks"):
        mutual_information(classifier(), class_tasks())
    batch = real_tasks()
    with pytest.raises(ValueError, match="expected a prior that all tasks share"):
        mutual_information(regressor(num_covariates=2), replace(batch, task_x=torch.zeros(4, 2).double()))
    told = replace(CLOUDS.sample(4), concentration=torch.tensor([1.0, 2.0, 2.0, 2.0]))
    with pytest.raises(ValueError, match="expected tasks that tell class proportions alike, got several priors"):
        mutual_information(joint_model(CLOUDS), told.to(torch.float64))
    for function in (mutual_information, generalization_gap):
        with pytest.raises(ValueError, match=f"{function.__name__}: expected one Gaussian posterior per task"):
            function(regressor(likelihood="normal_per_task"), batch)
    with pytest.raises(ValueError, match="n_support: expected at least 1 row, got 0"):
        linear_gaussian_information(replace(MEANS, n_support=0))

"""Scores of groups left out agree with those of fits without the group."""

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

from ebmeta.mixed.fit import mixed_model
from ebmeta.mixed.leave_out import groups_left_out
from ebmeta.mixed.propagation import draw
from tests.mixed.worlds import dense, frame


def test_groups_of_normal_labels_are_scored_as_by_fits_without_them():
    """Against 14 fits and 256 draws each: within .3 nats each and 1% in all, which is what the draws leave open."""
    rng, g = np.random.default_rng(0), np.repeat(np.arange(14), 5)
    data = pd.DataFrame({"x": rng.normal(size=70), "g": g})
    data["y"] = 1 + data.x + rng.normal(size=14)[g] + rng.normal(size=70)
    fit = mixed_model("y ~ x + (1 | g)", data)
    found, doubtful = groups_left_out(fit)
    wanted = []
    for group in fit.engine.rows.groupings[0].labels:
        rest, own = mixed_model("y ~ x + (1 | g)", data[data.g != group]), data[data.g == group]
        draws, rng, scores = draw(rest.engine, rest.optimum.at, 256, 1), np.random.default_rng(1), []
        x = np.column_stack([np.ones(len(own)), own.x])
        for at in draws.at:
            estimate = rest.engine.estimate(at)
            beta = rng.multivariate_normal(estimate.beta, rest.engine.common_given(at))
            spread = rest.engine.factors[0].covariance(estimate.theta, estimate.sigma)
            cov = np.full((len(own), len(own)), spread[0, 0]) + estimate.sigma**2 * np.eye(len(own))
            scores.append(stats.multivariate_normal(x @ beta, cov).logpdf(own.y))
        wanted.append(special.logsumexp(scores, b=draws.weight))
    assert not doubtful.any()
    np.testing.assert_allclose(found, wanted, atol=0.3)
    assert found.sum() == pytest.approx(sum(wanted), rel=0.01)


@pytest.mark.parametrize("weights", [None, "w"])
def test_groups_of_known_parameters_add_up_to_the_log_likelihood(weights):
    data = frame(1, 9, (2, 7))
    engine = mixed_model("y ~ 0 + (x | g)", data.assign(x=data.x - 2000), weights=weights, offset="x").engine
    at = engine.start()
    each = engine.each_group(at, np.random.default_rng(0))
    assert each.shape == (9,)
    assert each.sum() == pytest.approx(dense(engine, at, False)["log_likelihood"], rel=1e-9)


def test_groups_of_log_normal_labels_add_up_to_the_log_likelihood():
    data = frame(1, 9, (2, 7)).assign(y=lambda d: np.exp(d.y / 3))
    fit = mixed_model("y ~ 0 + (1 | g)", data, "log_normal", weights="w")
    each = fit.engine.each_group(fit.optimum.at, np.random.default_rng(0))
    assert each.sum() == pytest.approx(fit.log_likelihood, rel=1e-9)


@pytest.mark.parametrize("name", ["poisson", "student_t", "negative_binomial"])
def test_groups_of_other_labels_add_up_to_the_log_likelihood(name):
    data = frame(1, 9, (4, 9))
    data["y"] = np.random.default_rng(0).poisson(np.exp(0.2 * data.y.clip(-9, 9)))
    fit = mixed_model("y ~ 1 + (1 | g)", data, name, weights="w")
    each = fit.engine.each_group(fit.optimum.at, np.random.default_rng(0))
    assert each.sum() == pytest.approx(fit.log_likelihood, rel=1e-7)


def test_crossed_groups_are_refused():
    data = frame(1, 9, (4, 9)).assign(h=lambda d: np.arange(len(d)) % 3)
    fit = mixed_model("y ~ 1 + (1 | g) + (1 | h)", data)
    with pytest.raises(ValueError, match="loo: expected one grouping factor, whose groups are independent, got g, h"):
        groups_left_out(fit)
    with pytest.raises(ValueError, match="each_group: expected one grouping factor"):
        fit.engine.each_group(fit.optimum.at, np.random.default_rng(0))

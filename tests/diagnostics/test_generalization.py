"""What new rows cost more than rows that a posterior has seen: exact answers, and the bound by information."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import class_tasks, classifier, close, generator, joint_model, number_tasks, real_tasks, regressor

import ebmeta
from ebmeta.diagnostics import (
    generalization_gap,
)
from ebmeta.diagnostics.generalization import row_loss
from ebmeta.likelihood import LIKELIHOODS
from tests.diagnostics.test_bottleneck import CLOUDS, MEANS, NOISE, OWN, ROWS, SIX, means_model

# The gap ----------------------------------------------------------------------------------------------


def test_the_gap_of_the_exact_posterior_is_known_and_below_its_bound() -> None:
    information = math.log(OWN) / 2
    data = generalization_gap(means_model(), MEANS.sample(6000), information=information).isel(step=0)
    exact = ROWS / NOISE**2 / OWN / ROWS
    support, query = (data.sel(rows=side) for side in ("support", "query"))
    assert abs(float(support["gap"]) - exact) < SIX * float(support["gap_half_width"])
    assert abs(float(query["gap"])) < SIX * float(query["gap_half_width"])  # nothing was read from the queries
    # A new row: e ~ N(0, s2) over tasks and all else, and E e^4 / 4 sigma^4 = 3 s2^2 / 4 sigma^4, with w one draw.
    s2 = NOISE**2 + 2 / OWN
    assert float(support["proxy_per_row"]) == pytest.approx(0.75 * (s2 / NOISE**2) ** 2 / ROWS, rel=0.03)
    bound = math.sqrt(2 * float(support["proxy_per_row"]) * information)
    assert float(support["bound_information"]) == pytest.approx(bound)
    assert float(support["tightness_information"]) == pytest.approx(bound / float(support["gap"]))
    assert float(query["proxy_per_row"]) == pytest.approx(float(support["proxy_per_row"]) * ROWS / 10)
    assert np.isnan(query["tightness_rate"])
    assert data.attrs["verdict"] == "holds"
    assert data.attrs["words"].startswith("New rows cost 0.2")


def test_labels_of_another_law_break_the_bound() -> None:
    batch = MEANS.sample(200)
    data = generalization_gap(means_model(), replace(batch, query_y=batch.query_y + 50))
    assert data.attrs["verdict"] == "fails"  # the new rows do not follow the law of the support rows


def test_half_of_the_queries_are_hidden() -> None:
    batch = number_tasks("bernoulli")
    model = regressor(likelihood="bernoulli", num_steps=2)
    data = generalization_gap(model, batch, loss="error", num_draws=1)
    seen = replace(batch, query_x=batch.query_x[:, ::2], query_y=None, query_mask=batch.query_mask[:, ::2])
    path = model.posterior(seen)
    kl = torch.stack([q.kl(model.prior_of(seen)).mean() for q in path])
    np.testing.assert_allclose(data["rate"], kl.detach())
    np.testing.assert_allclose(
        data["proxy_per_row"],
        np.tile(0.25 * np.array([[(1 / batch.support_mask.sum(1)).mean()], [(1 / seen.num_queries).mean()]]), 3),
    )


@pytest.mark.parametrize("loss", ["nll", "error"])
def test_classes_have_both_losses(loss) -> None:
    model = classifier(num_steps=2)
    data = generalization_gap(model, class_tasks((4,) * 30, (2,) * 30, (10,) * 30), loss=loss)
    assert data["gap"].dims == ("rows", "step")
    assert data["gap"].attrs["units"] == {"nll": "nats per row", "error": "1"}[loss]
    assert (data["bound_rate"] > 0).all()


@torch.no_grad()
def test_losses_of_class_means_are_those_of_their_draws() -> None:
    """Every second query is new: the mean error of 4,000 draws on either side agrees within 5 standard errors."""
    model, batch = joint_model(CLOUDS, 1, scale=0.1), CLOUDS.sample(30).to(torch.float64)
    data = generalization_gap(model, batch, loss="error", num_draws=4000)
    given, new = (batch.with_rows(query=batch.query.map(lambda v, i=i: v[:, i::2])) for i in (0, 1))
    path, phi = model.posterior(given), model.predictor.features(new.query_x)
    for k, q in enumerate(path):
        wrong = model.predictor(phi, q.weights(q.draw(4000, generator(5)))).argmax(-1) != new.query_y
        wrong = wrong.double().mean(-1)
        error = (2 * float((wrong.var(0) / 4000).mean()) / 30) ** 0.5
        assert abs(float(data["risk"][k]) - float(wrong.mean())) < 5 * error


def test_losses_of_rows() -> None:
    one = torch.ones(1, 1, dtype=torch.bool)
    y, eta = torch.tensor([[0.5, -1.0]]), torch.tensor([[[1.0], [2.0]]])
    close(row_loss(LIKELIHOODS["normal"](0.5), y, eta, one, None, "nll"), torch.tensor([[0.5, 18.0]]).double(), 1e-5)
    assert (row_loss(LIKELIHOODS["student_t"](), y, y[..., None], one, None, "nll") == 0).all()
    yes = torch.tensor([[1.0, 0.0]])
    assert row_loss(LIKELIHOODS["bernoulli"](), yes, eta, one, None, "error").tolist() == [[0, 1]]
    logits = torch.tensor([[[0.0, 1.0, 9.0]]])
    ways = torch.tensor([[True, True, False]])
    categorical = LIKELIHOODS["categorical"]()
    assert row_loss(categorical, torch.tensor([[1]]), logits, ways, None, "error").item() == 0
    nll = row_loss(categorical, torch.tensor([[1]]), logits, ways, None, "nll")
    assert nll.item() == pytest.approx(math.log1p(math.exp(-1)))


def test_bad_questions_about_the_gap_are_refused() -> None:
    model, batch = regressor(), real_tasks()
    for message, batch_of, kwargs in (
        ("loss: expected 'nll' or 'error', got 'brier'", batch, {"loss": "brier"}),
        ("loss: expected 'nll' for a normal likelihood, got 'error'", batch, {"loss": "error"}),
        ("num_draws: expected at least 1, got 0", batch, {"num_draws": 0}),
        ("information: expected nats >= 0, one number or 4, got", batch, {"information": [1.0, 2.0]}),
        ("information: expected a finite number of at least 0, got -1.0", batch, {"information": -1.0}),
        ("query: expected at least 2 rows in every task", real_tasks(queries=(1, 4, 7, 5)), {}),
        ("support: expected at least 1 labelled row", real_tasks(supports=(0, 2, 6, 3)), {}),
    ):
        with pytest.raises(ValueError, match=message):
            generalization_gap(model, batch_of, **kwargs)
    X = np.arange(12.0)[:, None]
    source = ebmeta.GroupSampler(X, X[:, 0], np.repeat(np.arange(3), 4), n_support=2)
    data = generalization_gap(regressor(features=1), source, 64)
    assert data.attrs["num_tasks"] == 64

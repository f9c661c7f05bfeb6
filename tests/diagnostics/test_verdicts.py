"""Verdicts: which checks condemn, and by how much."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from builders import joint_model

from ebmeta.diagnostics import Check, Diagnosis, posterior_updates
from ebmeta.diagnostics.check import interval
from ebmeta.diagnostics.verdicts import exactness, refinement, width
from ebmeta.simulate.gaussian_classes import GaussianClasses
from tests.diagnostics.test_report import TASKS, exact


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.01, 0.02, "good"),
        (0.035, 0.05, "caution"),
        (-0.2, -0.1, "bad"),
        (0.0, 0.09, "unclear"),
        (0.02, 0.05, "good"),
    ],
)
def test_intervals_are_judged_by_both_ends(low, high, expected):
    assert interval(low, high, 0.03, 0.08) == expected


def verdict(*pairs):
    checks = tuple(Check(name, "?", status, "", "") for name, status in pairs)
    return Diagnosis(checks, {}, 10, 0.0).status


def test_the_gravest_check_decides():
    assert verdict(("probabilities", "good"), ("few_labels", "good"), ("refinement", "bad")) == "bad"
    assert verdict(("probabilities", "bad"), ("few_labels", "good")) == "bad"
    assert verdict(("probabilities", "unclear"), ("few_labels", "good"), ("simulation", "good")) == "unclear"
    assert verdict(("probabilities", "unclear"), ("few_labels", "good"), ("simulation", "caution")) == "caution"
    assert verdict(("probabilities", "good"), ("few_labels", "good"), ("simulation", "unclear")) == "good"
    assert verdict(("probabilities", "good"), ("few_labels", "good"), ("width", "bad")) == "bad"


@pytest.mark.parametrize(
    ("decisive", "other", "headline"),
    [
        ("good", "good", "You can rely on this model for tasks like these."),
        ("good", "unclear", "You can rely on this model for tasks like these."),
        (
            "good",
            "bad",
            "You can rely on its predictions for tasks like these, but there is a problem with the rest.",
        ),
        ("good", "caution", "You can rely on its predictions for tasks like these, but take care with the rest."),
        ("caution", "bad", "Use its predictions with care, and there is a problem with the rest."),
        ("caution", "caution", "Use this model with care."),
        ("bad", "caution", "Do not rely on this model for tasks like these."),
    ],
)
def test_the_headline_tells_predictions_from_the_rest(decisive, other, headline):
    checks = Check("probabilities", "?", decisive, "", ""), Check("width", "Is it wide?", other, "It is not.", "")
    found = Diagnosis(checks, {}, 10, 0.0)
    assert found.headline == headline
    assert found.summary.startswith(headline)
    assert ("Is it wide? It is not." in found.summary) == (other in ("caution", "bad"))
    page = found.to_html()
    assert f'<div class="verdict {found.status}">' in page
    assert headline in page


CLOUDS = GaussianClasses(4, between=2.0, within=1.0, concentration=2.0, n_way=3, n_query=12)


def test_widths_of_class_means_are_judged_along_rows():
    model = joint_model(CLOUDS, 0)
    check, updates = width(model, CLOUDS, 300), posterior_updates(model, CLOUDS, 300)
    assert check.status == "good"
    assert check.numbers["spread"] == float(updates["spread_rows"][-1])
    assert check.numbers["spread_of_coordinates"] == updates["spread"].values.tolist()
    narrow = width(joint_model(replace(CLOUDS, between=0.2), 0), CLOUDS, 300)
    assert narrow.status == "bad"
    assert "too small" in narrow.finding


def test_a_posterior_that_expects_labels_to_tell_nothing_is_too_narrow(monkeypatch):
    found = posterior_updates(exact(), TASKS, 10).assign(spread=("step", [np.nan]))
    monkeypatch.setattr("ebmeta.diagnostics.verdicts.posterior_updates", lambda *_: found)
    check = width(exact(), TASKS, 10)
    assert check.status == "bad"
    assert "expected labels to tell it nothing" in check.finding


def steps_that_gain(gains) -> xr.Dataset:
    """What `synthetic_gradients` returns, of one step with these gains."""
    gains, data = np.asarray(gains)[None], {}
    for name in ("gradient_cosine", "move_cosine"):
        data |= {name: ("step", [0.5]), f"{name}_by_task": (("step", "task"), np.full(gains.shape, 0.5))}
    data |= {"gain": ("step", gains.mean(1)), "gain_half_width": ("step", 1.96 * gains.std(1) / gains.shape[1] ** 0.5)}
    return xr.Dataset(data | {"gain_by_task": (("step", "task"), gains)}, coords={"step": [1]})


@pytest.mark.parametrize(
    ("mean", "spread", "status"),
    [(0.1, 0.1, "good"), (-0.1, 0.1, "bad"), (-0.01, 1.0, "unclear"), (0.01, 1.0, "unclear"), (0.0, 0.01, "good")],
)
def test_refinement_is_judged_by_the_whole_interval_of_its_gain(monkeypatch, mean, spread, status):
    """100 tasks: the half width is about a fifth of the spread."""
    found = steps_that_gain(mean + spread * np.linspace(-1.7, 1.7, 100))
    monkeypatch.setattr("ebmeta.diagnostics.verdicts.synthetic_gradients", lambda *_: found)
    assert refinement(exact(), TASKS, 100).status == status


@pytest.mark.parametrize(
    ("gap", "khat", "status"), [(0.01, 0.1, "good"), (0.01, 2.0, "caution"), (0.2, 0.1, "caution"), (1.0, 0.1, "bad")]
)
def test_a_posterior_is_good_only_where_it_is_near_and_stands_for_the_exact_one(monkeypatch, gap, khat, status):
    values = {"gap": gap, "khat": khat, "khat_rows": khat, "effective_size": 10.0}
    found = xr.Dataset({name: (("step", "task"), np.full((1, 20), v)) for name, v in values.items()}, {"step": [0]})
    monkeypatch.setattr(
        "ebmeta.diagnostics.verdicts.check_posteriors", lambda *_, **__: found.assign_attrs(num_draws=1000)
    )
    assert exactness(exact(), [TASKS.sample(20)]).status == status

"""Verdicts: which checks condemn, and by how much."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from ebmeta.diagnostics import Check, Diagnosis
from ebmeta.diagnostics.check import interval
from ebmeta.diagnostics.verdicts import exactness, refinement
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


def test_only_decisive_checks_condemn():
    assert verdict(("probabilities", "good"), ("few_labels", "good"), ("refinement", "bad")) == "caution"
    assert verdict(("probabilities", "bad"), ("few_labels", "good")) == "bad"
    assert verdict(("probabilities", "unclear"), ("few_labels", "good"), ("simulation", "good")) == "unclear"
    assert verdict(("probabilities", "good"), ("few_labels", "good"), ("simulation", "unclear")) == "good"
    assert verdict(("probabilities", "good"), ("few_labels", "good"), ("width", "bad")) == "good"


def test_faults_that_do_not_touch_predictions_are_said_to_be_such():
    checks = [Check(name, f"{name}?", "good", "", "") for name in ("probabilities", "few_labels", "width")]
    assert Diagnosis(tuple(checks), {}, 10, 0.0).asides == ""
    checks[2] = Check("width", "Is it wide?", "bad", "It is not.", "")
    found = Diagnosis(tuple(checks), {}, 10, 0.0)
    assert "“Is it wide?” is about its inner weights" in found.asides
    assert found.summary.endswith(found.asides)
    assert found.asides in found.to_html()
    refinement = Check("refinement", "?", "bad", "It harms.", "")  # this one is about predictions
    assert Diagnosis((*checks[:2], refinement), {}, 10, 0.0).asides == ""


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

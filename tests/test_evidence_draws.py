"""An evidence that depends on the draws of its fit is called unreliable; one that does not is that of quadrature."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import ebmeta

TRIALS = 6


def fitted(yes: list[int]) -> tuple[ebmeta.EvidenceFit, float]:
    """Return the fit to groups of so many ones among six, and its evidence by quadrature over the intercept."""
    y = np.concatenate([np.r_[np.ones(k), np.zeros(TRIALS - k)] for k in yes])
    tasks = ebmeta.GroupSampler(np.zeros((len(y), 0)), y, np.repeat(np.arange(len(yes)), TRIALS), n_support=1)
    model = ebmeta.EmpiricalBayes.regressor(0, "bernoulli", num_steps=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = ebmeta.fit_evidence(model, tasks, hyperprior=True, boundary=False)
    z = np.linspace(-12, 12, 100_001)
    eta = float(model.prior.loc.detach()) + float(fit.scales) * z
    no, one = -np.logaddexp(0, eta), -np.logaddexp(0, -eta)
    density = np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
    exact = sum(np.log(np.trapezoid(density * np.exp(k * one + (TRIALS - k) * no), z)) for k in yes)
    return fit, float(exact)


def test_groups_of_all_or_none_are_beyond_the_draws() -> None:
    fit, exact = fitted([0] * 40 + [TRIALS] * 80)
    assert abs(fit.log_evidence - exact) > 1.0
    assert any(note.startswith("the evidence is not reliable: ") for note in fit.notes)


@pytest.mark.parametrize("times", [1, 5])
def test_ordinary_groups_are_not(times) -> None:
    fit, exact = fitted([2, 3, 1, 4, 3, 2, 5, 1, 0] * times)
    assert fit.log_evidence == pytest.approx(exact, abs=0.02 * times)
    assert fit.notes == ()

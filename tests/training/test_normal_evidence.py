"""The closed form of normal labels reaches the maximum with many features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import optimize

import ebmeta
from ebmeta import EmpiricalBayes
from ebmeta.training.evidence import Evidence
from tests.training.test_evidence_fit import random_slopes


def test_many_features_reach_the_maximum():
    tasks, model = random_slopes(10, 40, 12), EmpiricalBayes.regressor(10, num_steps=0).double()
    found = ebmeta.fit_evidence(model, tasks, boundary=False)
    assert found.converged
    assert found.left < 0.01
    # From there nothing is gained, by another function of other parameters and another optimiser.
    evidence = Evidence(model, tasks, hyperprior=False)
    start = evidence.read().numpy()

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        at = torch.from_numpy(flat)
        return evidence.value(at), evidence.gradient(at).numpy()

    again = optimize.minimize(loss, start, jac=True, method="BFGS", options={"maxiter": 60})
    assert found.log_evidence == pytest.approx(-loss(start)[0], abs=1e-3)
    assert -again.fun < found.log_evidence + 0.02

"""What a simulation found: faults told in standard errors and by their size."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ebmeta.diagnostics import (
    SimulationCalibration,
)
from tests.diagnostics.test_simulation import check, narrow, shifted, wide


def test_signs_of_a_fault_are_in_standard_errors():
    """Mean and mean square about the middle of uniform numbers, whose variances are known."""
    grid = (np.arange(200) + 0.5) / 200
    for u, name in ((0.15 + 0.85 * grid, "too low"), (0.85 * grid, "too high"), (0.5 + 0.7 * (grid - 0.5), "too wide")):
        z = (u.mean() - 0.5) * np.sqrt(200 / stats.uniform.var())
        square = stats.uniform.expect(lambda v: (v - 0.5) ** 4) - stats.uniform.var() ** 2
        spread = (((u - 0.5) ** 2).mean() - stats.uniform.var()) * np.sqrt(200 / square)
        found, strength = SimulationCalibration._fault(u, "weight")
        assert found == name
        assert strength == pytest.approx(max(abs(z), abs(spread)), rel=1e-6)


def test_sizes_of_faults_are_told():
    """Shift and spread of 2,000 tasks; 5 sigma of a mean is 0.11, of a standard deviation 0.08."""
    small, large, off = (check(q, num_tasks=2000) for q in (narrow, wide, shifted))
    assert float(small.table["spread"].sel(quantity="predictor")) == pytest.approx(1.25, abs=0.1)
    assert float(large.table["spread"].sel(quantity="weight 0")) == pytest.approx(0.8, abs=0.064)
    assert float(off.table["shift"].sel(quantity="weight 2")) == pytest.approx(-0.3, abs=0.11)
    covered = small.coverage(np.array([0.5, 0.9]))
    expected = stats.chi2.cdf(0.64 * stats.chi2.ppf([0.5, 0.9], 3), 3)
    np.testing.assert_allclose(covered, expected, atol=5 * 0.5 / np.sqrt(2000))

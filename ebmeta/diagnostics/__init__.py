"""Checks that say when to trust a posterior, each with its verdict in plain words.

`simulation_based_calibration` asks whether posteriors hold the truth as often as they say, over simulated tasks.
"""

from ebmeta.diagnostics.plots_simulation import ecdf_difference, expected_coverage
from ebmeta.diagnostics.simulation import simulate_tasks, simulation_based_calibration
from ebmeta.diagnostics.simulation_result import SimulationCalibration
from ebmeta.diagnostics.uniformity import Band, ecdf_band, uniformity_p_value

__all__ = [
    "Band",
    "SimulationCalibration",
    "ecdf_band",
    "ecdf_difference",
    "expected_coverage",
    "simulate_tasks",
    "simulation_based_calibration",
    "uniformity_p_value",
]

"""Diagnostics: when to trust predictions and posteriors, in figures and in plain words."""

from ebmeta.diagnostics.check import Check
from ebmeta.diagnostics.plots_simulation import ecdf_difference, expected_coverage
from ebmeta.diagnostics.report import Diagnosis, diagnose
from ebmeta.diagnostics.simulation import simulate_tasks, simulation_based_calibration
from ebmeta.diagnostics.simulation_result import SimulationCalibration
from ebmeta.diagnostics.uniformity import Band, ecdf_band, uniformity_p_value

__all__ = [
    "Band",
    "Check",
    "Diagnosis",
    "SimulationCalibration",
    "diagnose",
    "ecdf_band",
    "ecdf_difference",
    "expected_coverage",
    "simulate_tasks",
    "simulation_based_calibration",
    "uniformity_p_value",
]

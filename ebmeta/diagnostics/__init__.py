"""Diagnostics that say in figures and plain words what a model has learned and when to trust it."""

from ebmeta.diagnostics.beliefs import belief_cost
from ebmeta.diagnostics.bottleneck import linear_gaussian_information, mutual_information, rate_distortion
from ebmeta.diagnostics.check import Check
from ebmeta.diagnostics.generalization import generalization_gap
from ebmeta.diagnostics.gradients import synthetic_gradients
from ebmeta.diagnostics.importance import check_posteriors, correct
from ebmeta.diagnostics.moments import against_reference
from ebmeta.diagnostics.report import Diagnosis, diagnose
from ebmeta.diagnostics.simulation import simulate_tasks, simulation_based_calibration
from ebmeta.diagnostics.simulation_result import SimulationCalibration
from ebmeta.diagnostics.updates import posterior_updates
from ebmeta.plots.diagnostics import (
    gap_plot,
    khat_by_step,
    rate_distortion_plot,
    synthetic_gradient_plot,
    update_plot,
)
from ebmeta.plots.uniformity import ecdf_difference, expected_coverage
from ebmeta.prediction.uniformity import Band, ecdf_band, uniformity_p_value

__all__ = [
    "Band",
    "Check",
    "Diagnosis",
    "SimulationCalibration",
    "against_reference",
    "belief_cost",
    "check_posteriors",
    "correct",
    "diagnose",
    "ecdf_band",
    "ecdf_difference",
    "expected_coverage",
    "gap_plot",
    "generalization_gap",
    "khat_by_step",
    "linear_gaussian_information",
    "mutual_information",
    "posterior_updates",
    "rate_distortion",
    "rate_distortion_plot",
    "simulate_tasks",
    "simulation_based_calibration",
    "synthetic_gradient_plot",
    "synthetic_gradients",
    "uniformity_p_value",
    "update_plot",
]

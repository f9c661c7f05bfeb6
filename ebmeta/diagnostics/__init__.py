"""Diagnostics: when to trust predictions and posteriors, in figures and in plain words."""

from ebmeta.diagnostics.check import Check
from ebmeta.diagnostics.report import Diagnosis, diagnose

__all__ = ["Check", "Diagnosis", "diagnose"]
"""Diagnostics: what a model has learned, and how far to trust it."""

from ebmeta.diagnostics.bottleneck import (
    linear_gaussian_information,
    mutual_information,
    rate_distortion,
    rate_distortion_plot,
)
from ebmeta.diagnostics.generalization import gap_plot, generalization_gap
from ebmeta.diagnostics.gradients import synthetic_gradient_plot, synthetic_gradients

__all__ = [
    "gap_plot",
    "generalization_gap",
    "linear_gaussian_information",
    "mutual_information",
    "rate_distortion",
    "rate_distortion_plot",
    "synthetic_gradient_plot",
    "synthetic_gradients",
]

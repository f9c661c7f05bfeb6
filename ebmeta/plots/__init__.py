"""Figures, one function each, which draws on given axes or its own and returns them."""

from ebmeta.plots.axes import axes_or_new, save_figure
from ebmeta.plots.curves import fitted_curve
from ebmeta.plots.diagnostics import (
    gap_plot,
    khat_by_step,
    rate_distortion_plot,
    synthetic_gradient_plot,
    update_plot,
)
from ebmeta.plots.groups import caterpillar, group_lines, normal_quantiles, shrinkage
from ebmeta.plots.posteriors import ellipse, posterior_path
from ebmeta.plots.residuals import observed_against_fitted, residual_quantiles
from ebmeta.plots.scores import coverage_by_ways, history, refinement, reliability, risk_coverage, set_sizes
from ebmeta.plots.uniformity import ecdf_difference, expected_coverage, pit_histogram

__all__ = [
    "axes_or_new",
    "caterpillar",
    "coverage_by_ways",
    "ecdf_difference",
    "ellipse",
    "expected_coverage",
    "fitted_curve",
    "gap_plot",
    "group_lines",
    "history",
    "khat_by_step",
    "normal_quantiles",
    "observed_against_fitted",
    "pit_histogram",
    "posterior_path",
    "rate_distortion_plot",
    "refinement",
    "reliability",
    "residual_quantiles",
    "risk_coverage",
    "save_figure",
    "set_sizes",
    "shrinkage",
    "synthetic_gradient_plot",
    "update_plot",
]

"""Figures, one function each, which draws on given axes or its own and returns them."""

from ebmeta.plots.axes import axes_or_new, save_figure
from ebmeta.plots.curves import fitted_curve
from ebmeta.plots.posteriors import ellipse, posterior_path
from ebmeta.plots.scores import coverage_by_ways, history, refinement, reliability, risk_coverage, set_sizes

__all__ = [
    "axes_or_new",
    "coverage_by_ways",
    "ellipse",
    "fitted_curve",
    "history",
    "posterior_path",
    "refinement",
    "reliability",
    "risk_coverage",
    "save_figure",
    "set_sizes",
]

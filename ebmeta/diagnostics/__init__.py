"""Diagnostics: when to trust a posterior.

Every check takes a model and tasks, and returns labelled arrays with a verdict in words.
"""

from ebmeta.diagnostics.importance import check_posteriors, correct
from ebmeta.diagnostics.moments import against_reference
from ebmeta.diagnostics.plots_importance import khat_by_step

__all__ = ["against_reference", "check_posteriors", "correct", "khat_by_step"]

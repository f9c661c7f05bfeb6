"""Diagnostics: when to trust predictions and posteriors, in figures and in plain words."""

from ebmeta.diagnostics.check import Check
from ebmeta.diagnostics.report import Diagnosis, diagnose

__all__ = ["Check", "Diagnosis", "diagnose"]

"""Predictions and their assessment by scores, calibration, conformal sets and novelty."""

"""Maxima: how far one still is."""

from __future__ import annotations

import numpy as np
import pytest

from ebmeta.foundation.maximum import gain_left


def test_what_is_left_is_what_newton_would_gain():
    g = np.random.default_rng(0)
    root = g.normal(size=(6, 6)) * 10.0 ** np.arange(-2, 4)
    hessian, at = root.T @ root, g.normal(size=6)
    assert gain_left(lambda x: (x @ hessian @ x / 2, hessian @ x), at) == pytest.approx(at @ hessian @ at / 2, rel=1e-3)

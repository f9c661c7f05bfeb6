"""The linear-Gaussian family that several scripts test on: three weights, inputs that look at two of them."""

from __future__ import annotations

import numpy as np

from ebmeta.simulate.linear_gaussian import LinearGaussianTasks

LOC = np.array([1.0, -0.5, 0.3])
SCALE = np.array([[0.8, 0.0, 0.0], [0.3, 0.6, 0.0], [-0.2, 0.1, 0.5]])
NOISE = 0.5
COUPLING = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def tasks(coupling: np.ndarray | None, seed: int) -> LinearGaussianTasks:
    """Return the family, with or without information in the inputs."""
    return LinearGaussianTasks(LOC, SCALE, NOISE, coupling, n_support=3, n_query=10, seed=seed)

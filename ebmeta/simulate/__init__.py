"""Simulated families of tasks, whose exact answer is known."""

from ebmeta.simulate.gaussian_classes import GaussianClasses
from ebmeta.simulate.linear_gaussian import LinearGaussianTasks
from ebmeta.simulate.sines import SineTasks
from ebmeta.simulate.spinning_lines import RingPosterior, SpinningLines

__all__ = ["GaussianClasses", "LinearGaussianTasks", "RingPosterior", "SineTasks", "SpinningLines"]

"""
A likelihood of your own: waiting for the bus
=============================================

The minutes between buses of a line are exponential, and lines differ. The package has no exponential likelihood, so
this script adds one: a mean, a variance and a distribution. All else, posteriors, intervals and scores, comes by
itself.
"""

import math

import matplotlib.pyplot as plt
import numpy as np
import torch
from pyro.distributions import Exponential

import ebmeta
from ebmeta.likelihood import LIKELIHOODS, ScalarLikelihood


class BusWait(ScalarLikelihood):
    """Exponential waits of mean exp(eta)."""

    name = "bus_wait"

    def intercept(self, y, size):
        return math.log(float(y.mean()))

    def mean(self, eta, given=None):
        return eta.exp()

    def variance(self, eta, given=None):
        return (2 * eta).exp()

    def cdf(self, y, eta, given=None):
        return -torch.expm1(-y.clamp(min=0) * (-eta).exp())

    def distribution(self, eta, way_mask, given=None):
        return Exponential((-eta.squeeze(-1)).exp())


LIKELIHOODS["bus_wait"] = BusWait

# %%
# Forty lines have been timed before. A new one is timed while you wait.

rng = np.random.default_rng(0)
mean_wait = np.exp(rng.normal(1.8, 0.5, 40))
line = np.repeat(np.arange(40), 12)
waits = rng.exponential(mean_wait[line])
none = np.zeros((len(waits), 0))  # no features

model = ebmeta.EmpiricalBayes.regressor(0, likelihood="bus_wait", num_steps=0)
ebmeta.fit_evidence(model, ebmeta.GroupSampler(none, waits, line, n_support=3))

# %%
# How long does the next bus take? The more buses of the new line have come, the better it is known.

new = rng.exponential(15.0, 12)  # a line that is slower than most
counts = [0, 1, 2, 4, 8, 12]
mean, low, high = [], [], []
for seen in counts:
    reg = ebmeta.FewShotRegressor(model).fit(none[:seen], new[:seen])
    mean.append(reg.predict(none[:1])[0])
    ends = reg.interval(none[:1], coverage=0.8)
    low.append(ends[0][0])
    high.append(ends[1][0])

fig, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
ax.fill_between(counts, low, high, alpha=0.2, color="#2f4b7c", label="8 of 10 buses")
ax.plot(counts, mean, color="#2f4b7c", label="expected")
ax.plot(np.arange(len(new)), new, "o", color="#b3261e", label="what then came")
ax.axhline(15, color="0.6", linestyle="--", linewidth=1)
ax.set(xlabel="buses of this line seen so far", ylabel="minutes to the next one")
ax.legend(frameon=False)

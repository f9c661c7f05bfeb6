"""
The posterior, in Pyro
======================

Model and guide are Pyro programs of a batch of tasks, so that ``SVI``, ``Predictive``, conditioning and tracing
work as for any other. Here they train a small model by hand, and draw where the classes of a new task may lie.
"""

import matplotlib.pyplot as plt
import numpy as np
import pyro
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO

import ebmeta

rng = np.random.default_rng(0)
y = np.repeat(np.arange(30), 20)
X = 2 * rng.normal(size=(30, 2))[y] + 0.6 * rng.normal(size=(600, 2))
tasks = ebmeta.EpisodeSampler(X[y < 24], y[y < 24], n_way=3, n_shot=1, n_query=8, seed=0)
new = ebmeta.EpisodeSampler(X[y >= 24], y[y >= 24], n_way=3, n_shot=1, n_query=8, seed=1)

# %%
# Stochastic variational inference, as in any tutorial of Pyro.

pyro.clear_param_store()
model = ebmeta.EmpiricalBayes.classifier(num_features=2, num_steps=2, beta=1.0, seed=0)
svi = SVI(model.model, model.guide, pyro.optim.Adam({"lr": 0.02}), Trace_ELBO())
losses = [svi.step(tasks.sample(8, n)) for n in range(20)]
print(f"minus ELBO: {np.mean(losses[:5]):.0f} -> {np.mean(losses[-5:]):.0f}")

# %%
# The random variables of a new task: class means ``m``, class shares ``pi``, and all rows.

task = new.sample(1)
trace = pyro.poutine.trace(model.model).get_trace(task)
for name, site in trace.nodes.items():
    if site["type"] == "sample" and name in ("m", "pi", "support_x", "query_x", "query_y"):
        print(name, tuple(site["value"].shape), "observed" if site["is_observed"] else "latent")

# %%
# Draws of the class means, given one labelled row of each class (diamonds) and the unlabelled ones (grey). The
# model sees the directions of rows, so that all of them lie on a circle.

drawn = Predictive(model.model, guide=model.guide, num_samples=200, return_sites=["m"])(task)["m"]
with torch.no_grad():
    rows = model.predictor.of_task(task)
fig, ax = plt.subplots(figsize=(5, 4.6), layout="constrained")
for c, colour in enumerate(("#2f4b7c", "#b3261e", "#1a7f4b")):
    ax.scatter(*drawn[:, 0, c].T, s=8, alpha=0.25, linewidths=0, color=colour)
    labelled = rows.support[0, task.support_y[0] == c, :2]
    ax.scatter(*labelled.T, s=80, marker="D", color=colour, edgecolors="black", zorder=3)
ax.scatter(*rows.query[0, :, :2].T, s=22, color="0.4", zorder=2)
ax.set(aspect="equal", xlabel="first feature", ylabel="second feature")

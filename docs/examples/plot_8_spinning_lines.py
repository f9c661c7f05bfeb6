"""
Learning without a single label: spinning lines
===============================================

In these tasks no row has a label, and yet each can be solved: inputs scatter along a line, and the direction of the
line says which way labels grow. The steps of refinement learn to read it. Training is cut short here;
:doc:`/zero_shot` has the rest.
"""

import matplotlib.pyplot as plt
import torch

import ebmeta
from ebmeta.simulate.spinning_lines import SpinningLines

tasks = SpinningLines(seed=0)
model = ebmeta.EmpiricalBayes.regressor(num_features=2, beta=0.0)
ebmeta.fit(model, tasks, 40, 32, objective="evidence", learning_rate=0.1, progress=False)
ebmeta.fit(model, tasks, 80, 32, learning_rate=0.03, progress=False)

# %%
# The score of new tasks after each step, beside the exact answer, which is known in this family.

test = SpinningLines(seed=1).sample(256)
nll = ebmeta.evaluate(model, test)["nll"].values
exact = float(tasks.exact_nll(test, transductive=True).mean())
print("nats per query after each step:", nll.round(2), "exact:", round(exact, 2))

# %%
# Three of them. Dots are inputs, all that is known. The grey arrow is the direction in which labels truly grow, the
# blue one what is believed after the last step.

batch, weights = SpinningLines(seed=4).simulate(3)
with torch.no_grad():
    believed = model.posterior(batch)[-1].loc[:, 0, :2]
fig, axes = plt.subplots(1, 3, figsize=(8, 3), layout="constrained", sharex=True, sharey=True)
for task, ax in enumerate(axes):
    ax.scatter(*batch.query_x[task].T, s=14, color="0.4")
    for w, color in ((weights[task, 0, :2], "0.7"), (believed[task], "#2f4b7c")):
        ax.annotate("", w.tolist(), (0, 0), arrowprops={"arrowstyle": "-|>", "color": color, "linewidth": 2.5})
    ax.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal", xticks=[], yticks=[])

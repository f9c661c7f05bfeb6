"""
Following a run
===============

``fit`` takes callbacks: functions of the number of an iteration and of what was measured in it, by name. Two of
them here, for a CSV file and for TensorBoard, and the picture of what came back.
"""

import csv
import importlib.util
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import ebmeta
from ebmeta import plots

rng = np.random.default_rng(0)
y = np.repeat(np.arange(30), 20)
X = 1.5 * rng.normal(size=(30, 8))[y] + rng.normal(size=(600, 8))
train = ebmeta.EpisodeSampler(X[y < 20], y[y < 20], n_way=5, n_shot=1, n_query=10, seed=0)
validation = ebmeta.EpisodeSampler(X[y >= 20], y[y >= 20], n_way=5, n_shot=1, n_query=10, seed=1)


def to_csv(file):
    """Return a callback that writes a line for each iteration."""
    table = csv.writer(file)
    table.writerow(["iteration", "loss", "nll"])
    return lambda iteration, numbers: table.writerow([iteration, numbers["loss"], numbers["nll"]])


def to_tensorboard(writer):
    """Return a callback for a SummaryWriter."""
    return lambda iteration, numbers: [writer.add_scalar(name, value, iteration) for name, value in numbers.items()]


# %%
# TensorBoard is a package of its own, and the run does without where it is not installed.

folder = Path(tempfile.mkdtemp())  # stands for a folder of yours
with open(folder / "run.csv", "w", newline="") as file:
    callbacks = [to_csv(file)]
    if importlib.util.find_spec("tensorboard"):
        from torch.utils.tensorboard import SummaryWriter

        callbacks.append(to_tensorboard(SummaryWriter(folder / "runs")))
    model = ebmeta.EmpiricalBayes.classifier(num_features=8, num_steps=2, seed=0)
    run = ebmeta.fit(
        model,
        train,
        num_iterations=40,
        batch_size=8,
        learning_rate=0.02,
        validation=validation,
        validate_every=10,
        validation_tasks=64,
        callbacks=callbacks,
        progress=False,
    )

print("\n".join((folder / "run.csv").read_text().splitlines()[:4]))

# %%
# The history of the run, with the validation classes on which it stops.

fig, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
plots.history(run.history, ax=ax)

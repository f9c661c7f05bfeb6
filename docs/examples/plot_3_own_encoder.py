"""
An encoder of your own
======================

Embeddings of any network come as arrays. Where there are many labelled classes, the network can also be trained
with the rest. That pays where it has something to learn: here, that a digit is the same in black and in white.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

import ebmeta

X, y = load_digits(return_X_y=True)
ink = X / 16
negative = np.random.default_rng(0).random(len(y)) < 0.5  # half of the images are white on black
ink[negative] = 1 - ink[negative]
images = torch.tensor(ink, dtype=torch.float32).unflatten(1, (1, 8, 8)) - 0.5


def small_network():
    """A network that has seen nothing: it stands for yours."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3, stride=2), torch.nn.Flatten()
    )


# %%
# As it is: run the network, hand over its output. Any array of NumPy or torch will do.

encoder = small_network()
with torch.no_grad():
    features = encoder(images).numpy()
few = [list(y).index(digit) for digit in range(6, 10)]
clf = ebmeta.FewShotClassifier().fit(features[few], ["six", "seven", "eight", "nine"])
print(clf.predict_proba(features[-4:]).round(2))

# %%
# Trained along: six digits teach it, and the digits 6 to 9 are new to it.

known = y < 6
teach = ebmeta.EpisodeSampler(images[known], y[known], n_way=4, n_shot=1, n_query=8, seed=0)
network = small_network()
model = ebmeta.EmpiricalBayes.classifier(num_features=64, num_steps=2, embedder=network, seed=0)
ebmeta.fit(model, teach, num_iterations=40, batch_size=4, learning_rate=0.01, progress=False)


def tasks_of_new_digits(rows):
    """Return tasks of four new digits with one label each."""
    return ebmeta.EpisodeSampler(rows[~known], y[~known], n_way=4, n_shot=1, n_query=15, seed=1)


before = ebmeta.evaluate(ebmeta.general_classifier(), tasks_of_new_digits(features), 50, num_bootstrap=0)
after = ebmeta.evaluate(model, tasks_of_new_digits(images), 50, num_bootstrap=0)
for name, scores in {"as it is": before, "trained": after}.items():
    last = scores.isel(step=-1)
    print(f"{name}: {float(last.accuracy):.0%} ± {float(last.accuracy_half_width):.0%} right")

# %%
# Where the new digits lie, before and after.

with torch.no_grad():
    trained = network(images).numpy()
new = np.flatnonzero(~known)
fig, axes = plt.subplots(1, 2, figsize=(8, 3.8), layout="constrained")
for ax, (title, vectors) in zip(axes, {"as it is": features, "trained": trained}.items(), strict=True):
    directions = vectors[new] / np.linalg.norm(vectors[new], axis=1, keepdims=True)
    plane = PCA(2).fit_transform(directions)
    for digit in range(6, 10):
        own = plane[y[new] == digit]
        ax.scatter(*own.T, s=8, alpha=0.6, linewidths=0, label=str(digit))
    ax.set(title=title, xticks=[], yticks=[])
axes[1].legend(frameon=False, title="digit", markerscale=2)

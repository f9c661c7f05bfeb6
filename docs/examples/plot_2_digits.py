"""
Two labelled digits each, and a pile
====================================

Twenty handwritten digits have a label, two of each. Two hundred others have none. The pixels stand for the
embeddings of any encoder. (The classifier has learned from digits among many other data. This shows how it is used,
and not how good it is; :doc:`/general` has that.)
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import ebmeta

X, y = load_digits(return_X_y=True)
few = np.array([np.flatnonzero(y == digit)[:2] for digit in range(10)])  # two of each
pile = np.setdiff1d(np.arange(320), few)[:200]

clf = ebmeta.FewShotClassifier().fit(X[few.ravel()], y[few.ravel()])
p = clf.predict_proba(X[pile])  # all rows together: they say where the classes lie
found, sure = clf.classes_[p.argmax(1)], p.max(1)
print(f"{(found == y[pile]).mean():.0%} are right, where the probabilities say {sure.mean():.0%}")

# %%
# Left the labelled digits of each class; behind them the surest of those that the classifier put there, and at the
# end the least sure. Wrong ones are red.

picture = np.ones((10 * 9, 14 * 9, 3))
for digit in range(10):
    own = np.flatnonzero(found == digit)
    own = own[np.argsort(-sure[own], kind="stable")]
    shown = {0: few[digit, 0], 1: few[digit, 1]}
    shown |= {3 + place: pile[row] for place, row in enumerate(own[:6])}
    shown |= {10 + place: pile[row] for place, row in enumerate(own[6:][-4:])}
    for place, row in shown.items():
        ink = X[row].reshape(8, 8, 1) / 16
        colour = np.array([0.7, 0.1, 0.1]) if y[row] != digit else np.zeros(3)
        picture[9 * digit : 9 * digit + 8, 9 * place : 9 * place + 8] = 1 - ink * (1 - colour)

fig, ax = plt.subplots(figsize=(6.4, 4.8), layout="constrained")
ax.imshow(picture)
for x, words in ((8, "labelled"), (53, "surest"), (107, "least sure")):
    ax.text(x, -3, words, ha="center")
ax.set_axis_off()

# %%
# Which five would be worth a label next? Those that say most of all others.

next_five = pile[clf.suggest(X[pile], n=5)]
fig, axes = plt.subplots(1, 5, figsize=(4, 1), layout="constrained")
for ax, row in zip(axes, next_five, strict=True):
    ax.imshow(X[row].reshape(8, 8), cmap="gray_r")
    ax.set_axis_off()

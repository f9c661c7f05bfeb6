"""
Eight schools
=============

The best known small data set of this kind (Rubin 1981): coaching in eight schools, with an estimated effect and a
standard error each. The largest estimate is 28 points. Should one believe it? Not beyond what eight schools
together say.
"""

import matplotlib.pyplot as plt
import numpy as np

import ebmeta

names = list("ABCDEFGH")
effect = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
error = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])

# %%
# A school is a group of one row without features. Its known error enters as the size of the row, the inverse
# variance.

none = np.zeros((8, 0))
schools = ebmeta.GroupSampler(none, effect, names, size=1 / error**2, n_support=(0, 1))
model = ebmeta.EmpiricalBayes.regressor(0, num_steps=0, known_noise=True)
print(ebmeta.fit_evidence(model, schools, hyperprior=True))

# %%
# ``propagate`` carries into the intervals what eight schools leave open: how far schools differ at all.

ensemble = ebmeta.propagate(model, schools, num_draws=50, seed=0)
reg = ebmeta.FewShotRegressor(ensemble).fit(none, effect, groups=names, size=1 / error**2)
exact = np.full(8, 1e6)  # predict the effect itself, without the error of another trial
query = {"groups": names, "size": exact}
mean, std = reg.predict(none, **query, return_std=True)

# %%
# Grey: each school by itself. Blue: with what the others say of it.

fig, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
place = np.arange(8)
ax.errorbar(effect, place - 0.15, xerr=1.645 * error, fmt="o", color="0.6", label="by itself, 90%")
ax.errorbar(mean, place + 0.15, xerr=1.645 * std, fmt="o", color="#2f4b7c", label="with the others, 90%")
ax.axvline(0, color="0.8", linewidth=1, zorder=0)
ax.set_yticks(place, [f"school {name}" for name in names])
ax.invert_yaxis()
ax.set_xlabel("effect of coaching, points")
ax.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))

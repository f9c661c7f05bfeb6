"""
Thirty shops, a few weeks each
==============================

Shops sell at rates of their own, and prices matter more in some than in others. A formula as of lme4 says so. The
picture shows what is learned of each shop: what its few weeks say, drawn towards what all shops have in common.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import ebmeta
from ebmeta import plots

rng = np.random.default_rng(0)
shop = np.repeat(np.arange(30), rng.integers(2, 12, 30))
price = rng.normal(size=len(shop)).round(2)
level, slope = rng.normal(1.5, 0.5, 30)[shop], rng.normal(-0.5, 0.2, 30)[shop]
weeks = pd.DataFrame({"sold": rng.poisson(np.exp(level + slope * price)), "price": price, "shop": shop})

fit = ebmeta.mixed_model("sold ~ price + (1 + price | shop)", weeks, likelihood="poisson")
print(fit)

# %%
# The level of each shop, with its interval, from the least to the largest: the group effects.

fig, ax = plt.subplots(figsize=(6, 5), layout="constrained")
plots.caterpillar(fit, ax=ax)

# %%
# As a table, ``fit.group_effects``:

fit.group_effects.head()

# %%
# A new shop with three weeks of sales, and a fourth week at three prices that it may ask. The first three rows have
# labels, so they tell of the shop; the others are predicted.

new = pd.DataFrame({"shop": 30, "price": [0.1, -0.2, 0.3, -1.0, 0.0, 1.0], "sold": [9, 12, 7, None, None, None]})
fit.predict(new, coverage=0.9).round(1)

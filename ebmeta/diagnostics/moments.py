r"""Comparison of amortized posteriors with reference draws, one linear predictor at a time.

With mean $m_{ic}$ and standard deviation $s_{ic}$ of $\eta_{ic} = \phi(x_i)^\top w_c$ over the reference draws of a
task, and $m^k_{ic}$, $s^k_{ic}$ those of $q_k$, averages over the task's queries and outputs are taken of

$$ \Big( \frac{m^k_{ic} - m_{ic}}{s_{ic}} \Big)^2, \qquad \log \frac{s^k_{ic}}{s_{ic}}, \qquad
   \mathrm{KL}\big( \mathcal N(m^k_{ic}, (s^k_{ic})^2) \,\Vert\, \mathcal N(m_{ic}, s_{ic}^2) \big) . $$

Predictions of a query see nothing else of the posterior than its linear predictors, and the moments of each take few
draws, where the covariance of hundreds of weights takes thousands.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
import xarray as xr

from ebmeta.foundation.checks import at_least, checked
from ebmeta.model.conditional import Conditional
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.prediction.trees import assemble, marginals
from ebmeta.tasks.batch import TaskBatch

__all__ = ["against_reference"]


@checked(num_steps=at_least(0))
@torch.no_grad()
def against_reference(
    model: EmpiricalBayes, batch: TaskBatch, tree: xr.DataTree, *, num_steps: int | None = None
) -> xr.Dataset:
    r"""Compare $q_0, \dots, q_K$ with draws from an exact posterior.

    Args:
        model: the model.
        batch: $T$ tasks.
        tree: draws for the same tasks, from `ebmeta.reference.nuts`.
        num_steps: refinement steps, $K$; those of training by default.

    Returns:
        Over `(step, task)`: `mean_error`, the root mean square distance of means in reference standard deviations;
        `scale_ratio`, the geometric mean of ratios of standard deviations, below 1 where $q_k$ is too narrow; and `kl`,
        the mean divergence of one linear predictor in nats. Attribute `verdict`: the same of $q_K$, in words.

    Raises:
        ValueError: if the tree has no draws of `w` for these tasks, fewer than two, or the likelihood has noise levels.
    """
    if model.likelihood.has_level:
        raise ValueError(f"likelihood: expected one without noise levels, got {model.likelihood.name!r}")
    dims = ("chain", "draw", "task", "way", "feature")
    shape = (batch.num_tasks, batch.way_mask.shape[1], model.predictor.num_weights)
    if "posterior" not in tree.children or "w" not in tree["posterior"].to_dataset():
        raise ValueError(f"tree: expected draws 'w' in a group 'posterior', got groups {list(tree.children)}")
    w = tree["posterior"].to_dataset()["w"]
    if set(w.dims) != set(dims) or tuple(w.sizes[d] for d in dims[2:]) != shape:
        raise ValueError(f"tree: expected draws of (task, way, feature) {shape}, got {dict(w.sizes)}")
    draws = torch.from_numpy(w.transpose(*dims).values.astype(np.float64)).flatten(0, 1)
    if len(draws) < 2:
        raise ValueError(f"tree: expected at least 2 draws, got {len(draws)}")
    rows: list[torch.Tensor] = []
    chunks = marginals(model, batch, num_steps)
    for chunk in chunks:
        x = chunk.inferred.x.double()
        eta = torch.einsum("tqp,stcp->stqc", x, draws[:, chunk.tasks].to(x.device))
        loc, scale = eta.mean(0), eta.std(0)
        real = chunk.batch.query_mask.unsqueeze(-1) & chunk.batch.way_mask.unsqueeze(1)
        steps = []
        for k in range(chunk.inferred.num_steps + 1):
            m, v = (value[0].double() for value in chunk.inferred.each(partial(Conditional.marginal, k=k)))
            ratio, off = v.sqrt() / scale, ((m - loc) / scale).square()
            each = torch.stack([off, ratio.log(), (ratio.square() + off - 1) / 2 - ratio.log()])
            steps.append((each * real).sum((2, 3)) / real.sum((1, 2)))
        rows.append(torch.stack(steps, 1))
    off, ratio, kl = assemble(chunks, rows, 2)
    values = {"mean_error": np.sqrt(off), "scale_ratio": np.exp(ratio), "kl": kl}
    out = xr.Dataset({name: (("step", "task"), v) for name, v in values.items()})
    out = out.assign_coords({str(d): np.arange(n) for d, n in out.sizes.items()})
    for name, unit in (("mean_error", "standard deviations"), ("kl", "nats")):
        out[name].attrs["units"] = unit
    typical = {name: float(v) for name, v in out.isel(step=-1).median("task").items()}
    words = (
        f"in half of {batch.num_tasks} tasks the means of q_{out.sizes['step'] - 1} are within "
        f"{typical['mean_error']:.2f} standard deviations of the reference; its scale is "
        f"{typical['scale_ratio']:.2f} times the reference's, and its divergence {typical['kl']:.3f} nats for each "
        "linear predictor."
    )
    return out.assign_attrs(verdict=words)

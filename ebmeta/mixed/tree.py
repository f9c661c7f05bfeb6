"""Draws of a fitted mixed model as labelled arrays, in the groups that ArviZ knows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from ebmeta.foundation.seeding import stream
from ebmeta.likelihood.base import Given
from ebmeta.mixed.propagation import Draws
from ebmeta.mixed.tables import components
from ebmeta.prediction.arviz import SEEN
from ebmeta.random_effects.engine import Engine

__all__ = ["tree_of"]

RESERVED = {"chain", "draw", "term", "component", "row"}  # dimensions of the tree that are no groups

Array = NDArray[np.float64]


def tree_of(engine: Engine, draws: Draws, terms: list[str], num_draws: int, seed: int) -> xr.DataTree:
    """Return draws of parameters, group effects and labels, with the log likelihood of every row.

    Groups are a dimension by the name of their factor, with "_" after it where it is that of another dimension.

    Args:
        engine: the criterion.
        draws: of its parameters; each is taken as often as its weight says.
        terms: names of the common terms.
        num_draws: number of draws of the tree.
        seed: of the draws.
    """
    rng, source = np.random.default_rng(seed), stream(seed)
    marks = (np.arange(num_draws) + rng.random()) / num_draws
    taken = np.searchsorted(np.cumsum(draws.weight), marks).clip(max=len(draws.weight) - 1)
    rows, sizes = engine.rows, engine.precisions(engine.rows)
    given = Given(None if sizes is None else torch.from_numpy(sizes)[None])
    labels, ways = torch.from_numpy(rows.y)[None], torch.ones(1, 1, dtype=torch.bool)
    found: dict[str, list[Any]] = {"fixed_effects": [], "variance_components": [], "y": [], "log_likelihood": []}
    found |= {f"effects_{factor.name}": [] for factor in engine.factors}
    for index in np.unique(taken):
        at = draws.at[index]
        estimate, effects, likelihood = engine.estimate(at), engine.effects(at), engine.likelihood(at)
        spreads = components(engine.factors, engine.thetas(at), *engine.scales(at))
        for _ in range(int((taken == index).sum())):
            beta = engine.draw_common(at, rng)
            eta = rows.x @ beta + rows.offset
            drawn = engine.draw_effects(at, effects, beta - estimate.beta, rng)
            for factor, grouping, own in zip(engine.factors, rows.groupings, drawn, strict=True):
                found[f"effects_{factor.name}"].append(own)
                eta = eta + np.einsum("nk,nk->n", grouping.z, own[grouping.codes])
            laid = torch.from_numpy(eta)[None, :, None]
            found["fixed_effects"].append(beta)
            found["variance_components"].append(spreads.to_numpy())
            found["y"].append(likelihood.sample(laid, ways, given, generator=source)[0].numpy())
            with torch.no_grad():
                found["log_likelihood"].append(likelihood.log_prob(labels, laid, ways, given)[0].numpy())
    return _assembled(engine, {name: np.stack(each)[None] for name, each in found.items()}, terms, list(spreads.index))


def _assembled(engine: Engine, found: dict[str, Array], terms: list[str], names: list[tuple[str, str]]) -> xr.DataTree:
    lead = ("chain", "draw")
    posterior = {
        "fixed_effects": xr.DataArray(found["fixed_effects"], dims=(*lead, "term"), coords={"term": terms}),
        "variance_components": xr.DataArray(
            found["variance_components"],
            dims=(*lead, "component"),
            coords={"component": [" ".join(name) for name in names]},
        ),
    }
    for factor, grouping in zip(engine.factors, engine.rows.groupings, strict=True):
        own = factor.name.replace("/", ":")  # which a tree takes for a path
        axis = f"{own}_" if own in RESERVED else own
        coords = {axis: [str(v) for v in grouping.labels], f"term_{own}": factor.terms}
        values = found[f"effects_{factor.name}"]
        posterior[f"effects_{own}"] = xr.DataArray(values, dims=(*lead, *coords), coords=coords)
    rows = np.arange(len(engine.rows))
    by_row = {
        name: xr.DataArray(found[name], dims=(*lead, "row"), coords={"row": rows}) for name in ("y", "log_likelihood")
    }
    number = {"chain": [0], "draw": np.arange(found["y"].shape[1])}
    return xr.DataTree.from_dict(
        {
            "posterior": xr.Dataset(posterior).assign_coords(number),
            "posterior_predictive": xr.Dataset({"y": by_row["y"]}).assign_coords(number),
            "log_likelihood": xr.Dataset({"y": by_row["log_likelihood"].assign_attrs({SEEN: 1})}).assign_coords(number),
            "observed_data": xr.Dataset({"y": xr.DataArray(engine.rows.y, dims="row", coords={"row": rows})}),
        }
    )

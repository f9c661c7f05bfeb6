"""Labels that terms and groups explain to the last digit: a likelihood with noise has no maximum then."""

from __future__ import annotations

import copy

import numpy as np
import torch

from ebmeta.random_effects.modes import ALL_EXPLAINED, Labels
from ebmeta.random_effects.normal import summarise

__all__ = ["refuse_explained"]

SURE = 15.0  # log precision of labels with next to no noise
EXPLAINED = 1e-5  # of the standard deviation of the linear predictors that labels are likeliest under


def refuse_explained(data: Labels) -> None:
    """Raise `ValueError` where groups with any effects, and common terms, leave next to nothing of labels.

    Labels stand for the linear predictors under which they are likeliest.

    Args:
        data: the rows, of a likelihood with a density.
    """
    family = copy.deepcopy(data.family)
    for parameter in family.parameters():
        parameter.data.fill_(SURE)
    peak = family.peak(torch.from_numpy(data.y)).detach().numpy() - data.offset
    w = np.vstack([data.x.T, peak - peak.mean()])
    found = summarise(data.z, w, data.segments)
    if len(peak) - found.rank - data.x.shape[1] <= 0:  # as many effects as labels, which say nothing of the noise
        return
    if found.left <= EXPLAINED**2 * float(w[-1] @ w[-1]):
        raise ValueError(ALL_EXPLAINED)

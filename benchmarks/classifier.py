"""The classifier that checks of posteriors look at: the default model of `few_shot_classification.py`."""

from __future__ import annotations

import os
from pathlib import Path

from common import ROOT
from few_shot_classification import Kind, trained

import ebmeta

__all__ = ["KINDS", "classifier"]

ITERATIONS = 2000
#: Tasks that it is asked about: balanced, and told to be so.
KINDS = {f"{shots}shot": Kind(5, shots) for shots in (1, 5)}


def classifier(widths: str = "trained") -> ebmeta.EmpiricalBayes:
    """Return the model, from the folder `EBMETA_CACHE` (by default `cache`, here) where it is there.

    Args:
        widths: how its posteriors' widths are found, see `EmpiricalBayes.classifier`.
    """
    folder = Path(os.environ.get("EBMETA_CACHE", ROOT / "cache"))
    folder.mkdir(exist_ok=True)
    model, _ = trained("default", ITERATIONS, folder, widths=widths)
    return model

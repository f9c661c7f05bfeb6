"""Widths of class posteriors: trained for prediction, or measured on training tasks and kept.

The model of balanced tasks of CIFAR-FS, trained either way; how far posteriors move when the query labels become known,
against how far they say, beside accuracy, NLL and calibration. `python benchmarks/posterior_widths.py`
"""

from __future__ import annotations

import sys
from typing import Any

from common import ROOT, write
from few_shot_classification import MODELS, mixture, trained

import ebmeta
from ebmeta.diagnostics import posterior_updates

ITERATIONS, TASKS, UPDATES = 2000, 1000, 300
SPLITS = {"validation": "val", "test": "test"}


def measured() -> ebmeta.EmpiricalBayes:
    """Return the model of measured widths, trained as the other is, or loaded where it was before."""
    folder = ROOT / "cache" / f"measured_{ITERATIONS}"
    if not (folder / "config.json").is_file():
        model = ebmeta.EmpiricalBayes.classifier(256, widths="measured")
        kinds, _ = MODELS["balanced"]
        ebmeta.fit(
            model,
            mixture(kinds, "train", 0),
            ITERATIONS,
            validation=mixture(kinds, "val", 1),
            checkpoint=folder.with_suffix(".checkpoint"),
            progress=sys.stderr.isatty(),
        )
        ebmeta.save(model, folder)
    return ebmeta.load(folder)


def main() -> None:
    """Train both and write what they do."""
    result: dict[str, Any] = {"tasks": TASKS, "update_tasks": UPDATES, "iterations": ITERATIONS}
    models = {"trained": trained("balanced", ITERATIONS, ROOT / "cache")[0], "measured": measured()}
    for widths, model in models.items():
        result[widths] = {}
        for name, split in SPLITS.items():
            for kind in MODELS["balanced"][0]:
                tasks = kind.sampler(split, 2)
                scores = ebmeta.evaluate(model, tasks, TASKS)
                updates = posterior_updates(model, tasks, UPDATES)
                result[widths].setdefault(name, {})[f"{kind.n_shot}shot"] = {
                    key: data[key].values.round(5).tolist()
                    for data, keys in ((scores, ("accuracy", "nll", "ece")), (updates, ("spread",)))
                    for name_of in keys
                    for key in (name_of, f"{name_of}_half_width")
                }
        write("posterior_widths.json", result)


if __name__ == "__main__":
    main()

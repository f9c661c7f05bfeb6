"""Widths of class posteriors: trained for prediction, or measured on training tasks and kept.

The default model of CIFAR-FS, trained either way, asked about balanced tasks: how far posteriors move when the query
labels become known, against how far they say, beside accuracy, NLL and calibration.
`python benchmarks/posterior_widths.py`
"""

from __future__ import annotations

from typing import Any

import ebmeta
from ebmeta.diagnostics import posterior_updates
from lib.classifier import ITERATIONS, KINDS, classifier
from lib.common import write

TASKS, UPDATES = 1000, 300
SPLITS = {"validation": "val", "test": "test"}


def main() -> None:
    """Train both and write what they do."""
    result: dict[str, Any] = {"tasks": TASKS, "update_tasks": UPDATES, "iterations": ITERATIONS}
    for widths in ("trained", "measured"):
        model = classifier(widths)
        result[widths] = {}
        for name, split in SPLITS.items():
            for shots, kind in KINDS.items():
                tasks = kind.sampler(split, 2)
                scores = ebmeta.evaluate(model, tasks, TASKS)
                updates = posterior_updates(model, tasks, UPDATES)
                result[widths].setdefault(name, {})[shots] = {
                    key: data[key].values.round(5).tolist()
                    for data, keys in ((scores, ("accuracy", "nll", "ece")), (updates, ("spread",)))
                    for name_of in keys
                    for key in (name_of, f"{name_of}_half_width")
                }
        write("posterior_widths.json", result)


if __name__ == "__main__":
    main()

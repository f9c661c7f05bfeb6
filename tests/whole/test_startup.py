"""What a first prediction and a first draw load: nothing of torch that they do not need."""

from __future__ import annotations

import subprocess
import sys

import torch

CODE = """
import sys
import numpy as np
import torch
from ebmeta import FewShotClassifier
X = np.random.default_rng(0).normal(size=(6, 8))
print(FewShotClassifier().fit(X[:2], ["a", "b"]).predict_proba(X[2:]).sum().round(9))
from ebmeta.foundation.seeding import Drawing, stream
with Drawing(stream(0)):
    torch.distributions.Poisson(torch.ones(3)).sample()
print(*sorted({"torch._dynamo", "sympy", "matplotlib", "arviz", "jax"} & sys.modules.keys()))
"""


def test_a_first_prediction_loads_no_compiler():
    """The compiler of torch takes longer to load than all the rest takes to predict."""
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    loaded_by_torch = "sympy" if torch.__version__.startswith("2.8.") else ""  # its reductions look for symbolic sizes
    assert run.stdout == f"4.0\n{loaded_by_torch}\n"

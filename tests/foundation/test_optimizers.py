"""Optimisers without torch's compiler take the steps of those with it."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch

from ebmeta.foundation.optimizers import LBFGS, Adam

CODE = """
import sys
import torch
from ebmeta.foundation.optimizers import LBFGS, Adam
p = torch.nn.Parameter(torch.ones(3))
for optimizer in (Adam([p], fused=True), LBFGS([p])):
    for _ in range(2):
        optimizer.zero_grad()
        p.square().sum().backward()
        optimizer.step(lambda: p.square().sum())
    optimizer.load_state_dict(optimizer.state_dict())
print("torch._dynamo" in sys.modules)
"""


def trained(kind, steps, **settings):
    """Return parameters after steps in a curved valley, with a copy of the state taken half way, and the state."""
    x = [torch.nn.Parameter(torch.tensor(v)) for v in ([-1.0, 0.5], [2.0], [0.0])]  # of the last there is no gradient
    optimizer = kind(x, **settings)

    def closure():
        optimizer.zero_grad()
        loss = (1 - x[0][0]) ** 2 + 10 * (x[0][1] - x[0][0] ** 2) ** 2 + x[1].square().sum()
        loss.backward()
        return loss

    for step in range(steps):
        if step == steps // 2:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        closure()
        optimizer.step(*([closure] if kind.__name__ == "LBFGS" else []))
    return [v.tolist() for v in x], optimizer.state_dict()


@pytest.mark.parametrize(
    ("ours", "theirs", "settings"),
    [
        (Adam, torch.optim.Adam, {"lr": 0.1, "fused": True}),
        (Adam, torch.optim.Adam, {"lr": 0.1}),
        (LBFGS, torch.optim.LBFGS, {"max_iter": 5, "line_search_fn": "strong_wolfe"}),
    ],
)
def test_steps_are_those_of_torch_to_the_bit(ours, theirs, settings):
    (got, state), (wanted, their_state) = (trained(kind, 8, **settings) for kind in (ours, theirs))
    assert got == wanted
    assert got[0] != [-1.0, 0.5]
    assert str(state) == str(their_state)


def test_no_compiler_is_loaded():
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"

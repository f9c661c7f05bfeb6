"""Optimisers of torch that do not load its compiler.

Methods of `torch.optim.Optimizer` ask the compiler to leave them out, and so load it, which takes longer than many a
training. They are taken here as they are beneath.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

__all__ = ["LBFGS", "Adam"]


class _Plain(torch.optim.Optimizer):
    """What optimisers do besides a step."""

    add_param_group: Any = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad: Any = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict: Any = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict: Any = inspect.unwrap(torch.optim.Optimizer.load_state_dict)


class Adam(_Plain, torch.optim.Adam):
    """Adam as torch has it, to the bit."""

    step: Any = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


class LBFGS(_Plain, torch.optim.LBFGS):
    """L-BFGS as torch has it, to the bit."""

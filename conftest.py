"""What holds for the examples in docstrings too: no public call moves a generator of the user's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pytest
import torch

from ebmeta.foundation.seeding import quietly


def generators() -> tuple[object, ...]:
    """Return the states of the generators of Python, NumPy and torch."""
    name, key, *rest = np.random.get_state()  # noqa: NPY002  # the global state is the point
    return random.getstate(), (name, key.tobytes(), *rest), torch.get_rng_state().numpy().tobytes()


@pytest.fixture
def rng_untouched() -> Iterator[None]:
    """Fail where the test moves a global generator."""
    before = generators()
    yield
    assert generators() == before, "a global random generator was used"


@pytest.fixture(autouse=True)
def _examples_leave_generators_alone(request: pytest.FixtureRequest) -> None:
    if isinstance(request.node, pytest.DoctestItem):
        with suppress(ImportError):
            quietly("jax")  # which an example imports, as users do
        request.getfixturevalue("rng_untouched")

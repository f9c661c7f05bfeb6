"""Where rising functions cross zero, compared with SciPy."""

from __future__ import annotations

import pytest
import torch
from builders import close
from scipy import stats

from ebmeta.foundation.roots import rising_root

SHIFT = torch.linspace(-3, 3, 7, dtype=torch.float64)


def solve(f, low=-40.0, high=40.0, least=1e-13, most=200, steps=False):
    calls = []

    def counted(x):
        calls.append(x)
        return f(x)

    ends = torch.full_like(SHIFT, low), torch.full_like(SHIFT, high)
    values = f(ends[0]), f(ends[1])
    return rising_root(counted, ends, values, torch.full_like(SHIFT, least), most, steps=steps), len(calls)


@pytest.mark.parametrize("level", [1e-6, 0.05, 0.5, 0.999])
def test_quantiles_of_laws_are_those_of_scipy_in_a_few_calls(level):
    """Halving from 80 to 1e-13 takes 50 calls."""
    got, calls = solve(lambda x: torch.special.ndtr(x - SHIFT) - level)
    close(got, stats.norm.ppf(level) + SHIFT, 1e-9 if level < 1e-3 else 1e-12)
    assert calls <= 30
    got, calls = solve(lambda x: torch.from_numpy(stats.t.cdf((x - SHIFT).numpy(), 3)) - level, -300, 300)
    close(got, stats.t.ppf(level, 3) + SHIFT, 1e-7 if level < 1e-3 else 1e-11)
    got, calls = solve(lambda x: torch.special.ndtr(x - SHIFT) - level, -4, 4.5)
    assert calls <= 30


def test_steps_flats_and_poles_are_enclosed():
    step, calls = solve(lambda x: (x >= SHIFT).double() - 0.5)
    assert (step >= SHIFT).all()
    assert calls <= 55
    close(step, SHIFT, 1e-12)
    step, calls = solve(lambda x: (x >= SHIFT).double() - 0.5, steps=True)
    assert (step >= SHIFT).all()
    assert calls == 50  # 80 / 2^50 is below 1e-13
    close(step, SHIFT, 1e-12)
    flat, _ = solve(lambda x: torch.where(x < SHIFT, -0.3, (x - SHIFT).clamp(max=0.1)))
    assert (flat >= SHIFT).all()
    close(flat, SHIFT, 1e-12)
    cubic, _ = solve(lambda x: (x - SHIFT) ** 3)
    close(cubic, SHIFT, 1e-4)  # of a triple root, no more can be told from rounded values


def test_what_comes_back_has_reached_the_level_and_few_calls_are_kept_to():
    f = lambda x: torch.special.ndtr(x - SHIFT) - 0.3  # noqa: E731
    for most in (0, 1, 3, 200):
        got, calls = solve(f, most=most)
        assert calls <= most
        assert (f(got) >= 0).all()

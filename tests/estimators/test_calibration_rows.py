"""Labelled rows that calibrate: enough of them, drawn by the seed alone, never the last of a class."""

import pytest
import torch

from ebmeta.estimators.calibration_rows import calibration_split

NONE = torch.zeros(3, dtype=torch.bool)
Y = torch.tensor([0] * 20 + [1] * 9 + [2])


@pytest.mark.parametrize(("level", "number"), [(0.5, 15), (0.9, 15), (0.95, 19)])
def test_half_calibrate_or_as_many_as_the_level_needs(level, number):
    learned, held = calibration_split(Y, NONE, level, 0)
    assert (len(learned), len(held)) == (30 - number, number)
    assert torch.cat([learned, held]).sort().values.tolist() == list(range(30))
    assert set(Y[learned].tolist()) == {0, 1, 2}
    assert 29 in learned  # the only one of its class


def test_the_seed_alone_decides():
    first, again, other = (calibration_split(Y, NONE, 0.9, seed)[1].tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_a_class_with_an_anchor_needs_no_row():
    y, alone = torch.zeros(9, dtype=torch.long), torch.tensor([True])
    assert calibration_split(y, alone, 0.9, 0)[1].tolist() == list(range(9))
    with pytest.raises(ValueError, match="level: expected at least 10 labelled rows for sets of level 0.9, 9 to calib"):
        calibration_split(y, ~alone, 0.9, 0)


def test_what_is_lacking_is_said():
    with pytest.raises(ValueError, match="at least 22 labelled rows .* 19 to calibrate and one of each class, got 12"):
        calibration_split(torch.arange(12) % 3, NONE, 0.95, 0)

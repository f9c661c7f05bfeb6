"""What is told of tasks of other sizes than those of calibration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import class_tasks

from ebmeta.prediction.other_sizes import mean_shots, tell_of_others


def test_numbers_within_those_of_calibration_are_none_of_others(recwarn: pytest.WarningsRecorder) -> None:
    tell_of_others(np.array([2, 3]), (2, 3), "classes")
    tell_of_others(np.array([1, 2]), (2, 3), "classes", 0.5)  # half of them may be
    assert not recwarn.list
    with pytest.warns(UserWarning, match=r"^predict: expected tasks of 2 rows, as .*, got 1.5 in task 1: the"):
        tell_of_others(np.array([2, 1.5]), (2, 2), "rows")
    with pytest.warns(UserWarning, match="got 4 in task 0"):
        tell_of_others(np.array([4, 5, 2]), (2, 3), "rows", 0.5)


def test_labelled_rows_count_by_class() -> None:
    assert mean_shots(class_tasks((2, 4), (3, 1), (2, 2))).tolist() == [3, 1]


def test_an_anchor_counts_as_the_rows_that_it_is_worth() -> None:
    batch = class_tasks((2, 4), (3, 1), (2, 2))
    anchors = torch.zeros(2, 4, *batch.support_x.shape[2:])
    size = torch.tensor([[4.0, 0.0, 9.0, 9.0], [1.0, 1.0, 0.0, 0.0]])  # of two classes and of four: padding has none
    assert mean_shots(replace(batch, anchor=anchors, anchor_size=size)).tolist() == [5, 1.5]

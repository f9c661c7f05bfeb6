"""Facts of tasks as a whole: what they become, and what they refuse."""

from __future__ import annotations

import pytest
import torch

from ebmeta.tasks.facts import Facts

WAYS = torch.tensor([[True, True, False], [True, True, True]])


def test_facts_are_taken_as_floats_and_integers_without_padding():
    numbers = torch.tensor([[200, 0, 3], [1, 2, 3]], dtype=torch.uint8)
    facts = Facts(WAYS, torch.ones(2, 1).int(), torch.ones(2).int(), numbers).taken(2)
    assert facts.way_mask is WAYS
    assert facts.task_x.tolist() == [[1.0], [1.0]]
    assert facts.concentration.tolist() == [1.0, 1.0]
    assert {facts.task_x.dtype, facts.concentration.dtype} == {torch.float32}
    assert facts.way_class.tolist() == [[200, 0, -1], [1, 2, 3]]
    assert facts.way_class.dtype == torch.int64
    assert [v for v in vars(Facts(WAYS).taken(2)).values() if v is not None] == [WAYS]


def test_every_fact_is_mapped():
    facts = Facts(WAYS, torch.tensor([[1.0], [2.0]]), torch.tensor([3.0, 4.0]), torch.tensor([[5, 6, -1], [7, 8, 9]]))
    second = facts.map(lambda v: v[1:])
    assert second.way_mask.tolist() == [[True, True, True]]
    assert (second.task_x.tolist(), second.concentration.tolist()) == ([[2.0]], [4.0])
    assert second.way_class.tolist() == [[7, 8, 9]]
    assert [name for name, v in vars(Facts(WAYS).map(torch.clone)).items() if v is not None] == ["way_mask"]


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (Facts(torch.tensor(True)), r"way_mask: expected two axes, the first of tasks, got shape \(\)"),
        (Facts(WAYS[:1]), r"way_mask: expected shape \(2, 3\) to match support_x, got \(1, 3\)"),
        (Facts(WAYS.long()), "way_mask: expected a boolean mask, got torch.int64"),
        (Facts(~WAYS), "way_mask: expected the classes of each task first and padding after them, got a gap"),
        (Facts(WAYS, torch.ones(2)), r"task_x: expected two axes, the first of tasks, got shape \(2,\)"),
        (Facts(WAYS, torch.ones(3, 1)), r"task_x: expected shape \(2, 1\) to match support_x, got \(3, 1\)"),
        (Facts(WAYS, way_class=WAYS), "way_class: expected integers, got torch.bool"),
        (Facts(WAYS, anchor_size=torch.ones(2, 3)), "anchor_size: expected anchors too, got none"),
        (Facts(WAYS, anchor=torch.ones(2, 2, 4)), r"anchor: expected shape \(2, 3, 4\) to match support_x, got"),
        (Facts(WAYS, anchor=torch.full((2, 3, 1), torch.nan)), "anchor: expected finite numbers, got NaN or infinity"),
        (
            Facts(WAYS, anchor=torch.ones(2, 3, 1), anchor_size=-torch.ones(2, 3)),
            "anchor_size: expected finite numbers from 0 on, got another",
        ),
        (Facts(WAYS, outliers=torch.ones(2)), "outliers: expected booleans, got torch.float32"),
    ],
)
def test_malformed_facts_are_refused(facts, message):
    with pytest.raises(ValueError, match=message):
        facts.taken(2)


def test_anchors_are_worth_a_row_of_their_class_by_default():
    facts = Facts(WAYS, anchor=torch.ones(2, 3, 4)).taken(2)
    assert facts.anchor_size.tolist() == [[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
    stated = Facts(WAYS, anchor=torch.ones(2, 3, 4), anchor_size=torch.full((2, 3), 2.0)).taken(2)
    assert stated.anchor_size.tolist() == [[2.0, 2.0, 0.0], [2.0, 2.0, 2.0]]

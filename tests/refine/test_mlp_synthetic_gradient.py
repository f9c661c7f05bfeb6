"""The published network: silent until trained, one query at a time, and for one number of classes."""

from dataclasses import replace

import pytest
import torch
from builders import class_tasks, classifier, generator

from ebmeta.refine.mlp_synthetic_gradient import MLPSyntheticGradient
from ebmeta.refine.state import QueryState

EVEN = {"ways": (3,) * 4}


def state(**kwargs) -> QueryState:
    setting = classifier().infer(class_tasks(**kwargs)).setting
    return QueryState(setting, setting.q0)


def trained() -> MLPSyntheticGradient:
    xi = MLPSyntheticGradient(3).double()
    torch.nn.init.normal_(xi.readout.weight, generator=generator(0))
    return xi


def test_it_says_nothing_until_it_is_trained():
    assert not MLPSyntheticGradient(3).double()(state(**EVEN)).any()


def test_a_query_is_looked_at_by_itself():
    s, xi = state(**EVEN), trained()
    out = xi(s)
    hidden = s.loc[1, 2]
    for layer in (xi.net[0], xi.net[2]):
        hidden = (layer.weight @ hidden + layer.bias).clamp(min=0)
    torch.testing.assert_close(out[1, 2], xi.readout.weight @ hidden + xi.readout.bias)
    assert out.abs().max() > 0.01


def test_its_weights_are_those_of_its_generator():
    first, again, other = (MLPSyntheticGradient(3, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.net[0].weight, again.net[0].weight)
    assert not torch.equal(first.net[0].weight, other.net[0].weight)


def test_another_number_of_classes_is_refused():
    s = state()
    with pytest.raises(ValueError, match=r"built for 3 classes in every task, got \[2, 3, 4, 5\]"):
        MLPSyntheticGradient(3).double()(s)
    masked = replace(s.setting, way_mask=s.setting.way_mask & (torch.arange(5) < 4))
    with pytest.raises(ValueError, match="built for 5 classes"):
        MLPSyntheticGradient(5).double()(QueryState(masked, masked.q0))
    with pytest.raises(ValueError, match="n_way: expected at least 1, got 0"):
        MLPSyntheticGradient(0)

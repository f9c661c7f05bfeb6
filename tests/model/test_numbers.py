"""Parts whose numbers are of several types are refused in one line, wherever a model is asked."""

from __future__ import annotations

import pytest
import torch
from builders import class_tasks, real_tasks
from torch import nn

import ebmeta

PARTS = ["prior", "predictor", "refiner", "likelihood"]


def refused(model, batch, said):
    for ask in (model.infer, model.model, model.guide, lambda b: ebmeta.predict(model, b)):
        with pytest.raises(ValueError, match=rf"^model: expected parameters all of 32 or all of 64 bits, got {said}"):
            ask(batch)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_64_bits_among_others_of_32_is_refused(part):
    """Torch said which matrices it could not multiply; normal labels were computed in two types, without a word."""
    model = ebmeta.EmpiricalBayes.regressor(3)
    getattr(model, part).double()
    refused(model, real_tasks(), r"torch\.float(32|64) \(prior\.loc\) and torch\.float(32|64) \(\w+")
    with pytest.raises(ValueError, match=r"^save: expected parameters all of 32 or all of 64 bits"):
        ebmeta.save(model, "nowhere")


@pytest.mark.parametrize("part", PARTS[:3])
def test_so_it_is_in_a_classifier(part):
    model = ebmeta.EmpiricalBayes.classifier(4)
    getattr(model, part).double()
    refused(model, class_tasks(), r"torch\.float(32|64) \(prior\.\w+\) and torch\.float(32|64) \(\w+")


def test_an_embedder_may_have_its_own():
    class Own(nn.Linear):
        def forward(self, x):
            return super().forward(x.double())

    model = ebmeta.EmpiricalBayes.classifier(3, embedder=Own(4, 3).double(), freeze_embedder=True)
    assert model.infer(class_tasks()).path[-1].loc.dtype == torch.float32

"""Values that handlers put in the place of sites have the shape and the type of what the programs sample."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive

import ebmeta
from ebmeta.parts.class_inputs import ClassProportions

CLASSES = ebmeta.simulate.GaussianClasses(4, n_way=3, n_query=5, n_shot=2).sample(4)
NUMBERS = ebmeta.simulate.LinearGaussianTasks(np.zeros(3), np.eye(3)).sample(4)


def built(kind):
    if kind in ("joint", "mixture"):
        return ebmeta.EmpiricalBayes.classifier(4, synthetic_gradient=kind), CLASSES
    options = {"varying": {"random": [0]}, "level": {"likelihood": "normal_per_task"}}.get(kind, {"likelihood": kind})
    return ebmeta.EmpiricalBayes.regressor(2, **options), NUMBERS


def score(model, batch, **data):
    return poutine.trace(poutine.condition(model.model, data)).get_trace(batch).log_prob_sum()


@pytest.mark.parametrize(
    ("kind", "site", "right"),
    [
        ("normal", "w", (4, 1, 3)),
        ("mixture", "w", (4, 3, 5)),
        ("varying", "varying", (4, 1, 2)),
        ("varying", "w", (4, 1, 3)),
        ("level", "level", (4,)),
        ("joint", "m", (4, 3, 4)),
        ("joint", "pi", (4, 3)),
        ("normal", "query_y", (4, 10)),
        ("joint", "query_y", (4, 5)),
        ("joint", "query_x", (4, 5, 4)),
        ("joint", "support_x", (4, 6, 4)),
    ],
)
def test_a_value_of_another_shape_is_refused_in_one_line(kind, site, right):
    """Pyro repeats values along axes that they lack, or else einsum spoke of subscripts."""
    model, batch = built(kind)
    of = torch.long if (kind, site) == ("joint", "query_y") else torch.float32
    value = torch.full(right, 1 / 3).to(of)
    assert torch.isfinite(score(model, batch, **{site: value}))
    outer = value.expand(2, *right)
    for wrong in (outer[0, 0], outer[0, :1], outer[:, :1], value.unsqueeze(-1), value[..., :1].squeeze(-1), value[:3]):
        if wrong.shape[-len(right) :] != right:
            got = str(tuple(wrong.shape)).replace("(", r"\(").replace(")", r"\)")
            with pytest.raises(ValueError, match=f"^site '{site}': expected a value of shape .*, got {got}"):
                score(model, batch, **{site: wrong})
    with pytest.raises(ValueError, match=f"^site '{site}': expected a tensor, got 1"):
        score(model, batch, **{site: 1.0})


def test_the_guide_refuses_a_level_of_another_shape():
    """Tasks got the levels of others."""
    model, batch = built("level")
    with pytest.raises(ValueError, match=r"^site 'level': expected a value of shape \(4,\), .*, got \(4, 1\)"):
        poutine.condition(model.guide, {"level": torch.zeros(4, 1)})(batch)


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize(
    ("kind", "label", "said"),
    [
        ("joint", 0.5, "expected whole numbers of classes, got torch.float32"),
        ("joint", 3, "expected numbers of classes that a task has, got others"),
        ("joint", -1, "expected numbers of classes that a task has, got others"),
        ("normal", 1, "expected real numbers, got torch.int64"),
        ("poisson", -0.5, "expected counts 0, 1, 2, ..., got -0.5 at task 1, row 2"),
        ("gamma", -1.0, "expected numbers above 0 for a gamma likelihood, got -1 at task 1, row 2"),
    ],
)
def test_labels_that_the_likelihood_cannot_have_are_refused(kind, label, said, labelled):
    """A count of -0.5 had a density; classes of 0.5 were class 0."""
    model, batch = built(kind)
    ones = torch.ones_like(batch.query_y)
    batch = replace(batch, query_y=ones if labelled else None, support_y=torch.ones_like(batch.support_y))
    if kind == "joint":
        batch = replace(batch, support_y=CLASSES.support_y)
    value = ones.to(torch.tensor(label).dtype, copy=True)
    value[1, 2] = label
    with pytest.raises(ValueError, match=f"^site 'query_y': {said}"):
        score(model, batch, query_y=value)


def test_classes_that_a_task_lacks_are_refused():
    model, batch = built("joint")
    ways, known = torch.tensor([[True, True, False]] * 4), batch.support_y.clamp(max=1)
    batch = replace(batch, way_mask=ways, support_y=known, query_y=None)
    score(model, batch, query_y=torch.ones(4, 5, dtype=torch.long))
    with pytest.raises(ValueError, match="expected numbers of classes that a task has"):
        score(model, batch, query_y=torch.full((4, 5), 2))


def test_labels_that_were_drawn_are_not_looked_at():
    """A draw may round to the edge of what is possible; it is no statement of the user's."""
    model, batch = built("gamma")
    batch = replace(batch, query_y=None, support_y=torch.ones_like(batch.support_y))
    w = torch.full((3, 4, 1, 3), -80.0)
    drawn = Predictive(model.model, {"w": w}, parallel=True)(batch)["query_y"]
    assert drawn.shape == (3, 4, 10)


def test_what_are_no_proportions_has_no_density():
    """Three shares of 1 each had one above that of any proportions."""
    law = ClassProportions(torch.tensor([[2.0, 2.0, 2.0]]))
    values = torch.tensor([[0.2, 0.3, 0.5], [1.0, 1.0, 1.0], [1.2, 0.3, -0.5], [0.2, 0.3, 0.4]]).unsqueeze(1)
    right = torch.distributions.Dirichlet(torch.tensor([2.0, 2.0, 2.0])).log_prob(values[0, 0])
    torch.testing.assert_close(law.log_prob(values)[:, 0], torch.tensor([float(right), *[-torch.inf] * 3]))

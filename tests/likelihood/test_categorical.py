"""The categorical likelihood against its distribution, and its objectives against draws."""

from __future__ import annotations

import pytest
import torch
from builders import class_tasks, classifier, close, generator

from ebmeta import TaskBatch
from ebmeta.likelihood import NEVER, Categorical
from tests.likelihood.test_base import logits, normal


def test_categorical_log_prob_is_that_of_its_distribution():
    loc, _, mask = logits(4)
    mask[0, 2:] = False
    y = torch.tensor([[0, 1, 1, 0, 1], [3, 2, 1, 0, 3]])
    eta = loc + normal(6, *loc.shape, seed=4)
    got = Categorical().log_prob(y, eta, mask)
    close(got, Categorical().distribution(eta, mask).log_prob(y))
    close(got[:, 0], torch.log_softmax(eta[:, 0, :, :2], -1).gather(-1, y[0].expand(6, 5)[..., None])[..., 0])


def test_the_categorical_objectives_average_over_draws():
    likelihood = Categorical()
    loc, var, mask = logits(3)
    y = torch.randint(3, (2, 5), generator=generator(3))
    noise = normal(4, *loc.shape, seed=5)
    rows = [likelihood.log_prob(y, loc + var.sqrt() * n, mask) for n in noise]
    close(likelihood.expected_log_prob(y, loc, var, mask, noise), sum(rows) / 4)
    close(likelihood.predictive_log_prob(y, loc, var, mask, noise), torch.log(sum(r.exp() for r in rows) / 4))
    mask[:, 2] = False
    eta = loc.masked_fill(~mask.unsqueeze(1), NEVER)
    close(likelihood.distribution(loc, mask).probs, torch.softmax(eta, -1))


@pytest.mark.parametrize("side", ["support", "query"])
def test_rows_of_classes_have_no_sizes(side):
    """Weights of rows, also of unlabelled ones, would be left out of account."""
    batch = class_tasks()
    sizes = {f"{side}_size": torch.ones(getattr(batch, side).mask.shape)}
    weighed = TaskBatch(**{**vars(batch), **sizes})
    with pytest.raises(
        ValueError, match=f"{side}_(y|size): expected class labels, whose rows have no sizes, got sizes"
    ):
        classifier().posterior(weighed.unlabelled())

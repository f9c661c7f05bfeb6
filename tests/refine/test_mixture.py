"""Steps of the mixture: what they do to clusters, proportions and confidence."""

from __future__ import annotations

from dataclasses import replace

import torch
from builders import class_tasks, classifier, generator

from ebmeta import EmpiricalBayes, TaskBatch


def clusters(counts: list[int], noise: float = 0.3, seed: int = 0) -> TaskBatch:
    """Twenty tasks of as many clusters as counts, one labelled row each, far from its cluster's middle."""
    g = generator(seed)
    support, queries = [], []
    for _ in range(20):
        centre = torch.nn.functional.normalize(torch.randn(len(counts), 16, generator=g), dim=-1)
        y = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        support.append(centre + noise * torch.randn(len(counts), 16, generator=g))
        queries.append(centre[y] + noise / 2 * torch.randn(len(y), 16, generator=g))
    labels = torch.arange(len(counts)).expand(20, -1)
    return TaskBatch(torch.stack(support), labels, torch.stack(queries), y.expand(20, -1))


def accuracies(model: EmpiricalBayes, batch: TaskBatch) -> list[float]:
    inferred = model.infer(batch)
    return [
        float((inferred.marginal(k)[0].argmax(-1) == batch.query_y).float().mean()) for k in range(len(inferred.path))
    ]


def test_untrained_steps_find_the_clusters():
    before, *_, after = accuracies(EmpiricalBayes.classifier(16, num_steps=3), clusters([15] * 4))
    assert before < 0.9
    assert after > before + 0.08


def test_untrained_steps_do_not_force_balance():
    model, batch = EmpiricalBayes.classifier(16, num_steps=3), clusters([40, 12, 6, 2])
    before, *_, after = accuracies(model, batch)
    assert after > before + 0.03
    shares = model.likelihood.moments(*model.infer(batch).marginal(-1), batch.way_mask)[0].mean((0, 1))
    assert shares[0] > 0.5  # 40 in 60; balance would have it at a quarter
    assert shares[3] < 0.15  # 2 in 60


def test_a_known_concentration_may_have_another_type_of_numbers():
    """Torch could not multiply what 64 bits had made of 32."""
    batch, model = class_tasks(dtype=torch.float32), EmpiricalBayes.classifier(4, synthetic_gradient="mixture")
    known = torch.tensor([2.0, torch.nan, torch.inf, 0.5])
    locs = [model.posterior(replace(batch, concentration=known.to(t)))[-1].loc for t in (torch.float32, torch.float64)]
    assert torch.equal(*locs)
    assert not torch.equal(locs[0], model.posterior(batch)[-1].loc)


def test_more_steps_than_trained_converge():
    model, batch = classifier(4, 2, scale=0.0), class_tasks()
    path = model.posterior(batch, 200)
    torch.testing.assert_close(path[-1].loc, path[-2].loc, atol=1e-6, rtol=0)


def test_queries_narrow_the_posterior():
    first, *_, last = classifier(4, 3).posterior(class_tasks())
    assert bool((last.precision >= first.precision).all())
    assert bool((last.precision > first.precision).any())

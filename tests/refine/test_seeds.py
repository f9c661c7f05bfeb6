"""Unknown classes start at queries that explain others which the classes explain badly."""

from __future__ import annotations

from dataclasses import replace

import torch
from builders import close, generator
from torch.distributions import Normal

from ebmeta.parts.class_gaussian import ClassGaussian
from ebmeta.refine.seeds import LEAST, find_seeds, started

BETWEEN, SPREAD = 4.0, 0.25


def posterior(tasks: int = 1, unknown: int = 2) -> ClassGaussian:
    """Return that of two classes, of which five rows at (3, 0) and (-3, 0) are known, and of unknown ones."""
    zero, shares = torch.zeros(tasks, 2, 2), torch.full((tasks, 2), 2.0)
    prior = ClassGaussian(zero, torch.full_like(zero, 1 / BETWEEN), shares, torch.tensor(SPREAD), 0.3)
    prior = prior.with_unknown(torch.ones(tasks, dtype=torch.bool), unknown)
    x = torch.tensor([[3.0, 0.0]] * 5 + [[-3.0, 0.0]] * 5).expand(tasks, -1, -1)
    labels = torch.nn.functional.one_hot(torch.tensor([0] * 5 + [1] * 5), 2 + unknown).float()
    return prior.given(x, labels.expand(tasks, -1, -1))


def queries() -> torch.Tensor:
    """Return four about each of the classes and of (0, 4) and (0, -4), five in a group of three and one far away."""
    centre = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 4.0], [0.0, -4.0]]).repeat_interleave(4, 0)
    x = centre + 0.3 * torch.randn(16, 2, generator=generator(0))
    x = torch.cat([x, torch.tensor([[6.0, 6.0]])])
    return torch.nn.functional.pad(x[None], (0, 1), value=0.3)


def test_a_seed_is_in_each_group_that_no_class_explains():
    x = queries()
    mask = torch.ones(1, 17, dtype=torch.bool)
    first, second = find_seeds(posterior(), x, mask)[0][0].tolist()
    assert sorted([first // 4, second // 4]) == [2, 3]


def test_the_first_seed_explains_most_by_the_densities_themselves():
    x, q = queries(), posterior()
    rows = x[0, :, :-1].double()

    def density(loc: torch.Tensor, precision: float) -> torch.Tensor:
        return Normal(loc, (SPREAD + 1 / precision) ** 0.5).log_prob(rows).sum(-1)

    known = torch.stack([density(q.loc[0, c].double(), float(q.precision[0, c, 0])) for c in range(2)]).amax(0)
    alone = 1 / BETWEEN + 1 / SPREAD
    gains = []
    for j in range(17):
        more = (density(rows[j] / SPREAD / alone, alone) - known).clamp(min=0)
        gains.append(float(more.sum() - more[j]))
    first, gained = (v[0, 0] for v in find_seeds(q, x, torch.ones(1, 17, dtype=torch.bool)))
    assert int(first) == max(range(17), key=gains.__getitem__)
    close(gained.double(), torch.tensor(max(gains), dtype=torch.float64), 1e-4)


def test_padding_is_no_seed_and_changes_none():
    x, mask = queries(), torch.ones(1, 17, dtype=torch.bool)
    far = torch.cat([x, torch.full((1, 5, 3), 9.0)], 1)
    padded = torch.nn.functional.pad(mask, (0, 5))
    assert find_seeds(posterior(), far, padded)[0].tolist() == find_seeds(posterior(), x, mask)[0].tolist()
    few = torch.arange(17)[None] < 1
    assert find_seeds(posterior(), x * few.unsqueeze(-1), few)[0].tolist() == [[0, 0]]


def test_only_unknown_classes_with_something_to_explain_start_elsewhere():
    """The third group is one row, so that the third class has nothing to explain."""
    x, q, mask = queries(), posterior(unknown=3), torch.ones(1, 17, dtype=torch.bool)
    start, (seeds, gained) = started(q, x, mask), find_seeds(q, x, mask)
    assert (gained[0] > LEAST / 5).tolist() == [True, True, False]  # of five labelled rows
    for name in ("loc", "precision"):
        close(getattr(start, name)[:, [0, 1, 4]], getattr(q, name)[:, [0, 1, 4]])
    close(start.shares, q.shares)
    precision = 1 / BETWEEN + 1 / SPREAD
    close(start.precision[:, 2:4], torch.full((1, 2, 2), precision))
    close(start.loc[0, 2:4], x[0, seeds[0, :2], :-1] / SPREAD / precision, 1e-6)


def test_a_seed_has_to_explain_more_where_classes_have_fewer_labelled_rows():
    """Two queries of each group, and classes with the weight of 1 to 40 labelled rows."""
    x, begun = queries()[:, [0, 1, 4, 5, 8, 9, 12, 13]], []
    mask = torch.ones(1, 8, dtype=torch.bool)
    for rows in (1.0, 2.0, 40.0):
        q = posterior()
        unknown = q.precision[:, 2:]
        q = replace(q, precision=torch.cat([unknown + rows / SPREAD, unknown], 1))
        gained = find_seeds(q, x, mask)[1][0]
        begun.append((started(q, x, mask).precision[0, 2:, 0] > unknown[0, :, 0]).tolist())
        assert begun[-1] == (gained > LEAST / rows).tolist()
    assert begun[0] == [False, False]
    assert begun[1:] == [[True, True]] * 2


def test_rows_that_count_less_have_to_explain_as_much_by_what_they_count():
    x, q, mask = queries(), posterior(), torch.ones(1, 17, dtype=torch.bool)
    least = float(LEAST / 5 / find_seeds(q, x, mask)[1].min())
    for share, starts in ((0.9 * least, 1), (1.1 * least, 2)):  # the second seed explains less than the first
        start = started(replace(q, trust=torch.full((1, 1, 1), share)), x, mask)
        assert int((start.precision[0, 2:, 0] > q.precision[0, 2:, 0]).sum()) == starts

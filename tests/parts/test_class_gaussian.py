"""The Gaussian over class means is conjugate, leaves each row out for itself, and bounds the evidence of inputs."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import torch
from builders import close, generator
from torch.distributions import Dirichlet, Independent, MultivariateNormal, Normal, kl_divergence

from ebmeta.parts.class_gaussian import ClassGaussian
from ebmeta.simulate.gaussian_classes import GaussianClasses

SPREAD, BETWEEN, SIZE = 0.7, 1.9, 3


def prior(shares=((2.0, 0.5),), seed=0) -> ClassGaussian:
    a = torch.tensor(shares, dtype=torch.float64)
    loc = torch.randn(*a.shape, SIZE, generator=generator(seed), dtype=torch.float64)
    return ClassGaussian(loc, torch.full_like(loc, 1 / BETWEEN), a, torch.tensor(SPREAD, dtype=torch.float64), 0.3)


def rows(number=4, tasks=1, seed=1) -> torch.Tensor:
    x = 2 * torch.randn(tasks, number, SIZE, generator=generator(seed), dtype=torch.float64)
    return torch.nn.functional.pad(x, (0, 1), value=0.3)


def beliefs(number=4, ways=2, tasks=1, seed=2) -> torch.Tensor:
    return torch.rand(tasks, number, ways, generator=generator(seed), dtype=torch.float64).softmax(-1)


def density(x: torch.Tensor, loc: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    return Normal(loc, variance.sqrt()).log_prob(x).sum(-1)


def test_labelled_rows_give_the_conjugate_posterior():
    p, x, y = prior(), rows(5), torch.tensor([0, 1, 1, 0, 1])
    q = p.given(x[..., :-1], torch.nn.functional.one_hot(y, 2)[None].double())
    for c in (0, 1):  # conditioning of the joint Gaussian of one class mean and its inputs, feature by feature
        own = x[0, y == c, :-1]
        n = len(own)
        covariance = BETWEEN * torch.ones(n, n, dtype=torch.float64) + SPREAD * torch.eye(n, dtype=torch.float64)
        gain = BETWEEN * torch.linalg.solve(covariance, torch.ones(n, dtype=torch.float64))
        close(q.loc[0, c], p.loc[0, c] + gain @ (own - p.loc[0, c]))
        close(1 / q.precision[0, c, 0], BETWEEN - BETWEEN * gain.sum())
    assert torch.equal(q.shares, p.shares)


def test_each_row_is_judged_by_all_others():
    p, x, r = prior(), rows(), beliefs()
    odds, v = p.given_beliefs(x[..., :-1], r).log_odds(x)
    for i in range(4):
        others = [j for j in range(4) if j != i]
        q = p.given_beliefs(x[:, others, :-1], r[:, others])
        want = q.shares[0].log() + density(x[0, i, :-1], q.loc[0], SPREAD + 1 / q.precision[0])
        close(odds[0, i] - odds[0, i].logsumexp(-1), want - want.logsumexp(-1))
        close(v[0, i], SPREAD + 1 / q.precision[0, :, 0])


def labelled_evidence(p: ClassGaussian, x: torch.Tensor, y: torch.Tensor) -> float:
    """Return log p(x, y) of the rows of one task, one after the other."""
    total, q = 0.0, p
    for i, c in enumerate(y):
        row = x[:, i : i + 1, :-1]
        share = (q.shares[0, c] / q.shares[0].sum()).log()
        total += float(share + density(row[0, 0], q.loc[0, c], SPREAD + 1 / q.precision[0, c]))
        q = q.given_beliefs(row, torch.nn.functional.one_hot(torch.tensor([[c]]), 2).double())
    return total


def test_the_bound_is_exact_for_certain_beliefs_and_below_the_evidence_for_all():
    p, x = prior(), rows(3)
    every = [labelled_evidence(p, x, torch.tensor(y)) for y in itertools.product((0, 1), repeat=3)]
    exact = float(torch.tensor(every).double().logsumexp(0))
    for y, want in zip(itertools.product((0, 1), repeat=3), every, strict=True):
        r = torch.nn.functional.one_hot(torch.tensor([y]), 2).double()
        assert math.isclose(float(p.given_beliefs(x[..., :-1], r).input_evidence(p, x)), want, rel_tol=1e-9)
    bounds = [float(p.given_beliefs(x[..., :-1], beliefs(3, seed=s)).input_evidence(p, x)) for s in range(50)]
    assert max(bounds) < exact
    r = beliefs(3)
    for _ in range(20):
        q = p.given_beliefs(x[..., :-1], r)
        r = q.log_odds(x)[0].softmax(-1)
    assert max(bounds) < float(q.input_evidence(p, x)) < exact


def test_labels_of_the_support_set_are_no_evidence_of_proportions():
    p, x, y = prior(), rows(3), torch.tensor([1, 1, 0])
    q = p.given(x[..., :-1], torch.nn.functional.one_hot(y[None], 2).double())
    want, seen = 0.0, p
    for i, c in enumerate(y):
        row = x[:, i : i + 1, :-1]
        want += float(density(row[0, 0], seen.loc[0, c], SPREAD + 1 / seen.precision[0, c]))
        seen = seen.given(row, torch.nn.functional.one_hot(y[None, i : i + 1], 2).double())
    assert math.isclose(float(q.input_evidence(p, x)), want, rel_tol=1e-9)


def test_the_divergence_is_that_of_its_two_parts():
    p = prior()
    q = p.given_beliefs(rows()[..., :-1], beliefs())
    means = [Independent(Normal(g.loc[0], g.precision[0].rsqrt()), 2) for g in (q, p)]
    want = kl_divergence(*means) + kl_divergence(Dirichlet(q.shares[0]), Dirichlet(p.shares[0]))
    close(q.kl(p)[0], want)
    close(p.kls([p, q])[:, 0], torch.stack([torch.zeros_like(want), want]))


def test_a_class_that_does_not_exist_changes_nothing():
    p, wide = prior(), prior(((2.0, 0.5, 0.0),), seed=3)
    wide = wide.with_(torch.cat([p.loc, wide.loc[:, 2:]], 1), wide.precision)
    x, r = rows(), beliefs()
    q, got = p.given_beliefs(x[..., :-1], r), wide.given_beliefs(x[..., :-1], torch.nn.functional.pad(r, (0, 1)))
    close(got.log_odds(x)[0][..., :2].log_softmax(-1), q.log_odds(x)[0].log_softmax(-1))
    assert float(got.log_odds(x)[0].softmax(-1)[..., 2].max()) == 0.0
    close(got.kl(wide), q.kl(p))
    close(got.input_evidence(wide, x), q.input_evidence(p, x))


def test_moments_of_the_linear_predictor_are_those_of_its_draws():
    """Each of 24 numbers is within 5 standard errors: a false alarm in 1 of 70,000 runs."""
    p, x, draws = prior(((4.0, 1.5),)), rows(), 40_000
    q = p.given(x[:, :2, :-1], torch.eye(2, dtype=torch.float64)[None])
    eta = torch.einsum("tnp,stcp->stnc", x, q.weights(q.draw(draws, generator(5))))
    loc, var = q.marginal(x)
    off = eta - loc
    assert bool((off.mean(0).abs() < 5 * (var / draws).sqrt()).all())
    kurtosis = off.pow(4).mean(0) - off.square().mean(0).square()
    assert bool(((off.square().mean(0) - var).abs() < 5 * (kurtosis / draws).sqrt()).all())


def test_draws_of_weights_say_the_same_as_the_densities_of_inputs():
    q = prior().given_beliefs(rows()[..., :-1], beliefs())
    values = {"m": q.loc, "pi": torch.tensor([[0.3, 0.7]], dtype=torch.float64)}
    x = rows(6, seed=9)
    got = torch.einsum("tnp,tcp->tnc", x, q.weights(values)).log_softmax(-1)
    each = MultivariateNormal(q.loc, SPREAD * torch.eye(SIZE, dtype=torch.float64)).log_prob(x[0, :, None, None, :-1])
    close(got[0], (each[:, 0] + values["pi"].log()).log_softmax(-1))


def test_an_anchor_is_a_labelled_row_that_counts_for_so_many():
    p, stands = prior(), rows(2)[..., :-1]
    got = p.anchored(stands, torch.tensor([[3.0, 0.0]], dtype=torch.float64))
    three = p.given(stands[:, [0, 0, 0]], torch.tensor([[[1.0, 0.0]] * 3], dtype=torch.float64))
    close(got.loc, three.loc)
    close(got.precision, three.precision)
    assert got.counted is None
    close(got.loc[:, 1], p.loc[:, 1])


def test_unknown_classes_are_like_the_others():
    """Given labels, an unknown class is a class as any other; without rows it has the prior predictive."""
    one = prior()
    alike = one.with_(one.loc[:, :1].expand(-1, 2, -1), one.precision)
    p = replace(alike, shares=alike.shares[:, :1].expand(-1, 2)).with_unknown(torch.tensor([True]), 2)
    assert p.unknown == 2
    for name in ("loc", "precision", "shares"):
        close(getattr(p, name)[:, 2:], getattr(p, name)[:, :2])
    x, labels = rows(4), torch.nn.functional.one_hot(torch.tensor([[0, 2, 2, 1]]), 4).double()
    swapped = torch.tensor([2, 1, 0, 3])
    q, other = p.given(x[..., :-1], labels), p.given(x[..., :-1], labels[..., swapped])
    close(q.loc[:, swapped], other.loc)
    close(q.log_odds(x)[0][..., swapped], other.log_odds(x)[0])
    odds, v = q.log_odds(x)
    close(v.expand(1, 4, 4)[0, :, 3], torch.full((4,), SPREAD + BETWEEN, dtype=torch.float64))
    for i in range(4):
        of = [density(x[0, i, :-1], q.loc[0, c], SPREAD + 1 / q.precision[0, c]) for c in range(4)]
        want = p.shares[0].log() + torch.stack([torch.as_tensor(each) for each in of])
        close(odds[0, i].log_softmax(-1), want.log_softmax(-1))


def test_tasks_without_outliers_beside_others_have_no_unknown_class():
    p = prior(((2.0, 0.5), (2.0, 0.5)))
    p = p.with_(p.loc[:, :1].expand(-1, 2, -1), p.precision)
    odds, _ = p.with_unknown(torch.tensor([True, False]), 3).log_odds(rows(4, 2))
    assert float(odds[1].softmax(-1)[:, 2:].max()) == 0.0
    close(odds[1, :, :2], p.log_odds(rows(4, 2))[0][1])
    assert float(odds[0].softmax(-1)[:, 2:].min()) > 0.0


def test_slopes_are_gradients_of_linear_predictors():
    p, x = prior(), rows(5)
    g = torch.randn(1, 5, 2, generator=generator(3), dtype=torch.float64)
    loc = p.loc.clone().requires_grad_()
    eta = torch.einsum("tnp,tcp->tnc", x, p.weights({"m": loc, "pi": p.shares / p.shares.sum(1, keepdim=True)}))
    (want,) = torch.autograd.grad((g * eta).sum(), loc)
    close(p.slope(x, g), want)


def test_densities_of_draws_are_those_of_means_and_proportions():
    p = prior(shares=((2.0, 0.5), (1.5, 3.0)))
    values = p.draw(6, generator(4))
    want = Normal(p.loc, p.scale).log_prob(values["m"]).sum((-2, -1)) + Dirichlet(p.shares).log_prob(values["pi"])
    close(p.log_prob(values), want)


def test_joined_tasks_stand_one_after_the_other():
    p, q = prior(shares=((2.0, 0.5), (1.5, 3.0))), prior(seed=5)
    both = p.joined([q.given_beliefs(rows()[..., :-1], beliefs())])
    assert len(both.loc) == 3
    close(both.kl(both), torch.zeros(3, dtype=torch.float64))
    close(both.log_normalizer()[:2], p.log_normalizer())
    assert both.counted is None


def test_doubling_keeps_the_numbers():
    short = ClassGaussian(*(v.float() for v in (prior().loc, prior().precision, prior().shares, prior().spread)), 0.3)
    wide = short.given_beliefs(rows()[..., :-1].float(), beliefs().float()).double()
    assert {v.dtype for v in (wide.loc, wide.precision, wide.shares, wide.spread, wide.counted)} == {torch.float64}
    close(
        wide.log_odds(rows())[0],
        short.given_beliefs(rows()[..., :-1].float(), beliefs().float()).log_odds(rows().float())[0].double(),
        1e-4,
    )


def test_doubt_leaves_the_information_that_inputs_hold():
    """Means that are known but for this doubt: the Hessian of the density of far rows, averaged over features."""
    means = torch.tensor([[-0.5, 0.0], [0.5, 0.0]], dtype=torch.float64)
    x = torch.tensor([[0.3, 1.9], [-0.2, -2.0], [0.1, 1.8]], dtype=torch.float64)
    pi = torch.tensor([0.3, 0.7], dtype=torch.float64)

    def density_of_rows(m):
        off = (x.unsqueeze(1) - m).square().sum(-1)
        return (pi.log() - off / (2 * SPREAD)).logsumexp(1).sum()

    hessian = torch.autograd.functional.hessian(density_of_rows, means)
    information = -torch.stack([hessian[c, :, c].diagonal().mean() for c in (0, 1)])
    r = (pi.log() - (x.unsqueeze(1) - means).square().sum(-1) / (2 * SPREAD)).softmax(-1)[None]
    start = torch.full((1, 2, 2), 1e6, dtype=torch.float64)
    p = ClassGaussian(means[None], start, torch.ones(1, 2).double(), torch.tensor(SPREAD).double(), 0.3)
    got = p.given_beliefs(x[None], r).with_(means[None], start).with_doubt(p.with_(means[None], 0 * start), x[None])
    close(got.precision[0, :, 0] - 1e6, information - r.sum((0, 1)) / SPREAD, 1e-4)


def test_doubt_about_proportions_is_the_information_in_their_beliefs():
    """Known means: the curvature of the density of inputs, summed over the logits of proportions."""
    p, x = prior(((2.0, 1.0, 1.5),)), rows(7)[..., :-1]
    r = (3 * beliefs(7, 3)).softmax(-1)
    counts = p.given_beliefs(x, r)
    share = counts.shares / counts.shares.sum()
    odds = r.log() - share.unsqueeze(1).log()  # log densities of rows: with them beliefs are r at these proportions

    def density_of_rows(logits):
        return (odds[0] + logits.log_softmax(-1)).logsumexp(-1).sum()

    hessian = torch.autograd.functional.hessian(density_of_rows, share[0].log())
    full = 1 - share.square().sum()  # the trace of one labelled row
    got = counts.with_doubt(p, x)
    close(got.shares.sum() - p.shares.sum(), (-hessian.trace() / full).clamp(min=0))
    close(got.shares / got.shares.sum(), share)
    assert float(got.shares.sum() - p.shares.sum()) > 0.1


def test_doubt_has_the_variance_of_the_exact_posterior():
    """Every labelling of eight queries, in 60 tasks of overlapping classes: a mixture of 256 Gaussians.

    Exact beliefs leave standard deviations of means and of proportions as wide within 2% and 5% on average. Counts of
    them are 9% and 15% too narrow.
    """
    family = GaussianClasses(2, between=4.0, concentration=2.0, n_way=2, n_shot=3, n_query=8, seed=4)
    batch = family.sample(60).to(torch.float64)
    zero = torch.zeros(60, 2, 2, dtype=torch.float64)
    p = ClassGaussian(zero, zero + 0.25, zero[..., 0] + 2.0, torch.tensor(1.0).double(), 1.0)
    q0 = p.given(batch.support_x, torch.nn.functional.one_hot(batch.support_y, 2).double())
    x = torch.nn.functional.pad(batch.query_x, (0, 1), value=1.0)
    found = []
    for y in itertools.product((0, 1), repeat=8):
        r = torch.nn.functional.one_hot(torch.tensor(y), 2).double().expand(60, 8, 2)
        q = q0.given_beliefs(batch.query_x, r)
        found.append((q.input_evidence(q0, x), r, q.loc, 1 / q.precision, q.shares))
    evidence, labels, loc, var, shares = (torch.stack(v) for v in zip(*found, strict=True))
    weight = evidence.softmax(0)[..., None, None]
    mean, share = (weight * loc).sum(0), shares / shares.sum(-1, keepdim=True)
    exact = (weight * (var + (loc - mean).square())).sum(0).mean(-1)
    mean_share = (weight[..., 0] * share).sum(0)
    within = share * (1 - share) / (shares.sum(-1, keepdim=True) + 1)
    exact_share = (weight[..., 0] * (within + (share - mean_share).square())).sum(0)
    counts = q0.given_beliefs(batch.query_x, (weight * labels).sum(0))
    ratio = {}
    for name, q in {"counts": counts, "doubt": counts.with_doubt(q0, batch.query_x)}.items():
        of_share = q.shares / q.shares.sum(1, keepdim=True)
        of_share = of_share * (1 - of_share) / (q.shares.sum(1, keepdim=True) + 1)
        ratio[name] = [
            float((got / want).sqrt().mean())
            for got, want in ((1 / q.precision[..., 0], exact), (of_share, exact_share))
        ]
    assert abs(ratio["doubt"][0] - 1) < 0.02
    assert abs(ratio["doubt"][1] - 1) < 0.05
    assert ratio["counts"][0] < 0.92
    assert ratio["counts"][1] < 0.87


def test_doubt_counts_as_many_coordinates_as_rows_fill():
    """Features of known means in eight copies, their likelihood to the power 1/8: beliefs tell the same share."""
    p, x, r = prior(), rows(9)[..., :-1], (4 * beliefs(9)).softmax(-1)
    p = p.with_(0 * p.loc, 1e6 + 0 * p.precision)
    x = x * (SPREAD / (r.sum(-1, keepdim=True) * x.square()).mean()).sqrt()  # as far from their classes as is typical
    kept = []
    for copies in (1, 8):
        known = replace(p, loc=p.loc.repeat(1, 1, copies), precision=p.precision.repeat(1, 1, copies))
        known, wide = replace(known, spread=copies * p.spread), x.repeat(1, 1, copies)
        counts = known.given_beliefs(wide, r)
        left, full = counts.with_doubt(known, wide).precision - 1e6, counts.precision - 1e6
        kept.append((left / full)[0, :, 0])
    close(kept[1], kept[0], 1e-3)
    assert 0.1 < float(kept[0].min()) < float(kept[0].max()) < 0.9


def test_sure_beliefs_leave_no_doubt():
    p, x = prior(), rows(5)[..., :-1]
    sure = p.given_beliefs(x, torch.nn.functional.one_hot(torch.tensor([[0, 1, 1, 0, 1]]), 2).double())
    got = sure.with_doubt(p, x)
    close(got.precision, sure.precision)
    close(got.shares, sure.shares)
    same = p.with_doubt(p, x)
    close(same.precision, p.precision)
    close(same.shares, p.shares)


def test_rows_that_count_half_say_twice_what_rows_say_once():
    p, x, r = prior(), rows(), beliefs()
    half = replace(p, trust=torch.full((1, 1, 1), 0.5, dtype=torch.float64))
    once, twice = p.given_beliefs(x[..., :-1], r), half.given_beliefs(x[..., :-1].repeat(1, 2, 1), r.repeat(1, 2, 1))
    widths = once.with_doubt(p, x[..., :-1]), twice.with_doubt(half, x[..., :-1].repeat(1, 2, 1))
    for a, b in ((once, twice), widths):
        close(b.loc, a.loc)
        close(b.precision, a.precision)
        close(b.shares, a.shares)
    close(twice.input_evidence(half, x.repeat(1, 2, 1)), once.input_evidence(p, x))
    alone = replace(p, trust=1 + 0 * half.trust).given_beliefs(x[..., :-1], r)
    close(alone.log_odds(x)[0], once.log_odds(x)[0])
    sure = torch.nn.functional.one_hot(torch.tensor([[0, 1, 1, 0]]), 2).double()
    close(half.given(x[..., :-1], sure).precision, p.given(x[..., :-1], sure).precision)  # labels count in full


def test_unlabelled_rows_count_in_full_where_classes_may_be_unknown():
    p = prior(shares=((2.0, 0.5), (1.0, 3.0)))
    p = replace(p, trust=torch.full((2, 1, 1), 0.3, dtype=torch.float64))
    trust = p.with_unknown(torch.tensor([True, False]), 3).trust
    assert trust is not None
    close(trust.flatten(), torch.tensor([1.0, 0.3], dtype=torch.float64))
    trust = p.with_unknown(torch.tensor([True, False]), 3, torch.tensor([0.2, 0.2])).trust  # of a large pile
    assert trust is not None
    close(trust.flatten(), torch.tensor([0.2, 0.3]).double(), 1e-7)


def test_a_volume_that_is_left_out_does_not_count_for_all_coordinates():
    p, x = prior(), rows()
    q = replace(p, volume=torch.full((1, 1, 1), 0.25, dtype=torch.float64)).given_beliefs(x[..., :-1], beliefs())
    whole, v = p.given_beliefs(x[..., :-1], beliefs()).log_odds(x)
    size = x.shape[-1] - 1
    close(q.log_odds(x)[0], whole + 0.25 * size / 2 * v.log())


def test_copies_of_coordinates_change_nothing_where_power_and_volume_say_how_many_there_are():
    """Eight copies of each: an eighth of the power, and of the volume. Else the class with more labelled rows wins."""
    p, x = prior(), rows()
    labels = torch.nn.functional.one_hot(torch.tensor([[0, 0, 0, 1]]), 2).double()
    copied = torch.cat([x[..., :-1].repeat_interleave(8, -1), x[..., -1:]], -1)
    wide = replace(
        p, loc=p.loc.repeat_interleave(8, -1), precision=p.precision.repeat_interleave(8, -1) / 8, spread=8 * p.spread
    )
    counted = replace(wide, volume=torch.full((1, 1, 1), 7 / 8, dtype=torch.float64))
    one, same, other = (
        q.given(v[..., :-1], labels).given_beliefs(v[..., :-1], beliefs()).log_odds(v)[0].softmax(-1)
        for q, v in ((p, x), (counted, copied), (wide, copied))
    )
    close(one, same)
    assert bool((other[..., 0] - one[..., 0] > 0.01).any())


def test_tasks_may_have_spreads_of_their_own():
    """Two tasks with a spread each are as the tasks alone, in all that there is."""
    p, x, r = prior(shares=((2.0, 0.5), (1.0, 3.0))), rows(tasks=2), beliefs(tasks=2)
    own = torch.tensor([SPREAD, 2.5], dtype=torch.float64)[:, None, None]
    whole = replace(p, spread=own, volume=own / 5)
    q = whole.given_beliefs(x[..., :-1], r)
    g = torch.randn(2, 4, 2, generator=generator(9), dtype=torch.float64)
    for t in (0, 1):
        one = replace(p[t : t + 1], spread=own[t, 0, 0], volume=own[t : t + 1] / 5)
        alone = one.given_beliefs(x[t : t + 1, :, :-1], r[t : t + 1])
        row, some = x[t : t + 1], q[t : t + 1]
        assert torch.equal(some.spread, own[t : t + 1])
        assert torch.equal(some.volume, own[t : t + 1] / 5)
        for a, b in (
            *zip(some.log_odds(row), alone.log_odds(row), strict=True),
            *zip(some.marginal(row), alone.marginal(row), strict=True),
            (q.input_evidence(whole, x)[t], alone.input_evidence(one, row)[0]),
            (q.slope(x, g)[t], alone.slope(row, g[t : t + 1])[0]),
            (q.kl(whole)[t], alone.kl(one)[0]),
        ):
            close(a, b)
        values = {"m": q.loc, "pi": q.shares / q.shares.sum(1, keepdim=True)}
        single = {name: value[t : t + 1] for name, value in values.items()}
        close(q.weights(values)[t : t + 1], alone.weights(single))
        close(q.latents(q.weights(values))["m"][t], single["m"][0])
        real = torch.ones(2, 4, dtype=torch.bool)
        inputs = q.inputs(values, real, None).log_prob(x[..., :-1])
        close(inputs[t : t + 1], alone.inputs(single, real[:1], None).log_prob(row[..., :-1]))
    joined = q[:1].joined([q[1:]])
    assert torch.equal(joined.spread, q.spread)
    assert joined.double().spread.dtype == torch.float64

"""The peers of benchmarks/peers: exact values, symmetries, and every size of task that the benchmark asks of them."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from scipy.special import digamma
from torch import nn
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from ebmeta import TaskBatch
from lib import peers
from lib.peers.base import FLOOR, class_means, guesses, one_hot, softmax
from lib.peers.bavardage import expected_log, spherize
from lib.peers.bdcspn import rectify, shift
from lib.peers.laplacianshot import neighbours
from lib.peers.ptmap import balance, gaussianize
from lib.peers.sib import Network, QueryNorm
from lib.peers.tim import adam
from lib.peers.unem import layer

WIDTH = 24


def make(name: str, n_way: int = 5) -> peers.Peer:
    center, scatter = peers.base_statistics(torch.rand(6, 30, WIDTH, generator=torch.Generator().manual_seed(9)))
    return {
        "prototypes": peers.Prototypes(),
        "simpleshot": peers.SimpleShot(center),
        "bd_cspn": peers.BDCSPN(center, unit=True, sharpness=10.0, shifted=True),
        "laplacianshot": peers.LaplacianShot(center),
        "tim": peers.TIM(),
        "tim_euclidean": peers.TIM("euclidean", 30, 1e-3, 15.0, 0.1),
        "alpha_tim": peers.AlphaTIM(steps=30, rate=1e-3),
        "pt_map": peers.PTMAP(),
        "bavardage": peers.BAVARDAGE(center, scatter, variance=0.0125),
        "sib": peers.SIB(n_way=n_way, features=WIDTH),
        "unem": peers.UNEM(center),
    }[name]


NAMES = "prototypes simpleshot bd_cspn laplacianshot tim tim_euclidean alpha_tim pt_map bavardage sib unem"
every_peer = pytest.mark.parametrize("name", NAMES.split())


def tasks(counts: list[int], shots: int = 1, n_tasks: int = 3, noise: float = 0.3, seed: int = 0):
    """Return tasks of non-negative features about random class centres, with the given queries of each class."""
    rng = torch.Generator().manual_seed(seed)
    ways = len(counts)
    centers = torch.rand(n_tasks, ways, WIDTH, generator=rng) * (torch.rand(n_tasks, ways, WIDTH, generator=rng) < 0.4)
    support_y = torch.arange(ways).repeat_interleave(shots).expand(n_tasks, -1)
    query_y = torch.arange(ways).repeat_interleave(torch.tensor(counts)).expand(n_tasks, -1)

    def draw(y):
        x = centers.gather(1, y.unsqueeze(-1).expand(-1, -1, WIDTH))
        return (x + noise * torch.randn(x.shape, generator=rng)).clamp(min=0) + 0.01

    return draw(support_y), support_y, draw(query_y), query_y


# ---- laws of every peer


@every_peer
@pytest.mark.parametrize(
    "counts",
    [[15] * 5, [40, 0, 20, 1, 14], [1] * 5, [15] * 10, [3] * 20, [0, 4]],
    ids=["balanced", "imbalanced", "one query", "10 ways", "20 ways", "2 ways"],
)
@pytest.mark.parametrize("shots", [1, 5])
def test_clear_tasks_are_solved(name, counts, shots):
    """Probabilities sum to 1; almost noiseless classes are told apart, where they are equally many and not single."""
    support_x, support_y, query_x, query_y = tasks(counts, shots, noise=0.01)
    method = make(name, len(counts))
    p = method(support_x, support_y, query_x, len(counts))
    assert p.shape == (*query_y.shape, len(counts))
    assert p.dtype == torch.float32
    assert bool((p >= 0).all())
    torch.testing.assert_close(p.sum(-1), torch.ones(query_y.shape))
    logits = method.logits(support_x, support_y, query_x, len(counts))
    torch.testing.assert_close(logits.exp(), p, atol=1e-6, rtol=1e-4)
    assert float(logits.min()) >= FLOOR - 1e-4
    small = name == "bavardage" and counts[0] < 10  # its prior can merge classes of three queries
    if name != "sib" and len(set(counts)) == 1 and counts[0] > 1 and not small:
        assert float((p.argmax(-1) == query_y).float().mean()) == 1.0


@every_peer
def test_one_task_at_a_time(name):
    support_x, support_y, query_x, _ = tasks([9, 0, 4, 6, 2], shots=2, n_tasks=4)
    method = make(name)
    together = method(support_x, support_y, query_x, 5)
    single = [method(*(x[t : t + 1] for x in (support_x, support_y, query_x)), 5) for t in range(4)]
    torch.testing.assert_close(together, torch.cat(single), atol=1e-5, rtol=0)


@every_peer
def test_order_of_rows_does_not_matter(name):
    support_x, support_y, query_x, _ = tasks([6] * 5, shots=3)
    method = make(name)
    before = method(support_x, support_y, query_x, 5)
    rows, queries = torch.randperm(15), torch.randperm(30)
    after = method(support_x[:, rows], support_y[:, rows], query_x[:, queries], 5)
    torch.testing.assert_close(after, before[:, queries], atol=1e-4, rtol=0)


@every_peer
def test_names_of_classes_do_not_matter(name):
    """All but SIB, whose published network treats the classes by number: its first scores alone are free of names."""
    support_x, support_y, query_x, _ = tasks([6] * 5, shots=3)
    method = make(name)
    if isinstance(method, peers.SIB):
        method.network.steps = 0
    order = torch.randperm(5)
    before, after = method(support_x, support_y, query_x, 5), method(support_x, order[support_y], query_x, 5)
    torch.testing.assert_close(after[..., order], before, atol=1e-4, rtol=0)


def test_order_matters_to_the_published_network():
    support_x, support_y, query_x, _ = tasks([6] * 5, shots=3)
    method = peers.SIB(features=WIDTH, rate=1.0)
    order = torch.tensor([1, 2, 3, 4, 0])
    before, after = method(support_x, support_y, query_x, 5), method(support_x, order[support_y], query_x, 5)
    assert float((after[..., order] - before).abs().max()) > 1e-3


@every_peer
def test_inputs_are_left_alone(name, rng_untouched):
    support_x, support_y, query_x, _ = tasks([6] * 5)
    copies = support_x.clone(), query_x.clone()
    make(name)(support_x, support_y, query_x, 5)
    assert torch.equal(support_x, copies[0])
    assert torch.equal(query_x, copies[1])


def test_bad_input():
    support_x, support_y, query_x, _ = tasks([2] * 3)
    method = peers.Prototypes()
    with pytest.raises(ValueError, match=r"support_y: expected labels from 0 to 1, got \[0, 1, 2\]"):
        method(support_x, support_y, query_x, 2)
    with pytest.raises(ValueError, match="support_y: expected all 4 classes"):
        method(support_x, support_y, query_x, 4)
    with pytest.raises(ValueError, match=r"support_y: expected shape \(3, 3\), got \(3, 2\)"):
        method(support_x, support_y[:, :2], query_x, 3)
    with pytest.raises(ValueError, match=r"query_x: expected shape \(3, Q, 24\), got \(3, 6, 23\)"):
        method(support_x, support_y, query_x[..., 1:], 3)
    with pytest.raises(ValueError, match="features: expected no negative number"):
        peers.PTMAP()(support_x - 1, support_y, query_x, 3)
    with pytest.raises(ValueError, match="query_x: expected at least 2 queries"):
        peers.PTMAP()(support_x, support_y, query_x[:, :1], 3)
    with pytest.raises(ValueError, match="n_way: expected 5"):
        peers.SIB(features=WIDTH)(support_x, support_y, query_x, 3)


@pytest.mark.parametrize(
    ("answer", "got"),
    [(lambda s: s.mT, r"shape \(2, 3, 7\)"), (lambda s: s[:1], r"shape \(1, 7, 3\)"), (lambda s: s / 0 * 0, "NaN")],
    ids=["transposed", "one task", "no numbers"],
)
def test_a_method_returns_scores_of_every_query(answer, got):
    """Scores that are no numbers made the first class of each task's, without a word."""

    class Own(peers.Prototypes):
        name = "own"

        def scores(self, support_x, support_y, query_x, n_way):
            return answer(super().scores(support_x, support_y, query_x, n_way))

    support_x, support_y, query_x, _ = tasks([2, 2, 3], n_tasks=2)
    with pytest.raises(ValueError, match=rf"scores: expected numbers of shape \(2, 7, 3\), got {got}"):
        Own()(support_x, support_y, query_x, 3)


def test_made_by_name():
    center, scatter = torch.rand(WIDTH), torch.eye(WIDTH)
    for name, method in peers.METHODS.items():
        for setting in ("published", "balanced", "imbalanced"):
            peer = peers.make(name, setting, center, scatter)
            assert type(peer) is method
            assert peer.name == name
    assert peers.make("pt_map", "published").power == 0.5
    assert peers.make("pt_map", "imbalanced").regularization == 5.0
    assert peers.make("pt_map", "imbalanced", epochs=3).epochs == 3
    assert peers.make("laplacianshot", "published", center).center is None
    assert peers.make("laplacianshot", "balanced", center).center is center
    assert peers.make("bavardage", "balanced", center, scatter).scatter is scatter
    with pytest.raises(ValueError, match="name: expected one of prototypes, simpleshot"):
        peers.make("protonet")
    with pytest.raises(ValueError, match="setting: expected published, balanced or imbalanced, got 'best'"):
        peers.make("tim", "best")
    with pytest.raises(ValueError, match="center: expected that of the base classes"):
        peers.make("simpleshot")


# ---- nearest means


def test_prototypes_are_cosines_with_class_means():
    support_x, support_y, query_x, _ = tasks([4] * 3, shots=2, n_tasks=2)
    p = peers.Prototypes(scale=7.0)(support_x, support_y, query_x, 3)
    for t in range(2):
        means = torch.stack([support_x[t, 2 * c : 2 * c + 2].mean(0) for c in range(3)])
        for i in range(12):
            expected = (7 * cosine_similarity(query_x[t, i], means, -1)).softmax(-1)
            torch.testing.assert_close(p[t, i], expected)


def test_simpleshot_is_prototypes_of_centred_unit_features():
    support_x, support_y, query_x, _ = tasks([4] * 3, shots=2)
    center = torch.rand(WIDTH)
    moved = [normalize(x - center, dim=-1) for x in (support_x, query_x)]
    expected = peers.Prototypes()(moved[0], support_y, moved[1], 3)
    torch.testing.assert_close(peers.SimpleShot(center)(support_x, support_y, query_x, 3), expected)


def test_rectified_prototypes():
    """Two axes, one query at 45 degrees minus a little: weights 1 at the support, exp(e cos) at the query."""
    support = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    query = torch.tensor([[[3.0, 4.0]]])
    means = rectify(support, torch.tensor([[0, 1]]), query, 2, sharpness=2.0)
    own, other = math.exp(2.0), math.exp(1.6)
    second = [other * 3 / (own + other), (own + other * 4) / (own + other)]
    torch.testing.assert_close(means, torch.tensor([[[1.0, 0.0], second]]))
    torch.testing.assert_close(shift(support, query), torch.tensor([[[0.5, 0.5]]]))


# ---- LaplacianShot


def test_neighbours_on_a_line():
    graph = neighbours(torch.tensor([[[0.0], [1.0], [3.0], [7.0]]]), 1)
    expected = [[0, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    assert graph[0].tolist() == expected
    assert float(neighbours(torch.rand(1, 3, 2), 5).sum()) == 6


def test_laplacianshot_reaches_its_fixed_point():
    support_x, support_y, query_x, _ = tasks([6] * 3)
    method = peers.LaplacianShot(unit=False, strength=0.4, steps=200)
    scores = method.scores(support_x, support_y, query_x, 3)
    means = rectify(support_x, support_y, shift(support_x, query_x), 3, 1.0)
    distance = (query_x.unsqueeze(2) - means.unsqueeze(1)).square().sum(-1)
    smooth = 0.4 * neighbours(query_x, 2) @ scores.softmax(-1)
    torch.testing.assert_close(scores, smooth - distance, atol=1e-4, rtol=1e-4)


# ---- TIM


def entropy(p, alpha):
    return -(p * p.log()).sum(-1) if alpha is None else (1 - p.pow(alpha).sum(-1)) / (alpha - 1)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("alpha", [None, 2.0, 7.0])
def test_written_gradient_is_that_of_the_loss(metric, alpha):
    support_x, support_y, query_x, _ = (x.double() for x in tasks([6] * 4, shots=2))
    support_y = support_y.long()
    options = {"metric": metric, "temperature": 8.0, "support": 0.3, "marginal": 1.4, "conditional": 0.2}
    method = peers.TIM(**options) if alpha is None else peers.AlphaTIM(**options, alpha=alpha)
    unit = normalize(torch.cat([support_x, query_x], 1), dim=-1)
    weights = class_means(unit[:, :8], support_y, 4).requires_grad_()
    if metric == "cosine":
        scores = 8 * cosine_similarity(unit.unsqueeze(2), weights.unsqueeze(1), -1)
    else:
        scores = -4 * (unit.unsqueeze(2) - weights.unsqueeze(1)).square().sum(-1)
    p = scores[:, 8:].softmax(-1)
    loss = 0.3 * cross_entropy(scores[:, :8].mT, support_y, reduction="none").mean(1)
    loss = loss - 1.4 * entropy(p.mean(1), alpha) + 0.2 * entropy(p, alpha).mean(1)
    loss.sum().backward()
    written = method.gradient(unit, weights.detach(), one_hot(support_y, 4).double())
    torch.testing.assert_close(written, weights.grad, atol=1e-9, rtol=1e-7)


def test_adam_is_that_of_torch():
    ours = torch.randn(3, 4)
    theirs = ours.clone().requires_grad_()
    optimizer = torch.optim.Adam([theirs], lr=0.03)
    moments = torch.zeros_like(ours), torch.zeros_like(ours)
    for step in range(1, 6):
        gradient = torch.randn(3, 4)
        theirs.grad = gradient.clone()
        optimizer.step()
        adam(ours, gradient, moments, step, 0.03)
    torch.testing.assert_close(ours, theirs.detach())


def test_published_alpha_by_shots():
    """For a uniform p no entropy pulls, for another p the pull tells alpha: 2, 5 and 7 for 1, 3 and 5 shots."""
    p = torch.tensor([[[0.7, 0.3]]])
    for shots, alpha in ((1, 2.0), (3, 5.0), (5, 7.0)):
        expected = peers.AlphaTIM(alpha=alpha, marginal=0.5).query_gradient(p, 1)
        torch.testing.assert_close(peers.AlphaTIM(marginal=0.5).query_gradient(p, shots), expected)
    by_hand = 2 * (0.5 * p - p - 1e-12)
    torch.testing.assert_close(peers.AlphaTIM(marginal=0.5).query_gradient(p, 1), by_hand)


# ---- PT-MAP


def test_balance_of_two_queries_and_two_classes():
    """The balanced 2 x 2 matrix keeps the odds ratio: (a / (1 - a))^2 = exp(s11 + s22 - s12 - s21)."""
    scores = torch.tensor([[[0.3, 2.0], [1.1, -0.4]]], dtype=torch.double)
    p = (scores + balance(scores, torch.zeros(1, 2, 1, dtype=torch.double))).softmax(1)
    a = 1 / (1 + math.exp(-(0.3 - 0.4 - 2.0 - 1.1) / 2))
    torch.testing.assert_close(p[0], torch.tensor([[a, 1 - a], [1 - a, a]], dtype=torch.double), atol=1e-7, rtol=0)


@pytest.mark.parametrize("sharpness", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("ways", [2, 5, 20])
def test_balance_is_where_sinkhorn_goes(sharpness, ways):
    scores = sharpness * torch.rand(4, ways, 60, dtype=torch.double)
    scores[0, 0] += 2 * sharpness  # one class is every query's favourite
    offset = balance(scores, torch.zeros(4, ways, 1, dtype=torch.double))
    p = (scores + offset).softmax(1)
    torch.testing.assert_close(p.sum(-1), torch.full((4, ways), 60 / ways, dtype=torch.double), atol=2e-6, rtol=0)
    if sharpness < 100:
        q = scores.softmax(1)
        for _ in range(4000):
            q = q * (60 / ways) / q.sum(-1, keepdim=True)
            q = q / q.sum(1, keepdim=True)
        torch.testing.assert_close(p, q, atol=1e-5, rtol=0)


def test_gaussianize():
    x = torch.tensor([[[4.0, 9.0], [9.0, 4.0]]])
    z = gaussianize(x, 0.5)
    torch.testing.assert_close(z, torch.tensor([[[-1.0, 1.0], [1.0, -1.0]]]) / math.sqrt(2), atol=1e-5, rtol=0)


def test_without_a_power_features_may_be_negative():
    x = torch.tensor([[[-3.0, 0.0], [0.0, 1.0]]])
    torch.testing.assert_close(gaussianize(x, 1.0), torch.tensor([[[-1.0, -1.0], [1.0, 1.0]]]) / math.sqrt(2))
    with pytest.raises(ValueError, match="expected no negative number for a power transform, got -3"):
        gaussianize(x, 0.5)


def test_pt_map_equals_its_steps_in_feature_space():
    """One turn by hand: balanced assignments, means moved by the rate, balanced assignments again."""
    support_x, support_y, query_x, _ = tasks([6] * 3, shots=2, n_tasks=1)
    support, query = gaussianize(support_x, 0.5).double(), gaussianize(query_x, 0.5).double()
    means = one_hot(support_y, 3).double().mT @ support / 2

    def assign(means):
        scores = -10 * (query.unsqueeze(1) - means.unsqueeze(2)).square().sum(-1)
        return (scores + balance(scores, torch.zeros(1, 3, 1, dtype=torch.double))).softmax(1)

    weights = torch.cat([one_hot(support_y, 3).double().mT, assign(means)], -1)
    rows = torch.cat([support, query], 1)
    means = means + 0.2 * (weights @ rows / weights.sum(-1, keepdim=True) - means)
    p = peers.PTMAP(epochs=1)(support_x, support_y, query_x, 3)
    torch.testing.assert_close(p.double(), assign(means).mT, atol=1e-5, rtol=0)


# ---- BAVARDAGE


def test_base_statistics():
    """Two classes on two axes of the plane: the centred, normalised rows are (+-1, 0) and (0, +-1)."""
    features = torch.tensor([[[3.0, 0.0], [-1.0, 0.0]], [[1.0, 2.0], [1.0, -2.0]]])
    center, scatter = peers.base_statistics(features)
    assert center.tolist() == [1.0, 0.0]
    torch.testing.assert_close(scatter, torch.eye(2))


def test_expected_log_proportions():
    """One query of class 1, none of class 0, uniform prior: psi(1) - psi(3) = -3/2, psi(2) - psi(3) = -1/2."""
    out = expected_log(torch.zeros(1, 1, 2), torch.tensor([[0.0, 1.0]]), 1.0)
    torch.testing.assert_close(out, torch.tensor([[[-1.5, -0.5]]]))


def test_variational_step_on_a_line():
    """Classes at 1 and -3 on a line, one support row each and a query at 2, by hand."""
    method = peers.BAVARDAGE(mean_strength=1.0, variance=0.5, class_strength=1.0)
    x = torch.tensor([[[1.0], [-3.0], [2.0]]])
    resp = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.75, 0.25]]])
    scores = method.step(x, resp, 2)[0, 0]
    strength = [2.75, 2.25]
    means = [(1 + 1.5) / 2.75, (-3 + 0.5) / 2.25]
    log_share = [digamma(1.75) - digamma(3.0), digamma(1.25) - digamma(3.0)]
    expected = [log_share[c] - (2 - means[c]) ** 2 - 1 / (2 * strength[c]) for c in (0, 1)]
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize("rows", [4, 12])
def test_spherized_rows_have_the_inner_products_of_the_precision(rows):
    root = torch.randn(8, 8)
    scatter = root @ root.T + torch.eye(8)
    x = torch.randn(2, rows, 8)
    z = spherize(x, scatter, math.inf)
    expected = x @ torch.linalg.inv(scatter + 1e-6 * torch.eye(8)) @ x.mT
    torch.testing.assert_close(z @ z.mT, expected, atol=1e-4, rtol=1e-4)
    assert float((spherize(x, 1e-4 * scatter, 0.5) @ z.mT).abs().max()) < float((z @ z.mT).abs().max())


# ---- SIB


def test_query_norm_is_batch_norm_of_one_task():
    x = torch.randn(3, 7, 4)
    ours, theirs = QueryNorm(4), nn.BatchNorm1d(4)
    with torch.no_grad():
        for module in (ours, theirs):
            module.weight.copy_(torch.tensor([1.0, 2.0, 0.5, -1.0]))
            module.bias.copy_(torch.arange(4.0))
    torch.testing.assert_close(ours(x), torch.stack([theirs(task) for task in x]))


def test_refinement_pulls_the_synthetic_gradient_back():
    """One step from the support means equals the step that autograd makes of the same synthetic gradient."""
    support_x, support_y, query_x, _ = tasks([4] * 3, shots=2)
    network = Network(3, WIDTH, steps=1, rate=0.5)
    theta = (network.diagonal * class_means(normalize(support_x, dim=-1), support_y, 3)).detach().requires_grad_()

    def scores(theta):
        return network.scale * (cosine_similarity(query_x.unsqueeze(2), theta.unsqueeze(1), -1) + network.bias)

    first = scores(theta)
    (pulled,) = torch.autograd.grad(first, theta, network.gradient(first).detach())
    out = network(support_x, support_y, query_x, 3)
    torch.testing.assert_close(out, scores(theta - 0.5 * pulled), atol=1e-5, rtol=0)


class Stream:
    """Tasks of three classes as a sampler."""

    def sample(self, num_tasks, index=0):
        return TaskBatch(*tasks([4] * 3, n_tasks=num_tasks, noise=0.5, seed=100 + index))


@pytest.mark.parametrize(
    ("make_new", "every"),
    [(partial(peers.SIB, n_way=3, features=WIDTH, rate=0.01), 100), (partial(peers.UNEM, variance=0.5), 10)],
    ids=["sib", "unem"],
)
def test_training_learns_and_resumes(make_new, every, tmp_path):
    whole, first, second = (make_new() for _ in range(3))
    new = [TaskBatch(*tasks([4] * 3, n_tasks=100, noise=0.5, seed=seed)) for seed in (1, 2)]

    def accuracy(method):
        return float((guesses(method, new) == torch.cat([batch.query_y for batch in new])).float().mean())

    before = accuracy(whole)
    history = whole.train(Stream(), new, 3 * every, every)
    assert [step for step, _ in history] == [every, 2 * every, 3 * every]
    assert accuracy(whole) == max(value for _, value in history)
    assert accuracy(whole) > before
    file = tmp_path / "peer.safetensors"
    first.train(Stream(), new, every * 3 // 2, every, file)
    rest = second.train(Stream(), new, 3 * every, every, file)
    assert rest == history[1:]
    for ours, theirs in zip(second.network.parameters(), whole.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("method", "block"), [(peers.SIB, 100), (peers.UNEM, 5)])
def test_validations_fall_between_draws(method, block):
    with pytest.raises(ValueError, match=f"every: expected a multiple of {block}, got {block + 1}"):
        method().train(Stream(), every=block + 1)


# ---- UNEM


def mixture_task(shots=2):
    """Return rows of one task of three classes, its support first, in 64 bits, and its labels as rows."""
    support_x, support_y, query_x, _ = tasks([5, 2, 8], shots, n_tasks=1, noise=0.5)
    return torch.cat([support_x, query_x], 1).double(), one_hot(support_y, 3).double()


@pytest.mark.parametrize(("balance", "temperature"), [(0.3, 0.3), (0.3, 2.0), (0.0, 1.0)], ids=["em", "any", "k-means"])
def test_layer_is_a_turn_of_em(balance, temperature):
    """By loops; with equal weights of both terms it is EM, here by the densities of the classes."""
    x, labels = mixture_task()
    resp = torch.rand(1, 15, 3, dtype=torch.double).softmax(-1)
    found = layer(x, labels, resp, torch.tensor(balance), torch.tensor(temperature)).softmax(-1)[0]
    expected = torch.zeros(15, 3, dtype=torch.double)
    for c in range(3):
        weights = [*labels[0, :, c].tolist(), *resp[0, :, c].tolist()]
        mean = sum(w * row for w, row in zip(weights, x[0], strict=True)) / sum(weights)
        share = float(resp[0, :, c].sum()) / 15
        for i in range(15):
            distance = float((x[0, 6 + i] - mean).square().sum())
            density = math.exp(-distance / (2 * temperature))
            expected[i, c] = density * share ** (balance / temperature)
    torch.testing.assert_close(found, expected / expected.sum(-1, keepdim=True))


def unem_objective(x, labels, resp, balance, temperature):
    """Return J of one task at the means of the given responsibilities."""
    both = torch.cat([labels, resp], 1)[0]
    means = both.mT @ x[0] / both.sum(0).unsqueeze(-1)
    spread = (both * (x[0].unsqueeze(1) - means).square().sum(-1)).sum() / 2
    share = resp[0].mean(0)
    return float(spread - balance * 15 * torch.xlogy(share, share).sum() + temperature * torch.xlogy(resp, resp).sum())


@pytest.mark.parametrize("balance", [0.0, 0.4, 3.0])
@pytest.mark.parametrize("temperature", [0.05, 0.4, 3.0])
def test_no_turn_raises_the_objective(balance, temperature):
    x, labels = mixture_task()
    resp = torch.rand(1, 15, 3, dtype=torch.double).softmax(-1)
    values = []
    for _ in range(30):
        values.append(unem_objective(x, labels, resp, balance, temperature))
        resp = layer(x, labels, resp, torch.tensor(balance), torch.tensor(temperature)).softmax(-1)
    assert all(after <= before + 1e-9 for before, after in pairwise(values))
    assert values[-1] < values[0] - 1e-3


def test_more_balance_makes_the_larger_class_larger():
    """A turn by hand, at 0 between classes at 0 and 4/3, log-odds log 3 of their shares times balance."""
    x = torch.tensor([[[0.0], [2.0], [0.0], [0.0]]])
    labels, resp = torch.eye(2).unsqueeze(0), torch.tensor([[[0.75, 0.25]] * 2])
    means = (0.0, 2.0 / 1.5)
    for weight in (0.0, 1.0, 4.0):
        odds = -layer(x, labels, resp, torch.tensor(weight), torch.tensor(2.0)).diff(dim=-1)
        expected = (weight * math.log(3.0) + (means[1] ** 2 - means[0] ** 2) / 2) / 2.0
        torch.testing.assert_close(odds, torch.full_like(odds, expected))


def test_network_is_its_layers_on_unit_features():
    support_x, support_y, query_x, _ = tasks([6] * 3, shots=2)
    center = torch.rand(WIDTH)
    method = peers.UNEM(center, layers=2)
    with torch.no_grad():
        method.network.temperature.copy_(torch.tensor([0.5, 0.2, 0.1]).log())
        method.network.balance.copy_(torch.tensor([0.7, 0.3]).log())
    support, query = (normalize(x - center, dim=-1) for x in (support_x, query_x))
    x, labels = torch.cat([support, query], 1), one_hot(support_y, 3)
    means = class_means(support, support_y, 3)
    resp = (-(query.unsqueeze(2) - means.unsqueeze(1)).square().sum(-1) / (2 * 0.5)).softmax(-1)
    for hyperparameters in torch.tensor([[0.7, 0.2], [0.3, 0.1]]):
        resp = layer(x, labels, resp, *hyperparameters).softmax(-1)
    torch.testing.assert_close(method(support_x, support_y, query_x, 3), resp, atol=1e-5, rtol=1e-4)


def test_a_step_lowers_the_loss_of_its_tasks():
    method = peers.UNEM(variance=0.5, rate=0.01)
    batch = Stream().sample(50)
    losses = [method.step(batch.support_x, batch.support_y, batch.query_x, batch.query_y) for _ in range(20)]
    assert all(after < before for before, after in pairwise(losses))


def test_softmax_of_the_last_dimension():
    x = torch.randn(3, 7, 4)
    torch.testing.assert_close(softmax(x), x.softmax(-1))

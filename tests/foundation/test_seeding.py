"""Random numbers: a seed decides everything, and no public call moves a generator of the user's.

The examples of all docstrings are held to the second by the `conftest.py` of the project.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from builders import class_tasks, classifier, number_tasks, real_tasks
from torch import nn

import ebmeta
from ebmeta import EmpiricalBayes, EpisodeSampler, FewShotRegressor, GroupSampler, Objective
from ebmeta.diagnostics import check_posteriors, simulation_based_calibration
from ebmeta.diagnostics.simulation import simulate_tasks
from ebmeta.foundation.seeding import Drawing, linear, stream
from ebmeta.likelihood import LIKELIHOODS, Given
from ebmeta.refine.class_synthetic_gradient import ClassSyntheticGradient
from ebmeta.refine.mixture import MixtureRefiner

ONE = torch.ones(3)
NUMBERS = [name for name, c in LIKELIHOODS.items() if not c.categorical]

DISTRIBUTIONS = [
    dist.Normal(ONE, ONE),
    dist.MultivariateNormal(ONE, torch.eye(3)),
    dist.StudentT(3 * ONE, ONE, ONE),
    dist.Bernoulli(ONE / 2),
    dist.Binomial(50 * ONE, ONE / 3),
    dist.Poisson(9 * ONE),
    dist.NegativeBinomial(9 * ONE, ONE / 3),
    dist.Categorical(torch.ones(20, 30)),
    dist.Gamma(ONE, ONE),
    dist.Beta(ONE, ONE),
    dist.Dirichlet(ONE),
    dist.Laplace(ONE, ONE),
    dist.Exponential(ONE),
    dist.Geometric(ONE / 30),
    dist.Gumbel(ONE, ONE),
    dist.VonMises(ONE, ONE),
    dist.Uniform(ONE, 2 * ONE),
    dist.BetaBinomial(ONE, ONE, total_count=500),
    dist.GammaPoisson(ONE, ONE / 90),
]

DRAWS = {
    "rand": lambda: torch.rand(3),
    "rand_like": lambda: torch.rand_like(ONE),
    "randn": lambda: torch.randn(2, 3, dtype=torch.float64),
    "randn_like": lambda: torch.randn_like(ONE),
    "randint": lambda: torch.randint(99, (9,)),
    "randint low": lambda: torch.randint(5, 99, (9,)),
    "randint_like": lambda: torch.randint_like(ONE, 999),
    "randperm": lambda: torch.randperm(30),
    "normal": lambda: torch.normal(0.0, 1.0, (3,)),
    "in place": lambda: torch.empty(3).uniform_(),
    "multinomial": lambda: torch.multinomial(torch.ones(99), 9),
    "dropout": lambda: nn.Dropout()(torch.ones(99)),
    "feature dropout": lambda: nn.Dropout2d()(torch.ones(9, 9, 2, 2)),
    "alpha dropout": lambda: nn.AlphaDropout()(torch.ones(99)),
    "native dropout": lambda: torch.native_dropout(torch.ones(99), 0.5, True)[0],
    "rrelu": lambda: nn.RReLU()(-torch.ones(9, requires_grad=True)),
    "attention": lambda: nn.functional.scaled_dot_product_attention(*torch.ones(3, 1, 9, 9, 9), dropout_p=0.5),
} | {type(d).__name__: d.sample for d in DISTRIBUTIONS}


@pytest.mark.usefixtures("rng_untouched")
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_whatever_draws_is_handed_a_generator(draw):
    found = []
    for seed in (1, 1, 2):
        with Drawing(stream(seed)):
            found.append(draw())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.usefixtures("rng_untouched")
def test_a_block_hands_out_the_numbers_of_its_generator_one_after_the_other():
    with Drawing(stream(3)):
        found = [torch.randn(20), dist.Poisson(torch.ones(20)).sample()]
    source = stream(3)
    assert torch.equal(found[0], torch.randn(20, generator=source))
    assert torch.equal(found[1], torch.poisson(torch.ones(20), source))


def test_initial_weights_are_those_of_torch():
    for bias in (True, False):
        layer = linear(3, 4, stream(5), bias)
        torch.manual_seed(5)
        expected = nn.Linear(3, 4, bias)
        assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), expected.parameters(), strict=True))


@pytest.mark.usefixtures("rng_untouched")
def test_a_seed_decides_the_initial_weights():
    for build in (EmpiricalBayes.classifier, EmpiricalBayes.regressor):
        first, same, other = (build(3, seed=seed).state_dict() for seed in (1, 1, 2))
        assert all(torch.equal(v, same[k]) for k, v in first.items())
        assert not all(torch.equal(v, other[k]) for k, v in first.items())
    parts = [MixtureRefiner(ClassSyntheticGradient(4), 1).state_dict() for _ in range(2)]
    assert all(torch.equal(v, parts[1][k]) for k, v in parts[0].items())


@pytest.mark.parametrize("likelihood", [*NUMBERS, "categorical"])
@pytest.mark.usefixtures("rng_untouched")
def test_labels_are_drawn_from_the_likelihood(likelihood):
    """Means of 20,000 draws within 6 standard errors (2e-9 each) of those that the likelihood states."""
    model, eta = LIKELIHOODS[likelihood](), torch.tensor([[[0.4], [-0.3], [1.0]]])
    way, given = (
        torch.ones(1, 1, dtype=torch.bool),
        Given(None, torch.zeros(1) if LIKELIHOODS[likelihood].has_level else None),
    )
    if model.categorical:
        eta, way = torch.tensor([[[0.4, -0.3, 1.0]]]), torch.tensor([[True, True, False]])
    draws = model.sample(eta.expand(20_000, *eta.shape), way, given, generator=stream(1)).double()
    if model.categorical:
        p = torch.softmax(torch.tensor([0.4, -0.3]), 0)[1].double()
        mean, variance = p, p * (1 - p)
    else:
        mean, variance = (f(eta.squeeze(-1), given).double() for f in (model.mean, model.variance))
    assert ((draws.mean(0) - mean).abs() < 6 * (variance / 20_000).sqrt()).all()


def class_features(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(6), 12)
    return rng.normal(size=(6, 4))[y] + 0.5 * rng.normal(size=(len(y), 4)), y


def episodes(seed: int = 0) -> EpisodeSampler:
    return EpisodeSampler(*class_features(seed), n_way=3, n_shot=1, n_query=4)


def grouped(n_support: int = 2) -> GroupSampler:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(8), 5)
    x = rng.normal(size=(40, 2))
    return GroupSampler(x, rng.normal(size=8)[group] + x[:, 0] + 0.3 * rng.normal(size=40), group, n_support=n_support)


@pytest.mark.usefixtures("rng_untouched")
@pytest.mark.filterwarnings("ignore:fit. the evidence of all")  # it is not trained to the end
def test_training_moves_no_generator_even_with_dropout():
    def trained(seed: int) -> torch.Tensor:
        embedder = nn.Sequential(linear(4, 4, stream(1)), nn.Dropout(0.5))
        model = EmpiricalBayes.classifier(4, embedder=embedder)
        ebmeta.fit(model, episodes(), 3, 4, validation=episodes(1), validate_every=2, seed=seed, progress=False)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(trained(1), trained(1))
    assert not torch.equal(trained(1), trained(2))
    for objective in ("gibbs", "evidence"):
        ebmeta.fit(EmpiricalBayes.regressor(2, "poisson"), _counts(), 2, 4, objective=objective, progress=False)


def _counts() -> GroupSampler:
    tasks = grouped()
    tasks.y = np.arange(40.0) % 4
    return tasks


@pytest.mark.filterwarnings("ignore:y. labels are zeros alone")
@pytest.mark.parametrize("likelihood", NUMBERS)
@pytest.mark.usefixtures("rng_untouched")
def test_a_seed_decides_what_is_drawn_of_numbers(likelihood):
    batch = number_tasks(likelihood, features=2, dtype=torch.float32)
    model = EmpiricalBayes.regressor(2, likelihood, num_steps=1)
    trees = [ebmeta.predict(model, batch, num_draws=4, seed=seed) for seed in (0, 0, 1)]
    assert trees[0].identical(trees[1])
    assert not trees[0]["posterior"].identical(trees[2]["posterior"])
    (first, w), (same, _), (other, _) = (simulate_tasks(model, batch, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.query_y, same.query_y)
    assert not torch.equal(first.query_y, other.query_y)
    assert w.shape == (4, 1, 3)
    reg = FewShotRegressor(model).fit(np.ones((2, 2)), batch.support_y[0, :2].double().numpy())
    draws = [reg.sample(np.ones((3, 2)), 40, seed=seed) for seed in (0, 0, 1)]
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    terms = [Objective("evidence").terms(model, batch).loss for _ in range(2)]
    assert torch.equal(*terms)


@pytest.mark.usefixtures("rng_untouched")
def test_nothing_that_is_asked_of_a_fitted_model_moves_a_generator():
    model, batch = classifier(), class_tasks()
    ebmeta.evaluate(model, batch)
    check_posteriors(model, batch, num_draws=50)
    first, same, other = (simulate_tasks(model, batch, seed=seed)[0].query_y for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    x, y = class_features()
    ebmeta.FewShotClassifier(EmpiricalBayes.classifier(4)).fit(x, y).predict(x)
    numbers = EmpiricalBayes.regressor(2, num_steps=0)
    ebmeta.fit_evidence(numbers, grouped(), hyperprior=True, boundary=False)
    ebmeta.predict(ebmeta.propagate(numbers, grouped(), num_draws=3), grouped().sample(2), num_draws=3)
    simulation_based_calibration(numbers, grouped(), num_tasks=20, num_draws=5)


FIRST_CALLS = """
import sys
sys.path.insert(0, {root!r})
from conftest import generators
import numpy as np, torch, ebmeta
from ebmeta import reference
before = generators()
rng = np.random.default_rng(0)
X, y = rng.normal(size=(40, 3)), np.repeat(np.arange(4), 10)
profiled = ebmeta.EmpiricalBayes.classifier(3, profile=3)
ebmeta.fit(profiled, ebmeta.EpisodeSampler(X, y, n_way=2, n_shot=1, n_query=2), 1, 2, progress=False)
ebmeta.Novelty(profiled).fit(ebmeta.EpisodeSampler(X, y, n_way=2, n_shot=2, n_query=2), 20)
assert generators() == before
batch = ebmeta.TaskBatch(torch.ones(1, 2, 1), torch.ones(1, 2), torch.ones(1, 1, 1))
reference.nuts(ebmeta.EmpiricalBayes.regressor(1), batch, num_warmup=1, num_draws=1)
assert "jax" in sys.modules
assert generators() == before
"""


def test_libraries_that_draw_at_import_move_no_generator(pytestconfig):
    pytest.importorskip("numpyro")
    code = FIRST_CALLS.format(root=str(pytestconfig.rootpath))
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_pyro_users_find_their_global_generator_used():
    model = EmpiricalBayes.classifier(4, synthetic_gradient="mixture")
    batch = class_tasks(dtype=torch.float32, features=4)
    torch.manual_seed(1)
    first, second = (Objective().loss(model.model, model.guide, batch) for _ in range(2))
    torch.manual_seed(1)
    assert first == Objective().loss(model.model, model.guide, batch) != second


def test_tasks_simulated_have_the_law_of_real_ones():
    batch = real_tasks((4,), (6,), features=2)[torch.zeros(20_000, dtype=torch.long)]
    model = EmpiricalBayes.regressor(2).double()
    found, w = simulate_tasks(model, batch, seed=1)
    phi = model.predictor.features(batch.query_x)
    noise = found.query_y - model.predictor(phi, w).squeeze(-1)
    assert abs(float(noise.mean())) < 6 * noise.numel() ** -0.5  # 6 standard errors: 2e-9
    assert abs(float(noise.std()) - 1) < 6 * (2 * noise.numel()) ** -0.5


def test_a_seed_of_numpy_is_the_same_number():
    draws = [torch.rand(3, generator=stream(seed)).tolist() for seed in (1, np.int8(1), np.uint64(1))]
    assert draws[0] == draws[1] == draws[2]

"""Likelihoods of one number per row against SciPy's densities and numerical integration."""

import math

import numpy as np
import pytest
import torch
from builders import close, generator
from pyro.distributions import (
    Bernoulli as PyroBernoulli,
    Cauchy as PyroCauchy,
    Exponential,
    Gumbel as PyroGumbel,
    Laplace as PyroLaplace,
    Poisson as PyroPoisson,
)
from scipy import integrate, optimize, stats

import ebmeta
from ebmeta.likelihood import (
    LIKELIHOODS,
    Bernoulli,
    Beta,
    Binomial,
    Gamma,
    Given,
    LogNormal,
    NegativeBinomial,
    Normal,
    NormalPerTask,
    Ordinal,
    Poisson,
    ScalarLikelihood,
    StudentT,
    ZeroInflatedNegativeBinomial,
    ZeroInflatedPoisson,
)
from ebmeta.model.posterior import Inference
from ebmeta.refine.base import Iterate
from ebmeta.refine.state import Setting

WAYS = torch.ones(1, 1, dtype=torch.bool)


def moved(likelihood):
    likelihood = likelihood.double()
    if "center" in likelihood.state_dict():
        likelihood.center.fill_(0.7)
    if "unit" in likelihood.state_dict():
        likelihood.unit.fill_(1.6)
    return likelihood


#: A member, labels, sizes, and SciPy's distribution of a label given eta and size.
CASES = {
    "normal": (
        lambda: moved(Normal(0.8)),
        [0.3, -2.0, 9.0],
        [1.0, 4.0, 2.0],
        lambda eta, n: stats.norm(0.7 + 1.6 * eta, 1.6 * 0.8 / math.sqrt(n)),
    ),
    "student_t": (
        lambda: moved(StudentT(0.8, 4.5)),
        [0.3, -2.0, 9.0],
        [1.0, 4.0, 2.0],
        lambda eta, n: stats.t(4.5, 0.7 + 1.6 * eta, 1.6 * 0.8 / math.sqrt(n)),
    ),
    "log_normal": (
        lambda: moved(LogNormal(0.4)),
        [0.3, 2.0, 30.0],
        [1.0, 4.0, 2.0],
        lambda eta, n: stats.lognorm(1.6 * 0.4 / math.sqrt(n), scale=np.exp(0.7 + 1.6 * eta)),
    ),
    "gamma": (
        lambda: moved(Gamma(1.5)),
        [0.3, 2.0, 30.0],
        [1.0, 4.0, 2.0],
        lambda eta, n: stats.gamma(1.5 * n, scale=np.exp(0.7 + eta) / (1.5 * n)),
    ),
    "beta": (
        lambda: moved(Beta(4.0)),
        [0.3, 0.02, 0.999],
        None,
        lambda eta, n: stats.beta(4 / (1 + np.exp(-eta)), 4 / (1 + np.exp(eta))),
    ),
    "bernoulli": (
        lambda: moved(Bernoulli()),
        [0.0, 1.0, 1.0],
        None,
        lambda eta, n: stats.bernoulli(1 / (1 + np.exp(-eta))),
    ),
    "binomial": (
        lambda: moved(Binomial()),
        [0.0, 3.0, 90.0],
        [1.0, 7.0, 400.0],
        lambda eta, n: stats.binom(n, 1 / (1 + np.exp(-eta))),
    ),
    "poisson": (
        lambda: moved(Poisson()),
        [0.0, 3.0, 170.0],
        [1.0, 0.5, 60.0],
        lambda eta, n: stats.poisson(n * np.exp(eta)),
    ),
    "negative_binomial": (
        lambda: moved(NegativeBinomial(3.5)),
        [0.0, 3.0, 170.0],
        [1.0, 0.5, 60.0],
        lambda eta, n: stats.nbinom(3.5, 3.5 / (3.5 + n * np.exp(eta))),
    ),
}


class Ordered:
    """Categories by the differences of log odds."""

    def __init__(self, eta, thresholds):
        ends = np.array([-np.inf, *thresholds, np.inf])
        self.p = np.diff(1 / (1 + np.exp(np.asarray(eta)[..., None] - ends)))

    def logpmf(self, k):
        return np.log(self.p[..., int(k)])

    def cdf(self, k):
        return self.p[..., : int(k) + 1].sum(-1)

    def mean(self):
        return self.p @ np.arange(self.p.shape[-1])

    def var(self):
        return self.p @ np.arange(self.p.shape[-1]) ** 2 - self.mean() ** 2


def ordinal():
    likelihood = Ordinal(4).double()
    for gap, distance in zip(likelihood.log_gaps, (0.7, 1.2), strict=True):
        gap.data.fill_(math.log(distance))
    return likelihood


class Inflated:
    """SciPy's counts, some of them replaced by 0."""

    def __init__(self, base, inflation):
        self.base, self.inflation = base, inflation

    def logpmf(self, k):
        rest = np.log1p(-self.inflation) + self.base.logpmf(k)
        return np.logaddexp(rest, np.log(self.inflation)) if k == 0 else rest

    def cdf(self, k):
        return self.inflation + (1 - self.inflation) * self.base.cdf(k)

    def mean(self):
        return (1 - self.inflation) * self.base.mean()

    def var(self):
        return (1 - self.inflation) * (self.base.var() + self.base.mean() ** 2) - self.mean() ** 2


CASES |= {
    "ordinal": (ordinal, [0.0, 2.0, 3.0], None, lambda eta, n: Ordered(eta, [0.0, 0.7, 1.9])),
    "zero_inflated_poisson": (
        lambda: moved(ZeroInflatedPoisson(0.3)),
        [0.0, 3.0, 170.0],
        [1.0, 0.5, 60.0],
        lambda eta, n: Inflated(stats.poisson(n * np.exp(eta)), 0.3),
    ),
    "zero_inflated_negative_binomial": (
        lambda: moved(ZeroInflatedNegativeBinomial(0.3, 3.5)),
        [0.0, 3.0, 170.0],
        [1.0, 0.5, 60.0],
        lambda eta, n: Inflated(stats.nbinom(3.5, 3.5 / (3.5 + n * np.exp(eta))), 0.3),
    ),
}
LOC, VAR = [0.4, -0.8, 0.5], [0.3, 1.5, 0.8]


def columns(name):
    build, y, size, reference = CASES[name]
    as_row = lambda v: torch.tensor([v], dtype=torch.float64)  # noqa: E731
    given = Given(None if size is None else as_row(size))
    return build(), as_row(y), as_row(LOC)[..., None], as_row(VAR)[..., None], given, size or [1.0] * 3, reference


def log_density(distribution, y):
    if isinstance(distribution, Inflated | Ordered) or hasattr(distribution.dist, "_pmf"):
        return distribution.logpmf(y)
    return distribution.logpdf(y)


def over_eta(f, m, v):
    """Average a function of eta over N(m, v) by the trapezoid rule, which is exact to rounding for smooth ones."""
    z = np.linspace(-9, 9, 6001)
    return float((f(m + math.sqrt(v) * z) * stats.norm.pdf(z)).sum() * (z[1] - z[0]))


@pytest.mark.parametrize("name", CASES)
def test_the_log_density_is_scipys(name):
    likelihood, y, loc, _, given, size, reference = columns(name)
    got = likelihood.log_prob(y, loc, WAYS, given)[0]
    want = [log_density(reference(LOC[i], size[i]), y[0, i].item()) for i in range(3)]
    close(got.detach(), torch.tensor(want, dtype=torch.float64), 1e-6)  # parameters start in 32 bits


@pytest.mark.parametrize("name", CASES)
def test_mean_variance_and_cdf_are_scipys(name):
    likelihood, y, loc, _, given, size, reference = columns(name)
    eta = loc.squeeze(-1)
    got = (likelihood.mean(eta, given), likelihood.variance(eta, given), likelihood.cdf(y, eta, given))
    for i in range(3):
        d = reference(LOC[i], size[i])
        for value, want in zip(got, (d.mean(), d.var(), d.cdf(y[0, i].item())), strict=True):
            assert value.detach()[0, i].item() == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_the_log_density(name):
    likelihood, y, loc, _, given, _, _ = columns(name)
    eta = loc.clone().requires_grad_()
    (slope,) = torch.autograd.grad(-likelihood.log_prob(y, eta, WAYS, given).sum(), eta, create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), eta)
    g, h = likelihood.gradients(y, loc, torch.zeros_like(loc), WAYS, given)
    close(g, slope, 1e-8)
    if name == "student_t":  # the curvature of the normal with the present weight, which bounds the density from below
        assert bool((h >= second).all())
    else:
        close(h, second, 1e-8)


@pytest.mark.parametrize("name", [n for n, (build, *_) in CASES.items() if build().canonical])
def test_exponential_families_have_the_residual_form(name):
    likelihood, y, loc, var, given, _, _ = columns(name)
    mean, curvature = likelihood.moments(loc, var, WAYS, given)
    g, h = likelihood.gradients(y, loc, var, WAYS, given)
    close(g, (mean - likelihood.statistic(y, 1)) / likelihood.dispersion(given), 1e-12)
    close(h, (curvature / likelihood.dispersion(given)).expand_as(h), 1e-12)


@pytest.mark.parametrize("name", CASES)
def test_expected_and_predictive_scores_equal_integrals(name):
    likelihood, y, loc, var, given, size, reference = columns(name)
    none = torch.zeros(1)
    expected = likelihood.expected_log_prob(y, loc, var, WAYS, none, given)[0].tolist()
    predictive = likelihood.predictive_log_prob(y, loc, var, WAYS, none, given)[0].tolist()
    for i in range(3):
        label = y[0, i].item()
        log_p = lambda eta, i=i, label=label: log_density(reference(eta, size[i]), label)  # noqa: E731
        assert expected[i] == pytest.approx(over_eta(log_p, LOC[i], VAR[i]), rel=2e-3 if name == "student_t" else 1e-6)
        density = over_eta(lambda eta, f=log_p: np.exp(f(eta)), LOC[i], VAR[i])
        assert predictive[i] == pytest.approx(math.log(density), abs=2e-5)


@pytest.mark.parametrize("sd", [2.0, 5.0, 10.0])
@pytest.mark.parametrize("name", ["bernoulli", "binomial", "poisson", "negative_binomial", "ordinal", "gamma", "beta"])
def test_predictive_scores_of_a_wide_linear_predictor_equal_integrals(name, sd):
    likelihood, y, loc, _, given, _, _ = columns(name)
    found = likelihood.predictive_log_prob(y, loc, torch.full_like(loc, sd**2), WAYS, torch.zeros(1), given)
    nodes = torch.linspace(-9, 9, 20_001, dtype=torch.float64).view(-1, 1, 1, 1)
    log_p = likelihood.log_prob(y, loc + sd * nodes, WAYS, given)
    expected = torch.logsumexp(log_p + torch.log_softmax(-nodes.square() / 2, 0)[..., 0], 0)
    close(found, expected, 1e-4)


@pytest.mark.parametrize("name", CASES)
def test_predicted_mean_deviation_and_cdf_equal_integrals(name):
    likelihood, y, loc, var, given, size, reference = columns(name)
    out = likelihood.predict(loc, var, WAYS, given)
    reached = likelihood.predictive_cdf(y, loc, var, given)
    for i in range(3):
        n, label = size[i], y[0, i].item()
        mean = over_eta(lambda eta, n=n: reference(eta, n).mean(), LOC[i], VAR[i])
        square = over_eta(lambda eta, n=n: reference(eta, n).var() + reference(eta, n).mean() ** 2, LOC[i], VAR[i])
        cdf = over_eta(lambda eta, n=n, label=label: reference(eta, n).cdf(label), LOC[i], VAR[i])
        assert out["mean"][0, i].item() == pytest.approx(mean, rel=1e-6)
        assert out["std"][0, i].item() == pytest.approx(math.sqrt(square - mean**2), rel=1e-5)
        assert reached[0, i].item() == pytest.approx(cdf, abs=3e-3)


@pytest.mark.parametrize("level", [0.0005, 0.005, 0.995, 0.9995])
def test_quantiles_in_the_tails_are_those_of_the_linear_predictor_where_labels_vary_by_little_else(level):
    loc, var = torch.full((1, 1, 1), 12.0).double(), torch.full((1, 1, 1), 2.25).double()
    got = as_inference(Poisson().double(), loc, var, Given()).quantile(0, torch.tensor([level]).double()).item()
    assert math.log(got) == pytest.approx(12 + 1.5 * stats.norm.ppf(level), abs=1.5 * 0.1)  # half of a cell
    other = Gamma(2.0).double()
    y = torch.from_numpy(np.exp([[12 + 1.7 * stats.norm.ppf(level)]]))
    exact = over_eta(lambda eta: stats.gamma(2, scale=np.exp(eta) / 2).cdf(y.item()), 12.0, 2.25)
    reached = other.predictive_cdf(y, loc, var).item()
    assert min(reached, 1 - reached) == pytest.approx(min(exact, 1 - exact), rel=0.05)


def as_inference(likelihood, loc, var, given) -> Inference:
    """Return an inference whose only weight is the linear predictor."""
    rows = loc.shape[1]
    q = ebmeta.parts.gaussian.DiagonalGaussian(loc.mT, 1 / var.mT)
    x = torch.eye(rows, dtype=torch.float64)[None]
    setting = Setting(q, q, likelihood, x, torch.ones(1, rows, dtype=torch.bool), WAYS, 1.0, given)
    return Inference(torch.zeros(1, 1), torch.zeros(1, 1), [Iterate(q)], setting, torch.zeros(1))


@pytest.mark.parametrize("name", CASES)
def test_quantiles_invert_the_cdf(name):
    likelihood, _, loc, var, given, _, _ = columns(name)
    inferred = as_inference(likelihood, loc, var, given)
    levels = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)
    quantiles = inferred.quantile(0, levels)
    for level, q in zip(levels, quantiles, strict=True):
        if likelihood.discrete:
            assert bool((inferred.cdf(0, q) >= level).all() and (inferred.cdf(0, q - 1) < level).all())
        else:
            close(inferred.cdf(0, q).detach(), level.expand(1, 3), 1e-8)
    with pytest.raises(ValueError, match="levels: expected probabilities between 0 and 1, got"):
        inferred.quantile(0, torch.tensor([1.0]))


def test_the_importance_bound_closes_the_gap_of_the_evidence():
    """Poisson, one weight: the bound of 2,000 draws against a one-dimensional integral."""
    model = ebmeta.EmpiricalBayes.regressor(1, "poisson", num_steps=0).double()
    rate, count = torch.zeros(1, 1, 1, dtype=torch.float64), torch.tensor([[2.0]], dtype=torch.float64)
    batch = ebmeta.TaskBatch(rate, count, rate, count + 3)
    terms = ebmeta.Objective("evidence", num_draws=2000).terms(model, batch, generator=generator(0))
    exact, _ = integrate.quad(
        lambda w: stats.poisson(math.exp(w)).pmf(2) * stats.poisson(math.exp(w)).pmf(5) * stats.norm.pdf(w), -8, 8
    )
    assert terms.loss.item() == pytest.approx(-math.log(exact), abs=0.005)  # 0.001 for one standard error


@pytest.mark.parametrize(
    ("name", "y", "size", "message"),
    [
        ("poisson", -1.0, None, r"support_y: expected counts 0, 1, 2, \.\.\., got -1 at task 0, row 1"),
        ("negative_binomial", 1.5, None, r"support_y: expected counts 0, 1, 2, \.\.\., got 1.5 at task 0, row 1"),
        ("binomial", 3.0, 2.0, "support_y: expected at most as many successes as trials, got 3 of 2 at task 0, row 1"),
        ("binomial", 1.0, 2.5, "support_y: expected whole numbers of trials, got 2.5 at task 0, row 1"),
        ("zero_inflated_poisson", 0.5, None, "support_y: expected counts 0, 1, 2, ..., got 0.5 at task 0, row 1"),
        ("zero_inflated_negative_binomial", -1.0, None, "support_y: expected counts 0, 1, 2, ..., got -1 at task 0"),
        (
            "beta",
            0.0,
            None,
            "support_y: expected shares between 0 and 1, neither of them, for a beta likelihood, got 0 at",
        ),
        (
            "ordinal",
            3.0,
            None,
            r"support_y: expected categories 0, ..., 2 for an ordinal likelihood of 3 .*, got 3 at task",
        ),
        ("ordinal", 1.0, 2.0, "support_y: expected ordered categories without sizes, got sizes"),
        ("beta", 0.5, 2.0, "support_y: expected shares without sizes .successes of trials want 'binomial'., got sizes"),
        ("bernoulli", 2.0, None, "support_y: expected 0 or 1, got 2 at task 0, row 1"),
        ("bernoulli", 1.0, 2.0, "support_y: expected rows of one trial each .use 'binomial' for more., got sizes"),
        ("poisson", 1.0, 0.0, "support_size: expected numbers above 0, got 0 at task 0, row 1"),
        ("normal", 1.0, -2.0, "support_size: expected numbers above 0, got -2 at task 0, row 1"),
        (
            "log_normal",
            0.0,
            None,
            "support_y: expected numbers above 0 for a log_normal likelihood, got 0 at task 0, row 1",
        ),
        ("gamma", -1.5, None, "support_y: expected numbers above 0 for a gamma likelihood, got -1.5 at task 0, row 1"),
        ("gamma", 1.0, -2.0, "support_size: expected numbers above 0, got -2 at task 0, row 1"),
    ],
)
def test_impossible_labels_are_refused(name, y, size, message):
    x = torch.zeros(1, 2, 1)
    sizes = None if size is None else torch.tensor([[1.0, size]])
    first = 0.5 if name == "beta" else 1.0
    batch = ebmeta.TaskBatch(x, torch.tensor([[first, y]]), x, support_size=sizes)
    with pytest.raises(ValueError, match=message):
        ebmeta.EmpiricalBayes.regressor(1, name).posterior(batch)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("bernoulli", 2.0, "query_size: expected rows of one trial each .use 'binomial' for more., got sizes"),
        ("beta", 2.0, "query_size: expected shares without sizes .successes of trials want 'binomial'., got sizes"),
        ("ordinal", 2.0, "query_size: expected ordered categories without sizes, got sizes"),
        ("binomial", 2.5, "query_size: expected whole numbers of trials, got 2.5 at task 0, row 1"),
        ("zero_inflated_poisson", -1.0, "query_size: expected numbers above 0, got -1 at task 0, row 1"),
        ("poisson", 0.0, "query_size: expected numbers above 0, got 0 at task 0, row 1"),
        ("log_normal", 0.0, "query_size: expected numbers above 0, got 0 at task 0, row 1"),
        ("gamma", -2.0, "query_size: expected numbers above 0, got -2 at task 0, row 1"),
    ],
)
def test_impossible_sizes_of_rows_without_labels_are_refused(name, size, message):
    """A probability of 1.1 of a yes came of two trials, and a mean below 0 of an exposure of -1."""
    x, y = torch.zeros(1, 2, 1), torch.full((1, 2), 0.5 if name == "beta" else 1.0)
    batch = ebmeta.TaskBatch(x, y, x, query_size=torch.tensor([[1.0, size]]))
    model = ebmeta.EmpiricalBayes.regressor(1, name)
    model.fitted = True
    with pytest.raises(ValueError, match=message):
        ebmeta.predict(model, batch, num_draws=0)
    padded = ebmeta.TaskBatch(x, y, x, query_size=batch.query_size, query_mask=torch.tensor([[True, False]]))
    if not model.likelihood.no_size:
        assert ebmeta.predict(model, padded, num_draws=0)["predictive/mean"].values[-1, 0, 0] > 0


def test_numbers_have_no_class_proportions():
    x = torch.zeros(1, 2, 1)
    batch = ebmeta.TaskBatch(x, torch.ones(1, 2), x, concentration=torch.ones(1))
    with pytest.raises(ValueError, match="concentration: expected none of tasks with a poisson likelihood, got some"):
        ebmeta.EmpiricalBayes.regressor(1, "poisson").posterior(batch)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Normal(0.0), "noise: expected a finite number above 0, got 0.0"),
        (lambda: NormalPerTask(ratio=-1.0), "ratio: expected a finite number above 0, got -1.0"),
        (lambda: StudentT(freedom=2.0), "freedom: expected a finite number above 2, got 2.0"),
        (lambda: LogNormal(0.0), "noise: expected a finite number above 0, got 0.0"),
        (lambda: Gamma(-1.0), "shape: expected a finite number above 0, got -1.0"),
        (lambda: ZeroInflatedPoisson(0.0), "inflation: expected a number between 0 and 1, got 0.0"),
        (lambda: ZeroInflatedNegativeBinomial(0.5, 0.0), "shape: expected a finite number above 0, got 0.0"),
        (lambda: Ordinal(1), "num_categories: expected at least 2, got 1"),
        (lambda: Beta(0.0), "precision: expected a finite number above 0, got 0.0"),
        (lambda: NegativeBinomial(0.0), "shape: expected a finite number above 0, got 0.0"),
    ],
)
def test_parameters_out_of_range_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


class Waiting(ScalarLikelihood):
    """Exponential waiting times of mean exp(eta): not canonical, and only what has to be stated."""

    name = "waiting"

    def mean(self, eta, given=None):
        return eta.exp()

    def variance(self, eta, given=None):
        return (2 * eta).exp()

    def distribution(self, eta, way_mask, given=None):
        return Exponential((-eta.squeeze(-1)).exp())


class Probit(ScalarLikelihood):
    """Yes or no with a probit link: another one whose gradient is not mean minus label."""

    name = "probit"
    discrete = True

    def mean(self, eta, given=None):
        return torch.special.ndtr(eta)

    def variance(self, eta, given=None):
        p = torch.special.ndtr(eta)
        return p * (1 - p)

    def distribution(self, eta, way_mask, given=None):
        return PyroBernoulli(torch.special.ndtr(eta.squeeze(-1)))


class Cauchy(ScalarLikelihood):
    """Not log-concave: the curvature changes its sign."""

    name = "cauchy"

    def mean(self, eta, given=None):
        return eta

    def variance(self, eta, given=None):
        return torch.ones_like(eta)

    def distribution(self, eta, way_mask, given=None):
        return PyroCauchy(eta.squeeze(-1), 1.0)


OWN = {
    "waiting": (Waiting, [0.2, 1.0, 7.0], lambda eta: stats.expon(scale=np.exp(eta)).logpdf),
    "probit": (Probit, [0.0, 1.0, 1.0], lambda eta: stats.bernoulli(stats.norm.cdf(eta)).logpmf),
    "cauchy": (Cauchy, [0.2, -1.0, 9.0], lambda eta: stats.cauchy(eta).logpdf),
}


@pytest.mark.parametrize("name", OWN)
def test_gradients_of_a_likelihood_of_your_own_come_from_its_density(name):
    build, y, density = OWN[name]
    loc, var = (torch.tensor(v, dtype=torch.float64).view(1, -1, 1) for v in (LOC, [0.3, 0.6, 0.4]))
    slope, curvature = build().gradients(torch.tensor([y], dtype=torch.float64), loc, var, WAYS)
    for i, (label, m, v) in enumerate(zip(y, LOC, (0.3, 0.6, 0.4), strict=True)):

        def mean_loss(shift, label=label, m=m, v=v):
            def integrand(z):
                return -density(m + shift + math.sqrt(v) * z)(label) * stats.norm.pdf(z)

            return integrate.quad(integrand, -9, 9, epsabs=1e-12, limit=200)[0]

        low, middle, high = mean_loss(-1e-3), mean_loss(0.0), mean_loss(1e-3)
        assert float(slope[0, i, 0]) == pytest.approx((high - low) / 2e-3, abs=2e-4)
        assert float(curvature[0, i, 0]) == pytest.approx(max(0.0, (high - 2 * middle + low) / 1e-6), abs=2e-3)


def test_information_of_a_likelihood_of_your_own_is_that_of_its_link():
    eta = torch.tensor([-1.0, 0.3, 2.0], dtype=torch.float64)
    close(Waiting().information(eta), torch.ones(3, dtype=torch.float64))
    p, density = stats.norm.cdf(eta), stats.norm.pdf(eta)
    close(Probit().information(eta), torch.from_numpy(density**2 / (p * (1 - p))))
    assert Poisson.canonical
    assert Bernoulli.canonical
    assert not NegativeBinomial.canonical


def test_what_is_stated_anew_is_not_taken_for_canonical():
    class Doubled(Poisson):
        name = "doubled"

        def mean(self, eta, given=None):
            return (2 * eta).exp()

        def variance(self, eta, given=None):
            return (2 * eta).exp()

        def distribution(self, eta, way_mask, given=None):
            return PyroPoisson((2 * eta.squeeze(-1)).exp())

    y, eta = torch.tensor([[3.0]], dtype=torch.float64), torch.full((1, 1, 1), 0.5, dtype=torch.float64)
    slope, curvature = Doubled().gradients(y, eta, torch.zeros_like(eta), WAYS)
    assert float(slope) == pytest.approx(2 * math.e - 6, rel=1e-6)
    assert float(curvature) == pytest.approx(4 * math.e, rel=1e-6)


class BelowProbit(Bernoulli):
    """Another link below a likelihood that states much in closed form."""

    name = "below_probit"

    def mean(self, eta, given=None):
        return torch.special.ndtr(eta)

    def variance(self, eta, given=None):
        return self.mean(eta) * self.mean(-eta)

    def distribution(self, eta, way_mask, given=None):
        return PyroBernoulli(self.mean(eta.squeeze(-1)))


class Gumbel(Normal):
    """Other noise below a likelihood that states all in closed form."""

    name = "gumbel"

    def variance(self, eta, given=None):
        return (math.pi**2 / 6 * (self.unit * self.noise(given)).square()).expand_as(eta)

    def mean(self, eta, given=None):
        return super().mean(eta) + 0.5772156649 * self.unit * self.noise(given)

    def distribution(self, eta, way_mask, given=None):
        return PyroGumbel(super().mean(eta.squeeze(-1)), self.unit * self.noise(given))


@pytest.mark.parametrize(
    ("likelihood", "y"), [(BelowProbit(), 1.0), (Gumbel(0.7), 0.4), (Gumbel(0.7), 3.0)], ids=["probit", "low", "high"]
)
def test_closed_forms_of_another_density_are_not_inherited(likelihood, y):
    """Scores, slopes, spreads and quantiles of such classes were those of the class above."""
    likelihood, loc, var = likelihood.double(), 0.4, 0.09
    assert [likelihood.conjugate, likelihood.canonical, likelihood.has_cdf] == [False] * 3
    nodes, weight = np.polynomial.hermite_e.hermegauss(80)
    eta = torch.from_numpy(loc + math.sqrt(var) * nodes)[:, None, None, None].requires_grad_()
    weight = torch.from_numpy(weight / weight.sum())[:, None, None]
    label, at, width = (torch.full(shape, v).double() for shape, v in (((1, 1), y), ((1, 1, 1), loc), ((1, 1, 1), var)))
    logp = likelihood.distribution(eta, WAYS).log_prob(label)
    close(likelihood.predictive_log_prob(label, at, width, WAYS, at), torch.log((weight * logp.exp()).sum(0)), 1e-6)
    close(likelihood.expected_log_prob(label, at, width, WAYS, at), (weight * logp).sum(0), 1e-6)
    (slope,) = torch.autograd.grad(-logp.sum(), eta)
    close(likelihood.gradients(label, at, width, WAYS)[0], (weight.unsqueeze(-1) * slope).sum(0), 1e-6)
    law = likelihood.distribution(eta, WAYS)
    mean = (weight * law.mean).sum(0)
    got = likelihood.predict(at, width, WAYS)
    close(got["mean"], mean, 1e-6)
    close(got["std"], ((weight * (law.variance + law.mean.square())).sum(0) - mean.square()).sqrt(), 1e-6)
    with pytest.raises(ValueError, match="quantiles: expected a likelihood with a cdf, got"):
        likelihood.predictive_cdf(label, at, width)


def test_a_distribution_comes_with_its_moments():
    said = "Truncated: expected mean and variance beside a distribution of its own, got the variance of Poisson"
    with pytest.raises(TypeError, match=said):

        class Truncated(Poisson):
            def mean(self, eta, given=None):
                return eta.exp() / -torch.expm1(-eta.exp())

            def distribution(self, eta, way_mask, given=None):
                return PyroPoisson(eta.squeeze(-1).exp())


def test_a_density_without_curvature_is_refused():
    """Posteriors under it were as wide as the prior, however many labels there were."""

    class Laplace(ScalarLikelihood):
        name = "laplace"

        def mean(self, eta, given=None):
            return eta

        def variance(self, eta, given=None):
            return torch.full_like(eta, 2.0)

        def distribution(self, eta, way_mask, given=None):
            return PyroLaplace(eta.squeeze(-1), 1.0)

    y, eta = torch.tensor([[0.5, -1.0, 2.0]]).double(), torch.zeros(1, 3, 1).double()
    said = "laplace likelihood: expected a log density that is curved in the linear predictor, got slopes alone"
    with pytest.raises(ValueError, match=said):
        Laplace().gradients(y, eta, torch.ones_like(eta), WAYS)
    once = y[:, :1], eta[:, :1], torch.ones_like(eta[:, :1]), WAYS
    close(Waiting().gradients(torch.zeros(1, 1), *once[1:])[0], torch.ones(1, 1, 1).double())  # one label says little


def test_a_likelihood_of_your_own_finds_the_slope(monkeypatch):
    """The expected slope is that of SciPy's maximum of the likelihood with one line for all groups."""
    monkeypatch.setitem(LIKELIHOODS, "waiting", Waiting)
    rng = np.random.default_rng(0)
    x, group = rng.normal(size=400), np.repeat(np.arange(40), 10)
    y = rng.exponential(np.exp(0.5 + 0.3 * x))
    exact = optimize.minimize(lambda b: (b[0] + b[1] * x + y * np.exp(-b[0] - b[1] * x)).sum(), [0.0, 0.0]).x
    model = ebmeta.EmpiricalBayes.regressor(1, "waiting", num_steps=0).double()
    tasks = ebmeta.GroupSampler(x[:, None], y, group, n_support=1)
    assert ebmeta.fit_evidence(model, tasks, boundary=False).converged
    with torch.no_grad():
        loc, _ = ebmeta.in_units(model, model.prior(1, 1))
    close(loc[0, 0], torch.from_numpy(exact[::-1].copy()), 0.02)  # groups are alike: their spread goes to 0


def test_labels_that_a_likelihood_of_your_own_cannot_have_are_named(monkeypatch):
    monkeypatch.setitem(LIKELIHOODS, "waiting", Waiting)
    model = ebmeta.EmpiricalBayes.regressor(1, "waiting", num_steps=0)
    x, y = np.zeros((6, 1)), np.array([1.0, 2.0, 3.0, -0.5, 1.0, 2.0])
    tasks = ebmeta.GroupSampler(x, y, np.repeat([0, 1], 3), n_support=1)
    for run in (
        lambda: ebmeta.fit_evidence(model, tasks),
        lambda: ebmeta.fit(model, tasks, 1, progress=False),
        lambda: ebmeta.FewShotRegressor(model).fit(x, y),
    ):
        with pytest.raises(
            ValueError, match=r"^y: expected labels that a waiting likelihood can have .*, got -0.5 at r"
        ):
            run()


@pytest.mark.parametrize(
    ("likelihood", "label", "advice"),
    [
        ("poisson", 0.25, "'normal' or 'student_t'"),
        ("negative_binomial", -3.0, "'normal'"),
        ("bernoulli", 2.0, "trials"),
    ],
)
def test_labels_of_another_kind_come_with_what_to_use(likelihood, label, advice):
    model = ebmeta.EmpiricalBayes.regressor(1, likelihood, num_steps=0)
    tasks = ebmeta.GroupSampler(np.zeros((4, 1)), np.array([0.0, 1.0, label, 1.0]), [0, 0, 1, 1], n_support=1)
    with pytest.raises(ValueError, match=rf"^y: expected .* got {label:g} .*at row 2.*{advice}"):
        ebmeta.fit_evidence(model, tasks)


@torch.no_grad()
@np.errstate(divide="ignore")  # the log of the probability of a category far away
@pytest.mark.parametrize("std", [0.1, 2.0, 5.0, 8.0])
@pytest.mark.parametrize("name", ["bernoulli", "binomial", "beta", "ordinal"])
def test_moments_of_labels_with_two_ends_are_integrals_however_wide_the_predictor(name, std):
    make, _, _, scipy_of = CASES[name]
    likelihood, size = make(), 7.0 if name == "binomial" else 1.0
    given = Given(torch.full((1, 1), size, dtype=torch.float64)) if name == "binomial" else None
    for loc in (-3.0, 0.4, 11.0):
        at = torch.full((1, 1, 1), loc, dtype=torch.float64)
        found = likelihood.predict(at, torch.full_like(at, std**2), WAYS, given)

        def average(of, loc=loc):
            z = np.linspace(-9, 9, 200_001)
            return np.trapezoid(of(loc + std * z) * stats.norm.pdf(z), z)

        mean = average(lambda eta: scipy_of(eta, size).mean())
        square = average(lambda eta: scipy_of(eta, size).var() + scipy_of(eta, size).mean() ** 2)
        assert float(found["mean"]) == pytest.approx(mean, rel=1e-5)  # a Gauss-Hermite rule of 20 nodes: 2e-2
        assert float(found["std"]) ** 2 == pytest.approx(square - mean**2, rel=1e-4)
        for c in range(likelihood.categories or 0):
            p = float(likelihood.predictive_probs(at, torch.full_like(at, std**2), given)[0, 0, c])
            assert p == pytest.approx(average(lambda eta, c=c: np.exp(scipy_of(eta, size).logpmf(c))), rel=1e-4)

"""Units and origins are conventions: they change no prediction, and the evidence by the Jacobian alone.

Every law multiplies by powers of ten up to 10^12 either way, or moves the origin by 10^9 spreads, and compares what a
model fitted to the new numbers predicts with what one fitted to the old numbers did.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch
from builders import class_tasks, classifier, number_tasks, perturb, regressor
from pyro.infer import MCMC, NUTS, Predictive, Trace_ELBO
from scipy import stats

import ebmeta
from ebmeta import EmpiricalBayes, EpisodeSampler, FewShotClassifier, FewShotRegressor, GroupSampler, TaskBatch
from ebmeta.foundation.maximum import ENOUGH
from ebmeta.likelihood import LIKELIHOODS, Given
from ebmeta.parts.basis import FourierBasis
from ebmeta.training.evidence import Evidence
from ebmeta.training.preparation import measure, prepare

#: Scores of the groups of training will do for a comparison.
pytestmark = pytest.mark.filterwarnings(
    "ignore:tasks. training or validation has used most of these groups:UserWarning"
)

TOLERANCE = 1e-4  # of a spread
GROUPS, ROWS = 12, 6
NUMBERS = [name for name, c in LIKELIHOODS.items() if not c.categorical]
LOCATED = ["normal", "normal_per_task", "student_t"]
POSITIVE = ["log_normal", "gamma"]  # labels of these have a unit, and their origin is 0


@dataclass(frozen=True)
class Data:
    """Rows of groups, with a covariate of each group; the last group is new."""

    X: np.ndarray
    y: np.ndarray
    groups: np.ndarray
    size: np.ndarray | None
    group_X: np.ndarray

    def sampler(self) -> GroupSampler:
        old = self.groups < GROUPS
        size = None if self.size is None else self.size[old]
        return GroupSampler(
            self.X[old], self.y[old], self.groups[old], n_support=3, size=size, group_X=self.group_X[old]
        )

    def new(self, part: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        rows = np.flatnonzero(self.groups == GROUPS)[part]
        return self.X[rows], self.y[rows], None if self.size is None else self.size[rows]


def data(likelihood: str) -> Data:
    """Draw slopes and intercepts for each group around a line in the covariate, and labels that suit a likelihood."""
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(GROUPS + 1), ROWS)
    x, g = rng.normal(size=len(groups)), rng.normal(size=GROUPS + 1)
    w = rng.normal([0.3, 0.3], [0.9, 0.7], (GROUPS + 1, 2)) + np.stack([0.4 * g, 0 * g], 1)
    eta, size = (w[groups] * np.stack([np.ones_like(x), x], 1)).sum(1), rng.integers(5, 15, len(x)).astype(float)
    if likelihood == "bernoulli":
        y, size = (rng.random(len(x)) < 1 / (1 + np.exp(-eta))).astype(float), None
    elif likelihood == "binomial":
        y = rng.binomial(size.astype(int), 1 / (1 + np.exp(-eta))).astype(float)
    elif likelihood in LOCATED:
        y = eta + 0.9 * np.exp(0.5 * rng.normal(size=GROUPS + 1))[groups] * rng.standard_t(5, len(x)) / np.sqrt(size)
    elif likelihood == "ordinal":
        y, size = (eta + rng.logistic(size=len(x)) > np.array([[0.0], [1.0]])).sum(0).astype(float), None
    elif likelihood == "beta":
        chance = 1 / (1 + np.exp(-eta))
        y, size = rng.beta(8 * chance, 8 * (1 - chance)), None
    elif likelihood in POSITIVE:
        y = np.exp(eta) * rng.gamma(0.3 * size, 1 / (0.3 * size))
    else:
        y = rng.negative_binomial(5, 5 / (5 + size * np.exp(eta))).astype(float)
    return Data(x[:, None], y, groups, size, g[groups][:, None])


def moved(values: np.ndarray, unit: float, spreads: float) -> tuple[np.ndarray, float, float]:
    """Return numbers in another unit and from another origin, with factor and shift."""
    shift = unit * spreads * values.std()
    return unit * values + shift, unit, shift


def build(likelihood: str) -> EmpiricalBayes:
    return EmpiricalBayes.regressor(1, likelihood=likelihood, num_covariates=1, num_steps=1)


def predictions(model: EmpiricalBayes, data: Data) -> dict[str, np.ndarray]:
    """Return what is predicted of the new group's last rows, by name, and the score of all groups."""
    (x, y, size), (query_x, query_y, query_size) = data.new(slice(0, 3)), data.new(slice(3, None))
    reg = FewShotRegressor(model).fit(x, y, size=size, group_x=data.group_X[data.groups == GROUPS][0])
    mean, std = reg.predict(query_x, return_std=True, size=query_size)
    draws = reg.sample(query_x, 20, size=query_size)
    return {
        "mean": mean,
        "std": std,
        "quantiles": reg.quantiles(query_x, [0.1, 0.9], size=query_size),
        # Noise levels are drawn from the nodes of a quadrature, whose places are second differences.
        "draws": draws if not model.likelihood.has_level else mean,
        "log_density": reg.log_density(query_x, query_y, size=query_size),
        "nll": ebmeta.evaluate(model, data.sampler(), 30)["nll"].values,
    }


def in_new_units(model: EmpiricalBayes, new: Data) -> EmpiricalBayes:
    """Return a model that has taken its units from new data and the parameters from an old model."""
    other = build(model.likelihood.name).double()
    measure(other, [new.sampler().everything()])
    for p, known in zip(other.parameters(), model.parameters(), strict=True):
        p.data.copy_(known)
    return other


def same(got: dict, expected: dict, spread: float, unit: float = 1.0, shift: float = 0.0) -> None:
    """Compare predictions of labels that were multiplied and moved."""
    for name in expected:
        if name in ("log_density", "nll"):
            jacobian = np.log(unit) * (1 if name == "nll" else -1)
            np.testing.assert_allclose(got[name], expected[name] + jacobian, rtol=0, atol=TOLERANCE, err_msg=name)
        else:
            back = (got[name] - (0.0 if name == "std" else shift)) / unit
            np.testing.assert_allclose(back, expected[name], rtol=0, atol=TOLERANCE * spread, err_msg=name)


@pytest.fixture(scope="module", params=NUMBERS)
def fitted(request):
    found, model = data(request.param), build(request.param)
    perturb(model.refiner, scale=0.05)
    reached = ebmeta.fit_evidence(model, found.sampler(), boundary=False).log_evidence
    return found, model, reached, predictions(model, found)


def evidence(model: EmpiricalBayes, data: Data) -> float:
    with torch.no_grad():
        return Evidence(copy.deepcopy(model).double(), data.sampler(), hyperprior=False).log_evidence().item()


#: Units of features and covariates, and how many spreads from the old origin the new one is.
INPUTS = [(1e-12, 0.0, 1e12, 0.0), (1e12, 1e9, 1e-12, 1e9)]
LABELS = [(1e-12, 0.0), (1e12, 1e9)]


@pytest.mark.parametrize("change", INPUTS)
def test_units_and_origins_of_features_and_covariates_change_nothing(fitted, change):
    old, model, reached, expected = fitted
    unit, origin, group_unit, group_origin = change
    new = replace(old, X=moved(old.X, unit, origin)[0], group_X=moved(old.group_X, group_unit, group_origin)[0])
    other = in_new_units(model, new)
    same(predictions(other, new), expected, old.y.std())
    assert abs(evidence(other, new) - evidence(model, old)) < TOLERANCE
    if origin:
        again = ebmeta.fit_evidence(build(model.likelihood.name), new.sampler(), boundary=False)
        assert abs(again.log_evidence - reached) < 2 * ENOUGH  # what an ascent may leave


@pytest.mark.parametrize("change", LABELS)
def test_unit_and_origin_of_labels_enter_the_evidence_by_the_jacobian_alone(fitted, change):
    old, model, reached, expected = fitted
    if model.likelihood.discrete or model.likelihood.name == "beta":
        return  # counts and shares have no unit
    y, unit, shift = moved(old.y, change[0], 0.0 if model.likelihood.name in POSITIVE else change[1])
    new = replace(old, y=y)
    other, jacobian = in_new_units(model, new), GROUPS * ROWS * np.log(unit)
    same(predictions(other, new), expected, old.y.std(), unit, shift)
    assert abs(evidence(other, new) + jacobian - evidence(model, old)) < TOLERANCE
    if not change[1]:
        again = ebmeta.fit_evidence(build(model.likelihood.name), new.sampler(), boundary=False)
        assert abs(again.log_evidence + jacobian - reached) < 2 * ENOUGH  # what an ascent may leave


@pytest.mark.parametrize("of_batch", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("of_model", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("likelihood", list(LIKELIHOODS))
def test_a_batch_of_any_type_goes_into_a_model_of_any_type(likelihood, of_model, of_batch):
    if likelihood == "categorical":
        model, batch = classifier(dtype=of_model), class_tasks(dtype=of_batch)
    else:
        model = regressor(likelihood=likelihood, scale=0.2, dtype=of_model)  # as in the laws of likelihoods
        batch = number_tasks(likelihood).to(of_batch)
    model.prior.log_scale.data -= 1
    wide = copy.deepcopy(model).double()
    for k, q in enumerate(model.posterior(batch)):
        assert q.loc.dtype == q.precision.dtype == of_model
        torch.testing.assert_close(q.loc.double(), wide.posterior(batch)[k].loc, atol=1e-3, rtol=1e-3)
    for loss in (Trace_ELBO(), ebmeta.Objective(), ebmeta.Objective("gibbs"), ebmeta.Objective("evidence")):
        torch.manual_seed(0)
        assert math.isfinite(loss.loss_and_grads(model.model, model.guide, batch))
    drawn = Predictive(model.model, num_samples=2)(batch.unlabelled())
    assert drawn["query_y"].shape == (2, *batch.query_mask.shape)
    assert ebmeta.predict(model, batch, num_draws=2)["log_likelihood/query_y"].shape == (1, 2, *batch.query_mask.shape)


def test_a_model_infers_from_the_tasks_of_an_estimator():
    reg = FewShotRegressor(EmpiricalBayes.regressor(1)).fit([[0.0], [1.0]], [0.0, 1.0])
    inferred = reg.model.infer(reg.tasks([[0.5]]))
    np.testing.assert_array_equal(inferred.predict(-1)["mean"].detach()[0], reg.predict([[0.5]]))


def test_pyro_samples_a_float32_model_of_float64_tasks():
    model = EmpiricalBayes.regressor(1, num_steps=0)
    x, y = (
        torch.linspace(-1, 1, 8, dtype=torch.float64)[None, :, None],
        torch.linspace(0, 1, 8, dtype=torch.float64)[None],
    )
    batch = TaskBatch(x, y, x, y)
    torch.manual_seed(0)
    mcmc = MCMC(NUTS(model.model), num_samples=300, warmup_steps=100, disable_progbar=True)
    mcmc.run(batch, "support")
    q = model.posterior(batch)[0]
    w = mcmc.get_samples()["w"]
    # 300 draws, correlated a little: five standard errors of independent ones.
    assert bool(((w.mean(0) - q.loc).abs() < 5 * q.scale / 300**0.5).all())


def normal_groups(unit: float = 1.0, start: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    g, s = np.repeat(np.arange(40), 8), rng.uniform(0, 600, 320)
    y = 2 + rng.normal(size=40)[g] + (1.5 + rng.normal(0, 0.5, 40))[g] * s / 100 + 0.4 * rng.normal(size=320)
    return (start + unit * s)[:, None], y, g


@pytest.mark.parametrize(("unit", "start"), [(1e-8, 0.0), (1.0, 1.75e9), (1e-12, 1.0), (1e12, 0.0)])
def test_training_is_the_same_in_any_unit_of_features(unit, start):
    results = []
    for kind in ((1.0, 0.0), (unit, start)):
        X, y, g = normal_groups(*kind)
        model = EmpiricalBayes.regressor(1)
        result = ebmeta.fit(model, GroupSampler(X, y, g, n_support=3), 20, 8, progress=False)
        mean, std = FewShotRegressor(model).fit(X[:3], y[:3]).predict(X[3:8], return_std=True)
        loc, cov = ebmeta.in_units(model, model.prior(1, 1))
        shift = loc[0, 0, 0] * kind[1] + loc[0, 0, 1]
        lines = kind[0] * loc[0, 0, 0].item(), shift.item(), kind[0] * cov[0, 0, 0, 0].sqrt().item()
        results.append([*result.history["loss"].values, *(mean / y.std()), *(std / y.std()), *lines])
    # 1 + 1e-12 s has a spread of 780,000 roundings: as much as 1e-6 of a spread is rounding of the numbers themselves.
    np.testing.assert_allclose(results[1], results[0], atol=TOLERANCE)


def class_rows(unit: float = 1.0, origin: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    y = np.repeat(np.arange(12), 12)
    X = 2 * rng.normal(size=(12, 6))[y] + rng.normal(size=(144, 6))
    return unit * (X + origin * X.std()), y


EMBEDDINGS = [(1e-9, 0.0), (1e-12, 1e9), (1e12, 0.0)]


@pytest.mark.parametrize(("unit", "origin"), EMBEDDINGS[1:])
def test_training_is_the_same_in_any_unit_of_embeddings(unit, origin):
    results = []
    for kind in ((1.0, 0.0), (unit, origin)):
        X, y = class_rows(*kind)
        train, held_out = (EpisodeSampler(X[part], y[part], 3, 2, 4) for part in (slice(96), slice(96, None)))
        model = EmpiricalBayes.classifier(6, 2, profile=4)
        history = ebmeta.fit(model, train, 8, 4, validation=held_out, progress=False).history
        results.append([*history["loss"].values, *history["validation_loss"].values])
    np.testing.assert_allclose(results[1], results[0], atol=TOLERANCE)


#: Arguments of a classifier by its kind, and what preparation measures of training rows besides the metric.
MEASURED = {
    "joint": ({}, lambda model: (model.prior.log_between, model.prior.log_within)),
    "mixture": ({"widths": "measured"}, lambda model: (model.prior.log_scale[:6], model.initializer.log_precision[:6])),
}


@pytest.fixture(scope="module", params=MEASURED)
def trained(request):
    X, y = class_rows()
    model = EmpiricalBayes.classifier(6, 2, synthetic_gradient=request.param, profile=4, **MEASURED[request.param][0])
    ebmeta.fit(model, EpisodeSampler(X[:96], y[:96], 3, 2, 4), 8, 4, progress=False)
    return request.param, model


@pytest.mark.parametrize(("unit", "origin"), EMBEDDINGS)
def test_unit_and_origin_of_embeddings_change_nothing(trained, unit, origin):
    kind, fitted = trained
    options, measured = MEASURED[kind]
    results = []
    for units in ((1.0, 0.0), (unit, origin)):
        X, y = class_rows(*units)
        train, held_out = (EpisodeSampler(X[part], y[part], 3, 2, 4) for part in (slice(96), slice(96, None)))
        model = EmpiricalBayes.classifier(6, 2, synthetic_gradient=kind, profile=4, **options)
        prepare(model, train, 4, torch.device("cpu"))
        widths = [value.detach().reshape(-1).clone() for value in measured(model)]
        own = {f"predictor.{name}": getattr(model.predictor, name).clone() for name in ("center", "metric")}
        model.load_state_dict(fitted.state_dict() | own)  # what training and its optimisers have found
        clf = FewShotClassifier(model).fit(X[96:132:4], y[96:132:4])
        harder = train.harder(1.0).sample(2).query_x.double()
        numbers = {
            "metric": model.predictor.metric,
            "widths": torch.cat(widths),
            "probabilities": clf.predict_proba(X[97:132:4]),
            "scores": ebmeta.evaluate(model, held_out, 8)["nll"],
            "novelty": ebmeta.Novelty(model).fit(train, 40).statistics(held_out.sample(3)).to_array(),
            "difficulty": [train.difficulty, held_out.difficulty],
            "harder": model.predictor.direction(harder),
        }
        results.append(numbers)
    for name, value in results[0].items():
        np.testing.assert_allclose(results[1][name], value, rtol=0, atol=TOLERANCE, err_msg=name)


def test_novelty_of_groups_does_not_ask_for_units():
    X, y, g = normal_groups()
    X = np.concatenate([X, np.random.default_rng(0).normal(size=X.shape)], 1)
    found = []
    for unit in (1.0, 1e12):
        scaled = X * [1.0, unit] + [0.0, 5 * unit]
        tasks, model = GroupSampler(scaled, y, g, n_support=3), EmpiricalBayes.regressor(2)
        ebmeta.fit(model, tasks, 2, progress=False)
        found.append(ebmeta.Novelty(model).fit(tasks, 40).statistics(tasks.sample(5)).to_array().values)
    np.testing.assert_allclose(found[1], found[0], atol=TOLERANCE)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (1.75e9 + 1000 * np.arange(32.0, dtype=np.float32), "feature 0: .* 1,000 roundings .* 32 bits"),
        (1.0 + 1e-14 * np.arange(32.0), "feature 0: .* 1,000 roundings .* 64 bits"),
    ],
)
def test_numbers_that_are_nearly_rounding_are_refused(X, message):
    y, g = np.sin(np.arange(32.0)), np.repeat(np.arange(8), 4)
    for fitted in (ebmeta.fit_evidence, lambda m, t: ebmeta.fit(m, t, 1, progress=False)):
        with pytest.raises(ValueError, match=message):
            fitted(EmpiricalBayes.regressor(1, num_steps=0), GroupSampler(X[:, None], y, g, n_support=1))
    with pytest.raises(ValueError, match="labels 'y': .* 1,000 roundings"):
        ebmeta.fit_evidence(EmpiricalBayes.regressor(0, num_steps=0), GroupSampler(np.zeros((32, 0)), X, g, 1))
    model = EmpiricalBayes.regressor(0, num_steps=0, num_covariates=1)
    with pytest.raises(ValueError, match="covariate 0: .* 1,000 roundings"):
        ebmeta.fit_evidence(model, GroupSampler(np.zeros((32, 0)), y, g, 1, group_X=X[g * 4][:, None]))
    with pytest.raises(ValueError, match="features: .* 1,000 roundings"):
        ebmeta.fit(EmpiricalBayes.classifier(1), EpisodeSampler(X[:, None], g, 2, 1, 1), 1, progress=False)


def test_a_message_names_the_column_of_a_frame():
    time, g = 1.0 + 1e-14 * np.arange(32.0), np.repeat(np.arange(8), 4)
    frame = pd.DataFrame({"time": time, "y": np.sin(np.arange(32.0)), "g": g})
    with pytest.raises(ValueError, match="feature 'time': "):
        ebmeta.fit_evidence(EmpiricalBayes.regressor(1), GroupSampler.from_frame(frame, "y", "g", n_support=1))


@pytest.mark.parametrize("kind", [np.int64, np.float64, np.float32])
def test_whole_numbers_and_constants_are_taken_as_they_are(kind):
    g = np.repeat(np.arange(8), 4)
    start = 10**6 if kind == np.float32 else 10**15
    X = np.stack([start + np.arange(32) % 5, np.full(32, 3)], 1).astype(kind)
    model = EmpiricalBayes.regressor(2, num_steps=0)
    measure(model, [GroupSampler(X, np.sin(np.arange(32.0)), g, n_support=1).everything()])
    np.testing.assert_allclose(model.predictor.unit, [np.std(np.arange(32) % 5), 1.0])
    assert float(model.predictor.center[1]) == 3.0


@pytest.mark.parametrize("size", [1e-4, 1e-2, 20.0])
def test_data_far_from_the_unit_scale_need_a_model_that_measures(size):
    X, y, g = normal_groups()
    X = (X - X.mean()) / X.std() * size
    model = EmpiricalBayes.regressor(1, standardize=False, num_steps=0)
    with pytest.raises(ValueError, match="about unit scale"):
        ebmeta.fit_evidence(model, GroupSampler(X, y / y.std(), g, n_support=1))


def test_labels_of_a_model_with_an_embedder_may_have_any_unit():
    found = []
    for unit, origin in ((1.0, 0.0), (1e9, 1e15)):
        X, y, g = normal_groups()
        X = (X - X.mean()) / X.std()
        model = EmpiricalBayes.regressor(2, embedder=torch.nn.Linear(1, 2, dtype=torch.float32))
        torch.nn.init.constant_(model.predictor.embedder.weight, 0.5)
        torch.nn.init.zeros_(model.predictor.embedder.bias)
        ebmeta.fit(model, GroupSampler(X, unit * y + origin, g, n_support=3), 5, progress=False)
        reg = FewShotRegressor(model).fit(X[:3], (unit * y + origin)[:3])
        found.append((reg.predict(X[3:8]) - origin) / unit)
    np.testing.assert_allclose(found[1], found[0], atol=TOLERANCE * y.std())


def test_a_period_and_times_in_seconds_since_1970_go_together():
    rng = np.random.default_rng(0)
    s, g = rng.uniform(0, 86400 * 5, 200), np.repeat(np.arange(20), 10)
    y = np.sin(2 * np.pi * s / 86400) + 0.1 * rng.normal(size=200) + rng.normal(size=20)[g]
    found = []
    for begin in (0.0, 20_000 * 86400.0):
        model = EmpiricalBayes.regressor(1, basis=FourierBasis(num_frequencies=1, period=86400.0), num_steps=0)
        fit = ebmeta.fit_evidence(model, GroupSampler((begin + s)[:, None], y, g, n_support=1), boundary=False)
        found.append([fit.log_evidence, *fit.scales])
    np.testing.assert_allclose(found[1], found[0], atol=2 * ENOUGH)


@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e12])
def test_known_noise_is_known_in_any_unit(unit):
    rng = np.random.default_rng(4)
    g, sd = np.repeat(np.arange(20), 5), rng.uniform(0.5, 2, 100)
    y = rng.normal(size=20)[g] + sd * rng.normal(size=100)
    tasks = GroupSampler(np.zeros((100, 0)), unit * y, g, n_support=2, size=1 / (unit * sd) ** 2)
    model = EmpiricalBayes.regressor(0, known_noise=True, num_steps=0)
    fit = ebmeta.fit_evidence(model, tasks, boundary=False)
    loc, cov = ebmeta.in_units(model, model.prior(1, 1))
    covariance = np.diag(sd**2) + (cov.item() / unit**2) * (g[:, None] == g)
    exact = stats.multivariate_normal.logpdf(y, np.full(100, loc.item() / unit), covariance)
    assert abs(fit.log_evidence + 100 * np.log(unit) - exact) < TOLERANCE


@pytest.mark.parametrize("mean", [0.3, 12.0, 1e4, 1e7])
def test_counts_of_any_size_have_the_probabilities_of_scipy(mean):
    rng = np.random.default_rng(5)
    y = rng.poisson(mean, 9).astype(float)
    eta, ways = torch.full((1, 9, 1), math.log(mean), dtype=torch.float64), torch.ones(1, 1, dtype=torch.bool)
    labels = torch.from_numpy(y)[None]
    trials = Given(torch.from_numpy(np.maximum(2 * np.ceil(mean) + 0 * y, y))[None])
    logit, n = torch.zeros_like(eta), trials.size.numpy()[0]
    found = {"poisson": (LIKELIHOODS["poisson"](), eta, None, stats.poisson(mean))}
    found["binomial"] = (LIKELIHOODS["binomial"](), logit, trials, stats.binom(n, 0.5))
    for shape in (0.5, 40.0):
        likelihood = LIKELIHOODS["negative_binomial"](shape).double()
        found[f"shape {shape}"] = (likelihood, eta, None, stats.nbinom(shape, shape / (shape + mean)))
    for name, (likelihood, at, given, exact) in found.items():
        logp = likelihood.log_prob(labels, at, ways, given)[0].detach().numpy()
        tolerance = 1e-8 * (1 + mean)  # of SciPy's own differences of log-gammas
        np.testing.assert_allclose(logp, exact.logpmf(y), rtol=1e-8, atol=min(tolerance, 1e-4), err_msg=name)
        cdf = likelihood.cdf(labels, at.squeeze(-1), given)[0].numpy()
        np.testing.assert_allclose(cdf, exact.cdf(y), rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("log_shape", [12.0, 25.0, 50.0, 500.0])
def test_a_negative_binomial_without_over_dispersion_is_poisson(log_shape):
    likelihood, ways = LIKELIHOODS["negative_binomial"]().double(), torch.ones(1, 1, dtype=torch.bool)
    likelihood.log_shape.data.fill_(log_shape)
    y = torch.tensor([[0.0, 5.0, 9.0, 20.0]], dtype=torch.float64)
    eta = torch.full((1, 4, 1), math.log(9.0), dtype=torch.float64)
    exact = stats.poisson(9.0)
    atol = 1e-3 if log_shape < 20 else 1e-9  # (y - mean)^2 over twice the shape
    np.testing.assert_allclose(likelihood.log_prob(y, eta, ways).detach()[0], exact.logpmf(y[0]), atol=atol)
    np.testing.assert_allclose(likelihood.cdf(y, eta.squeeze(-1))[0], exact.cdf(y[0]), atol=atol)


def test_counts_that_vary_less_than_poisson_ones_score_as_poisson_ones():
    y = np.random.default_rng(0).binomial(10, 0.9, 150).astype(float)
    tasks = GroupSampler(np.zeros((150, 0)), y, np.repeat(np.arange(30), 5), n_support=1)
    model = EmpiricalBayes.regressor(0, likelihood="negative_binomial", num_steps=0)
    ebmeta.fit_evidence(model, tasks, boundary=False)
    assert abs(float(ebmeta.evaluate(model, tasks, 30)["nll"][-1]) - 2.07) < 5e-3
    reg = FewShotRegressor(model).fit(np.zeros((2, 0)), y[:2])
    exact = stats.poisson.logpmf([8, 9, 10], y.mean())
    np.testing.assert_allclose(reg.log_density(np.zeros((3, 0)), [8, 9, 10]), exact, atol=1e-3)


def test_counts_too_large_for_a_model_are_refused():
    reg = FewShotRegressor(EmpiricalBayes.regressor(0, likelihood="poisson")).fit(np.zeros((1, 0)), [1e12])
    with pytest.raises(ValueError, match="counts that a model of torch.float32 can tell apart.*model.double"):
        reg.predict(np.zeros((1, 0)))


def test_a_model_saved_with_centres_of_32_bits_can_be_loaded(tmp_path):
    X, y, g = normal_groups()
    model = EmpiricalBayes.regressor(1, num_steps=0)
    ebmeta.fit_evidence(model, GroupSampler(X, y, g, n_support=1), boundary=False)
    model.float()
    for part in (model.predictor, model.likelihood):
        for name in part.exact:
            part._buffers[name] = part._buffers[name].float()
    back = ebmeta.load(ebmeta.save(model, tmp_path / "model"))
    assert back.predictor.center.dtype == back.likelihood.unit.dtype == torch.float64
    assert torch.equal(back.predictor.center, model.predictor.center.double())
    assert back.prior.loc.dtype == torch.float32

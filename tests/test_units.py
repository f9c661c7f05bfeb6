"""Units and origins are conventions: they change no prediction, and the evidence by the Jacobian alone.

Every law multiplies by powers of ten up to 10^12 either way, or moves the origin by 10^9 spreads, and compares what a
model fitted to the new numbers predicts with what one fitted to the old numbers did.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from builders import class_tasks, classifier, number_tasks, perturb, regressor
from pyro.infer import MCMC, NUTS, Predictive, Trace_ELBO

import ebmeta
from ebmeta import EmpiricalBayes, FewShotRegressor, GroupSampler, TaskBatch
from ebmeta.evidence import Evidence
from ebmeta.likelihood import LIKELIHOODS
from ebmeta.maximum import ENOUGH
from ebmeta.preparation import measure

TOLERANCE = 1e-4  # of a spread
GROUPS, ROWS = 12, 6
NUMBERS = [name for name, c in LIKELIHOODS.items() if not c.categorical]
LOCATED = ["normal", "normal_per_task", "student_t"]


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
    other = build(model.likelihood.name)
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
    again = ebmeta.fit_evidence(build(model.likelihood.name), new.sampler(), boundary=False)
    assert abs(again.log_evidence - reached) < 2 * ENOUGH  # what an ascent may leave


@pytest.mark.parametrize("change", LABELS)
def test_unit_and_origin_of_labels_enter_the_evidence_by_the_jacobian_alone(fitted, change):
    old, model, reached, expected = fitted
    if model.likelihood.discrete:
        return  # counts have no unit
    y, unit, shift = moved(old.y, *change)
    new = replace(old, y=y)
    other, jacobian = in_new_units(model, new), GROUPS * ROWS * np.log(unit)
    same(predictions(other, new), expected, old.y.std(), unit, shift)
    assert abs(evidence(other, new) + jacobian - evidence(model, old)) < TOLERANCE
    again = ebmeta.fit_evidence(build(model.likelihood.name), new.sampler(), boundary=False)
    assert abs(again.log_evidence + jacobian - reached) < 2 * ENOUGH  # what an ascent may leave


@pytest.mark.parametrize("of_batch", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("of_model", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("likelihood", list(LIKELIHOODS))
def test_a_batch_of_any_type_goes_into_a_model_of_any_type(likelihood, of_model, of_batch):
    if likelihood == "categorical":
        model, batch = classifier(dtype=of_model), class_tasks(dtype=of_batch)
    else:
        model, batch = regressor(likelihood=likelihood, dtype=of_model), number_tasks(likelihood).to(of_batch)
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

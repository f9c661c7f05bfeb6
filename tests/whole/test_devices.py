"""Every entry that takes a model gives on a GPU what it gives on the CPU, and leaves the model where it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from builders import class_tasks, classifier, perturb, real_tasks, regressor

import ebmeta
from ebmeta import EmpiricalBayes, diagnostics

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::UserWarning")]

GROUP = np.repeat(np.arange(30), 6)
X = np.random.default_rng(0).normal(size=(180, 2))
SIGNAL = 0.5 + 0.6 * np.random.default_rng(1).normal(size=30)[GROUP] + 0.3 * X[:, 0]
REAL = SIGNAL + np.random.default_rng(2).normal(size=180)
COUNTS = np.random.default_rng(3).poisson(np.exp(SIGNAL))
FEATURES = np.random.default_rng(4).normal(size=(10, 6))[np.repeat(np.arange(10), 20)]
FEATURES = FEATURES + np.random.default_rng(5).normal(size=FEATURES.shape)
EPISODES = ebmeta.EpisodeSampler(FEATURES, np.repeat(np.arange(10), 20), n_way=3, n_shot=2, n_query=5, seed=0)


def of_groups(y: np.ndarray) -> ebmeta.GroupSampler:
    return ebmeta.GroupSampler(X, y, GROUP, n_support=3, seed=0)


def of_classes() -> EmpiricalBayes:
    model = classifier(features=6)
    perturb(model)
    return model


def numbers(likelihood: str = "normal", num_steps: int = 0) -> EmpiricalBayes:
    return EmpiricalBayes.regressor(2, likelihood, num_steps=num_steps).double()


def fitted(likelihood: str, y: np.ndarray) -> EmpiricalBayes:
    model = numbers(likelihood)
    ebmeta.fit_evidence(model, of_groups(y), boundary=False)
    return model


def evidence(y: np.ndarray) -> Callable[[EmpiricalBayes], Any]:
    def run(model: EmpiricalBayes) -> Any:
        found = ebmeta.fit_evidence(model, of_groups(y), boundary=False)
        return [found.log_evidence, model.prior.loc.detach().cpu()]

    return run


def estimate(model: EmpiricalBayes) -> list[Any]:
    reg = ebmeta.FewShotRegressor(model).fit(X[:60], REAL[:60], groups=GROUP[:60])
    return list(reg.summaries(X[:60], [0.1, 0.5], groups=GROUP[:60]))


def trained(model: EmpiricalBayes) -> Any:
    device = next(model.parameters()).device
    source = EPISODES if model.likelihood.categorical else of_groups(REAL)
    objective = "predictive" if model.likelihood.categorical else "evidence"
    return ebmeta.fit(model, source, 5, 4, objective=objective, device=device, progress=False).history["loss"]


def propagated(model: EmpiricalBayes) -> Any:
    many = ebmeta.propagate(model, of_groups(REAL), num_draws=4)
    return ebmeta.predict(many, of_groups(REAL).sample(3), num_draws=6)["predictive/mean"]


def sets(model: EmpiricalBayes) -> Any:
    return ebmeta.ConformalSets(model, level=0.8).calibrate(EPISODES, 20).predict(EPISODES.sample(4))


def khat(model: EmpiricalBayes) -> Any:
    pytest.importorskip("arviz")
    return diagnostics.check_posteriors(model, real_tasks(), num_draws=200)["khat"]


def general(**options: Any) -> Callable[[EmpiricalBayes], Any]:
    """Ask for all that five labels and a pile give, with or without outliers and anchors."""

    def ask(model: EmpiricalBayes) -> Any:
        labelled, rest = np.arange(0, 80, 20), np.arange(1, 80, 3)
        clf = ebmeta.FewShotClassifier(model, **options).fit(
            FEATURES[labelled], list("abcd"), anchors={"e": FEATURES[90]} if options else None
        )
        said = [clf.predict_proba(FEATURES[rest]), clf.suggest(FEATURES[rest], 3)]
        return [*said, clf.outlier_proba(FEATURES[rest])] if options else said

    return ask


def warned(model: EmpiricalBayes) -> Any:
    warning = ebmeta.ShiftWarning(model).fit(EPISODES, 20).calibrate(EPISODES, 20)
    return warning.check(EPISODES.sample(4))


def intervals(model: EmpiricalBayes) -> Any:
    return ebmeta.ConformalIntervals(model, 0.8).calibrate(of_groups(REAL)).predict(of_groups(REAL).sample(4))


def path(model: EmpiricalBayes) -> Any:
    return [q.loc for q in model.posterior(class_tasks(features=6).to(next(model.parameters()).device))]


ENTRIES: dict[str, tuple[Callable[[], EmpiricalBayes], Callable[[EmpiricalBayes], Any]]] = {
    "evidence of numbers": (numbers, evidence(REAL)),
    "evidence of counts": (lambda: numbers("poisson"), evidence(COUNTS)),
    "propagate": (lambda: fitted("normal", REAL), propagated),
    "training on classes": (lambda: EmpiricalBayes.classifier(6, profile=4).double(), trained),
    "training on numbers": (lambda: numbers(num_steps=1), trained),
    "evaluate classes": (of_classes, lambda m: ebmeta.evaluate(m, EPISODES, 8)["nll"]),
    "evaluate numbers": (regressor, lambda m: ebmeta.evaluate(m, real_tasks(), 8)["nll"]),
    "a classifier": (
        of_classes,
        lambda m: ebmeta.FewShotClassifier(m).fit(FEATURES[:60:10], list("aabbcc")).predict_proba(FEATURES[1:60:6]),
    ),
    "an estimator of numbers": (lambda: fitted("normal", REAL), estimate),
    "conformal sets": (of_classes, sets),
    "class-swap sets": (
        of_classes,
        lambda m: ebmeta.ClassSwapSets(m, 0.5).calibrate(EPISODES).predict(EPISODES.sample(2)),
    ),
    "intervals for groups": (lambda: fitted("normal", REAL), intervals),
    "a certificate": (of_classes, lambda m: ebmeta.certify(m, EPISODES, 0.5, num_partitions=4).bound),
    "a warning": (of_classes, warned),
    "the general classifier": (lambda: ebmeta.general_classifier().double(), general()),
    "outliers and anchors": (lambda: ebmeta.general_classifier().double(), general(outliers=True)),
    "novelty": (of_classes, lambda m: ebmeta.Novelty(m).fit(EPISODES, 20).score(EPISODES.sample(4))),
    "k-hat": (regressor, khat),
    "updates": (of_classes, lambda m: diagnostics.posterior_updates(m, EPISODES, num_tasks=8)),
    "synthetic gradients": (of_classes, lambda m: diagnostics.synthetic_gradients(m, EPISODES, num_tasks=8)),
    "units": (lambda: fitted("normal", REAL), lambda m: list(ebmeta.in_units(m, m.prior(1, 1)))),
    "posterior": (of_classes, path),
}


def plain(value: Any) -> list[np.ndarray]:
    """Return all numbers of an answer."""
    if hasattr(value, "data_vars"):
        return [np.asarray(v) for v in value.data_vars.values() if v.dtype.kind in "fiub"]
    if isinstance(value, list | tuple):
        return [array for each in value for array in plain(each)]
    return [value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)]


@pytest.mark.parametrize("name", ENTRIES)
def test_the_gpu_agrees_with_the_cpu(name):
    build, ask = ENTRIES[name]
    model = build()
    other = copy.deepcopy(model).to("cuda")
    expected, got = plain(ask(model)), plain(ask(other))
    assert {p.device.type for p in other.parameters()} == {"cuda"}
    assert expected
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_draws_of_labels_on_a_gpu_repeat_and_lie_where_the_quantiles_say():
    model = fitted("normal", REAL).to("cuda")
    reg = ebmeta.FewShotRegressor(model).fit(X[:60], REAL[:60], groups=GROUP[:60])
    first, second = (reg.sample(X[:60], 2000, groups=GROUP[:60]) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    below = (first < reg.quantiles(X[:60], [0.25], groups=GROUP[:60])[:, 0]).mean(0)
    assert np.abs(below - 0.25).max() < 6 * (0.25 * 0.75 / 2000) ** 0.5  # of 60 rows: a false alarm in 8 million

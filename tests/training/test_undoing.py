"""Training that fails leaves a model as it was: its predictions, its units and what it remembers of data."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ebmeta
from ebmeta.training.undoing import unchanged_after_error

RNG = np.random.default_rng(0)
Y = np.repeat(np.arange(6), 12)
X = 2 * RNG.normal(size=(6, 5))[Y] + RNG.normal(size=(72, 5))
NAMES = np.array([f"class {c}" for c in range(6)])


class Fails(ebmeta.EpisodeSampler):
    """A source that ends in an error, or an interruption, some batches after the start."""

    ends: type[BaseException] = ValueError

    def sample(self, num_tasks, index=0):
        if index == 2:
            raise self.ends("the third batch")
        return super().sample(num_tasks, index)


def train(model, x=X, source=ebmeta.EpisodeSampler, iterations=4):
    tasks = source(x, NAMES[Y], 3, 1, 5)
    return ebmeta.fit(model, tasks, iterations, 4, learning_rate=0.02, device="cpu", progress=False)


def state(model) -> tuple:
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    return kept, model.marks, model.feature_names, model.covariate_names, model.fitted, model.measured


def same(one, other) -> bool:
    equal = all(torch.equal(value, other[0][name]) for name, value in one[0].items())
    return equal and one[1:] == other[1:]


def test_a_trained_model_predicts_as_before_after_data_that_are_refused():
    model = ebmeta.EmpiricalBayes.classifier(5, width=4, num_steps=2)
    train(model)
    before, batch = state(model), ebmeta.EpisodeSampler(X, Y, 3, 1, 5).sample(4)
    probs = model.infer(batch).predict(-1)["probs"]
    broken = X.copy()
    broken[40] = np.nan
    for x, source, said in (
        (X[:, :4], ebmeta.EpisodeSampler, "expected 5 features per input"),
        (broken, ebmeta.EpisodeSampler, "X: expected finite numbers"),
        (X + 50, Fails, "the third batch"),
    ):
        with pytest.raises(ValueError, match=said):
            train(model, x, source, iterations=40)
        assert same(state(model), before)
        assert torch.equal(model.infer(batch).predict(-1)["probs"], probs)


def test_a_model_that_was_refused_data_is_measured_anew():
    plain, refused = (ebmeta.EmpiricalBayes.classifier(5, width=4, num_steps=2) for _ in range(2))
    with pytest.raises(ValueError, match="the third batch"):
        train(refused, 1000 + 100 * X, Fails)
    assert not refused.fitted
    assert not refused.measured
    assert refused.marks is None
    for model in (plain, refused):
        train(model)
    assert same(state(plain), state(refused))


def test_evidence_that_is_refused_leaves_units_to_be_measured():
    groups = np.repeat(np.arange(18), 4)
    plain, refused = (ebmeta.EmpiricalBayes.regressor(5, num_steps=0) for _ in range(2))
    before = state(refused)
    sources = [
        ebmeta.GroupSampler(x, np.sin(np.arange(72)) + x[:, 0] + groups % 5, groups, n_support=2) for x in (X, 100 * X)
    ]

    def fails(model):
        raise RuntimeError("no density")

    with pytest.raises(RuntimeError, match="no density"):
        ebmeta.fit_evidence(refused, sources[1], hyperprior=fails)
    assert same(state(refused), before)
    found = [ebmeta.fit_evidence(model, sources[0], boundary=False).log_evidence for model in (plain, refused)]
    assert found[0] == found[1]
    assert same(state(plain), state(refused))


def test_an_interruption_keeps_what_was_reached():
    class Interrupted(Fails):
        ends = KeyboardInterrupt

    model = ebmeta.EmpiricalBayes.classifier(5, width=4, num_steps=2)
    with pytest.raises(KeyboardInterrupt):
        train(model, source=Interrupted)
    assert model.fitted
    assert model.measured


def test_a_frozen_embedder_is_left_alone():
    encoder = torch.nn.Linear(5, 3)
    model = ebmeta.EmpiricalBayes.classifier(3, embedder=encoder, freeze_embedder=True)

    def fail():
        with unchanged_after_error(model):
            model.prior.log_power.data.add_(1.0)
            encoder.weight.data.fill_(7.0)
            raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        fail()
    assert (encoder.weight == 7.0).all()
    assert torch.equal(model.prior.log_power, ebmeta.EmpiricalBayes.classifier(3).prior.log_power)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_an_embedder_keeps_its_type_of_numbers(dtype):
    """It took that of the model after any error: one of 64 bits was rounded."""
    encoder = torch.nn.Linear(5, 3).to(dtype)
    model = ebmeta.EmpiricalBayes.regressor(3, embedder=encoder, freeze_embedder=True, num_steps=0)
    before = encoder.weight.clone()

    def fail(change):
        with unchanged_after_error(model):
            change()
            raise ValueError("refused")

    for change in (lambda: None, model.double):
        with pytest.raises(ValueError, match="refused"):
            fail(change)
        assert model.prior.loc.dtype == torch.float32
        assert encoder.weight.dtype == dtype
        assert torch.equal(encoder.weight, before)

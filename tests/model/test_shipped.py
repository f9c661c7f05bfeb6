"""A pretrained model begins with the weights that ship with the package, and takes the metric of its features alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ebmeta
from ebmeta import EmpiricalBayes, EpisodeSampler, general_classifier


def sets(seed: int = 0) -> tuple[EpisodeSampler, EpisodeSampler]:
    """Return tasks of twenty classes, and of ten others, that vary most where classes do not differ."""
    rng = np.random.default_rng(seed)
    y = np.arange(30).repeat(24)
    X = 0.6 * rng.normal(size=(30, 40))[y] + rng.normal(size=(720, 40)) * np.linspace(0.2, 3, 40)
    one, other = y < 20, y >= 20
    return EpisodeSampler(X[one], y[one], 5, (1, 5), 10), EpisodeSampler(X[other], y[other], 5, 1, 10)


def test_before_training_it_is_the_general_one():
    """For any number of steps: those beyond the weights repeat the last."""
    _, new = sets()
    plain, batch = general_classifier(), new.sample(4)
    for steps in (None, 1, 5):
        model = EmpiricalBayes.classifier(40, steps, pretrained=True).eval()
        assert not model.fitted
        assert model.num_steps == (steps or plain.num_steps)
        want = plain.infer(batch, model.num_steps).predict(-1)["probs"]
        torch.testing.assert_close(model.infer(batch).predict(-1)["probs"], want)


def test_training_takes_the_metric_and_keeps_the_weights(tmp_path):
    """Over eight seeds of classes accuracy rose by .05 to .13; the standard error of each is about .02."""
    train, new = sets()
    model = EmpiricalBayes.classifier(40, pretrained=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    untrained = ebmeta.evaluate(general_classifier(), new, 30)["accuracy"].values[-1]
    run = ebmeta.fit(model, train, progress=False)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"predictor.metric", "predictor.center"}
    assert run.history.sizes["iteration"] == 0
    assert model.fitted
    assert ebmeta.evaluate(model, new, 30)["accuracy"].values[-1] > untrained + 0.02
    again = ebmeta.load(ebmeta.save(model, tmp_path / "own"))
    batch = new.sample(3)
    torch.testing.assert_close(again.infer(batch).predict(-1)["probs"], model.infer(batch).predict(-1)["probs"])
    assert not list(again.trainable())
    clf = ebmeta.FewShotClassifier(model)
    with pytest.raises(ValueError, match=r"X: expected 40 features per row, got shape \(3,\)"):
        clf.fit(np.eye(3), [0, 1, 2])


def test_validation_and_checkpoints_of_a_model_that_is_measured_alone(tmp_path):
    train, new = sets()
    models = [EmpiricalBayes.classifier(40, pretrained=True) for _ in range(2)]
    for model in models:
        ebmeta.fit(model, train, validation=new, harder=0, checkpoint=tmp_path / "run", progress=False)
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_copy_of_the_general_model_trains_whole_and_alone():
    train, new = sets()
    own = general_classifier()
    kept = {name: value.clone() for name, value in general_classifier().state_dict().items()}
    ebmeta.fit(own, train, 2, 2, progress=False)
    assert all(torch.equal(value, kept[name]) for name, value in general_classifier().state_dict().items())
    moved = {name for name, value in own.named_parameters() if not torch.equal(value, kept[name])}
    assert moved == {name for name, value in own.named_parameters() if value.requires_grad}
    assert np.isfinite(ebmeta.evaluate(own, new, 4)["nll"].values).all()


@pytest.mark.parametrize("others", [{"width": 8}, {"profile": 2}, {"synthetic_gradient": "mixture"}])
def test_a_pretrained_model_takes_no_other_arguments(others):
    with pytest.raises(ValueError, match="pretrained: expected no arguments but num_features, num_steps and beta"):
        EmpiricalBayes.classifier(4, pretrained=True, **others)
    with pytest.raises(ValueError, match="pretrained: expected no arguments but num_features, num_steps and beta"):
        EmpiricalBayes.classifier(4, pretrained=True, embedder=torch.nn.Identity())


def test_a_second_run_tells_that_it_changes_nothing():
    """The metric is that of the first tasks: what is measured is not measured again."""
    train, new = sets()
    model = EmpiricalBayes.classifier(40, pretrained=True)
    ebmeta.fit(model, train, progress=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.warns(UserWarning, match="fit: expected parameters to train, or a model that was not measured before"):
        ebmeta.fit(model, new, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

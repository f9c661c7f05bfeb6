"""What predictions ask of a model is stated once, and said by every member in full."""

from __future__ import annotations

import inspect

import pytest
import torch
from builders import number_tasks, regressor

import ebmeta
from ebmeta.model.base import PredictiveModel
from ebmeta.model.posterior import Mixture

MEMBERS = (ebmeta.EmpiricalBayes, ebmeta.PriorEnsemble)


def test_members_are_those_of_its_text_and_nothing_is_left_to_them():
    assert set(PredictiveModel.__subclasses__()) >= set(MEMBERS)
    for member in MEMBERS:
        assert f"`ebmeta.{member.__name__}`" in PredictiveModel.__doc__
        assert not inspect.isabstract(member)
    with pytest.raises(TypeError, match="abstract"):
        PredictiveModel()


def test_a_model_and_an_ensemble_of_it_say_the_same_of_themselves():
    model, batch = regressor(num_steps=1), number_tasks("normal", sizes=False)
    names, values = zip(*model.named_parameters(), strict=True)
    flat = torch.cat([v.detach().flatten() for v in values]).repeat(2, 1)
    ensemble = ebmeta.PriorEnsemble(model, names, flat, torch.zeros(2).double(), True)
    for name in ("num_steps", "num_covariates", "fitted", "feature_names", "covariate_names"):
        assert getattr(ensemble, name) == getattr(model, name), name
    classes = ebmeta.TaskBatch(batch.support_x, batch.support_y.clamp(0, 1).long(), batch.query_x)
    for each in (model, ensemble):
        assert isinstance(each.infer(batch), Mixture)
        assert each.infer(batch).num_steps == 1
        with pytest.raises(ValueError, match="support_y"):
            each.check(classes)


def test_a_model_says_in_one_line_what_it_is():
    net = torch.nn.Linear(3, 2)
    assert repr(ebmeta.EmpiricalBayes.classifier(2, embedder=net)) == (
        "EmpiricalBayes(2 features of Linear, categorical likelihood, joint, 4 steps, not trained)"
    )
    assert repr(ebmeta.general_classifier()).startswith("EmpiricalBayes(any features, categorical likelihood, joint, ")
    model = ebmeta.EmpiricalBayes.regressor(3, "ordinal", num_covariates=2, num_steps=1)
    assert repr(model) == "EmpiricalBayes(3 features, 2 covariates, ordinal likelihood, 1 step, not trained)"
    model.fitted = True
    assert repr(model).endswith(", trained)")
    assert repr(ebmeta.FewShotRegressor(model)) == f"FewShotRegressor(model={model!r})"


def test_a_call_of_a_model_says_what_to_call():
    with pytest.raises(TypeError, match=r"^expected ebmeta\.predict\(model, batch\), .* got model\(\.\.\.\)$"):
        ebmeta.general_classifier()(None)

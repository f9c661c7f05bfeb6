"""Features in place of inputs: the same posteriors and predictions, from the same parts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from builders import class_tasks, classifier, close

from ebmeta.model.features import on_features


def test_inference_from_features_is_inference_from_their_inputs():
    model = classifier(scale=0.1, synthetic_gradient="joint", profile=3).eval()
    batch = class_tasks()
    support, query = (model.predictor.features(rows.x, rows.mask)[..., :-1] for rows in (batch.support, batch.query))
    twin = on_features(model)
    assert twin.predictor.num_weights == model.predictor.num_weights
    assert twin.refiner is model.refiner
    assert not twin.training
    got, want = twin.infer(replace(batch, support_x=support.detach(), query_x=query.detach())), model.infer(batch)
    for a, b in zip(got.path, want.path, strict=True):
        close(a.loc, b.loc)
        close(a.precision, b.precision)
    close(got.predict(-1)["probs"], want.predict(-1)["probs"])
    close(got.setting.real_x, want.setting.real_x)


def test_models_of_labels_alone_generate_no_features():
    with pytest.raises(ValueError, match="on_features: expected a joint model of inputs and labels, got DiagonalPrior"):
        on_features(classifier(synthetic_gradient="mixture"))


def test_weights_of_other_constants_come_to_their_columns():
    from ebmeta.parts.heads import LinearHead

    head = LinearHead(2, constant=0.3).double()
    head.center.copy_(torch.tensor([1.0, -2.0]))
    head.unit.copy_(torch.tensor([2.0, 0.5]))
    x, w = torch.tensor([[[3.0, 1.0]]], dtype=torch.float64), torch.tensor([0.7, -0.2, 1.1], dtype=torch.float64)
    by_column = head.to_units() @ w
    close(head.features(x)[0, 0] @ w, x[0, 0] @ by_column[:-1] + by_column[-1])

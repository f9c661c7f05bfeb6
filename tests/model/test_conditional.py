"""What a path says of queries is what its last Gaussian says, or what a joint model says by itself."""

from __future__ import annotations

import torch
from builders import class_tasks, classifier, close

from ebmeta.model.conditional import Conditional, repeat


def test_tasks_are_repeated_one_after_the_other():
    value = torch.tensor([[1], [2]])
    assert repeat(value, 2).flatten().tolist() == [1, 1, 2, 2]
    assert repeat(value, 1) is value


def test_a_model_of_labels_leaves_probabilities_to_its_likelihood():
    inferred = classifier().infer(class_tasks())
    part = Conditional(inferred.iterates, inferred.setting)
    assert part.log_probs(-1) is None
    setting = inferred.setting
    want = setting.likelihood.predict(*part.path[-1].marginal(setting.x), setting.way_mask, setting.given)["probs"]
    close(part.predict(-1)["probs"], want)
    assert not bool(part.input_evidence().any())


def test_a_joint_model_says_its_probabilities_itself():
    batch = class_tasks()
    inferred = classifier(synthetic_gradient="joint", scale=0.1).infer(batch)
    part = Conditional(inferred.iterates, inferred.setting)
    first = inferred.path[0].log_odds(inferred.setting.real_x)[0].softmax(-1)
    close(part.log_probs(0).exp(), first)
    close(part.predict(0)["probs"], first)
    score = part.log_prob(-1, batch.query_y, torch.zeros(1), predictive=True)
    close(score.exp(), part.predict(-1)["probs"].gather(-1, batch.query_y.unsqueeze(-1)).squeeze(-1))
    evidence = part.input_evidence()
    close(evidence[0], torch.zeros(4, dtype=torch.float64))
    close(evidence[-1], inferred.iterates[-1].q.input_evidence(inferred.path[0], inferred.setting.real_x))

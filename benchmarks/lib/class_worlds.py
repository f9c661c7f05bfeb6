"""Joint models in worlds of their own, where nothing is wrong with them, and joint models without corrections."""

from __future__ import annotations

import copy

import torch

import ebmeta
from ebmeta.likelihood import LIKELIHOODS
from ebmeta.parts.class_prior import ClassPrior
from ebmeta.parts.heads import LinearHead
from ebmeta.parts.initializer import ClassInitializer
from ebmeta.refine.belief import BeliefRefiner
from ebmeta.refine.class_synthetic_gradient import ClassSyntheticGradient
from ebmeta.simulate.gaussian_classes import GaussianClasses
from lib.common import model_folder
from lib.kinds import RECIPE

NUM_STEPS, LEARNING_RATE, BATCH, BETA = 4, 1e-2, 16, 0.005
SHOTS = (1, 5)


def class_world(num_features: int, n_shot: int, seed: int) -> GaussianClasses:
    """Return five-way tasks of unequal shares, thirty queries each."""
    return GaussianClasses(num_features, concentration=2.0, n_shot=n_shot, seed=seed)


def uncorrected(model: ebmeta.EmpiricalBayes) -> ebmeta.EmpiricalBayes:
    """Return a joint model whose steps are collapsed inference, without network and temperature."""
    out = copy.deepcopy(model)
    out.refiner = BeliefRefiner(ClassSyntheticGradient(), NUM_STEPS).to(model.prior.loc)
    return out.eval()


def right_model(num_features: int, iterations: int) -> ebmeta.EmpiricalBayes:
    """Return the model of a world: the prior of that world, and a network trained there on 1 and 5 rows of a class.

    A network is kept once trained. The prior is given and stays as it is: `fit`, which trains it too, is left out.
    """
    head, refiner = LinearHead(num_features, standardize=False), BeliefRefiner(ClassSyntheticGradient(), NUM_STEPS)
    parts = ClassPrior(num_features), LIKELIHOODS["categorical"](), head, ClassInitializer(), refiner
    model, goal = ebmeta.EmpiricalBayes(*parts, BETA).train(), ebmeta.Objective()
    path = model_folder() / f"world_{num_features}_{iterations}_recipe{RECIPE}.pt"
    if path.is_file():
        refiner.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    sources, weights = [class_world(num_features, shots, 0) for shots in SHOTS], list(refiner.parameters())
    optimizer = torch.optim.Adam(weights, LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    for i in range(iterations):
        terms = goal.terms(model, sources[i % len(sources)].sample(BATCH, i))
        optimizer.zero_grad()
        (goal.total(terms) / terms.num_queries.sum()).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
    torch.save(refiner.state_dict(), path)
    return model.eval()

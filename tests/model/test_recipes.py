"""Recipes: what builds the parts of a model, and that nothing but saving and loading reads them."""

from __future__ import annotations

import ast
from dataclasses import FrozenInstanceError, asdict, fields, replace
from inspect import signature
from pathlib import Path

import pytest
import torch
from torch import nn

import ebmeta
from ebmeta import EmpiricalBayes
from ebmeta.model.recipes import RECIPES, ClassifierRecipe, RegressorRecipe
from ebmeta.parts.basis import SplineBasis

READERS = {"model.empirical_bayes", "model.storage", "training.checkpoint"}  # where it is set, written and compared

FOURIER = {"name": "fourier", "num_inputs": 2, "num_frequencies": 3, "period": 2.0, "learned": True}
EXAMPLES = [
    ClassifierRecipe(num_features=3),
    ClassifierRecipe(num_features=3, profile=4, num_steps=2, width=8),
    ClassifierRecipe(num_features=3, synthetic_gradient="mixture", widths="measured", profile=4, num_steps=2, width=8),
    ClassifierRecipe(num_features=3, synthetic_gradient="mlp", n_way=3),
    RegressorRecipe(num_features=2),
    RegressorRecipe(num_features=2, likelihood="poisson", num_covariates=1, standardize=False),
    RegressorRecipe(num_features=2, known_noise=True, basis=FOURIER),
]


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    trained = [[k for k, p in m.named_parameters() if p.requires_grad] for m in (one, other)]
    return (
        mine.keys() == theirs.keys()
        and trained[0] == trained[1]
        and all(torch.equal(torch.nan_to_num(v), torch.nan_to_num(theirs[k])) for k, v in mine.items())
    )


@pytest.mark.parametrize("kind", sorted({*RECIPES} - {"general"}))  # that one comes trained
def test_a_recipe_has_the_arguments_of_the_builder(kind):
    mine = {each.name: each.default for each in fields(RECIPES[kind])}
    theirs = {name: p.default for name, p in signature(getattr(EmpiricalBayes, kind)).parameters.items()}
    assert set(theirs) - set(mine) == {"beta", "embedder", "seed"} | ({"pretrained"} if kind == "classifier" else set())
    assert all(theirs[name] == default for name, default in mine.items() if name != "num_features")


@pytest.mark.parametrize("recipe", EXAMPLES)
def test_the_builder_and_the_recipe_make_the_same_model(recipe):
    built = getattr(EmpiricalBayes, recipe.kind)(**asdict(recipe), beta=0.3, seed=5)
    again = EmpiricalBayes.from_recipe(built.recipe, 0.3, seed=5)
    parts = EmpiricalBayes(*built.recipe.build(seed=5), beta=0.3)
    assert same(built, again)
    assert same(built, parts)
    assert built.beta == again.beta == 0.3
    assert built.recipe == recipe == again.recipe
    assert (built.fitted, again.fitted, parts.fitted) == (False, False, True)
    assert parts.recipe is None


def test_recipes_are_frozen_and_compared_by_value():
    recipe = ClassifierRecipe(num_features=3)
    with pytest.raises(FrozenInstanceError):
        recipe.width = 4
    assert replace(recipe, width=8) != recipe == ClassifierRecipe(num_features=3)


def test_parts_of_your_own_go_into_a_model_as_they_are():
    embedder, basis = nn.Linear(3, 2), SplineBasis(2, 4)
    model = EmpiricalBayes.regressor(2, basis=basis, embedder=embedder)
    assert model.predictor.basis is basis
    assert model.predictor.embedder is embedder
    assert model.recipe.basis == basis.config()
    assert RegressorRecipe(num_features=2).build(basis=basis).predictor.basis is basis


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ClassifierRecipe(num_features=0), "num_features: expected at least 1, got 0"),
        (lambda: ClassifierRecipe(num_features=2, profile=-1), "profile: expected at least 0, got -1"),
        (lambda: ClassifierRecipe(num_features=2, widths="wide"), "widths: expected 'trained' or 'measured', got"),
        (lambda: RegressorRecipe(num_features=-1), "num_features: expected at least 0, got -1"),
        (lambda: RegressorRecipe(num_features=2, likelihood="categorical"), "likelihood: expected one of .*normal"),
        (lambda: RegressorRecipe(num_features=2, likelihood="poisson", known_noise=True), "known_noise: expected a no"),
        (
            lambda: EmpiricalBayes.regressor(2, known_noise="se"),
            "known_noise: expected True or False .the noise",
        ),
    ],
)
def test_bad_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_beta_lives_in_the_model_alone(tmp_path):
    model = EmpiricalBayes.classifier(3, beta=0.5)
    model.beta = 0.25
    assert not any(each.name == "beta" for recipe in RECIPES.values() for each in fields(recipe))
    assert ebmeta.load(ebmeta.save(model, tmp_path)).beta == 0.25


def test_nothing_but_saving_reads_the_recipe():
    package = Path(ebmeta.__file__).parent
    found = set()
    for path in package.rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if any(isinstance(node, ast.Attribute) and node.attr == "recipe" for node in nodes):
            found.add(".".join(path.relative_to(package).with_suffix("").parts))
    assert found == READERS
    assert not hasattr(EmpiricalBayes.classifier(2), "config")


@pytest.mark.parametrize("kind", ["joint", "mixture"])
def test_a_prior_is_of_the_features_of_the_head(kind):
    one, other = (EmpiricalBayes.classifier(number, synthetic_gradient=kind) for number in (3, 4))
    said = f"parts: expected a prior of {3 if kind == 'joint' else 4} numbers, for the features of the head, got"
    with pytest.raises(ValueError, match=said):
        EmpiricalBayes(other.prior, one.likelihood, one.predictor, one.initializer, one.refiner, 1.0)

"""Recipes hold the arguments of `EmpiricalBayes.classifier` and `EmpiricalBayes.regressor` and build the parts.

A model remembers its recipe for one purpose: to be saved, and built again where it is loaded. What a part does later
depends on the part alone, so that a model built from parts can do all that one from a recipe does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import nn

from ebmeta.foundation.checks import at_least, checked, found
from ebmeta.foundation.kinds import BOOL, Kind, Range
from ebmeta.foundation.seeding import stream
from ebmeta.likelihood import LIKELIHOODS, Likelihood, Normal, Ordinal
from ebmeta.parts.basis import Basis, build_basis
from ebmeta.parts.class_prior import ClassPrior
from ebmeta.parts.general_prior import GeneralPrior
from ebmeta.parts.heads import CONSTANT, CosineHead, Head, LinearHead
from ebmeta.parts.initializer import ClassInitializer, ConjugateInitializer, Initializer, PrototypeInitializer
from ebmeta.parts.prior import DiagonalPrior, FullPrior, Prior
from ebmeta.parts.task_head import TaskHead
from ebmeta.parts.widths import Widths
from ebmeta.refine.base import Refiner
from ebmeta.refine.belief import BeliefRefiner
from ebmeta.refine.class_synthetic_gradient import ClassSyntheticGradient
from ebmeta.refine.gradient import GradientRefiner
from ebmeta.refine.mixture import MixtureRefiner
from ebmeta.refine.mlp_synthetic_gradient import MLPSyntheticGradient
from ebmeta.refine.real_synthetic_gradient import RealSyntheticGradient

__all__ = ["RECIPES", "ClassifierRecipe", "GeneralRecipe", "Parts", "Recipe", "Refinement", "RegressorRecipe"]

#: The joint model of inputs and labels, or one of labels alone with "mixture" steps or gradient steps.
Refinement = Literal["joint", "mixture", "residual", "mlp"]
#: Ranges of the arguments of each recipe.
CLASSIFIER: dict[str, Range] = {
    "num_features": at_least(1),
    "num_steps": at_least(0),
    "n_way": at_least(1),
    "width": at_least(1),
    "profile": at_least(0),
}
#: A regressor has no rows yet, so that it takes no column.
KNOWN = replace(BOOL, words="True or False (the noise itself comes with the rows, as sizes: 1 / sd**2)")

REGRESSOR: dict[str, Range | Kind] = {
    "num_features": at_least(0),
    "num_steps": at_least(0),
    "random": at_least(0),
    "num_covariates": at_least(0),
    "known_noise": KNOWN,
    "num_categories": at_least(2),
    "width": at_least(1),
}


class Parts(NamedTuple):
    r"""The parts of a model, in the order in which `EmpiricalBayes` takes them.

    Args:
        prior: $p_\psi(w)$.
        likelihood: $p(y \mid \eta)$.
        predictor: $\eta = \phi(x)^\top w$.
        initializer: $q_0 = \lambda(d^s)$.
        refiner: $q_0 \to q_K$ on the unlabelled queries.
    """

    prior: Prior
    likelihood: Likelihood
    predictor: Head
    initializer: Initializer
    refiner: Refiner

    def check(self) -> None:
        """Raise `ValueError` where parts of a joint model go with others, or a prior with a head of other features."""
        parts = (self.prior, self.initializer, self.refiner)
        if len({part.joint for part in parts}) > 1:
            named = ", ".join(type(part).__name__ for part in parts)
            raise ValueError(f"parts: expected all or none of a joint model of inputs and labels, got {named}")
        wanted, got = self.predictor.num_weights - self.prior.joint, self.prior.loc.shape[-1]
        if not self.prior.reads_geometry and got != wanted:
            raise ValueError(f"parts: expected a prior of {wanted} numbers, for the features of the head, got {got}")


@dataclass(frozen=True)
class Recipe(ABC):
    """The abstract recipe, with arguments that JSON can hold and the parts that they make."""

    kind: ClassVar[str]

    @abstractmethod
    def build(self, embedder: nn.Module | None = None, *, seed: int = 0) -> Parts:
        """Return new parts.

        Args:
            embedder: optional network from raw inputs to features, which the head takes as it is.
            seed: seed of the initial weights; the global generator is left alone.

        Raises:
            ValueError: if the arguments do not fit each other.
        """


@checked(**CLASSIFIER)
@dataclass(frozen=True, kw_only=True)
class ClassifierRecipe(Recipe):
    """The recipe of a model for class labels; arguments as of `EmpiricalBayes.classifier`.

    Args:
        num_features: features per input, $D$ (after the embedder).
        num_steps: refinement steps, $K$; 4 by default.
        synthetic_gradient: "joint", "mixture", "residual" or "mlp".
        n_way: number of classes of every task, needed by "mlp" alone.
        width: hidden features of the belief's network.
        widths: widths of prior and $q_0$: "trained" with all else, or "measured" on training tasks and kept.
        profile: training classes, or groups of them, whose probabilities join the features; 0 for none.
        freeze_embedder: keep the embedder as it is.

    Raises:
        ValueError: if an argument is out of range.

    Examples:
        >>> ClassifierRecipe(num_features=8).build().predictor.num_weights
        9
    """

    kind: ClassVar[str] = "classifier"

    num_features: int
    num_steps: int | None = None
    synthetic_gradient: Refinement = "joint"
    n_way: int | None = None
    width: int = 16
    widths: Widths = "trained"
    profile: int = 0
    freeze_embedder: bool = False

    def build(self, embedder: nn.Module | None = None, *, seed: int = 0) -> Parts:
        head = CosineHead(self.num_features, embedder, self.freeze_embedder, profile=self.profile)
        if self.synthetic_gradient == "joint":
            classes = ClassPrior(head.num_weights - 1, 1 / head.num_weights, 1 / head.num_weights, CONSTANT)
            refiner = self._refiner(stream(seed))
            return Parts(classes, LIKELIHOODS["categorical"](), head, ClassInitializer(), refiner)
        prior = DiagonalPrior(head.num_weights, widths=self.widths)
        initializer = PrototypeInitializer(head.num_weights, widths=self.widths)
        return Parts(prior, LIKELIHOODS["categorical"](), head, initializer, self._refiner(stream(seed)))

    def _refiner(self, generator: torch.Generator) -> Refiner:
        kind, steps = self.synthetic_gradient, 4 if self.num_steps is None else self.num_steps
        if self.widths == "measured" and kind != "mixture":
            raise ValueError(f"widths: expected 'trained', or 'measured' of a mixture, got {self.widths!r}")
        if kind == "joint":
            return BeliefRefiner(ClassSyntheticGradient(self.width, generator=generator), steps)
        if kind == "mixture":
            return MixtureRefiner(ClassSyntheticGradient(self.width, generator=generator), steps, widths=self.widths)
        if kind == "residual":
            return GradientRefiner(ClassSyntheticGradient(self.width, generator=generator), steps, step=5.0)
        if self.n_way is None:
            raise ValueError("n_way: expected the number of classes for synthetic_gradient='mlp', got None")
        return GradientRefiner(MLPSyntheticGradient(self.n_way, generator), steps, step=5.0)


@checked(**REGRESSOR)
@dataclass(frozen=True, kw_only=True)
class RegressorRecipe(Recipe):
    """The recipe of a model for one number per row; arguments as of `EmpiricalBayes.regressor`.

    Args:
        num_features: features per input, $D$ (after the embedder); the intercept comes on top.
        likelihood: name in `ebmeta.likelihood.LIKELIHOODS`, of numbers.
        num_steps: refinement steps, $K$.
        random: numbers of the features whose weights vary over groups; all by default.
        num_covariates: covariates of a group as a whole, which move the prior's mean.
        basis: arguments of `ebmeta.parts.basis.build_basis`, for functions that take the place of the features.
        standardize: let training take the units of features, covariates and labels from its groups.
        known_noise: take the sizes of rows for inverse variances of their labels ("normal" alone).
        num_categories: number of labels ("ordinal" alone).
        width: hidden units of the synthetic-gradient network.
        freeze_embedder: keep the embedder as it is.

    Raises:
        ValueError: if an argument is out of range or the likelihood is unknown.

    Examples:
        >>> RegressorRecipe(num_features=8).build().predictor.num_weights
        9
    """

    kind: ClassVar[str] = "regressor"

    num_features: int
    likelihood: str = "normal"
    num_steps: int = 3
    random: Sequence[int] | None = None
    num_covariates: int = 0
    basis: Mapping[str, Any] | None = None
    standardize: bool = True
    known_noise: bool = False
    num_categories: int = 3
    width: int = 32
    freeze_embedder: bool = False

    def __post_init__(self) -> None:
        known = [name for name, c in LIKELIHOODS.items() if not c.categorical]
        if self.likelihood not in known:
            raise ValueError(f"likelihood: expected one of {known}, got {found(self.likelihood)}")
        if self.known_noise and self.likelihood != "normal":
            raise ValueError(f"known_noise: expected a normal likelihood, got {self.likelihood!r}")

    def build(self, embedder: nn.Module | None = None, *, basis: Basis | None = None, seed: int = 0) -> Parts:
        """Return new parts.

        Args:
            embedder: optional network from raw inputs to features, which the head takes as it is.
            basis: functions of the features, taken as they are in place of new ones by the recipe.
            seed: seed of the initial weights; the global generator is left alone.

        Raises:
            ValueError: if the arguments do not fit each other.
        """
        if basis is None and self.basis is not None:
            basis = build_basis(self.basis)
        head = LinearHead(self.num_features, embedder, self.freeze_embedder, basis=basis, standardize=self.standardize)
        network = RealSyntheticGradient(head.num_weights, self.width, stream(seed))
        return Parts(
            FullPrior(head.num_weights, num_covariates=self.num_covariates, varying=self._varying(head)),
            self._likelihood(),
            head,
            ConjugateInitializer(),
            GradientRefiner(network, self.num_steps),
        )

    def _varying(self, head: Head) -> list[int] | None:
        """Return the numbers of the weights that vary over groups, the intercept's among them; None for all."""
        if self.random is None:
            return None
        last, what = head.num_weights - 1, "features" if self.basis is None else "functions of the basis"
        if len(set(self.random)) < len(self.random) or any(p >= last for p in self.random):
            raise ValueError(f"random: expected numbers of {last} {what}, each once from 0, got {list(self.random)}")
        return [*sorted(self.random), last]

    def _likelihood(self) -> Likelihood:
        if self.likelihood == "ordinal":
            return Ordinal(self.num_categories)
        return Normal(known=True) if self.known_noise else LIKELIHOODS[self.likelihood]()


@checked(num_features=at_least(0), num_steps=at_least(0), width=at_least(1))
@dataclass(frozen=True, kw_only=True)
class GeneralRecipe(Recipe):
    """The recipe of a classifier of any features, which learns from tasks of many encoders.

    Args:
        num_features: 0 for any features. A model of features of one number is for weights that were trained on others:
            it takes the metric of its features from training rows, and keeps the weights.
        num_steps: refinement steps, $K$.
        width: hidden features of the belief's network and hidden units of the prior's.

    Raises:
        ValueError: if an argument is out of range.
    """

    kind: ClassVar[str] = "general"

    num_features: int = 0
    num_steps: int = 3
    width: int = 16

    def build(self, embedder: nn.Module | None = None, *, seed: int = 0) -> Parts:
        if embedder is not None:
            raise ValueError("embedder: expected none for a general classifier, which takes features, got one")
        source = stream(seed)
        refiner = BeliefRefiner(ClassSyntheticGradient(self.width, generator=source), self.num_steps, general=True)
        prior = GeneralPrior(self.width, CONSTANT, source)
        if self.num_features:
            prior.requires_grad_(False)
            refiner.requires_grad_(False)
        return Parts(prior, LIKELIHOODS["categorical"](), TaskHead(self.num_features), ClassInitializer(), refiner)


#: Recipes by the kind of their model.
RECIPES: dict[str, type[Recipe]] = {c.kind: c for c in (ClassifierRecipe, RegressorRecipe, GeneralRecipe)}

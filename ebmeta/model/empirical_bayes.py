r"""The hierarchical model, which holds every part in one module.

`EmpiricalBayes` owns prior, likelihood, predictor, initializer and refiner. Its `model` and `guide` are Pyro callables
of one `TaskBatch` that go into `SVI`, `Trace_ELBO()(model, guide)`, `Predictive`, `NUTS` and every handler of
`pyro.poutine` (`ebmeta.model.programs`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ebmeta.foundation.checks import at_least, checked
from ebmeta.likelihood import Likelihood
from ebmeta.model.base import PredictiveModel
from ebmeta.model.inference import check_labels, infer, prior_of
from ebmeta.model.numbers import number_type, own_numbers
from ebmeta.model.posterior import Inference
from ebmeta.model.programs import Program
from ebmeta.model.recipes import CLASSIFIER, REGRESSOR, ClassifierRecipe, Parts, Recipe, Refinement, RegressorRecipe
from ebmeta.model.shipped import pretrained_parts
from ebmeta.model.trained import Sums, is_same, sums
from ebmeta.parts.basis import Basis, build_basis
from ebmeta.parts.gaussian import Gaussian
from ebmeta.parts.heads import Head
from ebmeta.parts.initializer import Initializer
from ebmeta.parts.prior import Prior
from ebmeta.parts.widths import Widths
from ebmeta.refine.base import Refiner
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.training_rows import Measures, TrainingRows

__all__ = ["EmpiricalBayes"]


@checked(beta=at_least(0))
class EmpiricalBayes(PredictiveModel):
    r"""Learned prior, amortized initializer, synthetic-gradient refiner and likelihood, in one module.

    Build one with `EmpiricalBayes.classifier`, `EmpiricalBayes.regressor`, or from parts. One from parts cannot be
    saved. What training does with a part depends on the part alone: `LinearHead(standardize=...)` says whether rows may
    have any units, `widths=...` whether widths are trained or measured, `Normal(known=...)` whether noise is learned.

    Args:
        prior: $p_\psi(w)$.
        likelihood: $p(y \mid \eta)$.
        predictor: $\eta = \phi(x)^\top w$.
        initializer: $q_0 = \lambda(d^s)$.
        refiner: $q_0 \to q_K$ on the unlabelled queries.
        beta: information-bottleneck weight $\beta$ of $\mathrm{KL}(q_K \Vert p_\psi)$.
        recipe: what builds such parts again, kept for saving.

    Raises:
        ValueError: if `beta` is negative or not finite, or parts of a joint model go with others.
    """

    def __init__(
        self,
        prior: Prior,
        likelihood: Likelihood,
        predictor: Head,
        initializer: Initializer,
        refiner: Refiner,
        beta: float,
        *,
        recipe: Recipe | None = None,
    ) -> None:
        super().__init__()
        Parts(prior, likelihood, predictor, initializer, refiner).check()
        self.prior, self.likelihood, self.predictor = prior, likelihood, predictor
        self.initializer, self.refiner = initializer, refiner
        self.beta, self.recipe = float(beta), recipe
        self.feature_names = self.covariate_names = None
        self._start: Sums | None = None  # of the parameters that training begins with, where they are known

    def __getstate__(self) -> dict[str, Any]:
        for parameter in self.parameters():
            parameter.__dict__.pop("unconstrained", None)  # Pyro's weak reference cannot be pickled
        return dict(self.__dict__)

    @classmethod
    @checked(beta=at_least(0), **CLASSIFIER)
    def classifier(
        cls,
        num_features: int,
        num_steps: int | None = None,
        beta: float = 0.005,
        *,
        synthetic_gradient: Refinement = "joint",
        n_way: int | None = None,
        width: int = 16,
        widths: Widths = "trained",
        profile: int = 0,
        pretrained: bool = False,
        embedder: nn.Module | None = None,
        freeze_embedder: bool = False,
        seed: int = 0,
    ) -> EmpiricalBayes:
        r"""Build a model for class labels: any number of classes, any number of examples.

        Args:
            num_features: features per input, $D$ (after the embedder).
            num_steps: refinement steps, $K$: 4 by default, and those of the weights of a pretrained model.
            beta: information-bottleneck weight $\beta$.
            synthetic_gradient: "joint" (one model of inputs and labels), or a model of labels alone: "mixture" (a
                class-equivariant belief in mixture steps), "residual" (it in natural-gradient steps), or "mlp" (the
                published network of one query's logits).
            n_way: number of classes of every task, needed by "mlp" alone.
            width: hidden features of the belief's network.
            widths: widths of prior and $q_0$: "trained" with all else, or "measured" and kept ("mixture" alone).
            profile: training classes, or groups of them, whose probabilities join the features; worth having from 16.
            pretrained: keep the weights that ship with the package; `fit` takes the metric of the features alone.
            embedder: optional network from raw inputs to features.
            freeze_embedder: keep the embedder as it is.
            seed: seed of the initial weights.

        Raises:
            ValueError: if an argument is out of range, or others than steps and beta stand beside `pretrained`.

        Examples:
            >>> EmpiricalBayes.classifier(num_features=64).num_steps
            4
        """
        recipe = ClassifierRecipe(
            num_features=num_features,
            num_steps=num_steps,
            synthetic_gradient=synthetic_gradient,
            n_way=n_way,
            width=width,
            widths=widths,
            profile=profile,
            freeze_embedder=freeze_embedder,
        )
        if pretrained:
            return cls._untrained(*pretrained_parts(recipe, embedder), beta)
        return cls.from_recipe(recipe, beta, embedder, seed=seed)

    @classmethod
    @checked(beta=at_least(0), **REGRESSOR)
    def regressor(
        cls,
        num_features: int,
        likelihood: str = "normal",
        num_steps: int = 3,
        beta: float = 0.1,
        *,
        random: Sequence[int] | None = None,
        num_covariates: int = 0,
        basis: Basis | Mapping[str, Any] | None = None,
        standardize: bool = True,
        known_noise: bool = False,
        num_categories: int = 3,
        width: int = 32,
        embedder: nn.Module | None = None,
        freeze_embedder: bool = False,
        seed: int = 0,
    ) -> EmpiricalBayes:
        r"""Build a model for one number per row: a generalised linear model with intercept for every group.

        Args:
            num_features: features per input, $D$ (after the embedder); the intercept comes on top.
            likelihood: what labels are, a name of `ebmeta.likelihood.LIKELIHOODS` or of one added there.
            num_steps: refinement steps, $K$.
            beta: information-bottleneck weight $\beta$.
            random: numbers of the features (or functions of a basis) whose weights vary over groups, as the intercept
                does; those of the others are parameters that all groups share, with no spread. All vary by default.
            num_covariates: covariates of a group as a whole, which move the prior's mean.
            basis: functions of the features that take their place, from `ebmeta.parts.basis`.
            standardize: let training take the units of its groups; otherwise numbers have to come at about unit scale.
            known_noise: whether rows come with sizes 1 / sd**2 ("normal" alone); `mixed_model` takes a column of sds.
            num_categories: number of labels ("ordinal" alone).
            width: hidden units of the synthetic-gradient network.
            embedder: optional network from raw inputs to features.
            freeze_embedder: keep the embedder as it is.
            seed: seed of the networks' initial weights; the global generator is left alone.

        Raises:
            ValueError: if an argument is out of range or the likelihood is unknown.

        Examples:
            >>> EmpiricalBayes.regressor(num_features=8, random=[0]).prior.varying
            (0, 8)
        """
        functions = build_basis(basis) if isinstance(basis, Mapping) else basis
        recipe = RegressorRecipe(
            num_features=num_features,
            likelihood=likelihood,
            num_steps=num_steps,
            random=random,
            num_covariates=num_covariates,
            basis=None if functions is None else functions.config(),
            standardize=standardize,
            known_noise=known_noise,
            num_categories=num_categories,
            width=width,
            freeze_embedder=freeze_embedder,
        )
        return cls._untrained(recipe, recipe.build(embedder, basis=functions, seed=seed), beta)

    @classmethod
    @checked(beta=at_least(0))
    def from_recipe(
        cls, recipe: Recipe, beta: float, embedder: nn.Module | None = None, *, seed: int = 0
    ) -> EmpiricalBayes:
        r"""Build an untrained model from its recipe.

        Args:
            recipe: what its parts are made of.
            beta: information-bottleneck weight $\beta$.
            embedder: optional network from raw inputs to features.
            seed: seed of the initial weights.

        Raises:
            ValueError: if the arguments do not fit each other.
        """
        return cls._untrained(recipe, recipe.build(embedder, seed=seed), beta)

    @classmethod
    def _untrained(cls, recipe: Recipe, parts: Parts, beta: float) -> EmpiricalBayes:
        model = cls(*parts, beta, recipe=recipe)
        model.fitted = False
        return model

    @property
    def fitted(self) -> bool:
        """Whether the model was trained in any way; set it where this is not detected.

        True where a parameter is another than `classifier` or `regressor` began with. A model built from parts counts
        as fitted: nobody knows what its parts have been through.

        Examples:
            >>> EmpiricalBayes.classifier(num_features=2).fitted
            False
        """
        return self._start is None or not is_same(self, self._start)

    @fitted.setter
    def fitted(self, fitted: bool) -> None:
        self._start = None if fitted else sums(self)

    @property
    def measured(self) -> bool:
        """Whether the model was measured on training rows."""
        return self.predictor.measured

    def measure(self, rows: TrainingRows) -> None:
        """Measure every part on training rows, each on the rows that the one before it returns.

        Args:
            rows: training rows.

        Raises:
            ValueError: if numbers vary by too few of their roundings, or a profile finds no training classes.
        """
        parts: list[Measures] = [self.predictor, self.likelihood, self.prior, self.initializer, self.refiner]
        for part in parts:
            rows = part.measure(rows)

    @property
    def weight_columns(self) -> list[str] | None:
        """Names of the columns of the weights without the intercept; None where there are no names."""
        return self.feature_names if self.predictor.by_column else None

    @property
    def num_steps(self) -> int:
        """Number of refinement steps in training, $K$."""
        return self.refiner.num_steps

    @property
    def num_covariates(self) -> int:
        """Covariates of a group as a whole, which move the prior's mean."""
        return self.prior.num_covariates

    @property
    def model(self) -> Program:
        """The generative program, a Pyro callable of one `TaskBatch`; see `ebmeta.model.programs.model_program`."""
        return Program(self, "model")

    @property
    def guide(self) -> Program:
        """The variational program, a Pyro callable of one `TaskBatch`; see `ebmeta.model.programs.guide_program`."""
        return Program(self, "guide")

    @checked()
    def check(self, batch: TaskBatch) -> None:
        """Raise `ValueError` where labels have the wrong type or are impossible, or parts differ in that of numbers."""
        check_labels(self.likelihood, number_type("model", own_numbers(self)), batch)

    @checked(num_steps=at_least(0))
    def posterior(self, batch: TaskBatch, num_steps: int | None = None) -> list[Gaussian]:
        r"""Return the path $q_0, \dots, q_K$ of every task; the query labels are not used.

        Args:
            batch: $T$ tasks.
            num_steps: $K$; that of training by default.

        Returns:
            $K + 1$ Gaussians over `w`, each of shape `(T, C, P)`; where tasks have noise levels of their
            own, `(T * J, C, P)`, one for each of $J$ levels (see `ebmeta.model.posterior`).

        Raises:
            ValueError: if features or labels do not fit the model.
        """
        return self.infer(batch, num_steps).path

    @checked(num_steps=at_least(0))
    def infer(
        self,
        batch: TaskBatch,
        num_steps: int | None = None,
        level: Tensor | None = None,
        *,
        as_new: bool | None = None,
    ) -> Inference:
        """Return the path of `posterior` and all that predictions need.

        Args:
            batch: as for `posterior`.
            num_steps: as for `posterior`.
            level: the noise level of each task where it is given, shape `(T,)`; inferred by default.
            as_new: whether a profile leaves out the training classes that a task is made of; in training by default.

        Raises:
            ValueError: as for `posterior`.
        """
        self.check(batch)
        own = batch.way_class if (self.training if as_new is None else as_new) else None
        parts = Parts(self.prior, self.likelihood, self.predictor, self.initializer, self.refiner)
        return infer(parts, self.beta, batch, num_steps, level, own)

    @checked(levels=at_least(1))
    def prior_of(self, batch: TaskBatch, levels: int = 1) -> Gaussian:
        """Return the prior of every task of a batch, each `levels` times."""
        return prior_of(self.prior, self.predictor.of_task(batch), batch, levels)

    @property
    def joint(self) -> bool:
        """Whether it is a joint model of inputs and labels, whose latent variables are class means."""
        return self.prior.joint

    def fast(self) -> Iterator[nn.Parameter]:
        """Iterate over the few numbers that training may move in larger steps than a network's weights."""
        yield from self.prior.fast()
        yield from self.refiner.fast()

    def trainable(self) -> Iterator[nn.Parameter]:
        """Iterate over the parameters that training changes."""
        return (p for p in self.parameters() if p.requires_grad)

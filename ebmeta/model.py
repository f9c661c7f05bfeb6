r"""The hierarchical model and its guide: one Pyro program for all tasks.

    model:  w_t ~ p_psi(w)                          site "w",       plate "task"
            y_ti ~ p(y | phi(x_ti)' w_t)            site "query_y" (and "support_y" where observed)
    guide:  w_t ~ q_K(w; support_t, query_x_t)      site "w",       plate "task"

`EmpiricalBayes` owns every part. Its `model` and `guide` are callables of one `TaskBatch` that go
into `SVI`, `Trace_ELBO()(model, guide)`, `Predictive`, `NUTS` and every handler of `pyro.poutine`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import pyro
from pyro import poutine
from torch import Tensor, nn

from ebmeta.gaussian import Gaussian
from ebmeta.initializer import ConjugateInitializer, Initializer, PrototypeInitializer
from ebmeta.likelihood import LIKELIHOODS, Likelihood
from ebmeta.mixture import class_refiner
from ebmeta.predictor import LinearPredictor
from ebmeta.prior import DiagonalPrior, FullPrior, Prior
from ebmeta.real_synthetic_gradient import RealSyntheticGradient
from ebmeta.refine import GradientRefiner, Refiner
from ebmeta.seeding import seeded
from ebmeta.tasks import TaskBatch

__all__ = ["EmpiricalBayes", "Program"]

_SERIAL = itertools.count()


class Program(nn.Module):
    """A Pyro callable that views its owner: `model` or `guide` as a module of its own.

    Args:
        owner: the model that holds all parameters.
        kind: which of its programs to run.
    """

    def __init__(self, owner: EmpiricalBayes, kind: Literal["model", "guide"]) -> None:
        super().__init__()
        self.owner = owner
        self.kind = kind

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run the program."""
        return self.owner.run_model(*args, **kwargs) if self.kind == "model" else self.owner.run_guide(*args, **kwargs)


class EmpiricalBayes(nn.Module):
    r"""Learned prior, amortized initializer, synthetic-gradient refiner and likelihood, in one module.

    Build one with `EmpiricalBayes.classifier`, `EmpiricalBayes.regressor`, or from parts.

    Args:
        prior: $p_\psi(w)$.
        likelihood: $p(y \mid \eta)$.
        predictor: $\eta = \phi(x)^\top w$.
        initializer: $q_0 = \lambda(d^s)$.
        refiner: $q_0 \to q_K$ on the unlabelled queries.
        beta: information-bottleneck weight $\beta$ of $\mathrm{KL}(q_K \Vert p_\psi)$.
        config: arguments that rebuild the model, kept for saving.

    Raises:
        ValueError: if `beta` is negative or not finite.
    """

    def __init__(
        self,
        prior: Prior,
        likelihood: Likelihood,
        predictor: LinearPredictor,
        initializer: Initializer,
        refiner: Refiner,
        beta: float,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= beta < float("inf"):
            raise ValueError(f"beta: expected a finite number >= 0, got {beta}")
        self.prior = prior
        self.likelihood = likelihood
        self.predictor = predictor
        self.initializer = initializer
        self.refiner = refiner
        self.beta = float(beta)
        self.config = config
        self._serial = next(_SERIAL)

    def __getstate__(self) -> dict[str, Any]:
        for parameter in self.parameters():
            parameter.__dict__.pop("unconstrained", None)  # Pyro's weak reference cannot be pickled
        return dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copy is another model: Pyro's parameter store must not take it for this one.
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._serial = next(_SERIAL)

    @classmethod
    def classifier(
        cls,
        num_features: int,
        num_steps: int = 4,
        beta: float = 0.005,
        *,
        synthetic_gradient: Literal["mixture", "residual", "mlp"] = "mixture",
        n_way: int | None = None,
        width: int = 16,
        embedder: nn.Module | None = None,
        freeze_embedder: bool = False,
        seed: int = 0,
    ) -> EmpiricalBayes:
        r"""Build a model for class labels: any number of classes, any number of examples.

        Args:
            num_features: features per input, $D$ (after the embedder).
            num_steps: refinement steps, $K$.
            beta: information-bottleneck weight $\beta$.
            synthetic_gradient: "mixture" (a class-equivariant belief in steps of a mixture model), "residual" (the
                same belief in natural-gradient steps), or "mlp" (the published network of one query's logits).
            n_way: number of classes of every task, needed by "mlp" alone.
            width: hidden features of the belief's network.
            embedder: optional network from raw inputs to features.
            freeze_embedder: keep the embedder as it is.
            seed: seed of the initial weights; the global generator is left alone.

        Raises:
            ValueError: if an argument is out of range.

        Examples:
            >>> model = EmpiricalBayes.classifier(num_features=64)
            >>> model.num_steps, model.beta
            (4, 0.005)
        """
        config = {
            "kind": "classifier",
            "num_features": num_features,
            "num_steps": num_steps,
            "beta": beta,
            "synthetic_gradient": synthetic_gradient,
            "n_way": n_way,
            "width": width,
            "freeze_embedder": freeze_embedder,
        }
        with seeded(seed):
            predictor = LinearPredictor(num_features, "cosine", embedder, freeze_embedder)
            refiner = class_refiner(synthetic_gradient, num_steps, n_way, width)
            return cls(
                DiagonalPrior(predictor.num_weights),
                LIKELIHOODS["categorical"](),
                predictor,
                PrototypeInitializer(predictor.num_weights),
                refiner,
                beta,
                config,
            )

    @classmethod
    def regressor(
        cls,
        num_features: int,
        likelihood: str = "normal",
        num_steps: int = 3,
        beta: float = 0.1,
        *,
        width: int = 32,
        embedder: nn.Module | None = None,
        freeze_embedder: bool = False,
        seed: int = 0,
    ) -> EmpiricalBayes:
        r"""Build a model for real labels: a linear model with intercept for every group.

        Args:
            num_features: features per input, $D$ (after the embedder); the intercept comes on top.
            likelihood: name of a likelihood of real labels.
            num_steps: refinement steps, $K$.
            beta: information-bottleneck weight $\beta$.
            width: hidden units of the synthetic-gradient network.
            embedder: optional network from raw inputs to features.
            freeze_embedder: keep the embedder as it is.
            seed: seed of the networks' initial weights; the global generator is left alone.

        Raises:
            ValueError: if an argument is out of range or the likelihood is unknown.

        Examples:
            >>> EmpiricalBayes.regressor(num_features=8).predictor.num_weights
            9
        """
        known = [name for name, c in LIKELIHOODS.items() if not c.categorical]
        if likelihood not in known:
            raise ValueError(f"likelihood: expected one of {known}, got {likelihood!r}")
        config = {
            "kind": "regressor",
            "num_features": num_features,
            "likelihood": likelihood,
            "num_steps": num_steps,
            "beta": beta,
            "width": width,
            "freeze_embedder": freeze_embedder,
        }
        with seeded(seed):
            predictor = LinearPredictor(num_features, "linear", embedder, freeze_embedder)
            return cls(
                FullPrior(predictor.num_weights),
                LIKELIHOODS[likelihood](),
                predictor,
                ConjugateInitializer(),
                GradientRefiner(RealSyntheticGradient(predictor.num_weights, width), num_steps),
                beta,
                config,
            )

    @property
    def num_steps(self) -> int:
        """Number of refinement steps in training, $K$."""
        return self.refiner.num_steps

    @property
    def model(self) -> Program:
        """The generative program, a Pyro callable of one `TaskBatch`; see `run_model`."""
        return Program(self, "model")

    @property
    def guide(self) -> Program:
        """The variational program, a Pyro callable of one `TaskBatch`; see `run_guide`."""
        return Program(self, "guide")

    def check(self, batch: TaskBatch) -> None:
        """Raise `ValueError` where the labels are of the wrong kind for the likelihood."""
        if batch.support_y.is_floating_point() == self.likelihood.categorical:
            wanted = "integer class" if self.likelihood.categorical else "real-valued"
            raise ValueError(
                f"support_y: expected {wanted} labels for a {self.likelihood.name} likelihood, "
                f"got {batch.support_y.dtype}"
            )

    def posterior(self, batch: TaskBatch, num_steps: int | None = None) -> list[Gaussian]:
        r"""Return the path $q_0, \dots, q_K$ of every task; the query labels are not looked at.

        Args:
            batch: $T$ tasks.
            num_steps: $K$; that of training by default.

        Returns:
            $K + 1$ Gaussians over `w`, each of shape `(T, C, P)`.

        Raises:
            ValueError: if features or labels do not fit the model.
        """
        return self.infer(batch, num_steps)[0]

    def infer(self, batch: TaskBatch, num_steps: int | None = None) -> tuple[list[Gaussian], Gaussian, Tensor]:
        """Return the path of `posterior`, the prior of the same shape, and the query features."""
        self.check(batch)
        prior = self.prior(batch.num_tasks, batch.way_mask.shape[1])
        query_x = self.predictor.features(batch.query_x, batch.query_mask)
        support_x = self.predictor.features(batch.support_x, batch.support_mask)
        q = self.initializer(prior, self.likelihood, support_x, batch.support_y, batch.support_mask)
        path = self.refiner(q, prior, self.likelihood, query_x, batch.query_mask, batch.way_mask, self.beta, num_steps)
        return path, prior, query_x

    def _register(self) -> None:
        """Tell Pyro of every trainable parameter, under a name that no other model has."""
        store = pyro.get_param_store()
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                key = f"ebmeta{self._serial}.{name}"
                if key in store and store[key] is not parameter:
                    del store[key]  # the parameter was replaced since
                if not parameter.is_contiguous():
                    parameter.data = parameter.data.contiguous()  # the store would keep a copy
                pyro.param(key, parameter)

    def _bottleneck(self, observe: str) -> AbstractContextManager[Any]:
        """Weigh site "w" by beta in the training objective: the ELBO is then log likelihood - beta * KL."""
        handler: AbstractContextManager[Any] = nullcontext()
        if observe == "query":
            handler = poutine.scale(scale=self.beta) if self.beta > 0 else poutine.mask(mask=False)
        return handler

    def run_model(self, batch: TaskBatch, observe: Literal["query", "support", "both"] = "query") -> Tensor:
        r"""Sample $w_t \sim p_\psi(w)$ and $y_{ti} \sim p(y \mid \phi(x_{ti})^\top w_t)$.

        Args:
            batch: $T$ tasks. Query labels are observed where present, and sampled where not.
            observe: "query", the training objective, with site "w" weighted by beta; or the exact
                Bayesian model, unweighted: "support" (for MCMC on $p(w \mid d^s)$) or "both".

        Returns:
            The weights `w`, shape `(T, C, P)`.

        Raises:
            ValueError: if `observe` is unknown, or features or labels do not fit the model.
        """
        if observe not in ("query", "support", "both"):
            raise ValueError(f"observe: expected 'query', 'support' or 'both', got {observe!r}")
        self.check(batch)
        self._register()
        prior = self.prior(batch.num_tasks, batch.way_mask.shape[1])
        with pyro.plate("task", batch.num_tasks, dim=-1):
            with self._bottleneck(observe):
                w: Tensor = pyro.sample("w", prior.distribution())
            if observe != "query":
                self._labels("support_y", w, batch.way_mask, batch.support_x, batch.support_mask, batch.support_y)
            if observe != "support":
                self._labels("query_y", w, batch.way_mask, batch.query_x, batch.query_mask, batch.query_y)
        return w

    def _labels(self, site: str, w: Tensor, way_mask: Tensor, x: Tensor, mask: Tensor, y: Tensor | None) -> None:
        eta = self.predictor(self.predictor.features(x, mask), w)
        pyro.sample(site, self.likelihood.distribution(eta, way_mask).mask(mask).to_event(1), obs=y)

    def run_guide(self, batch: TaskBatch, observe: str = "query") -> Tensor:
        r"""Sample $w_t \sim q_K(w; d^s_t, x^q_t)$.

        Args:
            batch: $T$ tasks; the query labels are not looked at.
            observe: accepted for symmetry with the model; "query" weighs site "w" by beta.

        Returns:
            The weights `w`, shape `(T, C, P)`.
        """
        self._register()
        q = self.posterior(batch)[-1]
        with pyro.plate("task", batch.num_tasks, dim=-1), self._bottleneck(observe):
            w: Tensor = pyro.sample("w", q.distribution())
        return w

    def trainable(self) -> Iterator[nn.Parameter]:
        """Iterate over the parameters that training changes."""
        return (p for p in self.parameters() if p.requires_grad)

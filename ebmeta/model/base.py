"""What predictions ask of a model, whether it has one prior or is an ensemble."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NoReturn

from torch import nn

from ebmeta.foundation.whereabouts import ElsewhereError
from ebmeta.likelihood import Likelihood
from ebmeta.model.posterior import Mixture
from ebmeta.parts.heads import Head
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.marks import Marks
from ebmeta.tasks.sizes import TaskSizes

__all__ = ["PredictiveModel"]


class PredictiveModel(nn.Module, ABC):
    r"""The abstract model, with all that predictions, scores and estimators use.

    Its members are `ebmeta.EmpiricalBayes`, and `ebmeta.PriorEnsemble`, which can be asked and saved, and not trained.
    """

    #: $p(y \mid \eta)$.
    likelihood: Likelihood
    #: $\eta = \phi(x)^\top w$.
    predictor: Head
    #: Names of the columns of the training rows, where they have names.
    feature_names: list[str] | None
    #: Names of the covariates of training groups, where they have names.
    covariate_names: list[str] | None
    #: Marks of the classes that it was trained on, where its tasks were drawn from rows of classes.
    marks: Marks | None = None
    #: Sizes of the tasks of its last training, where these were drawn from rows of classes or groups.
    task_sizes: TaskSizes | None = None

    def __repr__(self) -> str:
        """Say in one line what the model takes and says, and whether it was trained."""
        head = self.predictor
        features = "any features" if head.any_features else f"{head.num_features} features"
        if head.embedder is not None:
            features += f" of {type(head.embedder).__name__}"
        steps = f"{self.num_steps} step{'s' * (self.num_steps != 1)}"
        said = [features, f"{self.likelihood.name} likelihood", *["joint"] * self.joint, steps]
        if self.num_covariates:
            said.insert(1, f"{self.num_covariates} covariates")
        return f"{type(self).__name__}({', '.join(said)}, {'trained' if self.fitted else 'not trained'})"

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError as error:
            raise ElsewhereError(str(error), name) from None

    def forward(self, *_: object) -> NoReturn:
        """Raise `TypeError`, since a model has several answers."""
        raise TypeError(
            "expected ebmeta.predict(model, batch), model.infer(batch) or model.model(batch), got model(...)"
        )

    @property
    @abstractmethod
    def num_steps(self) -> int:
        """Number of refinement steps in training, $K$."""

    @property
    @abstractmethod
    def num_covariates(self) -> int:
        """Covariates of a group as a whole."""

    @property
    @abstractmethod
    def joint(self) -> bool:
        """Whether it is a joint model of inputs and labels, whose latent variables are class means."""

    @property
    @abstractmethod
    def fitted(self) -> bool:
        """Whether the model was trained."""

    @abstractmethod
    def check(self, batch: TaskBatch) -> None:
        """Raise `ValueError` where the labels have the wrong type or are impossible for the likelihood."""

    @abstractmethod
    def infer(self, batch: TaskBatch, num_steps: int | None = None) -> Mixture:
        """Return the posteriors of every task, and all that predictions need; query labels are not used.

        Args:
            batch: $T$ tasks.
            num_steps: $K$; that of training by default.

        Raises:
            ValueError: if features or labels do not fit the model.
        """

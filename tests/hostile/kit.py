"""Small data, models and results that hostile calls start from, each made once."""

from __future__ import annotations

import copy
from functools import cached_property

import numpy as np
import pandas as pd
import xarray as xr

import ebmeta
from ebmeta import diagnostics
from ebmeta.prediction.scores import task_scores
from ebmeta.simulate.linear_gaussian import LinearGaussianTasks

__all__ = ["Kit"]


class Kit:
    """Numbers are small integers, so that every numeric type holds them exactly."""

    seed = 0

    @cached_property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng(3)

    @cached_property
    def X(self) -> np.ndarray:
        """Rows of six groups, or of six classes, of eight rows each."""
        return np.random.default_rng(0).integers(0, 9, (48, 2)).astype(float) + self.codes[:, None]

    @cached_property
    def codes(self) -> np.ndarray:
        return np.repeat(np.arange(6), 8)

    @cached_property
    def y(self) -> np.ndarray:
        noise = np.random.default_rng(1).integers(0, 3, 48)
        return self.X[:, 0] + 2 * self.X[:, 1] + self.codes + noise

    @cached_property
    def size(self) -> np.ndarray:
        return np.random.default_rng(2).integers(1, 5, 48).astype(float)

    @cached_property
    def frame(self) -> pd.DataFrame:
        kinds = np.where(self.X[:, 0] > 6, "new", "old")
        return pd.DataFrame({"g": self.codes, "y": self.y, "a": self.X[:, 0], "b": self.X[:, 1] + 1, "kind": kinds})

    @cached_property
    def mixed(self) -> ebmeta.mixed.MixedModel:
        return ebmeta.mixed_model("y ~ a + (1 | g)", self.frame, na="raise")

    @cached_property
    def episodes(self) -> ebmeta.EpisodeSampler:
        return ebmeta.EpisodeSampler(self.X, self.codes, n_way=3, n_shot=2, n_query=2)

    @cached_property
    def groups(self) -> ebmeta.GroupSampler:
        return ebmeta.GroupSampler(self.X, self.y, self.codes, n_support=3)

    @cached_property
    def others(self) -> ebmeta.GroupSampler:
        """The same rows as groups of other names."""
        return ebmeta.GroupSampler(self.X, self.y, self.codes + 6, n_support=3)

    @cached_property
    def new_groups(self) -> ebmeta.GroupSampler:
        """Other rows, of other groups."""
        return ebmeta.GroupSampler(self.X + 1, self.y, self.codes + 6, n_support=3)

    @cached_property
    def other_episodes(self) -> ebmeta.EpisodeSampler:
        """Other rows, of other classes."""
        return ebmeta.EpisodeSampler(self.X + 1, self.codes + 6, n_way=3, n_shot=2, n_query=2)

    @cached_property
    def class_batch(self) -> ebmeta.TaskBatch:
        return self.episodes.sample(4)

    @cached_property
    def batch(self) -> ebmeta.TaskBatch:
        return self.groups.sample(4)

    @cached_property
    def _classifier(self) -> ebmeta.EmpiricalBayes:
        model = ebmeta.EmpiricalBayes.classifier(2, num_steps=1, width=4)
        return ebmeta.fit(model, self.episodes, 2, batch_size=2, progress=False, device="cpu").model

    @cached_property
    def _regressor(self) -> ebmeta.EmpiricalBayes:
        model = ebmeta.EmpiricalBayes.regressor(2, num_steps=1, width=4)
        return ebmeta.fit(model, self.groups, 2, batch_size=2, progress=False, device="cpu").model

    @property
    def classifier(self) -> ebmeta.EmpiricalBayes:
        """A copy, since some calls train it."""
        return copy.deepcopy(self._classifier)

    @property
    def regressor(self) -> ebmeta.EmpiricalBayes:
        return copy.deepcopy(self._regressor)

    @cached_property
    def joint(self) -> ebmeta.EmpiricalBayes:
        model = ebmeta.EmpiricalBayes.classifier(2, num_steps=1, width=4, synthetic_gradient="joint")
        return ebmeta.fit(model, self.episodes, 2, 2, device="cpu", progress=False).model

    @cached_property
    def open_clf(self) -> ebmeta.FewShotClassifier:
        return ebmeta.FewShotClassifier(self.joint, outliers=True).fit(self.X[::8], list("abcdef"))

    @cached_property
    def clf(self) -> ebmeta.FewShotClassifier:
        return ebmeta.FewShotClassifier(self.classifier).fit(self.X[::8], list("abcdef"))

    @cached_property
    def reg(self) -> ebmeta.FewShotRegressor:
        return ebmeta.FewShotRegressor(self.regressor).fit(self.X, self.y, groups=self.codes)

    @cached_property
    def graded_reg(self) -> ebmeta.FewShotRegressor:
        model = ebmeta.EmpiricalBayes.regressor(2, likelihood="ordinal", num_steps=1, width=4)
        grades = ebmeta.GroupSampler(self.X, self.codes % 3, self.codes, n_support=3)
        fitted = ebmeta.fit(model, grades, 2, batch_size=2, progress=False, device="cpu").model
        return ebmeta.FewShotRegressor(fitted).fit(self.X, np.arange(len(self.X)) % 3, groups=self.codes)

    @cached_property
    def tree(self) -> xr.DataTree:
        return ebmeta.predict(self.regressor, self.batch, num_draws=30)

    @cached_property
    def other_tree(self) -> xr.DataTree:
        return ebmeta.predict(self.regressor, self.batch, num_draws=30, num_steps=0)

    @cached_property
    def class_scores(self) -> xr.Dataset:
        return ebmeta.evaluate(self.classifier, self.episodes, 20)

    @cached_property
    def scores(self) -> xr.Dataset:
        return ebmeta.evaluate(self.regressor, self.groups, 20)

    @cached_property
    def batch_scores(self) -> xr.Dataset:
        return task_scores(self.classifier, self.class_batch)

    @cached_property
    def run(self) -> ebmeta.FitResult:
        return ebmeta.fit(self.regressor, self.groups, 4, batch_size=2, progress=False, device="cpu")

    @cached_property
    def probs(self) -> np.ndarray:
        """Probabilities that every numeric type of at least 16 bits holds exactly, of 20 tasks."""
        return np.random.default_rng(4).permuted(np.tile([0.5, 0.375, 0.125], (20, 3, 1)), axis=2)

    @cached_property
    def labels(self) -> np.ndarray:
        return np.random.default_rng(5).integers(0, 3, (20, 3))

    @cached_property
    def confidence(self) -> np.ndarray:
        return np.random.default_rng(6).integers(4, 9, (6, 5)) / 8

    @cached_property
    def correct(self) -> np.ndarray:
        return np.random.default_rng(7).integers(0, 2, (6, 5))

    @cached_property
    def sets(self) -> ebmeta.ConformalSets:
        return ebmeta.ConformalSets(self.classifier, level=0.5).calibrate(self.other_episodes.sample(4))

    @cached_property
    def set_data(self) -> xr.Dataset:
        return ebmeta.ConformalSets(level=0.5).calibrate_probs(self.probs, self.labels).predict_probs(self.probs)

    @cached_property
    def coverage(self) -> xr.Dataset:
        return ebmeta.prediction.conformal.set_coverage(self.set_data, self.labels)

    @cached_property
    def novelty(self) -> ebmeta.Novelty:
        return ebmeta.Novelty(self.regressor).fit(self.groups, 20).calibrate(self.new_groups, 20)

    @cached_property
    def family(self) -> LinearGaussianTasks:
        return LinearGaussianTasks(np.zeros(3), np.eye(3))

    @cached_property
    def calibration(self) -> diagnostics.SimulationCalibration:
        return diagnostics.simulation_based_calibration(self.regressor, self.batch, num_tasks=20, num_draws=10)

    @cached_property
    def gaussian(self) -> ebmeta.parts.gaussian.Gaussian:
        q = self.regressor.posterior(self.batch)[0]
        return q.with_(q.loc.detach(), q.precision.detach())

    @cached_property
    def encoder(self) -> ebmeta.tasks.frames.FrameEncoder:
        return ebmeta.tasks.frames.FrameEncoder("y", "g").fit(self.frame)

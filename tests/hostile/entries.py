"""A right call of every public entry; hostile calls replace one of its arguments at a time.

`entries(kit, folder)` returns, by name, a function and its arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kit import Kit

import ebmeta
from ebmeta import diagnostics, plots, reference
from ebmeta.diagnostics import check, predictions, verdicts
from ebmeta.diagnostics.new_classes import new_classes
from ebmeta.likelihood import (
    Beta,
    Gamma,
    LogNormal,
    NegativeBinomial,
    Normal,
    NormalPerTask,
    Ordinal,
    StudentT,
    ZeroInflatedNegativeBinomial,
    ZeroInflatedPoisson,
)
from ebmeta.model.recipes import ClassifierRecipe, RegressorRecipe
from ebmeta.model.storage import load_with_encoder
from ebmeta.parts import basis
from ebmeta.parts.class_prior import ClassPrior
from ebmeta.parts.gaussian import DiagonalGaussian, FullGaussian
from ebmeta.parts.heads import CosineHead, LinearHead
from ebmeta.parts.prior import DiagonalPrior, FullPrior
from ebmeta.plots import axes
from ebmeta.plots.curves import fitted_curve
from ebmeta.plots.posteriors import ellipse, posterior_path
from ebmeta.prediction import (
    arviz as interop,
    calibration,
    certificate,
    class_swap,
    conformal,
    risk_coverage,
    uniformity,
)
from ebmeta.prediction.class_jackknife import class_half_width
from ebmeta.prediction.trees import marginals, match_model
from ebmeta.simulate import conjugate
from ebmeta.simulate.gaussian_classes import GaussianClasses
from ebmeta.simulate.linear_gaussian import LinearGaussianTasks
from ebmeta.simulate.sines import SineTasks
from ebmeta.simulate.spinning_lines import SpinningLines
from ebmeta.tasks.classes import class_codes
from ebmeta.tasks.drawing import generator
from ebmeta.tasks.frames import FrameEncoder
from ebmeta.tasks.source import FixedTasks, as_source
from ebmeta.training.ensemble import temper
from ebmeta.training.loop import resolve_device

__all__ = ["SLOW", "entries"]

Call = tuple[Callable[..., Any], dict[str, Any]]

#: Entries whose right calls take seconds: only what must be refused is tried.
SLOW = {"reference.nuts", "reference.hierarchical", "diagnostics.diagnose", "app.demo.run"}


def entries(k: Kit, folder: Path) -> dict[str, Call]:
    """Return every call, on fresh models where a call changes one."""
    if not (folder / "saved").exists():
        ebmeta.save(k.regressor, folder / "saved", k.encoder)
        (folder / "tensors").write_bytes(b"nothing")
    return {
        **_models(k, folder),
        **_faces(k),
        **_tasks(k),
        **_files(k, folder),
        **_scores(k),
        **_checks(k),
        **_plots(k, folder),
    }


def _models(k: Kit, folder: Path) -> dict[str, Call]:
    model, q = k.regressor, k.gaussian
    fitted = k.run
    member = ebmeta.propagate(_evident(k), k.groups, num_draws=4)
    return {
        "EmpiricalBayes": (
            ebmeta.EmpiricalBayes,
            {
                "prior": model.prior,
                "likelihood": model.likelihood,
                "predictor": model.predictor,
                "initializer": model.initializer,
                "refiner": model.refiner,
                "beta": 0.5,
                "recipe": RegressorRecipe(num_features=2),
            },
        ),
        "EmpiricalBayes.classifier": (
            ebmeta.EmpiricalBayes.classifier,
            {
                "num_features": 2,
                "num_steps": 1,
                "beta": 0.5,
                "synthetic_gradient": "mlp",
                "n_way": 3,
                "width": 4,
                "widths": "trained",
                "profile": 0,
                "embedder": torch.nn.Linear(2, 2),
                "freeze_embedder": False,
                "seed": 1,
            },
        ),
        "EmpiricalBayes.regressor": (
            ebmeta.EmpiricalBayes.regressor,
            {
                "num_features": 2,
                "likelihood": "normal",
                "num_steps": 1,
                "random": [0],
                "beta": 0.5,
                "num_covariates": 1,
                "basis": {"name": "spline", "num_inputs": 2, "num_knots": 3},
                "standardize": True,
                "known_noise": False,
                "num_categories": 3,
                "width": 4,
                "freeze_embedder": False,
                "seed": 1,
            },
        ),
        "EmpiricalBayes.check": (model.check, {"batch": k.batch}),
        "EmpiricalBayes.posterior": (model.posterior, {"batch": k.batch, "num_steps": 1}),
        "EmpiricalBayes.infer": (model.infer, {"batch": k.batch, "num_steps": 1}),
        "EmpiricalBayes.prior_of": (model.prior_of, {"batch": k.batch, "levels": 2}),
        "EmpiricalBayes.model": (model.model, {"batch": k.batch, "observe": "support"}),
        "EmpiricalBayes.guide": (model.guide, {"batch": k.batch, "observe": "support"}),
        "EvidenceFit": (
            ebmeta.EvidenceFit,
            {
                "model": model,
                "log_evidence": -1.5,
                "scales": torch.ones(3),
                "gain": torch.ones(3),
                "converged": True,
                "hyperprior": False,
            },
        ),
        "FitResult": (
            ebmeta.FitResult,
            {
                "model": model,
                "history": fitted.history,
                "best_iteration": 2,
                "stopped_early": False,
                "seconds": 0.5,
            },
        ),
        "fit": (
            lambda **options: ebmeta.fit(**options).history,
            {
                "model": k.classifier,
                "tasks": k.episodes,
                "num_iterations": 2,
                "batch_size": 2,
                "validation": k.other_episodes,
                "objective": "gibbs",
                "learning_rate": 0.25,
                "seed": 1,
                "device": "cpu",
                "validate_every": 1,
                "validation_tasks": 2,
                "harder": 0.5,
                "patience": 2,
                "checkpoint_every": 1,
                "callbacks": [_ignore],
                "progress": False,
            },
        ),
        "fit_evidence": (
            ebmeta.fit_evidence,
            {
                "model": k.regressor,
                "tasks": k.groups,
                "hyperprior": True,
                "boundary": False,
                "num_draws": 2,
                "max_iterations": 3,
                "seed": 1,
            },
        ),
        "mixed_model": (
            lambda size, offset, **options: ebmeta.mixed_model(size=size, offset=offset, **options).predict(
                k.frame, size=size, offset=offset
            ),
            {
                "formula": "y ~ a + kind + (1 + a || g)",
                "data": k.frame,
                "likelihood": "normal",
                "size": k.size,
                "offset": "b",
                "weights": k.size,
                "hyperprior": True,
                "reml": True,
                "na": "raise",
            },
        ),
        "mixed.MixedModel.predict": (
            k.mixed.predict,
            {
                "new_data": k.frame,
                "coverage": 0.5,
                "groups": "new",
                "size": k.size,
                "offset": "b",
                "conformal": False,
            },
        ),
        "compare": (
            lambda loo: ebmeta.compare(k.mixed, ebmeta.mixed_model("y ~ 1 + (1 | g)", k.frame), loo=loo),
            {"loo": True},
        ),
        "mixed.MixedModel.confint": (k.mixed.confint, {"coverage": 0.5, "names": ["a"]}),
        "mixed.MixedModel.features": (k.mixed.features, {"data": k.frame}),
        "mixed.MixedModel.propagate": (
            lambda **options: k.mixed.propagate(**options).predict(k.frame[:2]),
            {"num_draws": 4, "seed": 1},
        ),
        "plots.groups.caterpillar": (plots.caterpillar, {"fit": k.mixed, "term": "Intercept", "factor": "g"}),
        "plots.groups.normal_quantiles": (plots.normal_quantiles, {"fit": k.mixed, "term": "Intercept"}),
        "plots.groups.shrinkage": (plots.shrinkage, {"fit": k.mixed, "term": "Intercept"}),
        "plots.residuals.observed_against_fitted": (plots.observed_against_fitted, {"fit": k.mixed}),
        "plots.residuals.residual_quantiles": (plots.residual_quantiles, {"fit": k.mixed}),
        "plots.groups.group_lines": (
            plots.group_lines,
            {"fit": k.mixed, "data": k.frame, "x": "a", "num_groups": 3},
        ),
        "propagate": (
            ebmeta.propagate,
            {
                "model": _evident(k),
                "tasks": k.groups,
                "hyperprior": True,
                "num_draws": 4,
                "new_groups": True,
                "seed": 1,
            },
        ),
        "PriorEnsemble": (
            ebmeta.PriorEnsemble,
            {
                "model": model,
                "names": member.names,
                "values": member.values,
                "log_weight": member.log_weight,
                "new_groups": True,
            },
        ),
        "PriorEnsemble.save": (member.save, {"folder": folder / "ensemble"}),
        "PriorEnsemble.check": (member.check, {"batch": k.batch}),
        "PriorEnsemble.infer": (member.infer, {"batch": k.batch, "num_steps": 1}),
        "Objective": (ebmeta.Objective, {"kind": "gibbs", "num_draws": 2, "anytime": 0.5}),
        "Objective.terms": (ebmeta.Objective().terms, {"model": model, "batch": k.batch, "num_steps": 1}),
        "Objective.loss": (
            ebmeta.Objective("gibbs").loss,
            {"model": model.model, "guide": model.guide, "batch": k.batch},
        ),
        "in_units": (ebmeta.in_units, {"model": model, "q": q}),
        "parts.gaussian.FullGaussian": (FullGaussian, {"loc": q.loc, "precision": q.precision}),
        "parts.gaussian.DiagonalGaussian": (DiagonalGaussian, {"loc": q.loc, "precision": torch.ones_like(q.loc)}),
        "parts.gaussian.Gaussian.kl": (q.kl, {"other": q}),
        "parts.gaussian.FullGaussian.kl": (q.kl, {"other": q}),
        "parts.gaussian.Gaussian.expand": (q[:1].expand, {"num_tasks": 4, "num_ways": 1}),
        "EmpiricalBayes.from_recipe": (
            ebmeta.EmpiricalBayes.from_recipe,
            {"recipe": ClassifierRecipe(num_features=2, width=4), "beta": 0.1, "seed": 1},
        ),
        "likelihood.Normal": (Normal, {"noise": 0.5, "known": True}),
        "likelihood.NormalPerTask": (NormalPerTask, {"noise": 0.5, "ratio": 0.25}),
        "likelihood.StudentT": (StudentT, {"noise": 0.5, "freedom": 4.0}),
        "likelihood.Beta": (Beta, {"precision": 5.0}),
        "likelihood.Ordinal": (Ordinal, {"num_categories": 3}),
        "likelihood.LogNormal": (LogNormal, {"noise": 0.5}),
        "likelihood.Gamma": (Gamma, {"shape": 2.0}),
        "likelihood.ZeroInflatedPoisson": (ZeroInflatedPoisson, {"inflation": 0.2}),
        "likelihood.ZeroInflatedNegativeBinomial": (ZeroInflatedNegativeBinomial, {"inflation": 0.2, "shape": 2.0}),
        "likelihood.NegativeBinomial": (NegativeBinomial, {"shape": 2.0}),
        "parts.class_prior.ClassPrior": (
            ClassPrior,
            {"num_features": 3, "between": 2.0, "within": 0.5, "constant": 1.0},
        ),
        "parts.prior.FullPrior": (
            FullPrior,
            {"num_weights": 3, "scale": 0.5, "num_covariates": 1, "varying": [0, 2]},
        ),
        "parts.prior.DiagonalPrior": (DiagonalPrior, {"num_weights": 3, "scale": 0.5, "num_covariates": 1}),
        "parts.heads.CosineHead": (CosineHead, {"num_features": 2, "freeze_embedder": False, "profile": 2}),
        "parts.heads.LinearHead": (
            LinearHead,
            {"num_features": 2, "freeze_embedder": False, "standardize": True, "constant": 1.0},
        ),
        "parts.basis.SplineBasis": (basis.SplineBasis, {"num_inputs": 2, "num_knots": 3}),
        "parts.basis.FourierBasis": (
            basis.FourierBasis,
            {"num_inputs": 2, "num_frequencies": 2, "period": 4.0, "learned": True},
        ),
        "parts.basis.RandomFeatures": (
            basis.RandomFeatures,
            {"num_inputs": 2, "num_frequencies": 2, "length_scale": 0.5, "seed": 1},
        ),
        "parts.basis.build_basis": (basis.build_basis, {"config": {"name": "spline", "num_inputs": 2, "num_knots": 3}}),
        "parts.basis.Basis.measure": (lambda x: basis.SplineBasis(2).measure(x), {"x": torch.from_numpy(k.X).float()}),
        "model.storage.load_with_encoder": (load_with_encoder, {"folder": folder / "saved"}),
        "training.loop.resolve_device": (resolve_device, {"device": "cpu"}),
        "Objective.differentiable_loss": (
            ebmeta.Objective("gibbs").differentiable_loss,
            {"model": model.model, "guide": model.guide, "batch": k.batch},
        ),
        "prediction.trees.match_model": (match_model, {"model": model, "batch": k.batch}),
        "prediction.trees.marginals": (marginals, {"model": model, "batch": k.batch, "num_steps": 1}),
        "tasks.drawing.generator": (generator, {"seed": 1, "index": 2, "stream": 1}),
        "simulate.conjugate.posterior": (conjugate.posterior, _linear(k)),
        "simulate.conjugate.log_evidence": (conjugate.log_evidence, _linear(k)),
        "training.ensemble.temper": (temper, {"log_ratio": torch.tensor([0.0, 0.5, 3.0, -2.0]), "least": 2.0}),
    }


def _ignore(iteration: int, numbers: object) -> None:
    """Do nothing with what `fit` says of an iteration."""


def _linear(k: Kit) -> dict[str, Any]:
    batch = k.family.sample(4)
    rows = {"x": batch.support_x, "y": batch.support_y, "mask": batch.support_mask}
    loc, precision = torch.zeros(4, 1, rows["x"].shape[-1]), torch.eye(rows["x"].shape[-1]).expand(4, 1, -1, -1)
    return {"prior": FullGaussian(loc, precision), **rows, "noise_variance": torch.tensor(0.25)}


def _evident(k: Kit) -> ebmeta.EmpiricalBayes:
    return ebmeta.fit_evidence(k.regressor, k.groups, hyperprior=True, boundary=False, max_iterations=5).model


def _faces(k: Kit) -> dict[str, Call]:
    rows, labels = k.X[:12], k.codes[:12]
    grouped = {"groups": labels, "size": k.size[:12]}
    return {
        "FewShotClassifier.fit": (
            lambda X, y, pool, **options: (
                ebmeta.FewShotClassifier(k.classifier, **options).fit(X, y, pool=pool).predict_proba(rows)
            ),
            {"X": k.X[::4], "y": k.codes[::4], "pool": k.X[1::4], "num_steps": 1, "concentration": 2.0},
        ),
        "FewShotClassifier": (
            lambda model, num_steps: ebmeta.FewShotClassifier(model, num_steps).fit(k.X, k.codes).predict(rows),
            {"model": k.classifier, "num_steps": 1},
        ),
        "FewShotClassifier.predict": (
            lambda X, anchor: (
                ebmeta.FewShotClassifier(k.joint).fit(k.X[::8], list("abcdef"), anchors={"z": anchor}).predict(X)
            ),
            {"X": rows, "anchor": k.X[1]},
        ),
        "FewShotClassifier.tasks": (k.clf.tasks, {"X": rows}),
        "FewShotClassifier.predict_proba": (k.clf.predict_proba, {"X": rows}),
        "FewShotClassifier.score": (
            ebmeta.FewShotClassifier(k.classifier).fit(k.X, k.codes).score,
            {"X": rows, "y": labels, "sample_weight": np.arange(1.0, 13.0)},
        ),
        "FewShotClassifier.predict_sets": (
            ebmeta.FewShotClassifier(k.classifier).fit(k.X, k.codes).predict_sets,
            {"X": rows, "level": 0.5, "seed": 1},
        ),
        "FewShotClassifier.suggest": (k.open_clf.suggest, {"X": rows, "n": 2}),
        "FewShotClassifier.outlier_proba": (k.open_clf.outlier_proba, {"X": rows}),
        "FewShotRegressor.fit": (
            lambda groups, **options: (
                ebmeta.FewShotRegressor(k.regressor).fit(groups=groups, **options).predict(rows, groups=labels)
            ),
            {"X": k.X, "y": k.y, "groups": k.codes, "size": k.size},
        ),
        "FewShotRegressor": (
            lambda **options: ebmeta.FewShotRegressor(**options).fit(k.X, k.y).interval(rows),
            {
                "model": k.regressor,
                "num_steps": 1,
                "conformal": ebmeta.ConformalIntervals(k.regressor, 0.5).calibrate(k.new_groups),
            },
        ),
        "FewShotRegressor.tasks": (k.reg.tasks, {"X": rows, **grouped}),
        "FewShotRegressor.placed": (k.reg.placed, {"X": rows, **grouped}),
        "FewShotRegressor.score": (k.reg.score, {"X": rows, "y": k.y[:12], **grouped}),
        "FewShotRegressor.predict": (k.reg.predict, {"X": rows, "return_std": True, **grouped}),
        "FewShotRegressor.quantiles": (k.reg.quantiles, {"X": rows, "levels": [0.25, 0.5], **grouped}),
        "FewShotRegressor.summaries": (
            k.reg.summaries,
            {"X": rows, "levels": [0.25, 0.5], "probs": False, **grouped},
        ),
        "FewShotRegressor.probabilities": (k.graded_reg.probabilities, {"X": rows, "groups": labels}),
        "FewShotRegressor.interval": (k.reg.interval, {"X": rows, "coverage": 0.5, **grouped}),
        "FewShotRegressor.log_density": (k.reg.log_density, {"X": rows, "y": k.y[:12], **grouped}),
        "FewShotRegressor.sample": (k.reg.sample, {"X": rows, "num_draws": 3, "seed": 1, **grouped}),
    }


def _tasks(k: Kit) -> dict[str, Call]:
    batch, one, clouds = k.batch, [k.batch.support_x[0]], GaussianClasses(2, n_way=2, n_query=3)
    columns = {"y": "y", "groups": "g", "features": ["a"], "group_features": [], "size": "b"}
    return {
        "EpisodeSampler": (
            lambda **options: ebmeta.EpisodeSampler(**options).sample(2),
            {
                "X": k.X,
                "y": k.codes,
                "n_way": 2,
                "n_shot": (1, 2),
                "n_query": 3,
                "imbalance": 2.0,
                "transform": lambda rows, rng: rows + 1,
                "seed": 1,
            },
        ),
        "EpisodeSampler.sample": (k.episodes.sample, {"num_tasks": 2, "index": 1}),
        "EpisodeSampler.rows": (k.episodes.rows, {"most": 12}),
        "EpisodeSampler.count": (k.episodes.count, {"num_tasks": 3}),
        "EpisodeSampler.batches": (k.episodes.batches, {"num_tasks": 3}),
        "EpisodeSampler.draws": (
            lambda **options: list(k.episodes.draws(**options)),
            {"num_tasks": 3, "size": 2, "seed": 1},
        ),
        "tasks.source.as_source": (lambda tasks: as_source(tasks).sample(2).query_x, {"tasks": batch}),
        "tasks.source.FixedTasks": (lambda batch: FixedTasks(batch).sample(2).query_x, {"batch": batch}),
        "tasks.source.FixedTasks.sample": (FixedTasks(batch).sample, {"num_tasks": 2, "index": 1}),
        "tasks.source.FixedTasks.count": (FixedTasks(batch).count, {"num_tasks": 3}),
        "tasks.source.FixedTasks.batches": (FixedTasks(batch).batches, {"num_tasks": 3}),
        "tasks.source.FixedTasks.draws": (
            lambda **options: list(FixedTasks(batch).draws(**options)),
            {"num_tasks": 3, "size": 2, "seed": 1},
        ),
        "tasks.source.FixedTasks.parts": (
            lambda **options: list(FixedTasks(batch).parts(**options)),
            {"rows": 30, "least": 2},
        ),
        "EpisodeSampler.harder": (
            lambda strength: k.episodes.harder(strength).sample(2),
            {"strength": 0.5},
        ),
        "MixedSampler": (
            lambda samplers: ebmeta.MixedSampler(samplers).sample(2),
            {"samplers": [k.episodes, k.episodes]},
        ),
        "MixedSampler.sample": (ebmeta.MixedSampler([k.episodes]).sample, {"num_tasks": 2, "index": 1}),
        "MixedSampler.rows": (ebmeta.MixedSampler([k.episodes]).rows, {"most": 12}),
        "MixedSampler.harder": (
            lambda strength: ebmeta.MixedSampler([k.episodes]).harder(strength).sample(2),
            {"strength": 0.5},
        ),
        "GroupSampler": (
            lambda **options: ebmeta.GroupSampler(**options).sample(2),
            {
                "X": k.X,
                "y": k.y,
                "groups": k.codes,
                "n_support": (1, 3),
                "n_query": 2,
                "size": k.size,
                "group_X": k.codes[:, None].astype(float),
                "transform": lambda rows, rng: rows + 1,
                "seed": 1,
            },
        ),
        "GroupSampler.from_frame": (
            lambda **options: ebmeta.GroupSampler.from_frame(**options).sample(2),
            {"frame": k.frame, **columns, "n_support": 2, "n_query": 2, "seed": 1},
        ),
        "GroupSampler.sample": (k.groups.sample, {"num_tasks": 2, "index": 1}),
        "TaskBatch": (
            ebmeta.TaskBatch,
            {
                "support_x": batch.support_x,
                "support_y": batch.support_y,
                "query_x": batch.query_x,
                "query_y": batch.query_y,
                "support_mask": batch.support_mask,
                "query_mask": batch.query_mask,
                "way_mask": batch.way_mask,
                "support_size": torch.ones_like(batch.support_y),
                "query_size": torch.ones_like(batch.query_y),
                "task_x": torch.ones(4, 1),
                "concentration": torch.ones(4),
                "way_class": torch.zeros(4, 1).long(),
            },
        ),
        "TaskBatch.from_tasks": (
            ebmeta.TaskBatch.from_tasks,
            {
                "support_x": one,
                "support_y": [batch.support_y[0]],
                "query_x": [batch.query_x[0]],
                "query_y": [batch.query_y[0]],
                "num_ways": [1],
                "support_size": [torch.ones_like(batch.support_y[0])],
                "query_size": [torch.ones_like(batch.query_y[0])],
                "task_x": torch.ones(1, 1),
                "concentration": torch.ones(1),
                "way_class": torch.zeros(1, 1).long(),
            },
        ),
        "GroupSampler.parts": (lambda **o: list(k.groups.parts(**o)), {"rows": 30, "least": 2}),
        "TaskBatch.parts": (batch.parts, {"cells": 30, "least": 2}),
        "TaskBatch.to": (batch.to, {"target": "cpu"}),
        "TaskBatch.with_rows": (batch.with_rows, {"support": batch.support, "query": batch.query}),
        "tasks.classes.class_codes": (class_codes, {"y": k.codes, "name": "labels", "hint": "give each one"}),
        "tasks.frames.FrameEncoder": (FrameEncoder, columns),
        "tasks.frames.FrameEncoder.fit": (
            lambda frame: FrameEncoder("y", "g").fit(frame).transform(frame),
            {"frame": k.frame},
        ),
        "tasks.frames.FrameEncoder.transform": (k.encoder.transform, {"frame": k.frame}),
        "tasks.frames.FrameEncoder.group_rows": (k.encoder.group_rows, {"frame": k.frame}),
        "tasks.frames.FrameEncoder.group_x": (k.encoder.group_x, {"frame": k.frame}),
        "tasks.frames.FrameEncoder.labels": (k.encoder.labels, {"frame": k.frame}),
        "tasks.frames.FrameEncoder.numbers": (k.encoder.numbers, {"frame": k.frame, "column": "a"}),
        "tasks.frames.FrameEncoder.from_config": (FrameEncoder.from_config, {"config": k.encoder.config()}),
        "simulate.gaussian_classes.GaussianClasses": (
            lambda **options: GaussianClasses(**options).sample(2),
            {
                "num_features": 2,
                "between": 1.0,
                "within": 1.0,
                "concentration": 2.0,
                "n_way": 3,
                "n_shot": 1,
                "n_query": 4,
                "seed": 1,
            },
        ),
        "simulate.gaussian_classes.GaussianClasses.sample": (clouds.sample, {"num_tasks": 2, "index": 1}),
        "simulate.gaussian_classes.GaussianClasses.simulate": (clouds.simulate, {"num_tasks": 2, "index": 1}),
        "simulate.gaussian_classes.GaussianClasses.exact": (clouds.exact, {"batch": clouds.sample(2)}),
        "simulate.linear_gaussian.LinearGaussianTasks": (
            lambda **options: LinearGaussianTasks(**options).sample(2),
            {
                "loc": np.array([1.0, 2.0, 3.0]),
                "scale_tril": np.eye(3),
                "noise": 0.5,
                "coupling": np.ones((2, 3)),
                "n_support": 2,
                "n_query": 2,
                "seed": 1,
            },
        ),
        "simulate.linear_gaussian.LinearGaussianTasks.sample": (k.family.sample, {"num_tasks": 2, "index": 1}),
        "simulate.linear_gaussian.LinearGaussianTasks.simulate": (k.family.simulate, {"num_tasks": 2, "index": 1}),
        "simulate.linear_gaussian.LinearGaussianTasks.exact_posterior": (
            k.family.exact_posterior,
            {"batch": k.family.sample(2), "transductive": True},
        ),
        "simulate.linear_gaussian.LinearGaussianTasks.exact_nll": (
            k.family.exact_nll,
            {"batch": k.family.sample(2), "transductive": True},
        ),
        "simulate.sines.SineTasks": (
            lambda **options: SineTasks(**options).sample(2),
            {
                "n_support": 2,
                "n_query": 2,
                "x_range": (0.0, 1.0),
                "amplitude": (0.5, 1.0),
                "phase": (0.0, 1.0),
                "noise": 0.5,
                "seed": 1,
            },
        ),
        "simulate.sines.SineTasks.sample": (SineTasks().sample, {"num_tasks": 2, "index": 1}),
        "simulate.sines.SineTasks.truth": (SineTasks().truth, {"num_tasks": 2, "index": 1}),
        "simulate.sines.SineTasks.exact": (SineTasks().exact, {"batch": SineTasks().sample(1), "num_points": 8}),
        "simulate.spinning_lines.SpinningLines": (
            lambda **options: SpinningLines(**options).sample(2),
            {
                "radius": 0.5,
                "radius_scale": 0.5,
                "length": 0.5,
                "width": 0.5,
                "noise": 0.5,
                "n_support": 2,
                "n_query": 2,
                "coupled": True,
                "seed": 1,
            },
        ),
        "simulate.spinning_lines.SpinningLines.sample": (SpinningLines().sample, {"num_tasks": 2, "index": 1}),
        "simulate.spinning_lines.SpinningLines.simulate": (SpinningLines().simulate, {"num_tasks": 2, "index": 1}),
        "simulate.spinning_lines.SpinningLines.exact_posterior": (
            SpinningLines().exact_posterior,
            {"batch": SpinningLines().sample(2), "transductive": True},
        ),
        "simulate.spinning_lines.SpinningLines.exact_nll": (
            SpinningLines().exact_nll,
            {"batch": SpinningLines().sample(2), "transductive": True},
        ),
    }


def _files(k: Kit, folder: Path) -> dict[str, Call]:
    from ebmeta.app import demo

    saved = folder / "saved"
    return {
        "save": (ebmeta.save, {"model": k.regressor, "folder": folder / "model", "encoder": k.encoder}),
        "load": (ebmeta.load, {"folder": saved}),
        "mixed.MixedModel.save": (k.mixed.save, {"folder": folder / "mixed"}),
        "load_encoder": (ebmeta.load_encoder, {"folder": saved}),
        "score_batches": (
            lambda **options: list(ebmeta.score_batches(**options)),
            {"model": saved, "frames": [k.frame], "keep": ["a"], "num_steps": 1, "num_draws": 1, "seed": 1},
        ),
        "score_parts": (
            lambda **options: ebmeta.score_parts(**options).parts,  # the rest says what was there before, and when
            {"model": saved, "frames": [k.frame], "output": folder / "parts", "total": 1, "progress": False},
        ),
        "ScoredParts": (ebmeta.ScoredParts, {"parts": 1, "kept": 0, "groups": 1, "rows": 2, "seconds": 0.5}),
        "app.demo.run": (
            demo.run,
            {"output": folder / "demo", "seed": 1, "num_iterations": 2, "progress": False, "num_tasks": 2},
        ),
        "app.demo.samplers": (demo.samplers, {"seed": 1}),
    }


def _scores(k: Kit) -> dict[str, Call]:
    pairs = {"confidence": k.confidence, "correct": k.correct}
    edges = np.linspace(0, 1, 5)
    sums = calibration.bin_sums(k.confidence, k.correct.astype(float), edges)
    return {
        "predict": (
            ebmeta.predict,
            {
                "model": k.regressor,
                "batch": k.batch,
                "num_steps": 1,
                "num_draws": 3,
                "quantiles": [0.25, 0.5],
                "seed": 1,
            },
        ),
        "evaluate": (
            ebmeta.evaluate,
            {
                "model": k.classifier,
                "tasks": k.episodes,
                "num_tasks": 4,
                "num_steps": 1,
                "num_bootstrap": 5,
                "seed": 1,
            },
        ),
        "prediction.scores.table": (evaluate_module().table, {"evaluation": k.scores}),
        "prediction.scores.task_batches": (evaluate_module().task_batches, {"tasks": k.episodes, "num_tasks": 3}),
        "prediction.scores.task_scores": (
            evaluate_module().task_scores,
            {"model": k.regressor, "batch": k.batch, "num_steps": 1},
        ),
        "ClassSwapSets": (
            lambda **options: ebmeta.ClassSwapSets(**options).calibrate(k.other_episodes).predict(k.class_batch),
            {"model": k.classifier, "level": 0.5, "num_queries": 2, "transductive": False, "seed": 1},
        ),
        "ClassSwapSets.calibrate": (
            lambda tasks: ebmeta.ClassSwapSets(k.classifier, 0.5).calibrate(tasks).predict(k.class_batch),
            {"tasks": k.other_episodes},
        ),
        "ClassSwapSets.predict": (
            ebmeta.ClassSwapSets(k.classifier, 0.5).calibrate(k.other_episodes).predict,
            {"batch": k.class_batch},
        ),
        "prediction.class_swap.swap_p_value": (
            class_swap.swap_p_value,
            {"calibration": np.array([[0.5, 1.0], [0.25, 0.75]]), "scores": np.array([0.5, 1.0])},
        ),
        "ConformalIntervals": (
            lambda **options: ebmeta.ConformalIntervals(**options).calibrate(k.new_groups).predict(k.batch),
            {"models": k.regressor, "level": 0.5, "strict": True},
        ),
        "ConformalIntervals.calibrate": (
            lambda **options: ebmeta.ConformalIntervals(k.regressor, 0.5).calibrate(**options).predict(k.batch),
            {"tasks": k.new_groups, "num_tasks": 4, "num_splits": 2},
        ),
        "ConformalIntervals.predict": (
            ebmeta.ConformalIntervals(k.regressor, 0.5).calibrate(k.new_groups).predict,
            {"batch": k.batch, "level": 0.25},
        ),
        "ShiftWarning": (
            lambda model: ebmeta.ShiftWarning(model).fit(k.groups, 8).calibrate(k.new_groups, 8).check(k.batch),
            {"model": k.regressor},
        ),
        "ShiftWarning.fit": (
            lambda **options: ebmeta.ShiftWarning(k.regressor).fit(**options).calibrate(k.new_groups, 8).check(k.batch),
            {"tasks": k.groups, "num_tasks": 8},
        ),
        "ShiftWarning.calibrate": (
            lambda **options: ebmeta.ShiftWarning(k.regressor).fit(k.groups, 8).calibrate(**options).check(k.batch),
            {"tasks": k.new_groups, "num_tasks": 8},
        ),
        "ShiftWarning.check": (
            ebmeta.ShiftWarning(k.regressor).fit(k.groups, 8).calibrate(k.new_groups, 8).check,
            {"batch": k.batch, "level": 0.5},
        ),
        "certify": (
            ebmeta.certify,
            {
                "model": k.classifier,
                "tasks": k.other_episodes,
                "confidence": 0.5,
                "score": "brier",
                "num_partitions": 2,
                "training": k.episodes,
            },
        ),
        "EpisodeSampler.disjoint": (k.episodes.disjoint, {"index": 1}),
        "GroupSampler.disjoint": (k.groups.disjoint, {"index": 1}),
        "tasks.source.FixedTasks.disjoint": (FixedTasks(k.batch).disjoint, {"index": 1}),
        "prediction.class_jackknife.class_half_width": (
            class_half_width,
            {
                "values": np.arange(4.0),
                "classes": np.array([[0, 1], [1, 2], [0, 2], [3, 0]]),
                "level": 0.5,
            },
        ),
        "prediction.certificate.lower_bound": (
            certificate.lower_bound,
            {"scores": np.array([[0.5, 1.0], [0.25, 0.75]]), "confidence": 0.5, "bets": [0.5]},
        ),
        "ConformalSets": (
            ebmeta.ConformalSets,
            {"model": k.classifier, "level": 0.5, "score": "aps", "by_ways": True, "seed": 1},
        ),
        "ConformalSets.calibrate": (
            lambda **options: k.sets.calibrate(**options).thresholds,
            {"tasks": k.other_episodes, "num_tasks": 4},
        ),
        "ConformalSets.calibrate_probs": (
            lambda **options: ebmeta.ConformalSets(level=0.5).calibrate_probs(**options).thresholds,
            {"probs": k.probs, "query_y": k.labels},
        ),
        "ConformalSets.predict": (k.sets.predict, {"batch": k.class_batch}),
        "ConformalSets.predict_probs": (
            ebmeta.ConformalSets(level=0.5).calibrate_probs(k.probs, k.labels).predict_probs,
            {"probs": k.probs},
        ),
        "prediction.conformal.class_scores": (
            conformal.class_scores,
            {"probs": k.probs, "score": "aps", "uniform": np.full((20, 3), 0.5)},
        ),
        "prediction.conformal.set_coverage": (conformal.set_coverage, {"sets": k.set_data, "query_y": k.labels}),
        "prediction.conformal.task_quantile": (conformal.task_quantile, {"scores": k.probs[..., 0], "level": 0.5}),
        "Novelty": (lambda model: ebmeta.Novelty(model).fit(k.groups, 8).score(k.batch), {"model": k.regressor}),
        "Novelty.fit": (
            lambda **options: ebmeta.Novelty(k.regressor).fit(**options).score(k.batch),
            {"tasks": k.groups, "num_tasks": 8},
        ),
        "Novelty.calibrate": (
            lambda **options: k.novelty.calibrate(**options).p_value(k.batch),
            {"tasks": k.new_groups, "num_tasks": 8},
        ),
        "Novelty.statistics": (k.novelty.statistics, {"batch": k.batch}),
        "Novelty.score": (k.novelty.score, {"batch": k.batch}),
        "Novelty.p_value": (k.novelty.p_value, {"batch": k.batch}),
        "prediction.calibration.bin_edges": (
            calibration.bin_edges,
            {"confidence": k.confidence, "bins": 4, "mass": True},
        ),
        "prediction.calibration.bin_sums": (
            calibration.bin_sums,
            {"p": k.confidence, "y": k.correct.astype(float), "edges": edges},
        ),
        "prediction.calibration.bootstrap": (
            calibration.bootstrap,
            {"sums": sums, "statistic": calibration._error, "num_bootstrap": 5, "seed": 1},
        ),
        "prediction.calibration.brier_decomposition": (calibration.brier_decomposition, {"sums": sums / 5}),
        "prediction.calibration.reliability_bins": (calibration.reliability_bins, {**pairs, "bins": 4, "mass": True}),
        "prediction.calibration.calibration_error": (calibration.calibration_error, {**pairs, "bins": 4, "mass": True}),
        "prediction.calibration.calibration_interval": (
            calibration.calibration_interval,
            {**pairs, "bins": 4, "mass": True, "num_bootstrap": 5, "seed": 1},
        ),
        "prediction.risk_coverage.risk_coverage": (risk_coverage.risk_coverage, pairs),
        "prediction.risk_coverage.area_under_risk_coverage": (risk_coverage.area_under_risk_coverage, pairs),
    }


def evaluate_module() -> Any:
    """Return the module, which the function of the same name hides."""
    import importlib

    return importlib.import_module("ebmeta.prediction.scores")


def _checks(k: Kit) -> dict[str, Call]:
    source = {"model": k.regressor, "tasks": k.groups, "num_tasks": 6}
    several = {"model": k.regressor, "batches": [k.batch]}
    rows = reference.Rows(k.y, k.codes, k.X)
    return {
        "diagnostics.check_posteriors": (
            diagnostics.check_posteriors,
            {
                "model": k.regressor,
                "batch": k.batch,
                "observe": "both",
                "num_steps": 1,
                "num_draws": 30,
                "seed": 1,
            },
        ),
        "diagnostics.correct": (
            diagnostics.correct,
            {"model": k.regressor, "batch": k.batch, "num_steps": 1, "num_draws": 30, "seed": 1},
        ),
        "diagnostics.against_reference": (
            diagnostics.against_reference,
            {"model": k.regressor, "batch": k.batch, "tree": k.tree, "num_steps": 1},
        ),
        "diagnostics.belief_cost": (
            diagnostics.belief_cost,
            {
                "model": k.joint,
                "tasks": k.class_batch,
                "num_tasks": 6,
                "num_steps": 1,
                "num_iterations": 2,
            },
        ),
        "diagnostics.diagnose": (diagnostics.diagnose, {**source, "num_tasks": 10, "seed": 1, "progress": False}),
        "diagnostics.ecdf_band": (diagnostics.ecdf_band, {"num_values": 20, "alpha": 0.5}),
        "diagnostics.uniformity_p_value": (diagnostics.uniformity_p_value, {"u": np.arange(8) / 8}),
        "prediction.uniformity.least_tail": (uniformity.least_tail, {"u": np.arange(8) / 8}),
        "diagnostics.generalization_gap": (
            diagnostics.generalization_gap,
            {**source, "loss": "nll", "information": 0.5, "num_steps": 1, "num_draws": 4, "seed": 1},
        ),
        "diagnostics.linear_gaussian_information": (
            diagnostics.linear_gaussian_information,
            {"tasks": k.family, "num_tasks": 8, "transductive": True},
        ),
        "diagnostics.mutual_information": (diagnostics.mutual_information, {**source, "num_steps": 1, "seed": 1}),
        "diagnostics.posterior_updates": (diagnostics.posterior_updates, {**source, "num_steps": 1}),
        "diagnostics.rate_distortion": (
            diagnostics.rate_distortion,
            {
                "models": {"a": k.regressor},
                "tasks": k.groups,
                "num_tasks": 6,
                "num_steps": 1,
                "num_draws": 4,
                "seed": 1,
            },
        ),
        "diagnostics.simulate_tasks": (
            diagnostics.simulate_tasks,
            {"model": k.regressor, "batch": k.batch, "seed": 1},
        ),
        "diagnostics.simulation_based_calibration": (
            diagnostics.simulation_based_calibration,
            {
                "model": k.regressor,
                "tasks": k.batch,
                "step": 0,
                "num_tasks": 12,
                "num_draws": 4,
                "alpha": 0.5,
                "seed": 1,
            },
        ),
        "diagnostics.synthetic_gradients": (diagnostics.synthetic_gradients, {**source, "num_steps": 1}),
        "diagnostics.SimulationCalibration": (
            lambda **options: diagnostics.SimulationCalibration(**options).words,
            {"pit": k.calibration.pit, "alpha": 0.5},
        ),
        "diagnostics.SimulationCalibration.coverage": (k.calibration.coverage, {"mass": np.array([0.25, 0.5])}),
        "diagnostics.check.interval": (check.interval, {"low": 0.25, "high": 0.5, "near": 0.125, "far": 1.0}),
        "diagnostics.check.worst": (
            check.worst,
            {"checks": [diagnostics.Check("name", "question?", "good", "finding", "meaning")]},
        ),
        "diagnostics.Check": (
            diagnostics.Check,
            {
                "name": "name",
                "question": "question?",
                "status": "good",
                "finding": "finding",
                "meaning": "meaning",
                "advice": "advice",
                "numbers": {"a": 1.0},
                "caption": "caption",
            },
        ),
        "diagnostics.new_classes.new_classes": (
            new_classes,
            {"model": k.classifier, "tasks": k.other_episodes, "batches": [k.class_batch], "num_partitions": 2},
        ),
        "diagnostics.predictions.few_labels": (
            predictions.few_labels,
            {**several, "repeats": 1.0},
        ),
        "diagnostics.predictions.pit": (predictions.pit, {**several, "seed": 1}),
        "diagnostics.predictions.probabilities": (
            predictions.probabilities,
            {**several, "seed": 1, "repeats": 1.0},
        ),
        "diagnostics.verdicts.exactness": (verdicts.exactness, {**several, "seed": 1}),
        "diagnostics.verdicts.information": (verdicts.information, {**source, "seed": 1}),
        "diagnostics.verdicts.refinement": (verdicts.refinement, source),
        "diagnostics.verdicts.simulation": (verdicts.simulation, {**source, "num_tasks": 12, "seed": 1}),
        "diagnostics.verdicts.width": (verdicts.width, source),
        "prediction.arviz.compare": (interop.compare, {"trees": {"a": k.tree, "b": k.other_tree}, "seen": False}),
        "prediction.arviz.held_out": (interop.held_out, {"tree": k.tree}),
        "prediction.arviz.loo": (interop.loo, {"tree": k.tree}),
        "prediction.arviz.pit": (interop.pit, {"tree": k.tree, "seen": False, "seed": 1}),
        "prediction.arviz.psis": (interop.psis, {"log_ratios": k.y[:40] / 8}),
        "prediction.arviz.summary": (interop.summary, {"tree": k.tree}),
        "prediction.arviz.to_arviz": (interop.to_arviz, {"tree": k.tree}),
        "reference.Rows": (
            reference.Rows,
            {"y": k.y, "task": k.codes, "random": k.X, "fixed": k.X, "size": k.size},
        ),
        "reference.Rows.of_tasks": (
            reference.Rows.of_tasks,
            {"model": k.regressor, "batch": k.batch, "observe": "both"},
        ),
        "reference.hierarchical_model": (
            reference.hierarchical_model,
            {"rows": rows, "likelihood": "normal", "hyperpriors": {"noise": 1.0}, "centered": False},
        ),
        "reference.hierarchical": (
            reference.hierarchical,
            {
                "rows": rows,
                "likelihood": "normal",
                "hyperpriors": {"noise": 1.0},
                "centered": False,
                "num_warmup": 2,
                "num_draws": 2,
                "num_chains": 1,
                "target_accept": 0.5,
                "seed": 1,
            },
        ),
        "reference.numpyro_model": (reference.numpyro_model, {"model": k.regressor}),
        "reference.nuts": (
            reference.nuts,
            {
                "model": k.regressor,
                "batch": k.batch,
                "observe": "support",
                "num_warmup": 2,
                "num_draws": 2,
                "num_chains": 1,
                "seed": 1,
            },
        ),
        "reference.NumpyroLikelihood": (
            reference.NumpyroLikelihood,
            {"distribution": lambda eta, size: None, "hyperpriors": lambda: {}, "categorical": False},
        ),
    }


def _plots(k: Kit, folder: Path) -> dict[str, Call]:
    q, ax = k.gaussian, plots.axes_or_new(None)
    rate = diagnostics.rate_distortion(k.regressor, k.batch)
    return {
        "plots.axes.axes_or_new": (plots.axes_or_new, {"ax": ax, "width": 4.0, "height": 4.0}),
        "plots.scores.coverage_by_ways": (plots.coverage_by_ways, {"report": k.coverage}),
        "plots.scores.history": (plots.history, {"run": k.run.history}),
        "plots.scores.refinement": (plots.refinement, {"evaluation": k.scores, "metric": "nll"}),
        "plots.scores.reliability": (plots.reliability, {"evaluation": k.class_scores}),
        "plots.scores.risk_coverage": (plots.risk_coverage, {"evaluation": k.class_scores}),
        "plots.axes.embedded": (axes.embedded, {"figure": ax, "dpi": 50}),
        "plots.axes.save_figure": (plots.save_figure, {"figure": ax, "path": folder / "figure.png"}),
        "plots.scores.set_sizes": (plots.set_sizes, {"sets": k.set_data}),
        "plots.posteriors.ellipse": (ellipse, {"q": q, "task": 0, "weights": (0, 1), "mass": 0.5}),
        "plots.posteriors.posterior_path": (
            posterior_path,
            {"path": [q], "task": 0, "weights": (0, 1), "mass": 0.5},
        ),
        "plots.curves.fitted_curve": (
            fitted_curve,
            {
                "model": k.regressor,
                "support_x": k.X[:4],
                "support_y": k.y[:4],
                "x": k.X[4:8],
                "truth": k.y[4:8],
                "level": 0.5,
                "column": 0,
            },
        ),
        "diagnostics.ecdf_difference": (
            diagnostics.ecdf_difference,
            {"found": k.calibration, "quantities": ["region"]},
        ),
        "diagnostics.expected_coverage": (diagnostics.expected_coverage, {"found": k.calibration}),
        "diagnostics.gap_plot": (
            diagnostics.gap_plot,
            {
                "data": diagnostics.generalization_gap(k.regressor, k.groups, 6, num_draws=4),
                "rows": "support",
                "bounds": False,
            },
        ),
        "diagnostics.khat_by_step": (
            diagnostics.khat_by_step,
            {"checks": diagnostics.check_posteriors(k.regressor, k.batch, num_draws=30), "variable": "khat"},
        ),
        "diagnostics.rate_distortion_plot": (
            diagnostics.rate_distortion_plot,
            {"data": rate, "distortion": "predictive_nll"},
        ),
        "diagnostics.synthetic_gradient_plot": (
            diagnostics.synthetic_gradient_plot,
            {"data": diagnostics.synthetic_gradients(k.regressor, k.batch)},
        ),
        "diagnostics.update_plot": (
            diagnostics.update_plot,
            {"data": diagnostics.posterior_updates(k.regressor, k.batch)},
        ),
        "plots.uniformity.pit_histogram": (plots.pit_histogram, {"u": np.arange(8).reshape(4, 2) / 8}),
    }

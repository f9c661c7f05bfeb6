"""Draws of class means against the joint target: evidence and predictions beside sums over all labellings."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import class_tasks, close, joint_model

import ebmeta
from ebmeta import TaskBatch
from ebmeta.diagnostics import check_posteriors, correct
from ebmeta.diagnostics.class_passes import ClassPass, class_passes, told
from ebmeta.diagnostics.passes import smooth
from ebmeta.simulate.gaussian_classes import GaussianClasses

CLOSE = GaussianClasses(2, between=2.0, within=1.0, concentration=2.0, n_way=3, n_query=4)
APART = GaussianClasses(8, between=100.0, within=1.0, concentration=2.0, n_way=3, n_query=4)


def draw(family, num_tasks, seed=0):
    return family.sample(num_tasks, seed).to(torch.float64)


@torch.no_grad()
@pytest.mark.usefixtures("rng_untouched")
def test_without_queries_there_is_nothing_to_mend():
    """A task has at least one query; a part of the library may hold one without."""
    model, batch = joint_model(CLOSE), draw(CLOSE, 3)
    batch = TaskBatch._of(batch.support, batch.query.first(0), batch.facts)
    part = ClassPass(batch, model.infer(batch), None, 50, (0, 0))
    for k in range(5):
        drawn = part.draw(k)
        close(drawn.log_ratio, part.log_evidence.expand(50, 3), 1e-9)
        close(part.elbo(k, drawn), part.log_evidence)
        close(part.bound[max(k, 1)], part.log_evidence)
        assert smooth(drawn.log_ratio)[1].tolist() == [0.0] * 3


def test_queries_of_a_single_class_are_counted_exactly():
    family = replace(CLOSE, n_way=1)
    model, batch = joint_model(family), draw(family, 3)
    checks = check_posteriors(model, batch, num_draws=200)
    evidence = family.exact(batch)[0] + model.infer(batch).log_evidence.detach()
    for k in (1, 4):
        assert (checks["khat"][k] == 0).all()
        np.testing.assert_allclose(checks["gap"][k], 0, atol=1e-9)
        np.testing.assert_allclose(checks["bound"][k], evidence, atol=1e-9)
    assert (checks["gap"][0] > 0.1).all()
    np.testing.assert_allclose(checks["log_evidence"], evidence, atol=1e-9)


def test_the_evidence_is_that_of_all_labellings():
    """Log means of 20,000 ratios; the bound lies below it, and the divergence below that of the labels too."""
    model, batch = joint_model(CLOSE), draw(CLOSE, 6)
    exact, _ = CLOSE.exact(batch)
    checks = check_posteriors(model, batch, num_draws=20_000)
    evidence = exact + model.infer(batch).log_evidence.detach()
    np.testing.assert_allclose(checks["log_evidence"], evidence, atol=0.15)
    assert np.isnan(checks["bound"][0]).all()
    assert (checks["bound"][1:] < evidence.numpy()).all()
    assert (checks["gap"] > 0).all()
    assert (checks["gap"][1:] < checks["log_evidence"] - checks["bound"][1:]).all()
    assert (checks["gap"][-1].mean() < checks["gap"][0].mean()).all()


def test_weighted_predictions_are_the_exact_ones():
    model, batch = joint_model(CLOSE, num_steps=1), draw(CLOSE, 30)
    _, exact = CLOSE.exact(batch)
    mended, plain = correct(model, batch, num_draws=20_000), ebmeta.predict(model, batch, num_draws=0)
    trusted = mended["corrected"].values
    assert trusted.mean() > 0.3
    np.testing.assert_allclose(mended["probs"].values[trusted], exact[trusted], atol=0.06)
    before = abs(plain["predictive/probs"].values[-1][trusted] - exact[trusted].numpy()).mean()
    after = abs(mended["probs"].values[trusted] - exact[trusted].numpy()).mean()
    assert after < 0.7 * before
    assert np.array_equal(mended["probs"].values[~trusted], plain["predictive/probs"].values[-1][~trusted])


def test_corrected_scores_are_those_of_the_weighted_predictions():
    model, batch = joint_model(CLOSE, num_steps=1, scale=0.1), draw(CLOSE, 20)
    checks, mended = check_posteriors(model, batch, num_draws=400), correct(model, batch, num_draws=400)
    probs = np.take_along_axis(mended["probs"].values, batch.query_y.numpy()[..., None], -1)[..., 0]
    np.testing.assert_allclose(checks["nll_corrected"][-1], -np.log(probs).mean(1), rtol=1e-9)
    score = ebmeta.evaluate(model, batch)["nll"]
    np.testing.assert_allclose(checks["nll"].mean("task"), score, rtol=1e-6)
    entropy = checks["entropy"][-1]
    assert (entropy > 0).all()
    assert (entropy < math.log(3)).all()


def test_sure_beliefs_leave_the_exact_posterior():
    """Classes far apart: labels are certain, and the conjugate posterior is exact."""
    checks = check_posteriors(joint_model(APART), draw(APART, 20), num_draws=200).isel(step=-1)
    assert (checks["entropy"] < 1e-3).all()
    np.testing.assert_allclose(checks["gap"], 0, atol=1e-3)
    assert (checks["effective_size"] > 199).all()


def test_all_labels_make_the_target_conjugate():
    model, batch = joint_model(CLOSE), draw(CLOSE, 5)
    checks = check_posteriors(model, batch, observe="both", num_draws=300)
    inferred = model.infer(batch)
    q0, setting = inferred.path[0], inferred.setting
    known = told(q0, setting, batch.query_y)
    np.testing.assert_allclose(checks["gap"], [q.kl(known).detach() for q in inferred.path], rtol=1e-9)
    assert "nll" not in checks
    assert "bound" not in checks
    # Evidence by the order of the rows: each query predicted from the rows before it.
    total = inferred.log_evidence.detach().clone()
    for i in range(4):
        first = replace(setting, x=setting.x[:, :i], query_mask=setting.query_mask[:, :i])
        before = told(q0, first, batch.query_y[:, :i])
        own = replace(before, counted=None, unlabelled=False)
        odds, _ = own.log_odds(setting.x[:, i : i + 1])
        constant = before.shares.sum(1).log() + math.log(2 * math.pi)  # D / 2 log 2 pi with two features
        total += odds[:, 0].gather(1, batch.query_y[:, i : i + 1])[:, 0].detach() - constant.detach()
    np.testing.assert_allclose(checks["log_evidence"], total, rtol=1e-9)


@torch.no_grad()
def test_mean_ratios_are_divergences_where_these_are_known():
    """Of 20,000 draws: within 5 standard errors (6e-7) for each of 6 tasks and 2 steps."""
    for part in class_passes(joint_model(CLOSE, num_steps=1), draw(CLOSE, 6), "both", None, 20_000, 0):
        for k in (0, 1):
            drawn = part.draw(k)
            error = drawn.log_ratio.std(0) / 20_000**0.5
            off = (drawn.log_ratio.mean(0) - part.elbo(k, drawn)) / error
            assert float(off.abs().max()) < 5


def test_labels_of_queries_do_not_matter_and_parts_agree():
    model, batch = joint_model(CLOSE, scale=0.1), draw(CLOSE, 6)
    full, seen = (check_posteriors(model, b, num_draws=100) for b in (batch, batch.unlabelled()))
    for name in seen:
        np.testing.assert_array_equal(seen[name], full[name], err_msg=str(name))
    assert "nll" not in seen
    verdict = full.attrs["verdict"]
    assert "from the exact posterior given all inputs and the support labels" in verdict


def test_a_cosine_head_and_ragged_tasks_are_checked():
    model = ebmeta.EmpiricalBayes.classifier(4, 2, synthetic_gradient="joint", width=8).eval()
    checks = check_posteriors(model, class_tasks(dtype=torch.float32), num_draws=100)
    assert bool(np.isfinite(checks.drop_vars("bound").to_array()).all())
    assert bool(np.isfinite(checks["bound"][1:]).all())


def test_missing_labels_are_told():
    with pytest.raises(ValueError, match="pooled: expected query labels, got unlabelled tasks"):
        check_posteriors(joint_model(CLOSE), draw(CLOSE, 2).unlabelled(), observe="both")


def test_posteriors_given_labels_count_them():
    model, batch = joint_model(CLOSE), draw(CLOSE, 2)
    inferred = model.infer(batch)
    known = told(inferred.path[0], inferred.setting, batch.query_y)
    counts = torch.nn.functional.one_hot(batch.query_y, 3).sum(1).double()
    close(known.shares, inferred.path[0].shares + counts)
    close(known.precision[..., 0], inferred.path[0].precision[..., 0] + counts)

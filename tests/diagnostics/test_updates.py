"""How far posteriors move when labels become known: exact where the model is, and told where it is not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import close, joint_model

import ebmeta
from ebmeta.diagnostics.updates import _rows, posterior_updates
from ebmeta.simulate.gaussian_classes import GaussianClasses
from tests.diagnostics.test_report import TASKS, exact


def test_an_exact_posterior_moves_as_far_as_it_says():
    data = posterior_updates(exact(), TASKS, 1500)
    spread, half = float(data["spread"][0]), float(data["spread_half_width"][0])
    assert abs(spread - 1) < 4.5 / 1.96 * half  # 4.5 sigma over 1,500 tasks: false alarms at 7e-6
    assert half < 0.05


def test_both_moves_are_those_of_the_closed_form():
    batch = TASKS.sample(3).to(torch.float64)
    data = posterior_updates(exact(), batch)
    x = torch.diag(torch.tensor([1.0, 2.0], dtype=torch.float64)).expand(3, 2, 2)  # prior deviations are 1 and 1/2
    few = TASKS.exact_posterior(batch, transductive=False)
    all_rows = TASKS.exact_posterior(batch.pooled(), transductive=False)
    (m, v), (after, left) = few.marginal(x), all_rows.marginal(x)
    np.testing.assert_allclose(data["moved"][0], (after - m).square().mean((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(data["expected"][0], (v - left).mean((1, 2)), rtol=1e-6)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_wrong_noise_is_told_by_the_spread(factor):
    data = posterior_updates(exact(0.5 * factor), TASKS, 500)
    spread, half = float(data["spread"][0]), float(data["spread_half_width"][0])
    assert (spread > 1 + 3 * half) if factor < 1 else (spread < 1 - 3 * half)


def test_noise_levels_are_averaged():
    model = ebmeta.EmpiricalBayes.regressor(1, "normal_per_task", num_steps=0, standardize=False).double()
    with torch.no_grad():
        for name, value in exact().state_dict().items():
            if name.startswith("prior."):
                model.state_dict()[name].copy_(value)
        model.likelihood.log_noise.fill_(np.log(0.5))
        model.likelihood.log_ratio.fill_(-6.0)  # all tasks have the same noise, nearly
    batch = TASKS.sample(20).to(torch.float64)
    one, many = posterior_updates(exact(), batch), posterior_updates(model, batch)
    np.testing.assert_allclose(many["moved"], one["moved"], rtol=1e-3)
    np.testing.assert_allclose(many["expected"], one["expected"], rtol=1e-3)


def test_every_step_of_a_classifier_is_measured():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(20), 30)
    tasks = ebmeta.EpisodeSampler(rng.standard_normal((20, 8))[y] + rng.standard_normal((600, 8)), y, 5, 1, 5, seed=0)
    model = ebmeta.EmpiricalBayes.classifier(8, num_steps=2, synthetic_gradient="mixture")
    data = posterior_updates(model, tasks, 70)
    batches = [tasks.sample(64, 0), tasks.sample(6, 1)]
    moved, expected = [], []
    for batch in batches:
        after = model.eval().infer(batch.pooled(), 0).path[0]
        prior = model.infer(batch).prior.scale[0, 0].square()
        for rows, k in ((moved, 0), (moved, 1), (moved, 2)):
            gap = (after.loc - model.infer(batch).path[k].loc).square() / prior
            rows.append(gap.mean((1, 2)).detach().numpy())
        for k in range(3):
            lost = (model.infer(batch).path[k].scale.square() - after.scale.square()) / prior
            expected.append(lost.mean((1, 2)).detach().numpy())
    for name, rows in (("moved", moved), ("expected", expected)):
        right = np.concatenate([np.stack(rows[:3]), np.stack(rows[3:])], 1)
        np.testing.assert_allclose(data[name], right, rtol=1e-4)
    np.testing.assert_allclose(data["spread"], np.sqrt(data["moved"].mean("task") / data["expected"].mean("task")))


def test_bad_input():
    with pytest.raises(ValueError, match="expected query labels, got unlabelled"):
        posterior_updates(exact(), TASKS.sample(3).unlabelled())
    with pytest.raises(ValueError, match="tasks: expected at least 2, got 1"):
        posterior_updates(exact(), TASKS.sample(1))


CLOUDS = GaussianClasses(4, between=2.0, within=1.0, concentration=2.0, n_way=3, n_query=12)


def test_exact_posteriors_of_class_means_move_as_far_as_they_say():
    """In all coordinates and in the directions of rows: within 4.5 sigma over 600 tasks, false alarms at 7e-6 each."""
    data = posterior_updates(joint_model(CLOUDS, 0), CLOUDS, 600)
    for name in ("spread", "spread_rows"):
        half = float(data[f"{name}_half_width"][0])
        assert abs(float(data[name][0]) - 1) < 4.5 / 1.96 * half
        assert half < 0.05


def test_a_wrong_prior_of_class_means_is_told_by_the_spread():
    """A prior of half the width between classes is too sure of every class."""
    data = posterior_updates(joint_model(replace(CLOUDS, between=0.5), 0), CLOUDS, 300)
    for name in ("spread", "spread_rows"):
        assert float(data[name][0]) > 1 + 3 * float(data[f"{name}_half_width"][0])


@torch.no_grad()
def test_moves_of_class_means_are_those_of_their_formula():
    """One feature: a class of n rows has the precision 1 / b + n / s, whatever its labels say of proportions."""
    family = replace(CLOUDS, num_features=1)
    batch = family.sample(3).to(torch.float64)
    data = posterior_updates(joint_model(family, 0), batch)
    x = torch.cat([batch.support_x, batch.query_x], 1)[..., 0]
    member = torch.nn.functional.one_hot(torch.cat([batch.support_y, batch.query_y], 1), 3).double()
    few, every = member[:, :3], member
    (m, v), (after, left) = (
        (torch.einsum("tn,tnc->tc", x[:, : r.shape[1]], r) / (0.5 + r.sum(1)), 1 / (0.5 + r.sum(1)))
        for r in (few, every)
    )
    for end, unit in (("", 2.0), ("_rows", 1.0)):  # coordinates in units of the prior, whose variance is 2
        np.testing.assert_allclose(data[f"moved{end}"][0], (after - m).square().mean(1) / unit, rtol=1e-9)
        np.testing.assert_allclose(data[f"expected{end}"][0], (v - left).mean(1) / unit, rtol=1e-9)


def test_refined_steps_look_along_all_rows_and_the_first_along_the_support():
    family = replace(CLOUDS, num_features=40)
    model, batch = joint_model(family, 1), family.sample(2).to(torch.float64)
    inferred = model.infer(batch)
    first, second = _rows(inferred)
    assert first.shape[1] == 3
    assert second.shape[1] == 15
    close(second @ second.mT, torch.eye(15, dtype=torch.float64).expand(2, -1, -1))
    rows = torch.cat([batch.support_x, batch.query_x], 1)
    close(rows @ second.mT @ second, rows)
    close(batch.support_x @ first.mT @ first, batch.support_x)


def test_what_is_said_of_a_task_depends_on_no_other_task():
    """A general classifier has a prior of each task, and classes with an anchor have one of their own."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(12), 12)
    X = 2 * rng.standard_normal((12, 6))[y] + rng.standard_normal((144, 6))
    batch = ebmeta.EpisodeSampler(X, y, n_way=3, n_shot=(1, 3), n_query=(2, 6), seed=0).sample(3)
    anchor, size = torch.zeros(3, 3, 6), torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 2.0], [0.0, 0.0, 0.0]])
    own = joint_model(replace(CLOUDS, num_features=6), 1)
    for model in (ebmeta.general_classifier().double(), own):
        for tasks in (batch, replace(batch, anchor=anchor, anchor_size=size)):
            data, turned = posterior_updates(model, tasks), posterior_updates(model, tasks[torch.tensor([2, 1, 0])])
            for name in ("moved", "expected", "moved_rows", "expected_rows"):
                np.testing.assert_allclose(turned[name].values[:, ::-1], data[name], rtol=1e-6)


def test_coordinates_of_a_class_with_an_anchor_are_in_units_of_its_prior():
    family = replace(CLOUDS, num_features=1)
    batch = family.sample(3).to(torch.float64)
    size = torch.tensor([[4.0, 0.0, 0.0]] * 3, dtype=torch.float64)
    known = replace(batch, anchor=torch.ones(3, 3, 1, dtype=torch.float64), anchor_size=size)
    data = posterior_updates(joint_model(family, 0), known)
    shots, every = (
        torch.nn.functional.one_hot(labels, 3).double().sum(1)
        for labels in (batch.support_y, torch.cat([batch.support_y, batch.query_y], 1))
    )
    prior = 0.5 + size  # the prior has variance 2, and an anchor counts as four rows of variance 1
    wanted = prior * (1 / (prior + shots) - 1 / (prior + every))
    np.testing.assert_allclose(data["expected"][0], wanted.mean(1), rtol=1e-9)

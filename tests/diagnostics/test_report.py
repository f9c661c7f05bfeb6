"""The report: verdicts on models that are right, too sure, too modest, or no better than guessing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
import xarray as xr
from browser import look
from scipy import stats

import ebmeta
from ebmeta import TaskBatch
from ebmeta.diagnostics import Check, Diagnosis, diagnose
from ebmeta.diagnostics.check import interval
from ebmeta.diagnostics.predictions import _mean, few_labels, pit, probabilities
from ebmeta.diagnostics.simulation import simulate_tasks
from ebmeta.diagnostics.verdicts import exactness, refinement
from ebmeta.simulate.linear_gaussian import LinearGaussianTasks

TASKS = LinearGaussianTasks(np.array([1.0, -0.5]), np.diag([1.0, 0.5]), noise=0.5, n_support=3, n_query=8)


def exact(noise=0.5):
    """The model that the tasks were drawn from, or one that takes another noise for theirs."""
    model = ebmeta.EmpiricalBayes.regressor(num_features=1, num_steps=0, standardize=False).double()
    with torch.no_grad():
        model.prior.loc.copy_(torch.tensor([1.0, -0.5]))
        model.prior.log_scale.copy_(torch.tensor([1.0, 0.5]).log())
        model.prior.lower.zero_()
        model.likelihood.log_noise.fill_(float(np.log(noise)))
    return model


def numbers(num_tasks=400):
    return [TASKS.sample(num_tasks)]


def test_the_model_behind_the_tasks_is_trusted():
    found = diagnose(exact(), TASKS, 400, progress=False)
    assert found.status == "good"
    coverage = next(c for c in found.checks if c.name == "probabilities").numbers
    # 3,200 labels in 400 tasks; 4.5 sigma over tasks: false alarms at 7e-6.
    assert abs(coverage["coverage"] - 0.9) < 4.5 / 1.96 * coverage["coverage_half_width"]
    assert found.summary.startswith("You can rely on this model")
    assert json.loads(json.dumps(found.to_dict()))["status"] == "good"


@pytest.mark.parametrize(
    ("noise", "status", "word"), [(0.15, "bad", "too narrow"), (2.0, "caution", "wider than need be")]
)
def test_intervals_of_the_wrong_width_are_called_so(noise, status, word):
    check = probabilities(exact(noise), numbers())
    assert check.status == status
    assert word in check.finding
    assert check.advice
    assert diagnose(exact(noise), TASKS, 200, progress=False).status == status


def test_coverage_and_transform_are_those_of_the_exact_prediction():
    batch = TASKS.sample(5)
    model = exact()
    loc, var = model.posterior(batch.to(torch.float64))[0].marginal(
        torch.nn.functional.pad(batch.query_x.double(), (0, 1), value=1.0)
    )
    expected = stats.norm.cdf(
        batch.query_y.numpy(), loc[..., 0].detach().numpy(), (var[..., 0].detach().numpy() + 0.25) ** 0.5
    )
    np.testing.assert_allclose(pit(model, [batch]), expected, atol=1e-6)


def test_counts_have_a_uniform_transform():
    rng = np.random.default_rng(0)
    y = torch.from_numpy(rng.poisson(2.0, (300, 10)).astype(float))
    none = torch.zeros(300, 10, 0, dtype=torch.float64)
    model = ebmeta.EmpiricalBayes.regressor(0, "poisson", num_steps=0, standardize=False).double()
    with torch.no_grad():
        model.prior.loc.fill_(float(np.log(2.0)))
        model.prior.log_scale.fill_(-8.0)
    u = pit(model, [TaskBatch(none[:, :0], y[:, :0], none, y)])
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-4  # false alarms at 1e-4


def test_labels_that_say_nothing_are_called_so():
    rng = np.random.default_rng(0)
    x, y = (torch.from_numpy(rng.standard_normal(s)) for s in ((200, 8, 1), (200, 8)))
    batch = TaskBatch(x[:, :3], y[:, :3], x[:, 3:], y[:, 3:])
    check = few_labels(exact(), [batch])
    assert check.status == "bad"  # three labels of noise move a prior that is too wide
    assert check.numbers["gain"] < 0
    assert few_labels(exact(), numbers()).status == "good"
    empty = TaskBatch(x[:, :0], y[:, :0], x, y)
    assert "nothing to learn from" in few_labels(exact(), [empty]).finding


def classifier(scale=1.0):
    """Exact up to the initializer: clusters far apart in eight dimensions, and its weights scaled by a factor."""
    rng = np.random.default_rng(0)
    centre = 1.5 * rng.standard_normal((40, 8))
    y = np.repeat(np.arange(40), 30)
    tasks = ebmeta.EpisodeSampler(centre[y] + rng.standard_normal((1200, 8)), y, 5, 1, 10, seed=0)
    model = ebmeta.EmpiricalBayes.classifier(num_features=8, num_steps=0)
    ebmeta.fit(model, tasks, 60, learning_rate=0.02, seed=0, progress=False)
    return model, tasks


def test_a_classifier_is_judged_by_confidence_and_accuracy():
    model, tasks = classifier()
    scores = ebmeta.evaluate(model, tasks, 256)
    found = diagnose(model, tasks, 256, progress=False)
    check = found.checks[0]
    assert check.numbers["accuracy"] == pytest.approx(float(scores["accuracy"][-1]), abs=1e-6)
    assert check.numbers["ece"] == pytest.approx(float(scores["ece"][-1]), abs=1e-6)
    assert check.figure is not None


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.01, 0.02, "good"),
        (0.035, 0.05, "caution"),
        (-0.2, -0.1, "bad"),
        (0.0, 0.09, "unclear"),
        (0.02, 0.05, "good"),
    ],
)
def test_intervals_are_judged_by_both_ends(low, high, expected):
    assert interval(low, high, 0.03, 0.08) == expected


def verdict(*pairs):
    checks = tuple(Check(name, "?", status, "", "") for name, status in pairs)
    return Diagnosis(checks, {}, 10, 0.0).status


def test_only_decisive_checks_condemn():
    assert verdict(("probabilities", "good"), ("few_labels", "good"), ("refinement", "bad")) == "caution"
    assert verdict(("probabilities", "bad"), ("few_labels", "good")) == "bad"
    assert verdict(("probabilities", "unclear"), ("few_labels", "good"), ("simulation", "good")) == "unclear"
    assert verdict(("probabilities", "good"), ("few_labels", "good"), ("simulation", "unclear")) == "good"
    assert verdict(("probabilities", "good"), ("few_labels", "good"), ("width", "bad")) == "good"


def test_faults_that_do_not_touch_predictions_are_said_to_be_such():
    checks = [Check(name, f"{name}?", "good", "", "") for name in ("probabilities", "few_labels", "width")]
    assert Diagnosis(tuple(checks), {}, 10, 0.0).asides == ""
    checks[2] = Check("width", "Is it wide?", "bad", "It is not.", "")
    found = Diagnosis(tuple(checks), {}, 10, 0.0)
    assert "“Is it wide?” is about its inner weights" in found.asides
    assert found.summary.endswith(found.asides)
    assert found.asides in found.to_html()
    refinement = Check("refinement", "?", "bad", "It harms.", "")  # this one is about predictions
    assert Diagnosis((*checks[:2], refinement), {}, 10, 0.0).asides == ""


@pytest.mark.parametrize(("steps", "status"), [(16, "good"), (1, "caution")])
def test_a_posterior_is_well_calculated_where_it_is_near_the_exact_one(steps, status):
    """Counts: the best Gaussian has heavy-tailed ratios that hardly differ; one step of the initializer is far off."""
    model = ebmeta.EmpiricalBayes.regressor(1, "poisson", num_steps=0, standardize=False)
    model.prior.log_scale.data.fill_(-0.5)
    given = TASKS.sample(100)
    zeros = replace(given, support_y=torch.zeros_like(given.support_y), query_y=torch.zeros_like(given.query_y))
    batch, _ = simulate_tasks(model, zeros, seed=1)
    model.initializer.num_steps = steps
    check = exactness(model, [batch])
    assert check.status == status
    assert (check.numbers["gap"] < 0.02) == (check.numbers["khat_median"] > 0.7) == (status == "good")


class Addresses(HTMLParser):
    """Collect what a page refers to, and what it opens without closing."""

    def __init__(self):
        super().__init__()
        self.found, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_needs_nothing_beside_it(tmp_path):
    found = diagnose(exact(0.15), TASKS, 100, progress=False)
    found.save(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    parser = Addresses()
    parser.feed(page)
    assert parser.open == []
    assert parser.found
    assert all(a.startswith(("data:", "#")) for a in parser.found)
    ids = set(re.findall(r'id="([^"]+)"', page))
    assert {a[1:] for a in parser.found if a.startswith("#")} <= ids
    assert "Do not rely on this model" in page
    written = json.loads((tmp_path / "page.json").read_text())
    assert written["checks"]["probabilities"]["status"] == "bad"
    assert written["num_tasks"] == 100


def test_names_in_a_page_are_escaped():
    check = Check("a", "<script>alert(1)</script>", "good", "1 < 2", "")
    page = Diagnosis((check,), {"likelihood": "<b>"}, 2, 0.0).to_html()
    assert "<script>" not in page
    assert "1 &lt; 2" in page
    assert "&lt;b&gt;" in page


@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_in_a_browser(tmp_path, width):
    diagnose(exact(), TASKS, 60, progress=False).save(tmp_path / "page.html")
    seen = look(tmp_path / "page.html", width)
    assert seen.errors == []
    assert seen.requests == []
    assert seen.overflow <= 0
    assert seen.broken_images == 0
    assert "rely" in seen.text or "Too little data" in seen.text


def test_bad_input():
    with pytest.raises(ValueError, match="expected query labels, got unlabelled tasks"):
        diagnose(exact(), TASKS.sample(4).unlabelled(), progress=False)
    with pytest.raises(ValueError, match="num_tasks: expected at least 2, got 1"):
        diagnose(exact(), TASKS, 1, progress=False)
    with pytest.raises(ValueError, match="expected query labels"):
        pit(exact(), [TASKS.sample(4).unlabelled()])


def test_a_few_groups_drawn_often_prove_little():
    rng = np.random.default_rng(0)
    model = ebmeta.EmpiricalBayes.regressor(1, num_steps=0)
    with torch.no_grad():
        model.likelihood.log_noise.fill_(1.0)  # too wide: every interval holds its label
    source = ebmeta.GroupSampler(
        rng.normal(size=(15, 1)), 0.1 * rng.normal(size=15), np.repeat(np.arange(3), 5), n_support=2, seed=0
    )
    found = diagnose(model, source, 90, progress=False)
    (check,) = (c for c in found.checks if c.name == "probabilities")
    assert check.numbers["coverage"] == 1.0
    assert check.numbers["coverage_half_width"] == pytest.approx(1.96 * (0.09 / 9) ** 0.5, rel=1e-3)  # 3 groups of 3
    assert check.status == "unclear"
    assert "90 tasks of 3 groups" in found.summary
    assert found.to_dict()["num_groups"] == 3


def steps_that_gain(gains) -> xr.Dataset:
    """What `synthetic_gradients` returns, of one step with these gains."""
    gains, data = np.asarray(gains)[None], {}
    for name in ("gradient_cosine", "move_cosine"):
        data |= {name: ("step", [0.5]), f"{name}_by_task": (("step", "task"), np.full(gains.shape, 0.5))}
    data |= {"gain": ("step", gains.mean(1)), "gain_half_width": ("step", 1.96 * gains.std(1) / gains.shape[1] ** 0.5)}
    return xr.Dataset(data | {"gain_by_task": (("step", "task"), gains)}, coords={"step": [1]})


@pytest.mark.parametrize(
    ("mean", "spread", "status"),
    [(0.1, 0.1, "good"), (-0.1, 0.1, "bad"), (-0.01, 1.0, "unclear"), (0.01, 1.0, "unclear"), (0.0, 0.01, "good")],
)
def test_refinement_is_judged_by_the_whole_interval_of_its_gain(monkeypatch, mean, spread, status):
    """100 tasks: the half width is about a fifth of the spread."""
    found = steps_that_gain(mean + spread * np.linspace(-1.7, 1.7, 100))
    monkeypatch.setattr("ebmeta.diagnostics.verdicts.synthetic_gradients", lambda *_: found)
    assert refinement(exact(), TASKS, 100).status == status


@pytest.mark.parametrize(
    ("gap", "khat", "status"), [(0.01, 0.1, "good"), (0.01, 2.0, "caution"), (0.2, 0.1, "caution"), (1.0, 0.1, "bad")]
)
def test_a_posterior_is_good_only_where_it_is_near_and_stands_for_the_exact_one(monkeypatch, gap, khat, status):
    values = {"gap": gap, "khat": khat, "khat_rows": khat, "effective_size": 10.0}
    found = xr.Dataset({name: (("step", "task"), np.full((1, 20), v)) for name, v in values.items()}, {"step": [0]})
    monkeypatch.setattr(
        "ebmeta.diagnostics.verdicts.check_posteriors", lambda *_, **__: found.assign_attrs(num_draws=1000)
    )
    assert exactness(exact(), [TASKS.sample(20)]).status == status


def test_groups_drawn_again_and_again_count_once_in_an_interval():
    """Four times as many draws as groups: twice the half width."""
    values = np.array([0.0, 2.0, 1.0, 5.0])
    assert _mean(values) == pytest.approx((2.0, 1.959964 * values.std(ddof=1) / 2))
    assert _mean(values, 4.0) == pytest.approx((2.0, 1.959964 * values.std(ddof=1)))

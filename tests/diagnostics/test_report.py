"""The report: verdicts on models that are right, too sure, too modest, or no better than guessing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from browser import look

import ebmeta
from ebmeta import TaskBatch
from ebmeta.diagnostics import Check, Diagnosis, diagnose
from ebmeta.diagnostics.predictions import few_labels, pit, probabilities
from ebmeta.diagnostics.simulation import simulate_tasks
from ebmeta.diagnostics.verdicts import exactness
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


def clusters(seed):
    """Tasks of forty classes, far apart in eight dimensions."""
    rng = np.random.default_rng(seed)
    centre = 1.5 * rng.standard_normal((40, 8))
    y = np.repeat(np.arange(40), 30)
    return ebmeta.EpisodeSampler(centre[y] + rng.standard_normal((1200, 8)), y, 5, 1, 10, seed=0)


def classifier():
    """Exact up to the initializer."""
    tasks = clusters(0)
    model = ebmeta.EmpiricalBayes.classifier(num_features=8, num_steps=0, synthetic_gradient="mixture")
    ebmeta.fit(model, tasks, 60, learning_rate=0.02, seed=0, progress=False)
    return model, tasks


def test_a_classifier_is_judged_by_confidence_and_accuracy():
    model, tasks = classifier()
    said = "^tasks: training or validation has used classes of these, such as"
    with pytest.warns(UserWarning, match=said):
        scores = ebmeta.evaluate(model, tasks, 256)
    with pytest.warns(UserWarning, match=said):
        found = diagnose(model, tasks, 256, progress=False)
    check = found.checks[0]
    assert check.numbers["accuracy"] == pytest.approx(float(scores["accuracy"][-1]), abs=1e-6)
    assert check.numbers["ece"] == pytest.approx(float(scores["ece"][-1]), abs=1e-6)
    assert check.figure is not None


def test_groups_of_training_are_told_of_and_new_ones_are_not():
    rng = np.random.default_rng(0)
    x, groups = rng.normal(size=(96, 2)), np.repeat(np.arange(12), 8)
    y = x @ np.ones(2) + rng.normal(size=12)[groups] + 0.3 * rng.normal(size=96)
    train, new = (ebmeta.GroupSampler(x[r], y[r], groups[r], n_support=3) for r in (groups < 8, groups >= 8))
    model = ebmeta.fit(ebmeta.EmpiricalBayes.regressor(2, num_steps=1, width=4), train, 5, progress=False).model
    mixed = ebmeta.GroupSampler(x[groups > 3], y[groups > 3], groups[groups > 3], n_support=3)  # half are new
    for judge in (ebmeta.evaluate, partial(diagnose, progress=False)):
        with pytest.warns(UserWarning, match="^tasks: training or validation has used most of these groups, such as"):
            judge(model, train, 24)
        for tasks in (new, mixed):
            judge(model, tasks, 12)  # where a warning is an error


def test_every_picture_says_something_and_its_caption_what_is_good():
    model, _ = classifier()
    found = {check.name: check for check in diagnose(model, clusters(1), 60, progress=False).checks}
    assert found["new_classes"].figure is not None
    assert found["information"].figure is None  # one step has no course
    numbers = {check.name: check for check in diagnose(exact(), TASKS, 60, progress=False).checks}
    assert numbers["exactness"].figure is None  # all draws count
    assert numbers["exactness"].finding == "It is exact, to rounding, in all 60 tasks."
    drawn = [c for c in (*found.values(), *numbers.values()) if c.figure is not None]
    assert len(drawn) == 8
    assert all("Good is" in check.caption for check in drawn)


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
    assert check.figure is not None or status == "good"
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


def ragged(seed=0):
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(10), 20)
    X = 1.5 * rng.standard_normal((10, 6))[y] + rng.standard_normal((200, 6))
    return ebmeta.EpisodeSampler(X, y, n_way=(2, 5), n_shot=(1, 3), n_query=(2, 9), seed=seed)


@pytest.mark.parametrize("tuned", [False, True])
def test_a_general_classifier_is_judged_too(tuned):
    """Features of its rows depend on the whole task, so that what new rows cost beside given ones is not asked."""
    model = ebmeta.general_classifier()
    if tuned:
        model = ebmeta.EmpiricalBayes.classifier(6, pretrained=True)
        ebmeta.fit(model, ragged(1), 2, progress=False)
    found = diagnose(model, ragged(), 12, progress=False)
    names = [check.name for check in found.checks]
    assert names == ["probabilities", "few_labels", "new_classes", "refinement", "width"]
    assert found.model["features"] == (6 if tuned else "any")


def test_numbers_of_ragged_tasks_agree_with_each_other():
    """Confidence less accuracy is the difference that is told, and both accuracies of the page are one."""
    found = {check.name: check for check in diagnose(ebmeta.general_classifier(), ragged(), 12, progress=False).checks}
    numbers = found["probabilities"].numbers
    assert numbers["mean_confidence"] - numbers["accuracy"] == pytest.approx(numbers["difference"], abs=1e-6)
    assert numbers["accuracy"] == pytest.approx(found["new_classes"].numbers["accuracy"], abs=1e-6)


def test_tasks_with_outliers_are_refused_first():
    batch = replace(ragged().sample(4), outliers=torch.ones(4, dtype=torch.bool))
    with pytest.raises(ValueError, match="diagnose: expected tasks without outliers, got some"):
        diagnose(ebmeta.general_classifier(), batch, progress=False)

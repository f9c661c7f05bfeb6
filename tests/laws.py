"""Laws that every model obeys, whatever its parts: functions of a `Member` that raise where one breaks.

Each law is stated on float64 models with all parameters and buffers moved at random, since an untrained
gradient refiner is the identity and would obey anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch
from builders import class_tasks, classifier, close, generator, number_tasks, perturb, real_tasks, regressor
from torch import Tensor, nn

from ebmeta import EmpiricalBayes, Objective, TaskBatch
from ebmeta.likelihood import LIKELIHOODS, Categorical, Normal
from ebmeta.model.recipes import GeneralRecipe
from ebmeta.parts.basis import BASES
from ebmeta.parts.class_prior import ClassPrior
from ebmeta.parts.gaussian import Gaussian
from ebmeta.parts.heads import LinearHead
from ebmeta.parts.initializer import ClassInitializer, ConjugateInitializer, PrototypeInitializer
from ebmeta.parts.prior import DiagonalPrior
from ebmeta.refine.belief import BeliefRefiner
from ebmeta.refine.class_synthetic_gradient import ClassSyntheticGradient
from ebmeta.refine.gradient import GradientRefiner
from ebmeta.refine.mixture import MixtureRefiner
from ebmeta.refine.real_synthetic_gradient import RealSyntheticGradient
from ebmeta.tasks.facts import NO_CLASS
from ebmeta.tasks.rows import Rows

STEPS = 3


@dataclass(frozen=True)
class Member:
    """A model and tasks that suit it.

    Args:
        build: a new float64 model of `num_steps` steps, its parameters moved by `scale`.
        tasks: ragged float64 tasks.
        any_ways: defined for any number of classes and equivariant to their order.
    """

    build: Callable[..., EmpiricalBayes]
    tasks: Callable[[], TaskBatch]
    any_ways: bool = True

    @property
    def categorical(self) -> bool:
        return self.build().likelihood.categorical

    @property
    def states_proportions(self) -> bool:
        return self.tasks().concentration is not None

    @property
    def has_known_proportions(self) -> bool:
        known = self.tasks().concentration
        return known is not None and not bool(known.isnan().all())


def _moved(model: EmpiricalBayes, scale: float) -> EmpiricalBayes:
    perturb(model.double(), scale=scale)
    return model


def _diagonal_regressor(num_steps: int = STEPS, scale: float = 0.3) -> EmpiricalBayes:
    torch.manual_seed(0)
    refiner = GradientRefiner(RealSyntheticGradient(4, 8), num_steps)
    parts = DiagonalPrior(4), Normal(), LinearHead(3), ConjugateInitializer(), refiner
    return _moved(EmpiricalBayes(*parts, beta=0.1), scale)


def _linear_classifier(num_steps: int = STEPS, scale: float = 0.3) -> EmpiricalBayes:
    torch.manual_seed(0)
    refiner = GradientRefiner(ClassSyntheticGradient(8, depth=3), num_steps)
    parts = DiagonalPrior(5), Categorical(), LinearHead(4), PrototypeInitializer(5, 1.0), refiner
    return _moved(EmpiricalBayes(*parts, beta=1.0), scale)


def _embedded_classifier(num_steps: int = STEPS, scale: float = 0.3) -> EmpiricalBayes:
    torch.manual_seed(0)
    embedder = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.Tanh())
    return classifier(6, num_steps, scale=scale, embedder=embedder)


def _joint_classifier(num_steps: int = STEPS, scale: float = 0.1) -> EmpiricalBayes:
    return classifier(4, num_steps, scale=scale, synthetic_gradient="joint", profile=3)


def _joint_linear(num_steps: int = STEPS, scale: float = 0.3) -> EmpiricalBayes:
    """Build a joint model of features as they are, which it generates."""
    torch.manual_seed(0)
    refiner = BeliefRefiner(ClassSyntheticGradient(8), num_steps)
    parts = ClassPrior(4, between=4.0), Categorical(), LinearHead(4, standardize=False), ClassInitializer(), refiner
    return _moved(EmpiricalBayes(*parts, beta=0.1), scale)


def _general(num_steps: int = STEPS, scale: float = 0.1) -> EmpiricalBayes:
    """Build a classifier of any features, whose prior depends on how the rows of a task lie."""
    return _moved(EmpiricalBayes.from_recipe(GeneralRecipe(num_steps=num_steps, width=8), 0.1), scale)


def _images() -> TaskBatch:
    batch = class_tasks()
    return replace(batch, support_x=batch.support_x.unflatten(2, (2, 2)), query_x=batch.query_x.unflatten(2, (2, 2)))


#: What may be known of the class proportions of four tasks: that they are drawn around equal ones, or are equal.
PROPORTIONS = {
    "known": (2.0, math.inf, 0.5, 30.0),
    "unknown": (math.nan,) * 4,
    "mixed": (math.nan, 2.0, math.nan, math.inf),
}


def _told_tasks(proportions: str, spread: float = 1.0) -> TaskBatch:
    return replace(
        class_tasks(spread=spread), concentration=torch.tensor(PROPORTIONS[proportions], dtype=torch.float64)
    )


def _likelihood_regressor(likelihood: str, num_steps: int = STEPS, scale: float = 0.2) -> EmpiricalBayes:
    model = regressor(3, num_steps, scale=scale, likelihood=likelihood)
    model.prior.log_scale.data -= 1  # a count's rate is the exponential of what the prior spreads
    for name, value in (("center", 0.3), ("unit", 1.7)):
        if name in model.likelihood.state_dict():  # elsewhere they are what they are
            getattr(model.likelihood, name).fill_(value)
    return model


def _basis_regressor(basis: str, num_steps: int = STEPS, scale: float = 0.3) -> EmpiricalBayes:
    size = {"num_knots": 2} if basis == "spline" else {"num_frequencies": 2}
    model = regressor(3, num_steps, scale=scale, basis={"name": basis, "num_inputs": 3, **size})
    model.predictor.basis.measure(real_tasks().support_x)
    return model


def _covariate_regressor(num_steps: int = STEPS, scale: float = 0.3) -> EmpiricalBayes:
    return regressor(3, num_steps, scale=scale, num_covariates=2)


def _covariate_tasks() -> TaskBatch:
    batch = real_tasks()
    return replace(batch, task_x=torch.randn(len(batch), 2, generator=generator(9), dtype=torch.float64))


MEMBERS = {
    "classifier": Member(lambda num_steps=STEPS, scale=0.3: classifier(4, num_steps, scale=scale), class_tasks),
    "classifier-linear": Member(_linear_classifier, class_tasks),
    "classifier-embedder": Member(_embedded_classifier, _images),
    "classifier-profile": Member(
        lambda num_steps=STEPS, scale=0.3: classifier(4, num_steps, scale=scale, profile=6), class_tasks
    ),
    "classifier-residual": Member(
        lambda num_steps=STEPS, scale=0.3: classifier(4, num_steps, scale=scale, synthetic_gradient="residual"),
        class_tasks,
    ),
    "classifier-mlp": Member(
        lambda num_steps=STEPS, scale=0.2: classifier(
            4, num_steps, scale=scale, synthetic_gradient="mlp", n_way=3, beta=0.3
        ),
        lambda: class_tasks(ways=(3, 3, 3, 3)),
        any_ways=False,
    ),
    "regressor": Member(lambda num_steps=STEPS, scale=0.3: regressor(3, num_steps, scale=scale), real_tasks),
    "regressor-diagonal": Member(_diagonal_regressor, real_tasks),
    "regressor-covariates": Member(_covariate_regressor, _covariate_tasks),
}
MEMBERS |= {
    f"{name}-{proportions}": Member(MEMBERS[name].build, partial(_told_tasks, proportions))
    for name, all_of_them in (("classifier", PROPORTIONS), ("classifier-residual", ["mixed"]))
    for proportions in all_of_them
}
MEMBERS |= {
    "joint": Member(_joint_classifier, class_tasks),
    "joint-linear": Member(_joint_linear, class_tasks),
    "general": Member(_general, class_tasks),
    "general-mixed": Member(_general, partial(_told_tasks, "mixed", 3.0)),
}
MEMBERS |= {f"joint-{known}": Member(_joint_classifier, partial(_told_tasks, known, 3.0)) for known in PROPORTIONS}
MEMBERS |= {f"regressor-{name}": Member(partial(_basis_regressor, name), real_tasks) for name in BASES}
MEMBERS |= {
    f"regressor-{name}": Member(partial(_likelihood_regressor, name), partial(number_tasks, name))
    for name in LIKELIHOODS
    if name != "categorical"
}


@dataclass(frozen=True, eq=False)
class Outcome:
    """All that inference says of a batch: the path, its divergence from the prior, and the predictions."""

    path: list[Gaussian]
    kl: Tensor
    prediction: dict[str, Tensor]


def outcome(model: EmpiricalBayes, batch: TaskBatch) -> Outcome:
    inferred = model.infer(batch)
    return Outcome(inferred.path, inferred.kl(), inferred.predict(-1))


def _same(
    got: Outcome,
    expected: Outcome,
    weights: Callable[[Tensor], Tensor] = lambda v: v,
    queries: Callable[[Tensor], Tensor] = lambda v: v,
) -> None:
    """Compare; `weights` and `queries` map what was expected of `w` and of predictions to their new places."""
    assert len(got.path) == len(expected.path)
    for a, b in zip(got.path, expected.path, strict=True):
        close(a.loc, weights(b.loc))
        close(a.precision, weights(b.precision))
    close(got.kl, expected.kl)
    for name, value in expected.prediction.items():
        close(got.prediction[name], queries(value))


def relabelling_permutes_classes(member: Member) -> None:
    model, batch = member.build(), member.tasks()
    g = generator(1)
    to = torch.arange(batch.way_mask.shape[1]).repeat(len(batch), 1)  # class c becomes class to[t, c]
    for t, ways in enumerate(batch.way_mask.sum(1).tolist()):
        while torch.equal(to[t, :ways], torch.arange(ways)):
            to[t, :ways] = torch.randperm(ways, generator=g)
    moved = replace(batch, support_y=to.gather(1, batch.support_y), query_y=to.gather(1, batch.query_y))
    back = to.argsort(1)
    tasks = torch.arange(len(batch))[:, None]
    _same(outcome(model, moved), outcome(model, batch), lambda v: v[tasks, back], lambda p: p.mT[tasks, back].mT)


def _shuffled(mask: Tensor, seed: int) -> Tensor:
    order = torch.stack([torch.randperm(mask.shape[1], generator=generator(seed + t)) for t in range(len(mask))])
    assert (order != torch.arange(mask.shape[1])).any(1).all()
    return order


def _reordered(rows: Rows) -> tuple[Rows, tuple[Tensor, Tensor]]:
    index = torch.arange(len(rows.x))[:, None], _shuffled(rows.mask, 1)
    return rows.map(lambda v: v[index]), index


def support_order_changes_nothing(member: Member) -> None:
    model, batch = member.build(), member.tasks()
    moved, _ = _reordered(batch.support)
    _same(outcome(model, batch.with_rows(support=moved)), outcome(model, batch))


def query_order_permutes_predictions(member: Member) -> None:
    model, batch = member.build(), member.tasks()
    moved, index = _reordered(batch.query)
    _same(outcome(model, batch.with_rows(query=moved)), outcome(model, batch), queries=lambda v: v[index])


def _pad(member: Member, batch: TaskBatch, fill: float | Tensor) -> TaskBatch:
    """Add masked rows and ways, inputs set to `fill`, labels to 0."""

    def wider(v: Tensor, extra: int, value: float | Tensor = 0) -> Tensor:
        new = torch.zeros(len(v), extra, *v.shape[2:], dtype=v.dtype)
        new[...] = value
        return torch.cat([v, new], 1)

    ways = 2 if member.categorical and member.any_ways else 0
    return TaskBatch(
        support_x=wider(batch.support_x, 3, fill),
        support_y=wider(batch.support_y, 3),
        query_x=wider(batch.query_x, 4, fill),
        query_y=wider(batch.query_y, 4),
        support_mask=wider(batch.support_mask, 3),
        query_mask=wider(batch.query_mask, 4),
        way_mask=wider(batch.way_mask, ways),
        support_size=None if batch.support_size is None else wider(batch.support_size, 3),
        query_size=None if batch.query_size is None else wider(batch.query_size, 4),
        task_x=batch.task_x,
        concentration=batch.concentration,
        way_class=None if batch.way_class is None else wider(batch.way_class, ways, NO_CLASS),
    )


def _score(model: EmpiricalBayes, batch: TaskBatch) -> Tensor:
    """Return a scalar that depends on every prediction of a real query, without random numbers."""
    out = outcome(model, batch)
    if model.likelihood.categorical:
        value = out.prediction["probs"].gather(-1, batch.query_y.unsqueeze(-1)).squeeze(-1)
    else:
        value = (out.prediction["mean"] - batch.query_y).square() + out.prediction["std"]
    return torch.where(batch.query_mask, value, 0.0).sum() + out.kl.sum()


def _gradients(model: EmpiricalBayes, value: Tensor) -> list[Tensor]:
    parameters = list(model.trainable())
    return list(torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True))


def padding_changes_nothing(member: Member) -> None:
    model, batch = member.build(), member.tasks()
    fills = [1e3]
    if not model.predictor.own_units and model.predictor.embedder is None and not model.predictor.any_features:
        fills.append(model.predictor.center)  # where the norm of a feature vector is zero
    expected = outcome(model, batch)
    for fill in fills:
        padded = _pad(member, batch, fill)
        got = outcome(model, padded)
        ways, queries = batch.way_mask.shape[1], batch.query_mask.shape[1]
        got = Outcome(
            [q.with_(q.loc[:, :ways], q.precision[:, :ways]) for q in got.path],
            got.kl,
            {k: v[:, :queries, :ways] if v.dim() == 3 else v[:, :queries] for k, v in got.prediction.items()},
        )
        _same(got, expected)
        for a, b in zip(_gradients(model, _score(model, padded)), _gradients(model, _score(model, batch)), strict=True):
            close(a, b, 1e-8)


def tasks_do_not_see_each_other(member: Member) -> None:
    model, batch = member.build(), member.tasks()
    together = outcome(model, batch)
    for t in range(len(batch)):
        s, q, c = (int(m[t].sum()) for m in (batch.support_mask, batch.query_mask, batch.way_mask))
        alone = TaskBatch.from_tasks(
            [batch.support_x[t, :s]],
            [batch.support_y[t, :s]],
            [batch.query_x[t, :q]],
            [batch.query_y[t, :q]],
            [c],
            support_size=None if batch.support_size is None else [batch.support_size[t, :s]],
            query_size=None if batch.query_size is None else [batch.query_size[t, :q]],
            task_x=None if batch.task_x is None else batch.task_x[t : t + 1],
            concentration=None if batch.concentration is None else batch.concentration[t : t + 1],
            way_class=None if batch.way_class is None else batch.way_class[t : t + 1, :c],
        )
        got = outcome(model, alone)
        levels = len(got.path[0].loc)
        for a, b in zip(got.path, together.path, strict=True):
            close(a.loc, b.loc[t * levels : (t + 1) * levels, :c])
            close(a.precision, b.precision[t * levels : (t + 1) * levels, :c])
        close(got.kl[:, 0], together.kl[:, t])
        for name, value in got.prediction.items():
            expected = together.prediction[name][t, :q]
            close(value[0], expected[:, :c] if value.dim() == 3 else expected)


def no_support_gives_the_prior(member: Member) -> None:
    model, batch = member.build(), member.tasks()
    levels = len(model.posterior(batch)[0].loc) // len(batch)
    masked = replace(batch, support_mask=torch.zeros_like(batch.support_mask))
    for empty in (masked, batch.with_rows(batch.support.first(0))):
        q, prior = model.posterior(empty, num_steps=0)[0], model.prior_of(empty, levels)
        close(q.loc, prior.loc, 1e-14)
        assert torch.equal(q.precision, prior.precision)


def unseen_class_keeps_the_prior(member: Member) -> None:
    model, batch = member.build(), member.tasks()
    dropped = replace(batch, support_mask=batch.support_mask & (batch.support_y != 1))
    prior, q = model.prior_of(dropped), model.posterior(dropped, num_steps=0)[0]
    close(q.loc[:, 1], prior.loc[:, 1], 1e-14)
    assert torch.equal(q.precision[:, 1], prior.precision[:, 1])
    assert bool((q.precision[:, 0] > prior.precision[:, 0]).all())  # a seen class does not


def unknown_proportions_are_as_if_none_were_stated(member: Member) -> None:
    model, batch = member.build(), member.tasks()
    told, untold = outcome(model, batch), outcome(model, replace(batch, concentration=None))
    unknown = batch.concentration.isnan()
    for a, b in zip(told.path, untold.path, strict=True):
        assert torch.equal(a.loc[unknown], b.loc[unknown])
        assert torch.equal(a.precision[unknown], b.precision[unknown])
    assert torch.equal(told.prediction["probs"][unknown], untold.prediction["probs"][unknown])


def known_proportions_change_every_step(member: Member) -> None:
    model, batch = member.build(), member.tasks()
    told, untold = model.posterior(batch), model.posterior(replace(batch, concentration=None))
    assert torch.equal(told[0].loc, untold[0].loc)  # labels of the support set are there by design
    for a, b in zip(told[1:], untold[1:], strict=True):
        change = (a.loc - b.loc).abs().amax((1, 2))
        assert bool((change > 1e-3)[~batch.concentration.isnan()].all())


def gradients_equal_finite_differences(member: Member) -> None:
    model, batch = member.build(), member.tasks()
    parameters = list(model.trainable())
    start = [p.detach().clone() for p in parameters]
    for kind in ("predictive", "gibbs", "evidence"):
        objective = Objective(kind=kind, num_draws=3, anytime=0.5)

        def loss(objective: Objective = objective) -> Tensor:
            return objective.total(objective.terms(model, batch, generator=generator(7)))

        gradient = _gradients(model, loss())
        for seed in range(3):
            g = generator(seed)
            direction = [torch.randn(p.shape, generator=g, dtype=p.dtype) for p in parameters]
            slope = sum((a * b).sum() for a, b in zip(gradient, direction, strict=True))
            values = []
            with torch.no_grad():
                for step in (
                    2,
                    1,
                    -1,
                    -2,
                ):  # divergences of equal shares have 1e-11 of rounding: a step of 1e-6 shows it
                    for p, p0, d in zip(parameters, start, direction, strict=True):
                        p.copy_(p0 + 2e-5 * step * d)
                    values.append(loss())
                for p, p0 in zip(parameters, start, strict=True):
                    p.copy_(p0)
            close((8 * (values[1] - values[2]) - values[0] + values[3]) / 2.4e-4, slope, 1e-6)


def untrained_refinement_changes_nothing(member: Member) -> None:
    model, batch = member.build(scale=0.0), member.tasks()
    for part in (model.prior, model.likelihood, model.predictor, model.initializer):
        perturb(part)
    first, *rest = model.posterior(batch)
    assert len(rest) == STEPS
    for q in rest:
        close(q.loc, first.loc, 1e-11)  # softmax(log p) equals p up to rounding
        assert torch.equal(q.precision, first.precision)


def trained_refinement_changes_every_step(member: Member) -> None:
    """Show that the laws are about something: a moved model's steps do move, the first one in every task."""
    path = [iterate.q for iterate in member.build().infer(member.tasks()).iterates]  # as steps go on, not as reported
    for number, (before, after) in enumerate(pairwise(path)):
        loc = (after.loc - before.loc).abs().amax((1, 2)) > 1e-3
        precision = (after.precision - before.precision).abs().flatten(1).amax(1) > 1e-3
        # Steps with shared parameters may have converged in some task.
        every = number == 0 or isinstance(member.build().refiner, GradientRefiner)
        assert bool(loc.all() and precision.all() if every else loc.any() and precision.any())


def refinement_ignores_query_labels(member: Member) -> None:
    model, batch = member.build(), member.tasks()
    expected = model.posterior(batch)
    least = batch.query_y[batch.query_mask].min()  # a label that the likelihood knows, whatever the size of its row
    changed = torch.full_like(batch.query_y, least)
    assert not torch.equal(changed, batch.query_y)
    for other in (batch.unlabelled(), replace(batch, query_y=changed)):
        for a, b in zip(model.posterior(other), expected, strict=True):
            assert torch.equal(a.loc, b.loc)
            assert torch.equal(a.precision, b.precision)


def extra_steps_repeat_the_last(member: Member) -> None:
    model, longer, batch = member.build(), member.build(num_steps=STEPS + 2), member.tasks()
    state = model.state_dict()
    own = [name for name, _ in model.refiner.named_parameters(recurse=False)]
    for name in [f"refiner.{n}" for n in (*own, "temperature.weight", "temperature.bias")]:
        value = state.get(name)
        if value is not None and value.dim():  # one entry per step, where steps do not share their parameters
            state[name] = torch.cat([value, value[-1:], value[-1:]])
    longer.load_state_dict(state)
    path = model.posterior(batch, STEPS + 2)
    for a, b in zip(path, longer.posterior(batch), strict=True):
        assert torch.equal(a.loc, b.loc)
        assert torch.equal(a.precision, b.precision)
    for a, b in zip(path, model.posterior(batch), strict=False):
        assert torch.equal(a.loc, b.loc)


#: Every law, and whom it binds.
LAWS: dict[Callable[[Member], None], Callable[[Member], bool]] = {
    relabelling_permutes_classes: lambda m: m.categorical and m.any_ways,
    support_order_changes_nothing: lambda m: True,
    query_order_permutes_predictions: lambda m: True,
    padding_changes_nothing: lambda m: True,
    tasks_do_not_see_each_other: lambda m: True,
    no_support_gives_the_prior: lambda m: True,
    unseen_class_keeps_the_prior: lambda m: m.categorical,
    unknown_proportions_are_as_if_none_were_stated: lambda m: m.states_proportions,
    known_proportions_change_every_step: lambda m: (
        m.has_known_proportions and isinstance(m.build().refiner, MixtureRefiner | BeliefRefiner)
    ),
    gradients_equal_finite_differences: lambda m: True,
    untrained_refinement_changes_nothing: lambda m: isinstance(m.build().refiner, GradientRefiner),
    trained_refinement_changes_every_step: lambda m: True,
    refinement_ignores_query_labels: lambda m: True,
    extra_steps_repeat_the_last: lambda m: True,
}

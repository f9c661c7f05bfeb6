r"""Information that the weights of a task store about it, and what it buys.

The *rate* of a posterior is what training pays for, and an upper bound of the mutual information between the weights
and what the posterior was given of the task,

$$ \mathbb E_d\, \mathrm{KL}(q(w \mid d) \Vert p_\psi) = I(w; d) + \mathrm{KL}(\bar q \Vert p_\psi), \qquad
   \bar q(w) = \mathbb E_d\, q(w \mid d). $$

Its *distortion* is the loss on the queries. The information itself lies between two averages over $M$ tasks, with
$w_i \sim q(w \mid d_i)$,

$$ \mathbb E \log \frac{q(w_i \mid d_i)}{\frac1M \sum_j q(w_i \mid d_j)} \;\le\; I(w; d) \;\le\;
   \mathbb E \log \frac{q(w_i \mid d_i)}{\frac{1}{M-1} \sum_{j \ne i} q(w_i \mid d_j)} $$

(theory: "The information bottleneck"). Here the average of $\log q(w_i \mid d_i)$ is taken as that of
$\mathrm{KL}(q(\cdot \mid d_i) \Vert p_\psi) + \log p_\psi(w_i)$, which has the same expectation and, where
$\bar q$ is close to the prior, less noise.

Source: Poole, Ozair, van den Oord, Alemi and Tucker 2019, On variational bounds of mutual information.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.nn import functional

from ebmeta.diagnostics.common import (
    labelled,
    one_posterior,
    per_query,
    predictive_nll,
    refuse_general,
    refuse_outliers,
    summarise,
)
from ebmeta.foundation.checks import at_least, check, checked
from ebmeta.foundation.seeding import stream
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.model.posterior import Inference
from ebmeta.parts.gaussian import Gaussian
from ebmeta.prediction.scores import task_batches
from ebmeta.prediction.trees import evaluating, match_model
from ebmeta.simulate.linear_gaussian import LinearGaussianTasks
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.source import TaskSampler

__all__ = ["linear_gaussian_information", "mutual_information", "rate_distortion"]

CELLS = 20_000_000  # numbers held at once where every draw meets every posterior


@checked(num_tasks=at_least(2), num_steps=at_least(0), num_draws=at_least(1))
@torch.no_grad()
def rate_distortion(
    models: EmpiricalBayes | Mapping[str, EmpiricalBayes],
    tasks: TaskSampler | TaskBatch,
    num_tasks: int = 600,
    *,
    num_steps: int | None = None,
    num_draws: int = 64,
    seed: int = 0,
) -> xr.Dataset:
    r"""Measure rate and distortion of one or several models after every refinement step.

    Args:
        models: a model, or several by name: trained with different $\beta$, for one.
        tasks: labelled tasks, or a source of them (its batches 0, 1, ... of 64 tasks are used).
        num_tasks: how many tasks to draw from a source.
        num_steps: refinement steps, $K$; those of training by default.
        num_draws: draws of the linear predictor behind the expected loss of classes, or of a joint model's latents.
        seed: seed of those draws.

    Returns:
        Over `(model, step)`, with `beta` of each model: `rate`, $\mathbb E\,\mathrm{KL}(q_k \Vert p_\psi)$ in nats per
        task; `expected_nll`, $\mathbb E_q[-\log p]$, and `predictive_nll`, $-\log \mathbb E_q[p]$, in nats per query;
        and `<name>_half_width` of 95% intervals over tasks. NaN where a model has fewer steps than another.

    Raises:
        ValueError: if there is no model, or tasks are unlabelled or do not fit.
    """
    named = dict(models) if isinstance(models, Mapping) else {"model": models}
    for name, model in named.items():
        check(f"models[{name!r}]", model, EmpiricalBayes)
    if not named:
        raise ValueError("models: expected at least one, got none")
    out = []
    for name, model in named.items():
        generator = torch.Generator().manual_seed(seed)
        parts: dict[str, list[Tensor]] = {"rate": [], "expected_nll": [], "predictive_nll": []}
        with evaluating(model):
            for batch, y in labelled(model, tasks, num_tasks, "rate_distortion"):
                inferred = model.infer(batch, num_steps)
                shape = (num_draws, *inferred.x.shape[:2], batch.way_mask.shape[1])
                shape = shape if model.likelihood.categorical else (1,)
                noise = torch.randn(shape, generator=generator, dtype=inferred.x.dtype).to(inferred.x.device)
                each: dict[str, list[Tensor]] = {"expected_nll": [], "predictive_nll": []}
                for k in range(len(inferred.path)):
                    each["expected_nll"].append(_expected_nll(model, inferred, k, y, noise))
                    each["predictive_nll"].append(predictive_nll(inferred, k, y, noise))
                for key, values in each.items():
                    parts[key].append(per_query(torch.stack(values), batch.query_mask))
                parts["rate"].append(inferred.kl())
        joined = {key: torch.cat(values, -1) for key, values in parts.items()}
        data = xr.Dataset(
            summarise({"rate": joined.pop("rate")}, "nats per task", "step")
            | summarise(joined, "nats per query", "step")
        )
        data = data.assign_coords(step=np.arange(data.sizes["step"]), beta=model.beta).expand_dims(model=[name])
        out.append(data.assign_coords(beta=("model", [model.beta])))
    return xr.concat(out, "model", join="outer", data_vars="all", coords="minimal", compat="override")


def _expected_nll(model: EmpiricalBayes, inferred: Inference, k: int, y: Tensor, noise: Tensor) -> Tensor:
    """Return the mean over draws of the negative log likelihood in nats, shape `(T, Q)`."""
    if not model.joint:
        return -inferred.log_prob(k, y, noise, predictive=False)
    # Linear predictors of class means are not normal.
    _, _, scores = inferred.draw(k, len(noise), y, generator=stream(k))
    assert scores is not None  # for the type checker: there are labels to score
    return -scores.mean(0)


@checked(num_tasks=at_least(2), num_steps=at_least(0))
@torch.no_grad()
def mutual_information(
    model: EmpiricalBayes,
    tasks: TaskSampler | TaskBatch,
    num_tasks: int = 1000,
    *,
    num_steps: int | None = None,
    seed: int = 0,
) -> xr.Dataset:
    r"""Bracket the mutual information $I(w; d)$ between weights and what the posterior is given of a task.

    The mean of the lower bound cannot exceed $\log M$, the logarithm of the number of tasks (its estimate can, by its
    error); where it comes near, all that can be said is that $I(w; d)$ is at least about that.

    Args:
        model: the model.
        tasks: tasks, or a source of them, all with the same number of classes.
        num_tasks: how many tasks to draw from a source, $M$.
        num_steps: refinement steps, $K$; those of training by default.
        seed: seed of the draws of the weights.

    Returns:
        Over `step`, in nats: `rate`, the bounds `lower` and `upper`, and `<name>_half_width` of 95% intervals over
        tasks. The rate is an upper bound too; `rate` minus `upper` and `rate` minus `lower` enclose
        $\mathrm{KL}(\bar q \Vert p_\psi)$. Attribute `num_tasks`.

    Raises:
        ValueError: if tasks do not fit the model, differ in their number of classes, have covariates, or tell
            different things of class proportions to a joint model, or a posterior is a mixture.
    """
    generator = torch.Generator().manual_seed(seed)
    refuse_general(model, "mutual_information")
    paths: list[list[Gaussian]] = []
    priors: list[Gaussian] = []
    with evaluating(model):
        for batch in task_batches(tasks, num_tasks, model):
            batch = match_model(model, batch)
            refuse_outliers(batch, "mutual_information")
            if batch.task_x is not None:
                raise ValueError("mutual_information: expected a prior that all tasks share, got covariates of tasks")
            inferred = one_posterior(model, batch, num_steps, "mutual_information")
            paths.append(inferred.path)
            priors.append(inferred.prior)
            if not bool(batch.way_mask.all()) or paths[0][0].loc.shape[1] != batch.way_mask.shape[1]:
                raise ValueError("mutual_information: expected one number of classes in all tasks, got several")
    prior = priors[0].joined(priors[1:])
    if model.joint and bool((prior.kl(prior[torch.zeros(len(prior.loc), dtype=torch.long)]) > 0).any()):
        raise ValueError("mutual_information: expected tasks that tell class proportions alike, got several priors")
    terms = [contrastive(q.joined(more), prior, generator) for q, *more in zip(*paths, strict=True)]
    values = dict(zip(("rate", "lower", "upper"), (torch.stack(v) for v in zip(*terms, strict=True)), strict=True))
    data = xr.Dataset(summarise(values, "nats", "step"))
    return data.assign_coords(step=np.arange(data.sizes["step"])).assign_attrs(num_tasks=values["rate"].shape[-1])


def contrastive(q: Gaussian, prior: Gaussian, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return the terms of the rate, the lower and the upper bound of the module in nats, each of shape `(M,)`."""
    num, size = len(q.loc), q.loc[0].numel()
    values, rate = {name: value[0] for name, value in q.draw(1, generator).items()}, q.kl(prior)
    step = max(1, CELLS // (num * size))
    log_q = torch.cat(
        [
            q.log_prob({name: v[start : start + step].unsqueeze(1) for name, v in values.items()})
            for start in range(0, num, step)
        ]
    )
    own = rate + prior.log_prob(values)
    others = log_q.masked_fill(torch.eye(num, dtype=torch.bool, device=log_q.device), -torch.inf)
    low = own - torch.logsumexp(log_q, 1) + math.log(num)
    return rate, low, own - torch.logsumexp(others, 1) + math.log(max(num - 1, 1))


@checked(num_tasks=at_least(2))
@torch.no_grad()
def linear_gaussian_information(
    tasks: LinearGaussianTasks, num_tasks: int = 4000, *, transductive: bool = False
) -> xr.Dataset:
    r"""Return the mutual information of the exact posterior of the linear-Gaussian family, in closed form given inputs.

    $$ I(w; d) = \tfrac12\, \mathbb E \log \frac{\lvert \Lambda \rvert}{\lvert \Lambda_0 \rvert}, \qquad
       I(w; y^s \mid x, w_\star) = \tfrac12\, \mathbb E \log \lvert I + \Lambda^{-1} X_s^\top X_s / \sigma^2 \rvert
       \le \tfrac{P}{2} \log 2, $$

    where $\Lambda$ is the precision of the posterior, which depends on the inputs alone, and $w_\star$ are the weights
    behind the task. The second is what of the first is about the noise of the labels. With it goes the gap between
    new labels at the inputs of the support set and its own labels, for the loss $(y - \eta)^2 / 2\sigma^2$, and the
    variance of that loss, which bounds it.

    Args:
        tasks: the family.
        num_tasks: draws of the inputs, over which the expectation runs.
        transductive: whether the posterior uses what the inputs say about the weights.

    Returns:
        In nats, `total` and `given_task`, `gap` and `proxy_per_row`, $\mathbb E[v / S]$, and `<name>_half_width` of 95%
        intervals over the draws of the inputs.

    Raises:
        ValueError: if tasks have no support rows.
    """
    if tasks.n_support < 1:
        raise ValueError(f"n_support: expected at least 1 row, got {tasks.n_support}")
    batch = tasks.sample(num_tasks).to(torch.float64)
    posterior = tasks.exact_posterior(batch, transductive=transductive).precision[:, 0]
    covariance = torch.from_numpy(tasks.scale_tril @ tasks.scale_tril.T)
    x = functional.pad(batch.support_x, (0, 1), value=1.0)
    labels = x.mT @ x / tasks.noise**2
    eye = torch.eye(len(covariance), dtype=covariance.dtype)
    share = torch.linalg.solve(posterior, labels)  # of the posterior's precision, what the labels have given
    own, noisy = (torch.einsum("tnp,tpr,tnr->tn", x, c, x) for c in (posterior.inverse(), share @ posterior.inverse()))
    spread, bias = 1 + (own + noisy) / tasks.noise**2, (own - noisy) / tasks.noise**2
    values = {
        "total": torch.logdet(covariance @ posterior) / 2,
        "given_task": torch.logdet(eye + share) / 2,
        "gap": share.diagonal(dim1=-2, dim2=-1).sum(-1) / tasks.n_support,
        "proxy_per_row": (spread.square() / 2 + bias * spread).mean(1) / tasks.n_support,
    }
    return xr.Dataset(summarise(values, "nats"))

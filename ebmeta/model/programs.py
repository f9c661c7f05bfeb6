r"""The Pyro programs of all tasks, one generative and one variational.

model:  w_t ~ p_psi(w)                          site "w",       plate "task"
z_t ~ Normal(0, 1)                      site "level",   where tasks differ in noise
y_ti ~ p(y | phi(x_ti)' w_t, z_t)       site "query_y" (and "support_y" where observed)
guide:  z_t ~ Normal(mode, width)                site "level"
w_t ~ q_K(w; support_t, query_x_t, z_t) site "w",       plate "task"

Where some weights are common to all tasks, the others are the site "varying", and "w" follows from them.

A joint model generates inputs too, from class means and proportions; the labels of the support set were chosen, and
are given. Classes of queries are summed out of their inputs and drawn given these, which is the same joint density.

model:  m_tc ~ N(mu, b I), pi_t ~ Dir(alpha)     sites "m", "pi", plate "task"
x_ti ~ N(m_t,y_ti, s I)                 site "support_x"
x_ti ~ sum_c pi_tc N(m_tc, s I)         site "query_x"
y_ti ~ p(y | x_ti, m_t, pi_t)           site "query_y"
guide:  m_t, pi_t ~ q_K(m, pi; support_t, query_x_t) sites "m", "pi", plate "task"
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable, Mapping, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Protocol

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.ops.provenance import detach_provenance
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from ebmeta.foundation.checks import checked
from ebmeta.foundation.kinds import is_tracing
from ebmeta.likelihood import Given, Likelihood
from ebmeta.model.posterior import Inference
from ebmeta.model.sites import fitting, sample, sample_labels
from ebmeta.parts.gaussian import Gaussian
from ebmeta.parts.heads import Head
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.rows import Rows

__all__ = ["Program", "guide_program", "model_program", "register"]

Observe = Literal["query", "support", "both"]


class Owner(Protocol):
    """What the programs use of the model that they belong to."""

    likelihood: Likelihood
    predictor: Head
    beta: float
    training: bool

    @property
    def joint(self) -> bool:
        """Whether it is a joint model of inputs and labels."""

    def check(self, batch: TaskBatch) -> None:
        """Raise `ValueError` where the labels do not fit."""

    def prior_of(self, batch: TaskBatch, levels: int = 1) -> Gaussian:
        """Return the prior of every task."""

    def infer(self, batch: TaskBatch, num_steps: int | None = None, level: Tensor | None = None) -> Inference:
        """Return the path of posteriors."""

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Iterate over all parameters."""


class Program(nn.Module):
    """A Pyro callable that views its owner: `model` or `guide` as a module of its own.

    Args:
        owner: the model that holds all parameters.
        kind: which of its programs to run.
    """

    def __init__(self, owner: Owner, kind: Literal["model", "guide"]) -> None:
        super().__init__()
        self.owner = owner
        self.kind = kind

    @checked()
    def forward(self, batch: TaskBatch, observe: Observe | None = None) -> Tensor:
        """Run the program.

        Under `torch.jit`, as of `NUTS(model.model, jit_compile=True)`, of a model of 64 bits whose parameters are
        numbers: samplers move in 64 bits, and a trace holds no gradient.

        Raises:
            ValueError: if features or labels do not fit the model, or it is another one under `torch.jit`.
        """
        if is_tracing():
            _check_traced(self.owner)
        return (model_program if self.kind == "model" else guide_program)(self.owner, batch, observe)


def _check_traced(owner: Owner) -> None:
    """Raise `ValueError` where a trace of a program could not be run again.

    Pyro takes the gradient from the parameters that it knows for as long as it traces. They get it back here.
    """
    store = pyro.get_param_store()
    parameters = dict(owner.named_parameters())
    for parameter in parameters.values():
        parameter.requires_grad_(parameter.requires_grad or store.param_name(parameter) is not None)
    for name, parameter in parameters.items():
        if parameter.requires_grad or parameter.dtype != torch.float64:
            got = f"{parameter.dtype}, {'with' if parameter.requires_grad else 'without'} a gradient"
            raise ValueError(
                "jit_compile: expected a model of 64 bits whose parameters have no gradient, as "
                f"model.double().requires_grad_(False), got {name} of {got}"
            )


def register(owner: Owner) -> None:
    """Register every trainable parameter with Pyro, under names that do not depend on the process.

    The names are ``ebmeta.prior.loc`` and so on. Where another living model of this process has them in the store, they
    are ``ebmeta2.prior.loc``, and so on: two models train side by side. A model keeps its names as long as they are in
    the store.

    Values that no model of this process has put there come from a file (`ParamStoreDict.load`): they are copied into
    the parameters of the first model that asks for the names, which then trains on from them.

    Raises:
        ValueError: if such values are not those of all parameters of a model of this form, or a handler puts another
            value in the place of a parameter, which the model would not use.
    """
    store = pyro.get_param_store()
    parameters = {name: p for name, p in owner.named_parameters() if p.requires_grad}
    prefix = _prefix(owner, parameters)
    keys = {f"{prefix}.{name}": p for name, p in parameters.items()}
    loaded = {key: store[key] for key in store if key.startswith(f"{prefix}.") and store[key] not in _OWNERS}
    if loaded:
        _restore(keys, loaded)
    for key in [key for key in store if key.startswith(f"{prefix}.")]:
        if store[key] is not keys.get(key):
            del store[key]  # loaded and copied, or the parameter was replaced since, or its model is no more
    for key, parameter in keys.items():
        if not parameter.is_contiguous():
            parameter.data = parameter.data.contiguous()  # the store would keep a copy
        if detach_provenance(pyro.param(key, parameter)) is not parameter:  # wrapped by pyro.render_model, and the same
            raise ValueError(
                f"parameter {key!r}: expected the model's own value, got another one from a handler such as lift or "
                "substitute, which the model does not use; put it into the model itself (model.load_state_dict)"
            )
        _OWNERS[parameter] = weakref.ref(owner)


#: The model of each parameter that was given to Pyro.
_OWNERS: MutableMapping[Tensor, weakref.ref[Owner]] = WeakTensorKeyDictionary()


def _prefix(owner: Owner, parameters: Mapping[str, Tensor]) -> str:
    """Return what the names of a model begin with."""
    store = pyro.get_param_store()
    for name, parameter in parameters.items():
        key = store.param_name(parameter)
        if key is not None and key in store and (store[key] is parameter or store[key] not in _OWNERS):
            return str(key).removesuffix(f".{name}")
    for number in itertools.count(1):
        prefix = "ebmeta" if number == 1 else f"ebmeta{number}"
        here = [_OWNERS.get(store[key]) for key in store if key.startswith(f"{prefix}.")]
        if all(other is None or other() in (None, owner) for other in here):
            break
    return prefix


def _restore(keys: Mapping[str, Tensor], loaded: Mapping[str, Tensor]) -> None:
    """Copy the values of a file into the parameters of a model."""
    wanted = {key: tuple(p.shape) for key, p in keys.items()}
    found = {key: tuple(value.shape) for key, value in loaded.items()}
    for key in wanted | found:
        if wanted.get(key) != found.get(key):
            raise ValueError(
                f"parameter store: expected {key!r} of shape {wanted.get(key, 'none')}, as the model has it, got "
                f"{found.get(key, 'none')}; a store from a file belongs to a model of the same form "
                "(pyro.clear_param_store forgets it)"
            )
    with torch.no_grad():
        for key, parameter in keys.items():
            parameter.copy_(loaded[key])


def _observed(owner: Owner, observe: Observe | None) -> Observe:
    """Return what to observe: by default the training objective, and of a joint model everything."""
    return observe or ("both" if owner.joint else "query")


def _bottleneck(owner: Owner, observe: str) -> AbstractContextManager[Any]:
    """Weigh the latent sites by beta in the training objective: the ELBO is then log likelihood - beta * KL."""
    handler: AbstractContextManager[Any] = nullcontext()
    if observe == "query":
        handler = poutine.scale(scale=owner.beta) if owner.beta > 0 else poutine.mask(mask=False)
    return handler


@checked()
def model_program(owner: Owner, batch: TaskBatch, observe: Observe | None = None) -> Tensor:
    r"""Sample $w_t \sim p_\psi(w)$ and $y_{ti} \sim p(y \mid \phi(x_{ti})^\top w_t)$; in a joint model inputs too.

    Args:
        owner: the model.
        batch: $T$ tasks. Query labels are observed where present, and sampled where not. Inputs are always observed.
        observe: "query", the training objective, with latent sites weighted by beta, in which inputs score nothing; or
            the exact Bayesian model, unweighted: "support" (for MCMC on $p(w \mid d^s)$, or on
            $p(m, \pi \mid d^s, x^q)$ in a joint model) or "both", which adds the query labels. By default "query", and
            "both" for a joint model.

    Returns:
        The weights `w`, shape `(T, C, P)`.

    Raises:
        ValueError: if `observe` is unknown, features or labels do not fit the model, or a handler has put a value of
            another shape in the place of a site.
    """
    owner.check(batch)
    register(owner)
    observe = _observed(owner, observe)
    prior, level = owner.prior_of(batch), None
    own = batch.way_class if owner.training else None
    with pyro.plate("task", batch.num_tasks, dim=-1):
        with _bottleneck(owner, observe):
            if owner.likelihood.has_level:
                level = sample("level", dist.Normal(prior.loc.new_zeros(()), 1.0), batch.num_tasks)
            values = {name: sample(name, law, batch.num_tasks) for name, law in prior.sites().items()}
        w = prior.weights(values)
        if "w" not in values:
            put = pyro.deterministic("w", w, event_dim=2)  # labels follow weights that a handler has put in their place
            w = fitting("w", put, tuple(w.shape[-3:]))
        of_task = owner.predictor.of_task(batch, own)
        for side, rows, x in (("support", batch.support, of_task.support), ("query", batch.query, of_task.query)):
            features = x.to(w.dtype)  # samplers may move in 64 bits
            law = prior.inputs(values, rows.mask, batch.support_y if side == "support" else None)
            if law is not None:
                inputs = sample(f"{side}_x", law.mask(observe != "query"), batch.num_tasks, features[..., :-1])
                features = _with_constant(inputs, features)  # labels follow inputs that a handler has put there
            if observe in (side, "both") and not (owner.joint and side == "support"):
                _labels(owner, f"{side}_y", rows, owner.predictor(features, w), batch.way_mask, level)
    return w


def _with_constant(inputs: Tensor, features: Tensor) -> Tensor:
    """Return inputs, shape `(..., T, N, D)`, with the constant that features, `(T, N, D + 1)`, end with."""
    return torch.cat([inputs, features[..., -1:].expand(*inputs.shape[:-1], 1)], -1)


def _labels(owner: Owner, site: str, rows: Rows, eta: Tensor, way_mask: Tensor, level: Tensor | None) -> None:
    eta = eta if owner.likelihood.categorical else eta.double()
    labels = owner.likelihood.distribution(eta, way_mask, Given(rows.size, level))
    sample_labels(site, labels, rows, owner.likelihood, way_mask)


def guide_program(owner: Owner, batch: TaskBatch, observe: Observe | None = None) -> Tensor:
    r"""Sample $w_t \sim q_K(w; d^s_t, x^q_t)$, in a joint model by way of $m_t, \pi_t \sim q_K(m, \pi)$.

    Args:
        owner: the model.
        batch: $T$ tasks; the query labels are not used.
        observe: as for the model; "query" weighs latent sites by beta, and "support" and "both" do not.

    Returns:
        The weights `w`, shape `(T, C, P)`.
    """
    register(owner)
    observe = _observed(owner, observe)
    inferred = owner.infer(batch)
    q = inferred.path[-1]
    with pyro.plate("task", batch.num_tasks, dim=-1), _bottleneck(owner, observe):
        if inferred.levels is not None:
            known = (v.to(inferred.setting.x.dtype) for v in (inferred.levels.loc, inferred.levels.scale))
            level = sample("level", dist.Normal(*known), batch.num_tasks)
            q = _given_level(owner, batch, level)
        values = {name: sample(name, law, batch.num_tasks) for name, law in q.sites().items()}
    return q.weights(values)


def _given_level(owner: Owner, batch: TaskBatch, level: Tensor) -> Gaussian:
    """Return $q_K$ of every task given its noise level, shape `(T,)`, or many levels, `(..., T)`, by other plates."""
    times = level.numel() // batch.num_tasks
    tasks = batch if times == 1 else batch[torch.arange(batch.num_tasks).repeat(times)]
    q = owner.infer(tasks, level=level.flatten()).path[-1]
    loc, precision = (v.view(*level.shape, *v.shape[1:]) for v in (q.loc, q.precision))
    return q.with_(loc, precision)

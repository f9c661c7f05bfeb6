r"""Uncertainty of the prior's parameters: predictions that average over what few groups leave open.

Draws from the normal approximation at the fitted parameters $\hat\psi$,

$$ \psi_s \sim \mathcal N(\hat\psi, H^{-1}), \qquad
   H = -\nabla^2 \big[ \textstyle\sum_t \log p_\psi(y_t) + \log h(\psi) \big]_{\hat\psi}, $$

are weighted by what the approximation gets wrong, and for a new group by the evidence of its support set,

$$ p(y_i \mid y^s, \text{groups}) \approx \sum_s v_s\, p(y_i \mid y^s, \psi_s), \qquad
   v_s \propto p_{\psi_s}(y^s)\, \frac{h(\psi_s) \prod_t p_{\psi_s}(y_t)}{\mathcal N(\psi_s; \hat\psi, H^{-1})}. $$

Weights of the draws are cut at $\sqrt S$ times their mean (Ionides 2008, Truncated importance sampling). $h$ is the
hyperprior of `ebmeta.evidence`, taken as a density of $\log s_p$: a nearly flat prior of the standard deviation $s_p$.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from ebmeta.evidence import Evidence, Hyperprior
from ebmeta.group_sampling import GroupSampler
from ebmeta.inference import Inference, MixtureInference
from ebmeta.model import EmpiricalBayes
from ebmeta.tasks import TaskBatch

__all__ = ["PriorEnsemble", "propagate"]

STEP = 1e-3  # of the finite differences of gradients
FLATTEST = 1.0  # least curvature of the normal approximation: no parameter is drawn with a deviation above 1


class PriorEnsemble(EmpiricalBayes):
    """A model whose prior is known up to a weighted sample: predictions are mixtures over it.

    Takes the place of the model in `predict`, `evaluate` and `FewShotRegressor`. It cannot be trained further or saved;
    save the model that it was made from.

    Args:
        model: the fitted model.
        members: models with other values of the parameters.
        log_weight: log weight of each member, shape `(S,)`.
        new_groups: whether support sets weigh the members.
    """

    log_weight: Tensor

    def __init__(
        self, model: EmpiricalBayes, members: list[EmpiricalBayes], log_weight: Tensor, new_groups: bool = True
    ) -> None:
        parts = model.prior, model.likelihood, model.predictor, model.initializer, model.refiner
        super().__init__(*parts, beta=model.beta)
        self.members = nn.ModuleList(members)
        self.register_buffer("log_weight", log_weight)
        self.new_groups = new_groups

    def infer(  # type: ignore[override]  # a mixture of what the model returns, with the same methods
        self, batch: TaskBatch, num_steps: int | None = None, level: Tensor | None = None
    ) -> MixtureInference:
        """Return inference under every member, weighted by the evidence of each task's support set."""
        parts: list[Inference] = [member.infer(batch, num_steps, level) for member in self.members]  # type: ignore[operator]
        evidence = torch.stack([p.log_evidence for p in parts], 1)
        return MixtureInference(parts, torch.log_softmax(evidence * self.new_groups + self.log_weight, 1))


def propagate(
    model: EmpiricalBayes,
    tasks: GroupSampler | TaskBatch,
    *,
    hyperprior: bool | Hyperprior = True,
    num_draws: int = 32,
    new_groups: bool = True,
    seed: int = 0,
) -> PriorEnsemble:
    """Return the model with the uncertainty of its prior's and likelihood's parameters.

    Args:
        model: a model fitted by `ebmeta.fit_evidence` to the same groups with the same `hyperprior`.
        tasks: those groups.
        hyperprior: as for `fit_evidence`.
        num_draws: draws of the parameters, $S$.
        new_groups: weigh the draws by the support set of each group that is predicted; False where those are the
            groups fitted, whose labels have been counted already.
        seed: seed of the draws.

    Raises:
        ValueError: if `num_draws` is below 1, or as for `fit_evidence`.
    """
    if num_draws < 1:
        raise ValueError(f"num_draws: expected at least 1, got {num_draws}")
    dtype = next(model.parameters()).dtype
    work = copy.deepcopy(model).double()
    evidence = Evidence(work, tasks, hyperprior=hyperprior, seed=seed)
    center = evidence.read()
    size = len(center)
    hessian = torch.stack(
        [
            (evidence.gradient(center + STEP * e) - evidence.gradient(center - STEP * e)) / (2 * STEP)
            for e in torch.eye(size, dtype=torch.float64)
        ]
    )
    values, vectors = torch.linalg.eigh((hessian + hessian.T) / 2)
    values = values.clamp(min=FLATTEST)
    noise = torch.randn(num_draws, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    draws = center + (noise / values.sqrt()) @ vectors.T
    log_ratio = torch.tensor([-evidence.value(d) for d in draws]) + noise.square().sum(1) / 2
    log_ratio = torch.where(log_ratio.isfinite(), log_ratio, -math.inf)
    log_mean = torch.logsumexp(log_ratio, 0) - math.log(num_draws)
    log_weight = torch.minimum(log_ratio, log_mean + math.log(num_draws) / 2)
    members = []
    for d in draws:
        evidence.write(d)
        members.append(copy.deepcopy(work).to(dtype).eval())
    return PriorEnsemble(model, members, torch.log_softmax(log_weight, 0).to(dtype), new_groups)

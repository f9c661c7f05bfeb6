r"""Predictions that average over the uncertainty of the prior's parameters, which few groups leave open.

Candidates come from a Student-t of the normal approximation's location and scale at the fitted parameters $\hat\psi$,

$$ \psi_s \sim t_\nu(\hat\psi, H^{-1}), \qquad
   H = -\nabla^2 \big[ \textstyle\sum_t \log p_\psi(y_t) + \log h(\psi) \big]_{\hat\psi}, $$

with $\nu$ the number of parameters, at least 5, and $S$ of them are kept by systematic resampling with weights of what
the approximation gets wrong,

$$ v_s \propto \frac{h(\psi_s) \prod_t p_{\psi_s}(y_t)}{t_\nu(\psi_s; \hat\psi, H^{-1})}, $$

flattened where a few of them would outweigh all others (`temper`).

For a new group each member counts by the evidence of its support set, $p_{\psi_s}(y^s)$. $h$ is the hyperprior of
`ebmeta.training.evidence`, as a density of $\log s_p$: a nearly flat prior of the standard deviation $s_p$.
"""

from __future__ import annotations

import copy
import math
import os
from pathlib import Path

import torch
from torch import Tensor

from ebmeta.foundation.checks import above, at_least, checked, found
from ebmeta.foundation.guarding import undisturbed
from ebmeta.foundation.telling import tell
from ebmeta.model.base import PredictiveModel
from ebmeta.model.empirical_bayes import EmpiricalBayes
from ebmeta.model.members import EnsembleInference, Members, chunk_size, pack, unpack
from ebmeta.model.posterior import Inference
from ebmeta.model.storage import save_members
from ebmeta.tasks.batch import TaskBatch
from ebmeta.tasks.groups import GroupSampler
from ebmeta.training.evidence import Evidence, Hyperprior

__all__ = ["PriorEnsemble", "propagate", "temper"]

DEAD = 1e-9  # curvature of a parameter that nothing depends on, relative to the largest
CANDIDATES = 8  # for each member
STEP = 1e-3  # of the finite differences of gradients
FLATTEST = 1.0  # least curvature of the approximation: no parameter is drawn with a scale above 1
UPHILL = 1e-2  # curvature below minus this, of the largest: no maximum
UNSETTLED = 0.5  # nats left to gain that draws do not make up for
FREEDOM = 5  # least degrees of freedom of the draws: tails wider than those of the target


@checked()
class PriorEnsemble(PredictiveModel):
    """A model whose prior is a weighted sample; predictions are mixtures over it.

    Takes the place of the model in `predict`, `evaluate` and `FewShotRegressor`. It cannot be trained further. `save`
    writes it to a folder, and `ebmeta.load` reads it.

    Args:
        model: the fitted model.
        names: parameters that differ between members, as `named_parameters` calls them.
        values: their values in each member, shape `(S, D)`; see `Members`.
        log_weight: log weight of each member, shape `(S,)`.
        new_groups: whether support sets weigh the members.
    """

    values: Tensor
    log_weight: Tensor

    def __init__(
        self, model: EmpiricalBayes, names: tuple[str, ...], values: Tensor, log_weight: Tensor, new_groups: bool = True
    ) -> None:
        super().__init__()
        if values.dim() != 2 or log_weight.shape != values.shape[:1] or not bool(values.isfinite().all()):
            got = f"{tuple(values.shape)} and {tuple(log_weight.shape)}"
            raise ValueError(f"values: expected finite numbers (S, D), and log_weight (S,), got shapes {got}")
        if bool(log_weight.isnan().any()) or not bool(log_weight.logsumexp(0).isfinite()):
            raise ValueError("log_weight: expected logarithms of weights, got NaN, infinity, or no weight at all")
        if unknown := sorted(set(names) - {name for name, _ in model.named_parameters()}):
            raise ValueError(f"names: expected names of parameters of the model, got {unknown[0]!r}")
        #: The fitted model, about which members were drawn.
        self.center = model
        self.likelihood, self.predictor = model.likelihood, model.predictor
        self.feature_names, self.covariate_names = model.feature_names, model.covariate_names
        self.names, self.new_groups = names, new_groups
        self.register_buffer("values", values)
        self.register_buffer("log_weight", log_weight)

    @property
    def num_steps(self) -> int:
        return self.center.num_steps

    @property
    def num_covariates(self) -> int:
        return self.center.num_covariates

    @property
    def joint(self) -> bool:
        return self.center.joint

    @property
    def fitted(self) -> bool:
        """True: members are drawn about a fit."""
        return True

    @checked()
    def check(self, batch: TaskBatch) -> None:
        """Raise `ValueError` where the labels are of the wrong kind, or impossible, for the likelihood."""
        self.center.check(batch)

    @property
    def members(self) -> list[EmpiricalBayes]:
        """Each member as a model of its own."""
        each, out = Members(self.center, self.names, self.values), []
        for flat in self.values:
            out.append(copy.deepcopy(self.center))
            out[-1].load_state_dict(each.split(flat), strict=False)
        return out

    @checked()
    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Save the members to a folder, as a whole or not at all; `ebmeta.load` reads it.

        Args:
            folder: where to; made where it does not exist.
            overwrite: replace also files that ebmeta did not write.

        Returns:
            The folder.

        Raises:
            OSError: as for `ebmeta.save`.
            ValueError: as for `ebmeta.save`.
        """
        folder = Path(folder)
        facts = {"names": list(self.names), "new_groups": self.new_groups}
        save_members(self.center, facts, {"values": self.values, "log_weight": self.log_weight}, folder, overwrite)
        return folder

    @checked(num_steps=at_least(0))
    def infer(self, batch: TaskBatch, num_steps: int | None = None) -> EnsembleInference:
        """Return inference under every member, weighted by the evidence of each task's support set."""
        members = Members(self.center, self.names, self.values)
        inferred: list[Inference] = []

        def look(model: EmpiricalBayes) -> list[Tensor]:
            inferred.append(model.infer(batch, num_steps))
            return [inferred[-1].log_evidence, *pack(inferred[-1])]

        rows = batch.support_mask.numel() + batch.query_mask.numel()
        evidence, *packed = members.map(look, chunk=chunk_size(rows))
        log_weight = torch.log_softmax(evidence.T * self.new_groups + self.log_weight, 1)
        first = unpack(inferred[0], [t[0] for t in packed]).with_likelihood(self.likelihood)
        return EnsembleInference(log_weight, log_weight, members, first, packed)


@checked(num_draws=at_least(1))
@undisturbed()
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
        num_draws: members, $S$; a candidate that is kept more than once is one member of more weight.
        new_groups: weigh the draws by the support set of each group that is predicted; False where those are the
            groups fitted, whose labels have been counted already.
        seed: seed of the draws.

    Raises:
        ValueError: if `num_draws` is below 1, no label tells of a parameter, or as for `fit_evidence`.
    """
    first = next(model.parameters())
    dtype, home = first.dtype, first.device
    work = copy.deepcopy(model).cpu().double()
    evidence = Evidence(work, tasks, hyperprior=hyperprior, seed=seed)
    center = evidence.read()
    size = len(center)
    hessian = torch.stack(
        [
            (evidence.gradient(center + STEP * e) - evidence.gradient(center - STEP * e)) / (2 * STEP)
            for e in torch.eye(size, dtype=torch.float64)
        ]
    )
    alive = hessian.abs().sum(1) > DEAD * hessian.abs().max()  # the rest, such as a triangle's other half, does nothing
    if not alive.any():
        raise ValueError("tasks: expected labelled rows, got none that tell of a parameter")
    hessian, size = hessian[alive][:, alive], int(alive.sum())
    values, vectors = torch.linalg.eigh((hessian + hessian.T) / 2)
    slope = (vectors.T @ evidence.gradient(center)[alive]).square()
    left = float((slope / values.clamp(min=FLATTEST)).sum() / 2)
    if float(values[0]) < -UPHILL * float(values[-1]) or left > UNSETTLED:
        tell(
            f"propagate: the parameters are not at a maximum (least curvature {float(values[0]):.2g}, {left:.2g} nats "
            "or more left to gain), so that draws about them are no posterior: fit the same groups by fit_evidence "
            "first, with the same hyperprior"
        )
    values = values.clamp(min=FLATTEST)
    generator = torch.Generator().manual_seed(seed)
    freedom = max(FREEDOM, size)
    normal = torch.randn(CANDIDATES * num_draws, size + freedom, generator=generator, dtype=torch.float64)
    chi_squared = normal[:, size:].square().sum(1, keepdim=True)
    noise = normal[:, :size] * (freedom / chi_squared).sqrt()
    draws = center.repeat(len(noise), 1)
    draws[:, alive] += (noise / values.sqrt()) @ vectors.T
    log_proposal = -(freedom + size) / 2 * torch.log1p(noise.square().sum(1) / freedom)
    log_ratio = -evidence.values(draws) - log_proposal
    reached = temper(log_ratio, num_draws / 2).cumsum(0)
    combs = (torch.arange(num_draws, dtype=torch.float64) + 0.5) / num_draws
    chosen = torch.searchsorted(reached, combs).clamp(max=len(draws) - 1)
    kept, counts = torch.unique(chosen, return_counts=True)
    evidence.write(center)
    log_weight = (counts / num_draws).log().to(home, dtype)
    return PriorEnsemble(work.to(home, dtype), evidence.names, draws[kept].to(home, dtype), log_weight, new_groups)


@checked(least=above(0))
def temper(log_ratio: Tensor, least: float) -> Tensor:
    r"""Return weights $\propto v_s^\alpha$ with the largest $\alpha \le 1$ whose effective number is at least `least`.

    $$ S_\mathrm{eff}(\alpha) = \frac{(\sum_s v_s^\alpha)^2}{\sum_s v_s^{2 \alpha}} $$

    With many parameters a few ratios outweigh all others by chance, and a sample that they decide knows no uncertainty;
    at $\alpha = 0$ the weights are those of the normal approximation alone.

    Args:
        log_ratio: $\log v_s$ up to a constant, shape `(S,)`; what is not finite has no weight.
        least: effective number, at most the number of finite ratios.

    Returns:
        Weights that sum to one, shape `(S,)`.

    Raises:
        ValueError: if no ratio is finite.

    Source: Koblents and Miguez 2015, A population Monte Carlo scheme with transformed weights.

    Examples:
        >>> temper(torch.tensor([0.0, 0.0, 1.0]), 2.0).round(decimals=3)  # enough as they are
        tensor([0.2120, 0.2120, 0.5760])
        >>> weights = temper(torch.tensor([0.0, 1.0, 100.0]), 2.0)
        >>> bool((1 / weights.square().sum()).isclose(torch.tensor(2.0), atol=1e-3))
        True
    """
    if log_ratio.dim() != 1 or not log_ratio.is_floating_point() or not log_ratio.isfinite().any():
        raise ValueError(f"log_ratio: expected numbers in one row, some finite, got {found(log_ratio)}")
    log_ratio = torch.where(log_ratio.isfinite(), log_ratio.detach(), -math.inf)
    least = min(least, float(log_ratio.isfinite().sum()))

    def weights(power: float) -> Tensor:
        return torch.softmax(torch.where(log_ratio.isfinite(), power * log_ratio, -math.inf), 0)

    low, high = 0.0, 1.0
    if 1 / float(weights(1.0).square().sum()) >= least:
        return weights(1.0)
    for _ in range(50):
        middle = (low + high) / 2
        enough = 1 / float(weights(middle).square().sum()) >= least
        low, high = (middle, high) if enough else (low, middle)
    return weights(low)

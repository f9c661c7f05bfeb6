r"""Refinement of class weights by learned steps of a mixture model of the queries.

Queries inform class weights because they cluster. On the unit sphere, with class directions $u_c$, a
concentration $\kappa$ and class proportions $\pi$, the mixture of von Mises-Fisher distributions

$$ p(x) = \sum_c \pi_c\, \mathrm{vMF}(x; u_c, \kappa) \quad\Rightarrow\quad
   p(y = c \mid x) = \mathrm{softmax}_c(\kappa\, u_c^\top x + \log \pi_c) $$

makes the linear predictor exact with weights $w_c = (\kappa u_c, \log \pi_c)$, the last one for the constant
feature. Given a belief $r_i$ about the class of each query, the directions and proportions that fit support
and queries best are

$$ R_c = \Lambda_{0c} m_{0c} + \omega_c \sum_i r_{ic}\, \phi(x_i), \qquad
   m_c = \Big( \kappa_c\, \frac{R_c}{\lVert R_c \rVert},\;
   b \log \frac{C (\alpha + \sum_i r_{ic})}{C \alpha + Q} + b_c \Big), \qquad
   \Lambda_c = \Lambda_{0c} + \nu \sum_i r_{ic}, $$

where $q_0$ speaks for the support set, $\omega_c$ weighs a query against it and $\alpha$ is the concentration of
a Dirichlet prior of $\pi$: the one that a task states (`TaskBatch.concentration`), or a learned one. With $r = p$, one
$\kappa$, $b = 1$, $b_c = 0$ and the weight of a labelled row for $\omega$ this is expectation-maximisation. Here $r$ is
the belief of the synthetic gradient, $\xi = p - r$; $\kappa, \omega, \alpha, b, \nu$ are learned; and the same network
adapts $\kappa_c$, $\omega_c$ and $b_c$ to the task. What this reaches is a heuristic, and no posterior of the program.
All steps share their parameters, so that any number of them may be taken. What is reported after a step has a
temperature of its own, read from the unlabelled queries (`ebmeta.refine.temperature`; theory: "Refinement as a mixture
model").

Source: Banerjee, Dhillon, Ghosh and Sra 2005, Clustering on the unit hypersphere using von Mises-Fisher distributions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ebmeta.foundation.seeding import blank_linear
from ebmeta.parts.gaussian import Gaussian
from ebmeta.parts.heads import CONSTANT
from ebmeta.parts.widths import AMPLITUDE, Widths, class_widths
from ebmeta.refine.base import Refiner
from ebmeta.refine.class_synthetic_gradient import ClassSyntheticGradient
from ebmeta.refine.state import QueryState
from ebmeta.refine.temperature import TaskTemperature, joined
from ebmeta.tasks.training_rows import TrainingRows

__all__ = ["MixtureRefiner"]

LEAST_PROBABILITY = 1e-9  # of a label behind a temperature
KAPPA, INFORMATION = 1.3, 0.05  # relative to a measured q_0: size of the weights, and precision that a query adds


class MixtureRefiner(Refiner):
    r"""Steps of a mixture model on the sphere, with a learned belief; parameters shared by all steps.

    Args:
        synthetic_gradient: the network $\xi$ whose belief $r$ is used.
        num_steps: number of steps in training, $K$.
        scale: initial $\kappa$.
        weight: initial $\omega$, in units of $q_0$'s precision times its location.
        concentration: initial $\alpha$.
        widths: "measured" where those of prior and initializer are, with which $\kappa$, $\omega$ and $\nu$ start in
            proportion (`ebmeta.parts.widths`).

    Raises:
        ValueError: if `num_steps` is negative.
    """

    synthetic_gradient: ClassSyntheticGradient
    log_scale: nn.Parameter
    log_weight: nn.Parameter
    log_concentration: nn.Parameter
    log_information: nn.Parameter

    def __init__(
        self,
        synthetic_gradient: ClassSyntheticGradient,
        num_steps: int,
        scale: float = 10.0,
        weight: float = 40.0,
        concentration: float = 3.0,
        *,
        widths: Widths = "trained",
    ) -> None:
        super().__init__(synthetic_gradient, num_steps)
        self.widths = widths
        start = {"scale": scale, "weight": weight, "concentration": concentration, "information": 0.2}
        for name, value in start.items():
            self.register_parameter(f"log_{name}", nn.Parameter(torch.tensor(math.log(value))))
        self.share = nn.Parameter(torch.tensor(0.7))
        self.adapt = blank_linear(synthetic_gradient.readout.in_features, 3)
        nn.init.zeros_(self.adapt.weight)
        nn.init.zeros_(self.adapt.bias)
        self.temperature = TaskTemperature(num_steps, synthetic_gradient.num_with_products)

    @property
    def calibrated(self) -> bool:
        return self.temperature.fitted

    @torch.no_grad()
    def measure(self, rows: TrainingRows) -> TrainingRows:
        if self.widths == "measured":
            about, among = class_widths(rows)
            typical = float(about.log().mean())
            self.log_scale.fill_(math.log(AMPLITUDE * KAPPA * float((among / (among + about)).mean())))
            self.log_weight.fill_(math.log(AMPLITUDE) - typical)
            self.log_information.fill_(math.log(INFORMATION) - typical)
        return rows

    def forget(self) -> None:
        self.temperature.forget()

    @torch.no_grad()
    def finish(self, tasks: Iterable[tuple[Sequence[QueryState], Tensor]]) -> None:
        r"""Fit the temperature of every task.

        $$ \min_{a_k, b_k} \sum_{t, i} -\log p\big(y_{ti} \mid \eta_{ti} \sim
           \mathcal N(t_k\, m_k^\top x_{ti},\; x_{ti}^\top \Lambda_k^{-1} x_{ti})\big), \qquad k = 1, \dots, K, $$

        the classes' probabilities by `Categorical.moments`.

        Args:
            tasks: as of `Refiner.finish`.
        """
        self.forget()
        kept, likelihood = [], None
        for states, y in tasks if self.num_steps else ():
            setting = states[0].setting
            likelihood = setting.likelihood
            steps = [(s.once(self.synthetic_gradient.read).with_products, *s.marginal) for s in states]
            kept.append((y, setting.query_mask, setting.way_mask, *(value for step in steps for value in step)))
        batches = joined(kept)
        for k in range(self.num_steps):
            at = slice(3 * k, 3 * k + 3)

            def nll(factor: Tensor, at: slice = at) -> Tensor:
                assert likelihood is not None  # for the type checker
                lost = []
                parts = torch.split(factor, [len(batch[0]) for batch in batches])
                for (y, query_mask, way_mask, *steps), t in zip(batches, parts, strict=True):
                    _, loc, var = steps[at]
                    p, _ = likelihood.moments(t[:, None, None] * loc, var, way_mask)
                    of_label = p.gather(-1, y.unsqueeze(-1)).squeeze(-1)
                    lost.append(-of_label.clamp(min=LEAST_PROBABILITY).log()[query_mask])
                return torch.cat(lost).mean()

            self.temperature.fit(k, torch.cat([batch[3 + at.start] for batch in batches]), nll)

    def fast(self) -> Iterator[nn.Parameter]:
        yield from (self.log_scale, self.log_weight, self.log_concentration, self.log_information, self.share)
        yield from self.adapt.parameters()

    def step(self, k: int, state: QueryState) -> Gaussian:
        setting, network = state.setting, self.synthetic_gradient
        r = network.belief(state) * setting.query_mask.unsqueeze(-1)
        claimed = r.sum(1).unsqueeze(-1)
        q0, ways = setting.q0, setting.way_mask.sum(1)[:, None, None]
        adapted = torch.tanh(self.adapt(state.once(network.read).by_class))  # bounded: stays near the mixture model
        log_scale, shift, log_weight = adapted.tensor_split(3, -1)
        weight = (self.log_weight + log_weight).exp()
        resultant = (q0.times(q0.loc) + weight * (r.mT @ state.x))[..., :-1]
        direction = functional.normalize(resultant, dim=-1, eps=1e-6)
        rate = torch.exp(-self.log_concentration)
        if setting.concentration is not None:
            known = setting.concentration[:, None, None].to(rate)
            rate = torch.where(known.isnan(), rate, 1 / known)
        share = ways * (1 + rate * claimed) / (ways + rate * setting.query_mask.sum(1)[:, None, None])
        bias = (self.share * share.log() + shift) / CONSTANT
        loc = torch.cat([(self.log_scale + log_scale).exp() * direction, bias], -1)
        loc = torch.where(setting.way_mask.unsqueeze(-1), loc, q0.loc)
        return q0.with_(loc, q0.precision + self.log_information.exp() * claimed)

    def report(self, k: int, state: QueryState) -> Gaussian | None:
        if torch.compiler.is_compiling() or not self.temperature.fitted:
            return None
        q, network = state.q, self.synthetic_gradient
        factor = self.temperature(k, state.once(network.read).with_products)[:, None, None]
        return q.with_(torch.where(state.setting.way_mask.unsqueeze(-1), factor * q.loc, q.loc), q.precision)

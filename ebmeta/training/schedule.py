r"""Learning rates and the length of a gradient, as pure functions of the iteration.

$$ \eta_n = \eta \begin{cases} (n + 1) / W & n < W \\
   \tfrac12 \big(1 + \cos \tfrac{\pi (n - W)}{N - W}\big) & n \ge W \end{cases} $$

at iteration $n$ of $N$, with a warm-up of $W = N / 10$ iterations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ebmeta.foundation.optimizers import Adam
from ebmeta.model.empirical_bayes import EmpiricalBayes

__all__ = ["Schedule"]

WARM_UP = 0.1
FAST = 0.02  # least peak learning rate of the refiner's few numbers
CLIP = 5.0


@dataclass(frozen=True)
class Schedule:
    r"""The learning rate and step of each iteration.

    Args:
        num_iterations: $N$.
        learning_rate: peak learning rate $\eta$; that of the refiner's few numbers is at least 0.02.
    """

    num_iterations: int
    learning_rate: float

    def share(self, iteration: int) -> float:
        """Return the learning rate of an iteration over its peak.

        Examples:
            >>> [round(Schedule(20, 1.0).share(n), 3) for n in (0, 1, 2, 11, 20)]
            [0.5, 1.0, 1.0, 0.5, 0.0]
        """
        warm = max(1, int(WARM_UP * self.num_iterations))
        if iteration < warm:
            return (iteration + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (iteration - warm) / max(1, self.num_iterations - warm)))

    def optimizer(self, model: EmpiricalBayes) -> Adam:
        """Return Adam over what a model trains; each of its groups of parameters knows its `peak` learning rate."""
        fast = [p for p in model.fast() if p.requires_grad]
        known = set(map(id, fast))
        rest = [p for p in model.trainable() if id(p) not in known]
        groups = [(rest, self.learning_rate), (fast, max(FAST, self.learning_rate))]
        used = [group for group in groups if group[0]] or groups[:1]  # a model may be measured alone
        return Adam([{"params": parameters, "peak": peak} for parameters, peak in used], fused=True)

    def step(self, model: EmpiricalBayes, optimizer: Adam, loss: float, iteration: int) -> float:
        """Change the parameters by their gradients, cut to a norm of 5, and return the learning rate.

        Args:
            model: the model in training, whose parameters have the gradient of the loss.
            optimizer: its optimiser.
            loss: what is minimised.
            iteration: $n$.

        Raises:
            ValueError: if no parameter has a gradient (some may have none), or the loss or its gradient is not finite;
                nothing has changed then.
        """
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        if all(p.grad is None for p in trained):
            raise ValueError(
                f"gradient: expected one for some of the {len(trained)} trained parameters at iteration {iteration}, "
                "got none: take that of a loss of this model first"
            )
        share = self.share(iteration)
        for group in optimizer.param_groups:
            group["lr"] = share * group["peak"]
        slope = torch.nn.utils.clip_grad_norm_(model.trainable(), CLIP).item()
        if not (math.isfinite(loss) and math.isfinite(slope)):
            raise ValueError(
                f"the loss became {loss} (gradient {slope}) at iteration {iteration}; expected finite: lower "
                f"learning_rate ({self.learning_rate}), or bring the inputs to unit scale"
            )
        optimizer.step()
        return share * self.learning_rate

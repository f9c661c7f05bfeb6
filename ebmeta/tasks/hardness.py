r"""Harder tasks, whose classes are spread about their means and split in two.

$$ x_i \leftarrow \bar x_c + s\,(x_i - \bar x_c) + \tfrac{t_c}{2}\, \varepsilon_i\, (\bar x_{c'} - \bar x_c) $$

with $s = 1 + 0.3\,b$ and $b \sim \mathcal U(0, 2a)$ for each task, $t_c \sim \mathcal U(0, b)$ and another class $c'$
for each class of a task, and a sign $\varepsilon_i = \pm 1$ for each row. Features of the classes that an embedding was
trained on are tighter than those of new classes; a model trained on them as they are trusts its queries too much. Tasks
of all degrees teach it how far to trust them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ebmeta.tasks.classes import ClassRows

__all__ = ["Hardening"]

SPREAD = 0.3  # of a class about its mean, for each unit of strength


@dataclass(frozen=True, eq=False)
class Hardening:
    """What makes the rows of a task harder; a `ebmeta.tasks.drawing.Change`.

    Args:
        rows: all rows, of which classes have their means.
        strength: $a$; 0 changes nothing.
    """

    rows: ClassRows
    strength: float

    def __call__(self, task: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the rows of a task as a harder one has them.

        Args:
            task: the rows, shape `(N, ...)`.
            rows: their numbers among all rows, shape `(N,)`.
            rng: the random generator of the batch.
        """
        classes, index = np.unique(self.rows.codes[rows], return_inverse=True)
        every = self.rows.means
        means = every[classes]
        away = every[rng.integers(len(every), size=len(classes))] - means
        shape = (-1, *[1] * (task.ndim - 1))
        strength = rng.uniform(0, 2 * self.strength)
        away *= rng.uniform(0, strength / 2, len(classes)).reshape(shape)
        side = rng.choice(np.array([-1.0, 1.0]), len(task)).reshape(shape)
        out: np.ndarray = means[index] + (1 + SPREAD * strength) * (task - means[index]) + side * away[index]
        return out.astype(task.dtype)

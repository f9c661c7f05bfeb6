"""The first chapter of the demo: five labelled digits, a pile without labels, and no training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ebmeta.estimators.classifier import FewShotClassifier
from ebmeta.foundation.checks import at_least, checked
from ebmeta.tasks.drawing import generator

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Pile", "sort_pile"]

SIDE, SCALE, GAP = 8, 5, 8  # pixels of an image, of one of its pixels in the picture, between images
WRONG, RIGHT = "#b3261e", "#1c2330"


@dataclass(frozen=True, eq=False)
class Pile:
    """A few labelled digits, and unlabelled ones with what the general classifier says of them.

    Args:
        shown: labelled images, one of each digit, shape `(C, 64)`.
        digits: their digits, shape `(C,)`.
        rows: unlabelled images, shape `(Q, 64)`.
        truth: their digits, which only the picture and the scores look at, shape `(Q,)`.
        probs: class probabilities, shape `(Q, C)`.
    """

    shown: np.ndarray
    digits: np.ndarray
    rows: np.ndarray
    truth: np.ndarray
    probs: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """The likeliest digit of each unlabelled image, shape `(Q,)`."""
        found: np.ndarray = self.digits[self.probs.argmax(1)]
        return found

    @property
    def numbers(self) -> dict[str, Any]:
        """What was measured: the share that is right, and what the probabilities said it would be."""
        return {
            "digits": self.digits.tolist(),
            "rows": len(self.rows),
            "accuracy": float((self.predicted == self.truth).mean()),
            "probably_right": float(self.probs.max(1).mean()),
        }

    def figure(self) -> Figure:
        """Draw a line of images for each digit: the labelled one, then all that look like it, the surest first."""
        from matplotlib.figure import Figure

        lines = [np.flatnonzero(self.predicted == digit) for digit in self.digits]
        lines = [own[np.argsort(-self.probs[own].max(1), kind="stable")] for own in lines]
        step, longest = SIDE * SCALE + GAP, max(map(len, lines))
        height, width = len(lines) * (step + 10), (longest + 1) * step + 3 * GAP
        canvas = np.full((height, width), np.nan)
        figure = Figure(figsize=(width / 100, height / 100 + 0.3), layout="constrained")
        ax = figure.subplots()
        for line, (own, image) in enumerate(zip(lines, self.shown, strict=True)):
            top = line * (step + 10) + GAP // 2
            _place(canvas, image, top, GAP // 2)
            _frame(ax, top, GAP // 2, "#2f4b7c")
            for place, row in enumerate(own):
                left = (place + 1) * step + 3 * GAP
                _place(canvas, self.rows[row], top, left)
                wrong = self.truth[row] != self.predicted[row]
                if wrong:
                    _frame(ax, top, left, WRONG)
                share = f"{100 * min(self.probs[row].max(), 0.994):.0f}"
                color = WRONG if wrong else RIGHT
                ax.text(left + step / 2 - GAP / 2, top + step - 4, share, size=6, color=color, ha="center", va="top")
        ax.imshow(canvas, cmap="gray_r", vmin=0, vmax=16, interpolation="none")
        ax.text(0, -6, "labelled", size=8, color="#2f4b7c", va="bottom")
        said = "sorted by the classifier, the surest first; how sure it is, in %; mistakes are framed"
        ax.text(step + 3 * GAP, -6, said, size=8, color=RIGHT, va="bottom")
        ax.set_axis_off()
        return figure


def _place(canvas: np.ndarray, image: np.ndarray, top: int, left: int) -> None:
    from scipy.ndimage import zoom

    large = zoom(image.reshape(SIDE, SIDE), SCALE, order=3, mode="nearest", grid_mode=True)
    canvas[top : top + SIDE * SCALE, left : left + SIDE * SCALE] = large.clip(0, 16).round()


def _frame(ax: Axes, top: int, left: int, color: str) -> None:
    from matplotlib.patches import Rectangle

    size = SIDE * SCALE
    ax.add_patch(Rectangle((left - 2, top - 2), size + 3, size + 3, fill=False, color=color, linewidth=1.2))


@checked(num_rows=at_least(1))
def sort_pile(seed: int = 0, num_rows: int = 100) -> Pile:
    """Sort digits that ship with scikit-learn by one labelled image of each of five, without any training.

    Args:
        seed: seed of the digits; of each the first image has a label.
        num_rows: unlabelled images, the first others, of about equal numbers of each digit.
    """
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    digits = np.sort(generator(seed, 0).choice(10, 5, replace=False))
    shown = np.array([np.argmax(y == digit) for digit in digits])
    rows = np.setdiff1d(np.flatnonzero(np.isin(y, digits)), shown)[:num_rows]
    probs = FewShotClassifier().fit(X[shown], digits).predict_proba(X[rows])
    return Pile(X[shown], digits, X[rows], y[rows], probs)

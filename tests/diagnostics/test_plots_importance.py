"""The figure of importance weights draws a box for each step."""

import numpy as np
import pytest
from builders import real_tasks, regressor

from ebmeta.diagnostics import check_posteriors, khat_by_step


def test_the_figure_has_a_box_for_each_step():
    checks = check_posteriors(regressor(2, num_steps=2), real_tasks(features=2), num_draws=100)
    ax = khat_by_step(checks)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1", "2"]
    assert {0.5, 0.7} <= {float(np.atleast_1d(line.get_ydata())[0]) for line in ax.lines}
    assert khat_by_step(checks, "khat_rows", ax=ax) is ax
    with pytest.raises(ValueError, match="variable: expected 'khat' or 'khat_rows', got 'gaps'"):
        khat_by_step(checks, "gaps")

"""Curve plots: what is drawn is what is predicted."""

from statistics import NormalDist

import numpy as np
import pytest
from builders import classifier, real_tasks

import ebmeta
from ebmeta.plots import curves as curve_plots


@pytest.mark.parametrize("level", [0.9, 0.5])
def test_the_curve_is_the_prediction_with_its_interval(level):
    model = ebmeta.EmpiricalBayes.regressor(3, num_steps=1)
    batch = real_tasks()[:1]
    s, x, y = int(batch.support_mask.sum()), batch.support_x[0], batch.support_y[0]
    path, truth = np.linspace(-1, 1, 15)[:, None] * np.ones(3), np.arange(15.0)
    ax = curve_plots.fitted_curve(model, x[:s], y[:s], path, truth=truth, level=level, column=1)
    reg = ebmeta.FewShotRegressor(model).fit(x[:s].numpy(), y[:s].numpy())
    mean, std = reg.predict(path, return_std=True)
    drawn, line = ax.lines
    np.testing.assert_allclose(drawn.get_xdata(), path[:, 1], atol=1e-6)
    np.testing.assert_allclose(drawn.get_ydata(), mean, atol=1e-5)
    np.testing.assert_allclose(line.get_ydata(), truth)
    band, points = ax.collections
    z = NormalDist().inv_cdf((1 + level) / 2)
    corners = band.get_paths()[0].vertices[:, 1]
    assert corners.max() == pytest.approx((mean + z * std).max(), abs=1e-5)
    assert corners.min() == pytest.approx((mean - z * std).min(), abs=1e-5)
    np.testing.assert_allclose(points.get_offsets(), np.stack([x[:s, 1], y[:s]], -1), atol=1e-6)


def test_bad_arguments():
    model = ebmeta.EmpiricalBayes.regressor(1)
    rows = (np.zeros((2, 1)), np.zeros(2), np.zeros((3, 1)))
    with pytest.raises(ValueError, match="level: expected a number between 0 and 1, got 1.0"):
        curve_plots.fitted_curve(model, *rows, level=1.0)
    with pytest.raises(ValueError, match="expected a model of real labels, got one of classes"):
        curve_plots.fitted_curve(classifier(), *rows)

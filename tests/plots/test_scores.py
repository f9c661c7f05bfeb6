"""Plots draw the numbers that they are given."""

import numpy as np
import pytest
import xarray as xr
from builders import class_tasks, classifier, real_tasks, regressor

import ebmeta
from ebmeta import plots
from ebmeta.prediction.conformal import set_coverage
from ebmeta.prediction.risk_coverage import risk_coverage
from ebmeta.prediction.scores import reliability_bins


@pytest.fixture(scope="module")
def scores():
    batch = class_tasks(ways=(3,) * 20, shots=(1,) * 20, queries=(8,) * 20, spread=2.0)
    return ebmeta.evaluate(classifier(), batch, num_bootstrap=10)


def test_refinement(scores):
    ax = plots.refinement(scores, "nll")
    x, y = ax.lines[0].get_data()
    np.testing.assert_allclose(x, scores["step"] if "step" in scores.coords else np.arange(4))
    np.testing.assert_allclose(y, scores["nll"])
    heights = ax.collections[-1].get_paths()[0].vertices[:, 1]
    low, high = (scores["nll"] - scores["nll_half_width"]).min(), (scores["nll"] + scores["nll_half_width"]).max()
    assert (heights.min(), heights.max()) == pytest.approx((float(low), float(high)))
    assert ax.get_ylabel() == "NLL (nats per query)"
    with pytest.raises(ValueError, match="metric: expected one of .*accuracy.*, got 'speed'"):
        plots.refinement(scores, "speed")


def test_reliability(scores):
    ax = plots.reliability(scores)
    bins = reliability_bins(scores["confidence"].isel(step=-1), scores["correct"].isel(step=-1))
    full = bins["count"].values > 0
    x, y = ax.lines[-1].get_data()
    np.testing.assert_allclose(x, bins["confidence"].values[full])
    np.testing.assert_allclose(y, bins["accuracy"].values[full])
    labels = [t.get_text() for t in ax.get_legend().get_texts()]
    assert labels == [f"K = {k}: ECE {float(scores['ece'][k]):.3f}" for k in (0, 3)]
    with pytest.raises(ValueError, match="expected an evaluation of a classifier"):
        plots.reliability(ebmeta.evaluate(regressor(), real_tasks()))


def test_history_is_a_running_mean():
    nll = np.stack([np.linspace(2, 1, 100), np.linspace(2, 0.5, 100)], 1)
    run = xr.Dataset(
        {
            "nll": (("iteration", "step"), nll),
            "validation_nll": (("validation_iteration", "step"), nll[49::50]),
        },
        coords={"iteration": np.arange(1, 101), "validation_iteration": [50, 100]},
    )
    ax = plots.history(run)
    np.testing.assert_allclose(ax.lines[0].get_ydata()[1:], (nll[1:, 0] + nll[:-1, 0]) / 2)
    dots = [c.get_offsets()[:, 1] for c in ax.collections if len(c.get_offsets()) == 2]
    np.testing.assert_allclose(dots, nll[49::50].T)


def test_given_axes_are_used_and_no_global_figure_is_made(scores):
    from matplotlib import pyplot
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    assert plots.refinement(scores, ax=ax) is ax
    plots.reliability(scores)
    assert not pyplot.get_fignums()


def test_risk_coverage(scores):
    ax = plots.risk_coverage(scores)
    for line, k in zip(ax.lines, (0, 3), strict=True):
        curve = risk_coverage(scores["confidence"].isel(step=k), scores["correct"].isel(step=k))
        np.testing.assert_allclose(line.get_xdata(), curve["coverage"])
        np.testing.assert_allclose(line.get_ydata(), curve)
    labels = [t.get_text() for t in ax.get_legend().get_texts()]
    assert labels == [f"K = {k}: AURC {float(scores['aurc'][k]):.3f}" for k in (0, 3)]
    with pytest.raises(ValueError, match="expected an evaluation of a classifier"):
        plots.risk_coverage(ebmeta.evaluate(regressor(), real_tasks()))


def test_conformal_sets():
    batch = class_tasks(ways=(3, 4) * 20, shots=(1, 1) * 20, queries=(8, 5) * 20, spread=2.0)
    sets = ebmeta.ConformalSets(classifier(), 0.7, by_ways=True).calibrate(batch).predict(batch)
    ax = plots.set_sizes(sets)
    for bars, ways in zip(ax.containers, (3, 4), strict=True):
        size = sets["size"].values[sets["ways"].values == ways]
        wanted = [(size == n).sum() / (size >= 0).sum() for n in range(5)]
        np.testing.assert_allclose([bar.get_height() for bar in bars], wanted)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["3 ways", "4 ways"]
    report = set_coverage(sets, batch.query_y)
    ax = plots.coverage_by_ways(report)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), 0.7)
    np.testing.assert_allclose(ax.lines[1].get_ydata(), report["coverage_by_ways"])
    (bars,) = ax.collections
    heights = np.array([segment[:, 1] for segment in bars.get_segments()])
    np.testing.assert_allclose(np.ptp(heights, axis=1), 2 * report["coverage_half_width_by_ways"])

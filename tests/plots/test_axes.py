"""Axes are the user's or new ones, which no global figure holds; files hold what was drawn."""

import base64

import matplotlib.image
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

from ebmeta.plots.axes import axes_or_new, embedded, save_figure


def test_axes_are_those_given_or_new_ones_of_the_size_asked_for():
    ax = Figure().subplots()
    assert axes_or_new(ax) is ax
    new = axes_or_new(None, width=3.0, height=2.0).get_figure(root=True)
    assert new.get_size_inches().tolist() == [3.0, 2.0]
    assert not pyplot.get_fignums()
    with pytest.raises(ValueError, match="ax: expected an Axes or None, got 'here'"):
        axes_or_new("here")


def test_axes_are_saved_with_their_whole_figure(tmp_path):
    figure = Figure(figsize=(4, 2))
    left, right = figure.subplots(1, 2)
    right.plot([0, 1])
    save_figure(left, tmp_path / "new" / "axes.png", dpi=50)
    save_figure(figure, tmp_path / "figure.png", dpi=50)
    of_axes, of_figure = (matplotlib.image.imread(tmp_path / name) for name in ("new/axes.png", "figure.png"))
    assert of_axes.shape == (100, 200, 4)
    np.testing.assert_array_equal(of_axes, of_figure)


def test_a_figure_becomes_an_address_that_contains_it():
    figure = Figure(figsize=(2, 1))
    figure.subplots().set_title("what is shown")
    start, _, content = embedded(figure).partition(",")
    assert start == "data:image/svg+xml;base64"
    assert b"what is shown" in base64.b64decode(content)
    assert embedded(figure.axes[0]).startswith(start)

"""Whole runs against exact answers and, where the data is at hand, on real images.

Each scenario is a benchmark script's own function at a smaller size, held to the bound that the library aims at.
"""

import pytest

import ebmeta
import linear_gaussian
from lib.classifier import train
from lib.kinds import Kind


def test_the_fitted_prior_reaches_the_exact_maximum_of_the_evidence():
    result = linear_gaussian.fitted_prior(num_groups=100, num_iterations=800)
    assert -1e-9 < result["shortfall"] < 0.01


def test_refinement_reaches_the_exact_transductive_answer_where_inputs_inform():
    result = linear_gaussian.refinement(linear_gaussian.COUPLING, num_iterations=500)
    refined = result["nll_by_step"][-1]
    assert refined < result["exact_transductive_nll"] + 0.02
    assert refined < result["exact_inductive_nll"] - 0.1
    assert result["kl_qK_to_exact_transductive"] < result["kl_q0_to_exact_transductive"] / 5


def test_refinement_costs_nothing_where_inputs_do_not_inform():
    result = linear_gaussian.refinement(None, num_iterations=500)
    assert result["nll_by_step"][-1] < result["exact_transductive_nll"] + 0.005
    assert result["kl_q0_to_exact_inductive"] < 0.05


@pytest.mark.usefixtures("shared_data")
def test_cifar_fs_one_shot():
    """A twentieth of the training and a tenth of the test tasks: 100 iterations, 200 tasks (half width 1.9 points)."""
    kind = Kind(5, 1)
    model, facts = train("default", 100)
    assert facts["iterations"] == 100
    scores = ebmeta.evaluate(model, kind.sampler("test", 5), 200)
    accuracy = scores["accuracy"].values
    assert accuracy[-1] > 0.75 - 0.019
    assert accuracy[-1] > accuracy[0] + 0.08 - 0.019
    assert scores["nll"][-1] < scores["nll"][0] - 0.2

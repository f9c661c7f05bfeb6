"""Whole runs against exact answers and, where the data is at hand, on real images.

Each scenario is a benchmark script's own function at a smaller size, held to the bound that the library aims at.
"""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import cifar_fs
import linear_gaussian


def test_the_fitted_prior_reaches_the_exact_maximum_of_the_evidence():
    result = linear_gaussian.fitted_prior(num_groups=100, num_iterations=800)
    assert -1e-9 < result["shortfall"] < 0.01


def test_refinement_reaches_the_exact_transductive_answer_where_inputs_inform():
    result = linear_gaussian.refinement(linear_gaussian.COUPLING, num_iterations=1000)
    refined = result["nll_by_step"][-1]
    assert refined < result["exact_transductive_nll"] + 0.02
    assert refined < result["exact_inductive_nll"] - 0.1
    assert result["kl_qK_to_exact_transductive"] < result["kl_q0_to_exact_transductive"] / 5


def test_refinement_costs_nothing_where_inputs_do_not_inform():
    result = linear_gaussian.refinement(None, num_iterations=1000)
    assert result["nll_by_step"][-1] < result["exact_transductive_nll"] + 0.005
    assert result["kl_q0_to_exact_inductive"] < 0.05


@pytest.mark.usefixtures("shared_data")
def test_cifar_fs_one_shot():
    """A tenth of the training and of the test tasks: 600 iterations, 200 tasks (half width 1.9 points)."""
    result = cifar_fs.run("default", shots=1, test_tasks=200, num_iterations=600)
    accuracy = result["test"]["accuracy"]
    assert accuracy[-1] > 0.72 - 0.019
    assert accuracy[-1] > accuracy[0] + 0.08 - 0.019
    assert result["test"]["nll"][-1] < result["test"]["nll"][0] - 0.2

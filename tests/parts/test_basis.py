"""Bases: the laws that every member obeys, and each member against its formula or a reference."""

import json
import math

import numpy as np
import pytest
import torch
from builders import close, generator
from scipy.interpolate import BSpline
from torch.func import functional_call

import ebmeta
from ebmeta.parts.basis import BASES, FourierBasis, RandomFeatures, SplineBasis, build_basis

MEMBERS = {
    "spline": lambda d: SplineBasis(d, num_knots=5),
    "fourier": lambda d: FourierBasis(d, num_frequencies=3),
    "fourier_learned": lambda d: FourierBasis(d, num_frequencies=3, learned=True),
    "random": lambda d: RandomFeatures(d, num_frequencies=7, length_scale=0.8, seed=3),
}


def inputs(rows=60, columns=2, seed=0):
    return (
        torch.randn(rows, columns, generator=generator(seed), dtype=torch.float64) * torch.tensor([3.0, 0.2])[:columns]
        + torch.tensor([10.0, -1.0])[:columns]
    )


def measured(name, x=None):
    x = inputs() if x is None else x
    basis = MEMBERS[name](x.shape[-1]).to(x.dtype)
    basis.measure(x)
    return basis


@pytest.fixture(params=MEMBERS)
def name(request):
    return request.param


# Laws -------------------------------------------------------------------------------------------------


def test_every_member_is_registered_and_tested():
    assert {MEMBERS[name](1).name for name in MEMBERS} == set(BASES)


def test_features_have_the_stated_number_and_work_row_by_row(name):
    basis, x = measured(name), inputs(12, seed=1)
    out = basis(x.view(3, 4, 2))
    assert out.shape == (3, 4, basis.num_features)
    close(out[1, 2], basis(x[6]))
    assert torch.equal(basis(x[:0]), torch.zeros(0, basis.num_features, dtype=torch.float64))


def test_it_is_measured_once(name):
    basis = MEMBERS[name](2)
    assert not basis.measured
    with pytest.raises(ValueError, match=r"call measure\(training inputs\) first"):
        basis(inputs().float())
    basis.measure(inputs().view(6, 10, 2).float())
    assert basis.measured
    before = {k: v.clone() for k, v in basis.state_dict().items()}
    with pytest.raises(ValueError, match="measure: expected a basis without a frame"):
        basis.measure(inputs().float() + 1)
    assert all(torch.equal(v, before[k]) for k, v in basis.state_dict().items())


def test_units_of_the_inputs_do_not_matter(name):
    x, new = inputs(), inputs(9, seed=1)
    scale, shift = torch.tensor([1e-3, 50.0], dtype=torch.float64), torch.tensor([7.0, -2e3], dtype=torch.float64)
    close(measured(name, x * scale + shift)(new * scale + shift), measured(name, x)(new), 1e-7)


def test_gradients_equal_finite_differences_inside_and_outside(name):
    basis = measured(name)
    x = torch.cat([inputs(6, seed=1), inputs(2) + 40, inputs(2) - 40]).requires_grad_()
    torch.autograd.gradcheck(basis, x)
    values = {k: p.detach().clone().requires_grad_() for k, p in basis.named_parameters() if p.requires_grad}
    assert bool(values) == (name in ("fourier_learned", "random"))
    for key, value in values.items():
        torch.autograd.gradcheck(lambda v, key=key: functional_call(basis, {key: v}, (x.detach(),)), value)


def test_a_column_of_one_value_is_left_out(name):
    x = inputs()
    x[:, 1] = 4.0
    basis = measured(name, x)
    other = x.clone()
    other[:, 1] = torch.linspace(-1e6, 1e6, len(x))
    assert bool(basis(x).isfinite().all())
    close(basis(other), basis(x))
    if name != "random":
        half = basis.num_features // 2
        close(basis(x)[:, half:], torch.zeros(len(x), half, dtype=torch.float64))
        close(basis(x)[:, :half], measured(name, x[:, :1])(x[:, :1]))
    else:
        assert basis(x).std(0).min() > 0


@pytest.mark.parametrize("values", [[5.0], [5.0, 5.0], [0.0, 1.0] * 10, [0.0] * 30 + [1.0, 2.0]])
def test_few_distinct_values_give_finite_features(name, values):
    x = torch.tensor(values, dtype=torch.float64).unsqueeze(-1)
    basis = measured(name, x)
    out = basis(torch.linspace(-2, 8, 41, dtype=torch.float64).unsqueeze(-1))
    assert bool(out.isfinite().all())
    if len(set(values)) > 1:
        assert torch.linalg.matrix_rank(basis(x)) >= 2


def test_config_and_state_rebuild_it_bit_for_bit(name):
    basis = measured(name, inputs().float())
    with torch.no_grad():
        for p in basis.parameters():
            p.add_(0.1)
    other = build_basis(json.loads(json.dumps(basis.config())))
    assert type(other) is type(basis)
    assert other.config() == basis.config()
    assert not other.measured
    other.load_state_dict(basis.state_dict())
    x = inputs(seed=1).float()
    assert torch.equal(other(x), basis(x))


def test_a_saved_model_predicts_the_same_bits(name, tmp_path):
    basis = measured(name, inputs().float())
    model = ebmeta.EmpiricalBayes.regressor(basis.num_features, num_steps=1, embedder=basis)
    x, y = inputs(8, seed=1).float().view(2, 4, 2), torch.randn(2, 4, generator=generator(2))
    batch = ebmeta.TaskBatch(x, y, x.flip(1))
    ebmeta.save(model, tmp_path)
    loaded = ebmeta.load(tmp_path, embedder=build_basis(basis.config()))
    first, second = (ebmeta.predict(m, batch, num_draws=0)["predictive"] for m in (model, loaded))
    assert bool((first["mean"] == second["mean"]).all())
    assert bool((first["std"] == second["std"]).all())
    assert bool(first["mean"].notnull().all())


def test_building_and_measuring_leave_the_global_generator_alone(name, rng_untouched):
    measured(name)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_features(name):
    basis, x = measured(name), inputs(9, seed=1)
    expected = basis(x)
    close(basis.cuda()(x.cuda()).cpu(), expected, 1e-9)


def test_errors(name):
    basis = MEMBERS[name](2)
    for bad in (torch.zeros(3, 1), torch.tensor(1.0)):
        with pytest.raises(ValueError, match="x: expected 2 columns, got shape"):
            basis.measure(bad)
    for bad in (torch.zeros(0, 2), torch.tensor([[0.0, math.nan]]), torch.tensor([[math.inf, 0.0]])):
        with pytest.raises(ValueError, match="x: expected at least one row of finite numbers, got shape"):
            basis.measure(bad)
    assert not basis.measured
    with pytest.raises(ValueError, match="x: expected 2 columns, got shape"):
        measured(name)(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="num_inputs: expected at least 1, got 0"):
        MEMBERS[name](0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SplineBasis(num_knots=1), "num_knots: expected at least 2, got 1"),
        (lambda: FourierBasis(num_frequencies=0), "num_frequencies: expected at least 1, got 0"),
        (lambda: FourierBasis(period=0.0), "period: expected a finite number above 0, got 0.0"),
        (lambda: FourierBasis(period=math.nan), "period: expected a finite number above 0, got nan"),
        (lambda: RandomFeatures(num_frequencies=0), "num_frequencies: expected at least 1, got 0"),
        (lambda: RandomFeatures(length_scale=-1.0), "length_scale: expected a finite number above 0, got -1.0"),
        (lambda: RandomFeatures(seed=-1), "seed: expected a non-negative integer of at most 63 bits, got -1"),
        (lambda: build_basis({"name": "wavelet"}), r"basis: expected one of \['fourier', 'random', 'spline'\], got"),
        (lambda: build_basis({"name": "spline", "degree": 2}), "basis: expected the arguments of SplineBasis, got"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# Splines ----------------------------------------------------------------------------------------------


def test_splines_equal_scipy_inside_and_its_tangents_outside():
    x = inputs(200, 1)
    basis = measured("spline", x)
    low, high = x.min().item(), x.max().item()
    even = np.linspace(0, 1, 5)
    knots = 0.95 * np.quantile(x.numpy(), even) + 0.05 * (low + (high - low) * even)
    close(basis.knots[0] * (high - low) + low, torch.from_numpy(knots))
    reference = BSpline(np.concatenate([[low] * 3, knots, [high] * 3]), np.eye(7), 3)
    inside = np.concatenate([np.linspace(low, high, 101), knots])
    close(basis(torch.from_numpy(inside).unsqueeze(-1)), torch.from_numpy(reference(inside)), 1e-9)
    for end, away in ((low, -np.array([0.1, 5.0])), (high, np.array([0.1, 5.0]))):
        line = reference(end) + away[:, None] * reference(end, nu=1)
        close(basis(torch.from_numpy(end + away).unsqueeze(-1)), torch.from_numpy(line), 1e-8)


def test_splines_are_nonnegative_inside_and_sum_to_one_everywhere():
    x = inputs(200).float()
    basis = measured("spline", x)
    out = basis(x).view(200, 2, 7)
    assert out.min() > -1e-6
    everywhere = basis(torch.linspace(-20, 30, 300).unsqueeze(-1).expand(-1, 2)).view(300, 2, 7).sum(-1)
    close(everywhere, torch.ones(300, 2), 1e-3)  # features reach 1e3 outside, in 32-bit floats
    close(out.sum(-1), torch.ones(200, 2), 1e-5)


def test_splines_hold_every_straight_line():
    x = inputs(100, 1)
    basis, new = measured("spline", x), torch.linspace(-30, 50, 23, dtype=torch.float64).unsqueeze(-1)
    weights = torch.linalg.lstsq(basis(x), 3 * x - 2).solution
    close(basis(new) @ weights, 3 * new - 2, 1e-6)


# Fourier ----------------------------------------------------------------------------------------------


def test_fourier_features_are_sines_and_cosines_of_the_stated_frequencies():
    x = inputs(50)
    basis = measured("fourier_learned", x)
    middle, width = (x.amin(0) + x.amax(0)) / 2, 2 * (x.amax(0) - x.amin(0))
    with torch.no_grad():
        basis.multiples.add_(torch.tensor([[0.1, -0.3, 0.5], [0.0, 1.0, 2.0]]))
    close(basis.angular_frequencies, 2 * math.pi * basis.multiples / width.unsqueeze(-1))
    angle = (x - middle).unsqueeze(-1) * basis.angular_frequencies
    close(basis(x), torch.cat([angle.sin(), angle.cos()], -1).flatten(1), 1e-9)


def test_a_given_period_is_kept_and_needs_no_measuring():
    basis = FourierBasis(2, 3, period=12.0).double()
    assert basis.measured
    x = inputs(9)
    close(basis(x + 24), basis(x), 1e-9)
    close(basis(torch.zeros(2, dtype=torch.float64)), torch.tensor([0.0] * 3 + [1.0] * 3).double().repeat(2))
    with pytest.raises(ValueError, match="was measured or given its period"):
        basis.measure(x)
    assert [p.requires_grad for p in basis.parameters()] == [False]


# Random features --------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_frequencies", [100, 10_000])
def test_random_features_approach_the_rbf_kernel(num_frequencies):
    # A product of features is a mean of F cosines, of standard deviation at most 1: 5 sigma for each of 190
    # distinct pairs at a fixed seed, false alarm below 2e-4.
    x = inputs(20)
    basis = RandomFeatures(2, num_frequencies, length_scale=0.7, seed=1).double()
    basis.measure(x)
    with torch.no_grad():
        basis.log_length_scale[1] += 0.5
    z = (x - x.mean(0)) / x.std(0, correction=0) / basis.log_length_scale.detach().exp()
    kernel = torch.exp(-torch.cdist(z, z).square() / 2)
    error = (basis(x) @ basis(x).mT - kernel).abs().max().item()
    assert 0 < error < 5 / math.sqrt(num_frequencies)


def test_random_features_are_drawn_by_their_seed():
    assert torch.equal(RandomFeatures(2, 5, seed=1).directions, RandomFeatures(2, 5, seed=1).directions)
    assert not torch.equal(RandomFeatures(2, 5, seed=1).directions, RandomFeatures(2, 5, seed=2).directions)

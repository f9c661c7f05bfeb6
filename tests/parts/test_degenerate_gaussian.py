"""Each operation against the singular covariance of all weights, written out."""

from __future__ import annotations

import torch
from builders import close, generator, random_precision
from torch.distributions import MultivariateNormal

from ebmeta.parts.degenerate_gaussian import DegenerateGaussian
from ebmeta.parts.gaussian import FullGaussian

TASKS, WAYS, WEIGHTS, ROWS = 2, 3, 4, 5
VARYING = (1, 3)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def draw(seed=0):
    loc = normal(TASKS, WAYS, WEIGHTS, seed=seed + 50)
    loc[..., 0], loc[..., 2] = 0.7, -2.0  # common to all
    return DegenerateGaussian(loc, random_precision((TASKS, WAYS), 2, generator(seed)), VARYING)


def covariance(q):
    out = q.loc.new_zeros(TASKS, WAYS, WEIGHTS, WEIGHTS)
    for i, a in enumerate(VARYING):
        for j, b in enumerate(VARYING):
            out[..., a, b] = torch.linalg.inv(q.precision)[..., i, j]
    return out


def own(q):
    return MultivariateNormal(q.loc[..., list(VARYING)], precision_matrix=q.precision)


def test_a_linear_predictor_has_the_variance_of_its_varying_weights():
    q, x = draw(), normal(TASKS, ROWS, WEIGHTS)
    loc, var = q.marginal(x)
    close(loc, torch.einsum("tnp,tcp->tnc", x, q.loc))
    close(var, torch.einsum("tnp,tcpr,tnr->tnc", x, covariance(q), x))
    close(q.scale, covariance(q).diagonal(dim1=-2, dim2=-1).sqrt())
    kept = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    assert torch.equal(q.varying_part(x), x * kept)


def test_products_with_precision_and_covariance_leave_common_weights_out():
    q, v, u = draw(), normal(TASKS, WAYS, WEIGHTS), normal(TASKS, WEIGHTS, 2)
    close(q.solve(v), (covariance(q) @ v.unsqueeze(-1)).squeeze(-1))
    close(q.times(q.solve(v)), q.varying_part(v))
    close(q.covariance_times(u), covariance(q) @ u.unsqueeze(1))
    x, h = normal(TASKS, ROWS, WEIGHTS), normal(TASKS, ROWS, WAYS, seed=1)
    whole = torch.einsum("tnp,tnc,tnr->tcpr", x, h, x)
    close(q.gram(x, h), whole[..., list(VARYING), :][..., list(VARYING)])


def test_a_root_of_the_covariance_and_draws_have_it():
    q = draw()
    unit = torch.eye(WEIGHTS, dtype=torch.float64)[:, None, None, :].expand(-1, TASKS, WAYS, -1)
    root = q.color(unit).permute(1, 2, 3, 0)
    close(root @ root.mT, covariance(q))
    values = q.draw(5, generator(3))
    w = q.weights(values)
    assert bool((w[..., [0, 2]] == q.loc[..., [0, 2]]).all())
    assert torch.equal(w[..., list(VARYING)], values["varying"])
    assert torch.equal(q.latents(w)["varying"], values["varying"])
    close(q.log_prob(values), own(q).log_prob(values["varying"]).sum(-1))
    assert q.sites()["varying"].event_shape == (WAYS, 2)


def test_divergence_and_retraction_are_those_of_the_varying_weights():
    q, p = draw(0), draw(1)
    close(q.kl(p), torch.distributions.kl_divergence(own(q), own(p)).sum(-1))
    step = normal(TASKS, WAYS, 2, 2)
    close(q.retract(step + step.mT), FullGaussian(q.loc[..., :2], q.precision).retract(step + step.mT))


def test_tasks_are_chosen_and_joined():
    q = draw()
    assert q[1:].varying == VARYING
    assert torch.equal(q[1:].joined([q[:1]]).loc, q.loc[[1, 0]])
    assert torch.equal(q[1:].joined([q[:1]]).precision, q.precision[[1, 0]])
    many = DegenerateGaussian(q.loc[0, 0], q.precision[0, 0], VARYING).expand(5, 6)
    assert many.loc.shape == (5, 6, WEIGHTS)
    close(many.scale[3, 2], q.scale[0, 0])

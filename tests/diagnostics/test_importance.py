"""Checks of posteriors against exact answers. Draws are of fixed seeds, so no test can fail by chance."""

import math

import arviz as az
import numpy as np
import pytest
import torch
from builders import class_tasks, classifier, generator, number_tasks, perturb, real_tasks, regressor
from scipy import integrate, stats
from scipy.special import expit

import ebmeta
from ebmeta import TaskBatch, reference
from ebmeta.diagnostics import check_posteriors, correct
from ebmeta.diagnostics.passes import passes
from ebmeta.parts.initializer import Initializer
from ebmeta.simulate.conjugate import log_evidence, posterior


class Given(Initializer):
    """An initializer that is what it is told to be: a function of the exact posterior."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, prior, likelihood, x, y, mask, given=None):
        return self.change(posterior(prior, x, y, mask, likelihood.dispersion()))


def normal_model(change, features=2):
    model = regressor(features, num_steps=0)
    model.likelihood.center.zero_()
    model.likelihood.unit.fill_(1.0)
    model.initializer = Given(change)
    return model


def evidence_of(model, batch):
    x = model.predictor.features(batch.support_x, batch.support_mask)
    noise = model.likelihood.dispersion()
    return log_evidence(model.prior_of(batch), x, batch.support_y, batch.support_mask, noise).detach()


@pytest.mark.usefixtures("rng_untouched")
def test_an_exact_posterior_has_even_weights():
    model, batch = normal_model(lambda q: q), real_tasks(supports=(4, 1, 6, 0), features=2)
    checks = check_posteriors(model, batch, num_draws=200)
    assert (checks["khat"] == 0).all()
    np.testing.assert_allclose(checks["effective_size"], 200, rtol=1e-6)
    np.testing.assert_allclose(checks["gap"], 0, atol=1e-7)
    np.testing.assert_allclose(checks["log_evidence"], evidence_of(model, batch), atol=1e-7)
    np.testing.assert_allclose(checks["nll_corrected"], checks["nll"], atol=0.25)  # of 200 draws against closed form
    assert "stands for it in 100% of 4 tasks" in checks.attrs["verdict"]
    assert "can be trusted" in checks.attrs["verdict"]


@pytest.mark.parametrize("factor", [1.5, 0.8])
def test_the_gap_of_a_wrong_width_is_its_divergence(factor):
    def change(q):
        return q.with_(q.loc + 0.1, q.precision / factor**2)

    model, batch = normal_model(change), real_tasks(supports=(4, 1, 6, 3), features=2)
    checks = check_posteriors(model, batch, num_draws=10_000)
    exact = posterior(
        *(lambda m: (m.prior_of(batch), m.predictor.features(batch.support_x), batch.support_y))(model),
        batch.support_mask,
        model.likelihood.dispersion(),
    )
    divergence = model.posterior(batch)[0].kl(exact).detach().numpy()
    np.testing.assert_allclose(checks["gap"][0], divergence, rtol=0.03, atol=0.02)
    np.testing.assert_allclose(checks["log_evidence"], evidence_of(model, batch), atol=0.05)
    # One row and three weights: the two directions that it does not see are known in closed form.
    assert checks["gap_unseen"][0, 1] > 0.1
    np.testing.assert_allclose(checks["gap_unseen"][0, [0, 2, 3]], 0, atol=1e-9)


def test_a_narrow_posterior_has_a_heavy_tail():
    """The tail index is 1 - s^2 in every direction (theory: eq-tail); of 2,000 draws its estimate is a little low."""
    x = torch.zeros(200, 1, 0, dtype=torch.float64)
    batch = TaskBatch(x, torch.randn(200, 1, generator=generator(0), dtype=torch.float64), x)
    for scale, wanted in ((0.4, 0.84), (0.7, 0.51), (2.0, None)):
        model = normal_model(lambda q, s=scale: q.with_(q.loc, q.precision / s**2), features=0)
        khat = check_posteriors(model, batch, num_draws=2000)["khat"].values
        if wanted is None:
            assert khat.max() < 0.3
        else:
            assert abs(np.median(khat) - wanted) < 0.1


def test_khat_is_that_of_arviz():
    """Where labels see all weights: ratios of the same draws from scratch in the space of weights, ArviZ's tail."""
    model = regressor(2, num_steps=0, likelihood="bernoulli")
    batch = number_tasks("bernoulli", (6, 5), (3, 2), features=2)
    checks = check_posteriors(model, batch, num_draws=500, seed=4)
    with torch.no_grad():
        (part,) = passes(model, batch, "support", None, 500, 4)
        w = part.draw(0).u.permute(2, 0, 1, 3) @ part.directions.basis[..., :3].mT
        eta = torch.einsum("tnp,stcp->stnc", model.predictor.features(batch.support_x), w)
        logp = model.likelihood.log_prob(batch.support_y, eta, batch.way_mask)
        ratio = torch.where(batch.support_mask, logp, 0.0).sum(-1) + model.prior_of(batch).distribution().log_prob(w)
        ratio = (ratio - model.posterior(batch)[0].distribution().log_prob(w)).T.numpy()
    for t in range(2):
        _, khat = az.psislw(ratio[t])
        np.testing.assert_allclose(checks["khat"][0, t], float(khat), atol=1e-6)
        np.testing.assert_allclose(checks["khat_rows"][0, t], float(khat), atol=1e-6)


def bernoulli(prior_scale=1.5, y=(1.0, 1.0, 1.0), num_steps=0):
    """Build one weight, no features: the posterior is an integral over a line."""
    model = regressor(0, num_steps=num_steps, likelihood="bernoulli", scale=0.0)
    model.prior.log_scale.data.fill_(math.log(prior_scale))
    x = torch.zeros(1, len(y), 0, dtype=torch.float64)
    batch = TaskBatch(x, torch.tensor([y], dtype=torch.float64), x[:, :2], torch.tensor([[1.0, 0.0]]).double())
    return model, batch


def by_quadrature(scale, y):
    def joint(w):
        return stats.norm.pdf(w, scale=scale) * np.prod([expit(w) if label else expit(-w) for label in y])

    total = integrate.quad(joint, -30, 30)[0]
    return math.log(total), integrate.quad(lambda w: joint(w) * expit(w), -30, 30)[0] / total, joint


def test_a_yes_or_no_model_is_mended():
    model, batch = bernoulli()
    log_total, chance, joint = by_quadrature(1.5, (1, 1, 1))
    checks = check_posteriors(model, batch, num_draws=50_000)
    assert float(checks["khat"][0, 0]) < 0.7
    assert abs(float(checks["log_evidence"][0]) - log_total) < 1e-3
    q = model.posterior(batch)[0]
    of_q = stats.norm(q.loc.item(), q.scale.item())
    gap = integrate.quad(
        lambda w: of_q.pdf(w) * (of_q.logpdf(w) - math.log(joint(w)) + log_total), of_q.mean() - 9, of_q.mean() + 9
    )[0]
    assert abs(float(checks["gap"][0, 0]) - gap) < 5e-3
    mended = correct(model, batch, num_draws=50_000)
    assert bool(mended["corrected"][0])
    assert abs(float(mended["mean"][0, 0]) - chance) < 2e-3
    assert abs(float(mended["std"][0, 0]) - math.sqrt(chance * (1 - chance))) < 2e-3
    wanted = -(math.log(chance) + math.log(1 - chance)) / 2
    assert abs(float(checks["nll_corrected"][0, 0]) - wanted) < 5e-3


def wrong_tasks(num_tasks=400, rows=2):
    """Yes-or-no tasks from the model's own prior."""
    g = generator(5)
    model = regressor(1, num_steps=0, likelihood="bernoulli", scale=0.0)
    w = torch.randn(num_tasks, 2, generator=g, dtype=torch.float64)
    x = torch.randn(num_tasks, rows + 30, 1, generator=g, dtype=torch.float64)
    y = torch.bernoulli((x[..., 0] * w[:, :1] + w[:, 1:]).sigmoid(), generator=g)
    return model, TaskBatch(x[:, :rows], y[:, :rows], x[:, rows:], y[:, rows:])


def test_weights_mend_what_they_can_and_leave_the_rest():
    """Moved by 0.8 standard deviations and too narrow: weights take it back, by 3 standard errors over tasks."""

    class Moved(ebmeta.parts.initializer.ConjugateInitializer):
        def forward(self, *args):
            q = super().forward(*args)
            return q.with_(q.loc + 0.8 * q.scale, q.precision * 1.3)

    model, batch = wrong_tasks()
    model.initializer = Moved()
    checks = check_posteriors(model, batch).isel(step=-1)
    gain = (checks["nll"] - checks["nll_corrected"]).values
    usable = (checks["khat"] < 0.7).values
    assert usable.sum() > 40
    assert (~usable).sum() > 10
    assert gain[usable].mean() > 3 * gain[usable].std() / math.sqrt(usable.sum())
    assert (gain[~usable] == 0).all()
    mended, plain = correct(model, batch), ebmeta.predict(model, batch, num_draws=0)["predictive"]
    np.testing.assert_array_equal(mended["corrected"], usable)
    np.testing.assert_allclose(mended["mean"][~usable], plain["mean"][-1][~usable])
    assert float(abs(mended["mean"][usable] - plain["mean"][-1][usable]).mean()) > 0.01


def test_corrected_classes_and_counts_are_the_exact_ones():
    """In the span of one row per class, and outside it by the prior: beside NUTS within its error."""
    model = classifier(3, num_steps=0, scale=0.0)
    model.initializer.log_precision.data.fill_(-0.5)
    model.initializer.log_amplitude.data.fill_(0.0)
    batch = class_tasks(ways=(3, 2), shots=(1, 1), queries=(4, 3), features=3)
    mended = correct(model, batch, num_draws=20_000)
    assert bool(mended["corrected"].all())
    tree = reference.nuts(model, batch, num_draws=2000)
    eta = np.einsum("tqp,cdtwp->cdtqw", model.predictor.features(batch.query_x).numpy(), tree["posterior/w"].values)
    eta = np.where(batch.way_mask.numpy()[:, None], eta, -np.inf)
    probs = np.exp(eta - eta.max(-1, keepdims=True))
    exact = (probs / probs.sum(-1, keepdims=True)).mean((0, 1))
    real = (batch.query_mask[..., None] & batch.way_mask[:, None]).numpy()
    assert np.isnan(mended["probs"].values[~real]).all()
    np.testing.assert_allclose(mended["probs"].values[real], exact[real], atol=0.03)
    np.testing.assert_allclose(mended["probs"].sum("way").values[batch.query_mask], 1, atol=1e-6)


def test_noise_levels_are_part_of_the_joint():
    """Given its level everything is conjugate: the mixture is exact, and its evidence that of the model."""
    model = regressor(2, num_steps=1, likelihood="normal_per_task")
    perturb(model.refiner, scale=0.1)
    batch = number_tasks("normal_per_task", features=2)
    checks = check_posteriors(model, batch, num_draws=500)
    assert (checks["khat"][0] == 0).all()
    np.testing.assert_allclose(checks["gap"][0], 0, atol=1e-6)
    np.testing.assert_allclose(checks["log_evidence"], model.infer(batch).log_evidence.detach(), atol=1e-6)
    assert (checks["gap"][1] > 0.01).all()
    mended = correct(model, batch, num_steps=0, num_draws=20_000)
    plain = ebmeta.predict(model, batch, num_steps=0, num_draws=0)["predictive"]
    np.testing.assert_allclose(mended["mean"], plain["mean"][-1], atol=0.05)
    np.testing.assert_allclose(mended["std"], plain["std"][-1], rtol=0.1)


@pytest.mark.parametrize("likelihood", ["student_t", "binomial", "poisson", "negative_binomial"])
def test_every_likelihood_is_checked_before_and_after_query_labels(likelihood):
    model, batch = regressor(3, likelihood=likelihood, scale=0.1), number_tasks(likelihood)
    for observe in ("support", "both"):
        checks = check_posteriors(model, batch, observe=observe, num_draws=2000)
        assert bool(np.isfinite(checks.to_array()).all())
        pooled = batch.pooled() if observe == "both" else batch
        inferred = model.infer(pooled, 0)  # the exact target's own approximation is a lower bound of the evidence
        assert bool((checks["log_evidence"].values >= inferred.log_evidence.detach().numpy() - 0.1).all())
        assert ("nll" in checks) == (observe == "support")
        assert (checks["gap"].values > -0.05).all()


def test_padding_and_labels_do_not_matter():
    model, batch = regressor(3, likelihood="poisson", scale=0.1), number_tasks("poisson")
    seen = check_posteriors(model, batch.unlabelled(), num_draws=100)
    assert "nll" not in seen
    full = check_posteriors(model, batch, num_draws=100)
    for name in seen:
        np.testing.assert_allclose(seen[name], full[name], err_msg=str(name))


@pytest.mark.parametrize("check", [check_posteriors, correct])
def test_bad_input(check):
    model, batch = regressor(), real_tasks()
    with pytest.raises(ValueError, match="num_draws: expected at least 25, got 1"):
        check(model, batch, num_draws=1)
    with pytest.raises(ValueError, match="seed: expected a non-negative integer of at most 63 bits, got -1"):
        check(model, batch, seed=-1)
    with pytest.raises(ValueError, match="support_y: expected real-valued labels"):
        check(model, class_tasks())
    plain = regressor(1, num_steps=0)
    groups = real_tasks(features=1)
    with pytest.warns(UserWarning, match="not at a maximum"):  # but untrained
        members = ebmeta.propagate(plain, groups, num_draws=2)
    with pytest.raises(ValueError, match="model: expected an EmpiricalBayes, got PriorEnsemble"):
        check(members, groups)


def test_bad_targets():
    with pytest.raises(ValueError, match="observe: expected 'support' or 'both', got 'query'"):
        check_posteriors(regressor(), real_tasks(), observe="query")
    with pytest.raises(ValueError, match="pooled: expected query labels, got unlabelled tasks"):
        check_posteriors(regressor(), real_tasks().unlabelled(), observe="both")

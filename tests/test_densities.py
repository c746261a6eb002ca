"""Properties of the Gaussian bins and of the factorised prior."""

import numpy as np
import pytest
import torch
from compressai.entropy_models import EntropyBottleneck
from scipy.stats import norm

from agvae.entropy.densities import ASYMMETRIC_FORMS, LIKELIHOOD_MIN, likelihood, lower_bound
from agvae.entropy.factorized import FactorizedPrior

SIGMAS = [(0.11, 0.11), (0.11, 30.0), (0.5, 0.7), (2.0, 1.0), (40.0, 0.2)]


TAILS = (0.0, 0.1)


def scipy_cdf(x, sigma_l, sigma_r, form, tail=0.0):
    if tail:
        wide = scipy_cdf(x, 3 * sigma_l, 3 * sigma_r, form)
        return (1 - tail) * scipy_cdf(x, sigma_l, sigma_r, form) + tail * wide
    sigma = np.where(x < 0, sigma_l, sigma_r)
    if form == "half_mass":
        return norm.cdf(x / sigma)
    total = sigma_l + sigma_r
    tail = 2 * sigma / total * norm.cdf(-np.abs(x) / sigma)
    return np.where(x < 0, tail, 1 - tail)


@pytest.mark.parametrize("form", ASYMMETRIC_FORMS)
@pytest.mark.parametrize(("sigma_l", "sigma_r"), SIGMAS)
@pytest.mark.parametrize("tail", TAILS)
def test_bins_agree_with_scipy_and_their_mass_is_one(form, sigma_l, sigma_r, tail):
    mu = 0.3
    y = torch.arange(-600.0, 601) + mu + 0.2
    p = likelihood(y, torch.tensor(mu), torch.tensor(sigma_l), torch.tensor(sigma_r), form, tail)
    assert p.sum().item() == pytest.approx(1, abs=1e-5)
    x = y.double().numpy() - np.float32(mu)
    expected = scipy_cdf(x + 0.5, sigma_l, sigma_r, form, tail) - scipy_cdf(x - 0.5, sigma_l, sigma_r, form, tail)
    np.testing.assert_allclose(p.numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("form", ASYMMETRIC_FORMS)
def test_equal_scales_give_the_gaussian(form):
    y, sigma = torch.linspace(-20, 20, 401), torch.tensor(3.0)
    expected = norm.cdf((y.numpy() + 0.5) / 3) - norm.cdf((y.numpy() - 0.5) / 3)
    np.testing.assert_allclose(likelihood(y, 0 * y, sigma, sigma, form).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("form", ASYMMETRIC_FORMS)
def test_tails_keep_their_precision_on_both_sides(form):
    """In float32, differences of Φ are 0 beyond 6σ. The survival function is accurate up to 12σ."""
    y = torch.tensor([-12.0, 12.0])
    p = likelihood(y, 0 * y, torch.ones(()), torch.ones(()), form)
    expected = norm.sf(11.5) - norm.sf(12.5)
    np.testing.assert_allclose(p.numpy(), [expected, expected], rtol=1e-3)


@pytest.mark.parametrize("form", ASYMMETRIC_FORMS)
@pytest.mark.parametrize("sigmas", [(0.11, 0.11), (1e-3, 1e3), (1e3, 1e-3), (0.11, 256.0)])
@pytest.mark.parametrize("tail", TAILS)
def test_gradients_are_finite_at_any_scale_ratio_and_40_sigma(form, sigmas, tail):
    for sigma in sigmas:
        for x in (-40 * sigma, -0.5, -0.3, 0.0, 0.5, 40 * sigma):
            inputs = [torch.tensor(v, requires_grad=True) for v in (x, 0.0, *sigmas)]
            lower_bound(likelihood(*inputs, form, tail), LIKELIHOOD_MIN).log2().backward()
            assert all(v.grad.isfinite() for v in inputs), (x, sigmas)


@pytest.mark.parametrize("form", ASYMMETRIC_FORMS)
def test_gradients_are_those_of_finite_differences(form):
    inputs = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in ([-3.2, -0.2, 0.4, 2.0], [0.1] * 4)]
    scales = [torch.tensor([v] * 4, dtype=torch.float64, requires_grad=True) for v in (0.8, 1.7)]
    assert torch.autograd.gradcheck(lambda *v: likelihood(*v, form), (*inputs, *scales))


def test_likelihood_is_float32_under_autocast():
    y = torch.randn(100)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = likelihood(y.bfloat16().float(), 0 * y, 1 + 0 * y, 1 + 0 * y)
    assert half.dtype == torch.float32
    assert torch.equal(half, likelihood(y.bfloat16().float(), 0 * y, 1 + 0 * y, 1 + 0 * y))


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="half_mass or two_piece"):
        likelihood(*torch.ones(4), form="laplace")


def test_prior_equals_compressai_with_its_weights():
    torch.manual_seed(0)
    theirs = EntropyBottleneck(5)
    for p in theirs.parameters():
        p.data += 0.1 * torch.randn_like(p)
    ours = FactorizedPrior(5)
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if k in ours.state_dict()})
    z = 4 * torch.randn(3, 5, 4, 6)
    z_hat, expected = theirs(z, training=False)
    rounded = (z - ours.medians).round() + ours.medians
    torch.testing.assert_close(rounded, z_hat)
    torch.testing.assert_close(ours(rounded), expected, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(ours.aux_loss(), theirs.loss())


def test_aux_loss_trains_the_quantiles_alone():
    prior = FactorizedPrior(3)
    prior.aux_loss().backward()
    assert prior.quantiles.grad.abs().sum() > 0
    assert all(p.grad is None for p in [*prior.matrices, *prior.biases, *prior.factors])


def test_prior_table_is_its_likelihood_and_lacks_little_mass():
    torch.manual_seed(0)
    prior = FactorizedPrior(4)
    with torch.no_grad():
        prior.quantiles[:, 0, 1] += torch.randn(4)
    pmfs, offsets = prior.pmf()
    for channel, (pmf, offset) in enumerate(zip(pmfs, offsets, strict=True)):
        assert 1 - 1e-4 < pmf.sum() <= 1 + 1e-9
        symbols = torch.arange(offset, offset + len(pmf)).float()
        z = torch.zeros(len(pmf), 4, 1, 1)
        z[:, channel, 0, 0] = symbols + prior.medians[0, channel, 0, 0]
        np.testing.assert_allclose(prior(z)[:, channel, 0, 0].detach(), np.maximum(pmf, 1e-9), atol=1e-5)


@pytest.mark.parametrize("tail_mass", [2.0**-20, 2.0**-10, 0.1])
def test_support_of_the_prior_is_that_of_its_table(tail_mass):
    torch.manual_seed(0)
    prior = FactorizedPrior(8)
    with torch.no_grad():
        for parameter in (*prior.matrices, *prior.biases, *prior.factors):
            parameter.add_(0.5 * torch.randn_like(parameter))
        prior.quantiles[:, 0, 1] = torch.randn(8)
    pmfs, first = prior.pmf(tail_mass)
    low, high = prior.support(tail_mass)
    assert low.flatten().tolist() == first.tolist()
    assert high.flatten().tolist() == [offset + len(pmf) - 1 for offset, pmf in zip(first, pmfs, strict=True)]

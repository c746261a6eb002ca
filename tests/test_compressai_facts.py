"""CompressAI's own tests of GDN, MaskedConv2d, EntropyBottleneck and GaussianConditional, applied to our counterparts.

docs/baselines.md lists them."""

import pytest
import torch

from agvae.entropy import likelihood
from agvae.entropy.factorized import FactorizedPrior
from agvae.models.agvae import AGVAE
from agvae.models.coding_order import RasterOrder
from agvae.models.context import TapConv
from agvae.models.layers import GDN
from agvae.models.outputs import Parameters
from agvae.models.quantization import add_noise, quantize_for_distortion, quantize_for_rate

MAP = (1, 128, 32, 32)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def gaussian() -> AGVAE:
    """A model whose entropy of y is a Gaussian."""
    return AGVAE.from_config(
        {
            "transforms": {"name": "minnen2018", "N": 8, "M": 128},
            "gain": {"name": "none", "levels": 1},
            "entropy": {"name": "symmetric", "tail": 0.0},
            "context": {"name": "none"},
            "quantizer": {"name": "noise"},
        }
    )


@pytest.mark.parametrize("inverse", [False, True])
def test_a_fresh_gdn_normalises_each_channel_by_itself(inverse):
    """GDN is x / √(1 + 0.1·x²), and its inverse multiplies. The gradient has the shape of x."""
    gdn = GDN(32, inverse)
    x = torch.rand(1, 32, 16, 16, requires_grad=True)
    y = gdn(x)
    y.backward(x)
    norm = (1 + 0.1 * x**2).sqrt()
    assert x.grad.shape == x.shape
    torch.testing.assert_close(y, x * norm if inverse else x / norm)


@pytest.mark.parametrize(("inputs", "outputs", "reach"), [(1, 3, 2), (3, 1, 1), (3, 3, 3)])
def test_a_masked_convolution_reads_what_comes_before_in_raster_order(inputs, outputs, reach):
    """Mask A reads all rows above, and the columns to the left in the same row. It is the same for all channels."""
    side = 2 * reach + 1
    taps = [tap for tap in RasterOrder.TAPS if max(map(abs, tap)) <= reach]
    convolution = TapConv(inputs, outputs, side, taps)
    with torch.no_grad():
        convolution.weight.fill_(1)
        convolution.bias.zero_()
        impulses = torch.eye(side * side).view(-1, 1, side, side).expand(-1, inputs, -1, -1)
        read = convolution(impulses)[:, :, reach, reach] / inputs
    mask = torch.ones(side, side)
    mask[reach, reach:] = 0
    mask[reach + 1 :] = 0
    assert torch.equal(read, mask.flatten()[:, None].expand_as(read))


def test_noise_moves_a_value_by_half_a_step_at_most():
    x = torch.rand(1, 3, 4, 4)
    for y in (add_noise(x), quantize_for_rate(x, "noise"), quantize_for_rate(x, "mixed")):
        assert y.shape == x.shape
        assert ((y - x).abs() <= 0.5).all()
        assert (y != x.round()).any()


def test_rounding_is_around_the_means():
    x, means = torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 4)
    y = quantize_for_distortion(x, x, "mixed", means)
    torch.testing.assert_close(y, (x - means).round() + means)


def test_the_prior_gives_a_probability_to_each_element():
    prior = FactorizedPrior(128)
    x = torch.rand(MAP)
    for given in (add_noise(x), x.round()):
        p = prior(given)
        assert p.shape == x.shape
        assert ((p > 0) & (p <= 1)).all()


def test_a_fresh_prior_rounds_to_whole_numbers():
    assert torch.equal(FactorizedPrior(128).medians, torch.zeros(1, 128, 1, 1))


def test_the_loss_of_the_quantiles_is_a_scalar():
    loss = FactorizedPrior(128).aux_loss()
    assert loss.dim() == 0
    assert loss.numel() == 1


@pytest.mark.parametrize("centred", [True, False])
def test_the_gaussian_gives_a_probability_to_each_element(gaussian, centred):
    """Training takes it at noisy values, coding at symbols around the means."""
    x, scales = torch.rand(MAP), torch.rand(MAP)
    means = torch.zeros(MAP) if centred else torch.rand(MAP)
    parameters = Parameters(means, scales, scales)
    noisy, rounded = add_noise(x), (x - means).round() + means
    for y in (noisy, rounded):
        p = gaussian.likelihood(y, gaussian.split(torch.stack(parameters[1:2] + parameters[:1]), dim=0))
        assert p.shape == x.shape
        assert ((p > 0) & (p <= 1)).all()


def test_scales_are_bounded_from_below_rather_than_refused(gaussian):
    """CompressAI refuses tables whose scales do not rise from above 0. Our model bounds its scales instead."""
    _, sigma, _ = gaussian.split(torch.stack([torch.tensor([0.0, -1.0, 2.0]), torch.zeros(3)]), dim=0)
    torch.testing.assert_close(sigma, torch.tensor([0.11, 0.11, 2.0]))
    y = torch.arange(-400.0, 401.0)
    for scale in sigma:
        torch.testing.assert_close(likelihood(y, 0 * scale, scale, scale).sum(), torch.tensor(1.0))

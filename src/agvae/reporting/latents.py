"""The distributions that code a latent: the nearest Gaussian, the expected histogram, and the distribution of bits."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from agvae.entropy.densities import LIKELIHOOD_MIN, TAIL_RATIO, likelihood, scale_min
from agvae.models.outputs import CodedLatent, Parameters
from agvae.strides import Y_PER_Z


def gaussian_of(parameters: Parameters, form: str, tail: float = 0.0) -> Parameters:
    """The Gaussian nearest to each asymmetric one of `form`: the one with the same mean and variance.

    Of all Gaussians, it has the smallest Kullback-Leibler divergence from the asymmetric one, so it needs the fewest
    bits if the asymmetric one is right. Moments about μ: `half_mass` (σ_r − σ_l)/√(2π) and (σ_l² + σ_r²)/2; `two_piece`
    √(2/π)·(σ_r − σ_l) and σ_l² − σ_l·σ_r + σ_r². A `tail` multiplies them by the mean ratio and the mean square ratio
    of its two parts, and the symmetric one has the same tail."""
    mu, left, right = parameters
    if form == "half_mass":
        shift, second = (right - left) / math.sqrt(2 * math.pi), (left**2 + right**2) / 2
    else:
        shift, second = (right - left) * math.sqrt(2 / math.pi), left**2 - left * right + right**2
    ratio, square = 1 + tail * (TAIL_RATIO - 1), 1 + tail * (TAIL_RATIO**2 - 1)
    shift = shift * ratio
    sigma = (second - shift**2 / square).clamp(min=scale_min(tail) ** 2).sqrt()
    return Parameters(mu + shift, sigma, sigma)


def bits(y_hat: Tensor, parameters: Parameters, form: str, tail: float = 0.0) -> Tensor:
    """−log2 of the probability of each ŷ, at most 30, as in a loss."""
    return -likelihood(y_hat, *parameters, form, tail).clamp(min=LIKELIHOOD_MIN).log2()


def expected_histogram(centres: Tensor, parameters: Parameters, form: str, tail: float = 0.0) -> Tensor:
    """The expected share of elements in a bin of width 1 around each of the `centres` (bins,).

    It is the mean over the densities of the elements, whose `parameters` are flat."""
    rows = (likelihood(centre, *parameters, form, tail).mean() for centre in centres)
    return torch.stack(list(rows))


def bit_map(coded: CodedLatent) -> Tensor:
    """Bits at each position, (B, H/16, W/16). Those of a symbol of z are spread evenly over its 16 positions of y."""
    z_bits = coded.z_bits.sum(1, keepdim=True) / Y_PER_Z**2
    return coded.y_bits.sum(1) + F.interpolate(z_bits, scale_factor=Y_PER_Z, mode="nearest")[:, 0]

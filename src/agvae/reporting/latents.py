"""What a model does to the latent of a picture: the symbols, the distributions that code them, and where bits go."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from agvae.entropy.densities import LIKELIHOOD_MIN, TAIL_RATIO, likelihood, scale_min
from agvae.models import AGVAE
from agvae.models.agvae import Parameters
from agvae.models.context import Cell


class CodedLatent(NamedTuple):
    """The latents of pictures at one quality, each tensor (B, M, H/16, W/16) but z_bits, (B, N, H/64, W/64).

    y_bar is ȳ, the gained latent; symbols are the integers coded, round(ȳ − μ); `parameters` are what the model expects
    of ȳ; y_bits and z_bits are the model's own rate of each element."""

    y_bar: Tensor
    symbols: Tensor
    parameters: Parameters
    y_bits: Tensor
    z_bits: Tensor


@torch.no_grad()
def coded_latent(model: AGVAE, y: Tensor, quality: float) -> CodedLatent:
    """What is coded at `quality` of y = g_a(x), (B, M, H/16, W/16), H and W multiples of the model's stride.

    With a codec's model and the `y` of its `analyze` these are the very symbols of a file at that quality, and the sum
    of their bits is its `estimate`."""
    y_bar = model.scale(y, quality)
    z_hat = model.hyper_symbols(model.hyper_analyze(y_bar, quality)) + model.prior.medians
    symbols, mu, sigma_l, sigma_r, probability = (torch.empty_like(y_bar) for _ in range(5))

    def record(cell: Cell, coded: Tensor, parameters: Parameters) -> None:
        parts = (coded, *parameters, model.likelihood(coded + parameters.mu, parameters))
        for whole, part in zip((symbols, mu, sigma_l, sigma_r, probability), parts, strict=True):
            whole.flatten(2).transpose(1, 2)[:, cell.positions, cell.channels] = part

    model.encode(y_bar, model.hyper_synthesize(z_hat, quality), record)
    parameters = Parameters(mu, sigma_l, sigma_l if model.symmetric else sigma_r)
    return CodedLatent(y_bar, symbols, parameters, -probability.log2(), -model.prior(z_hat).log2())


def gaussian_of(parameters: Parameters, form: str, tail: float = 0.0) -> Parameters:
    """The Gaussian nearest to each asymmetric one of `form`: that of the same mean and variance.

    Of all Gaussians it is the one with the least Kullback-Leibler divergence from the asymmetric one, so the fewest
    bits where that is right. Moments about μ: `half_mass` (σ_r − σ_l)/√(2π) and (σ_l² + σ_r²)/2; `two_piece`
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
    """−log2 of each ŷ's probability, at most 30 as in a loss."""
    return -likelihood(y_hat, *parameters, form, tail).clamp(min=LIKELIHOOD_MIN).log2()


def expected_histogram(centres: Tensor, parameters: Parameters, form: str, tail: float = 0.0) -> Tensor:
    """(bins,): share of elements in a bin of width 1 around each centre, by the mean of the elements' own models.

    `parameters` are those of the elements, flat."""
    rows = (likelihood(centre, *parameters, form, tail).mean() for centre in centres)
    return torch.stack(list(rows))


def bit_map(coded: CodedLatent) -> Tensor:
    """(B, H/16, W/16): bits spent at each place, those of z spread evenly over the 16 latents that each serves."""
    cells = coded.y_bits.shape[2] // coded.z_bits.shape[2]
    z_bits = coded.z_bits.sum(1, keepdim=True) / cells**2
    return coded.y_bits.sum(1) + F.interpolate(z_bits, scale_factor=cells, mode="nearest")[:, 0]

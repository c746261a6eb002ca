"""Where the bits of a picture go: its latent as a model codes it, element by element."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from agvae.codec import Codec
from agvae.codec.codec import Latent
from agvae.entropy.densities import LIKELIHOOD_MIN, SCALE_MIN, likelihood
from agvae.models.agvae import Parameters
from agvae.models.context import Cell
from agvae.quality import quality_from_fixed, quality_to_fixed


class CodedLatent(NamedTuple):
    """A picture's latent at one quality, each tensor (M, H/16, W/16) but z_bits, (N, H/64, W/64).

    y_bar is ȳ, the gained latent; symbols are the integers coded, round(ȳ − μ); `parameters` are what the model expects
    of ȳ; y_bits and z_bits are the model's own rate of each element. H and W are rounded up to multiples of 64."""

    y_bar: Tensor
    symbols: Tensor
    parameters: Parameters
    y_bits: Tensor
    z_bits: Tensor


@torch.inference_mode()
def coded_latent(codec: Codec, latent: Latent, quality: float) -> CodedLatent:
    """What `codec.compress` codes at `quality` for a picture analysed by `codec.analyze`, on the CPU.

    The sum of its bits is `codec.estimate`'s. Raises ValueError for a quality out of range."""
    model = codec.model
    quality = quality_from_fixed(quality_to_fixed(quality, codec.levels))
    y_bar = model.scale(latent.y, quality)
    z_hat = (model.hyper_analyze(y_bar, quality) - model.prior.medians).round() + model.prior.medians
    symbols, *parameters, probability = (torch.empty_like(y_bar) for _ in range(5))

    def record(cell: Cell, coded: Tensor, expected: Parameters) -> None:
        p = model.likelihood(coded + expected.mu, expected)
        for whole, part in zip((symbols, *parameters, probability), (coded, *expected, p), strict=True):
            whole.flatten(2).transpose(1, 2)[:, cell.positions, cell.channels] = part

    model.encode(y_bar, model.hyper_synthesize(z_hat, quality), record)
    parts = (y_bar, symbols, *parameters, -probability.log2(), -model.prior(z_hat).log2())
    y_bar, symbols, mu, sigma_l, sigma_r, y_bits, z_bits = (part[0].cpu() for part in parts)
    return CodedLatent(y_bar, symbols, Parameters(mu, sigma_l, sigma_r), y_bits, z_bits)


def gaussian_of(parameters: Parameters, form: str) -> Parameters:
    """The Gaussian nearest to each asymmetric one of `form`: that of the same mean and variance.

    Of all Gaussians it is the one with the least Kullback-Leibler divergence from the asymmetric one, so the fewest
    bits where that is right. Moments about μ: `half_mass` (σ_r − σ_l)/√(2π) and (σ_l² + σ_r²)/2; `two_piece`
    √(2/π)·(σ_r − σ_l) and σ_l² − σ_l·σ_r + σ_r²."""
    mu, left, right = parameters
    if form == "half_mass":
        shift, second = (right - left) / math.sqrt(2 * math.pi), (left**2 + right**2) / 2
    else:
        shift, second = (right - left) * math.sqrt(2 / math.pi), left**2 - left * right + right**2
    sigma = (second - shift**2).clamp(min=SCALE_MIN**2).sqrt()
    return Parameters(mu + shift, sigma, sigma)


def bits(y_hat: Tensor, parameters: Parameters, form: str) -> Tensor:
    """−log2 of each ŷ's probability, at most 30 as in a loss."""
    return -likelihood(y_hat, *parameters, form=form).clamp(min=LIKELIHOOD_MIN).log2()


def expected_histogram(centres: Tensor, parameters: Parameters, form: str) -> Tensor:
    """(bins,): share of elements in a bin of width 1 around each centre, by the mean of the elements' own models.

    `parameters` are those of the elements, flat."""
    rows = (likelihood(centre, *parameters, form=form).mean() for centre in centres)
    return torch.stack(list(rows))


def bit_map(coded: CodedLatent) -> Tensor:
    """(H/16, W/16): bits spent at each place, those of z spread evenly over the 16 latents that each serves."""
    cells = coded.y_bits.shape[1] // coded.z_bits.shape[1]
    z_bits = coded.z_bits.sum(0) / cells**2
    return coded.y_bits.sum(0) + F.interpolate(z_bits[None, None], scale_factor=cells, mode="nearest")[0, 0]

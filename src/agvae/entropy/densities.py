"""Probability of an integer bin under the Gaussians that model y: pure functions, always in float32 or better."""

import math

import torch
from torch import Tensor

ASYMMETRIC_FORMS = ("half_mass", "two_piece")

SCALE_MIN = 0.11
"""Smallest σ of a model, in quantiser steps (CompressAI's value). Below it, a bin of width 1 holds all the mass."""

LIKELIHOOD_MIN = 1e-9
"""Smallest probability in a loss: 30 bits, which is about the cost of an escape in the coder."""

TAIL_RATIO = 3.0
"""The ratio of the σ of the tail's Gaussians to that of the others."""


class _LowerBound(torch.autograd.Function):
    """max(x, bound), with a gradient that also passes below the bound if it pushes x up (Ballé et al. 2018)."""

    @staticmethod
    def forward(ctx, x: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bound = bound
        return x.clamp(min=bound)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grad * ((x >= ctx.bound) | (grad < 0)), None


def lower_bound(x: Tensor, bound: float) -> Tensor:
    """max(x, bound), with a gradient below the bound for steps that lead back above it."""
    return _LowerBound.apply(x, bound) if torch.is_grad_enabled() else x.clamp(min=bound)


def scale_min(tail: float) -> float:
    """The smallest σ of a model whose tail has this weight, so that the σ of its widest Gaussian is SCALE_MIN."""
    return SCALE_MIN / TAIL_RATIO if tail else SCALE_MIN


def likelihood(
    y_hat: Tensor, mu: Tensor, sigma_l: Tensor, sigma_r: Tensor, form: str = "half_mass", tail: float = 0.0
) -> Tensor:
    """P(ŷ) = F(ŷ + ½) − F(ŷ − ½) of an asymmetric Gaussian. All shapes broadcast, and the result is float32 or wider.

    `half_mass`: F(x) = Φ((x − μ)/σ_l) left of μ and Φ((x − μ)/σ_r) right of it, so that μ is the median (the density
    jumps at μ unless σ_l = σ_r). `two_piece`: the split normal, with the continuous density √(2/π)/(σ_l + σ_r)·exp(−(x
    − μ)²/2σ²) and the mass of each side proportional to its σ. With σ_l = σ_r, both are the Gaussian.

    `tail` in [0, 1): the weight of a second distribution of the same form, around the same μ, with TAIL_RATIO times the
    σ. Residuals of latents have more mass far out than a Gaussian. There a symbol costs many bits, and gives no
    gradient once its probability underflows. Raises ValueError for another form.

    >>> one = torch.ones(())
    >>> likelihood(torch.tensor([0.0, 1.0]), 0 * one, one, one)
    tensor([0.3829, 0.2417])"""
    if form not in ASYMMETRIC_FORMS:
        raise ValueError(f"form must be {' or '.join(ASYMMETRIC_FORMS)}, not {form!r}")
    with torch.autocast(y_hat.device.type, enabled=False):
        x, sigma_l, sigma_r = (v if v.dtype == torch.float64 else v.float() for v in (y_hat - mu, sigma_l, sigma_r))
        low, high = x - 0.5, x + 0.5
        # The mass beyond an edge, on the edge's own side of μ. Differences of two tails stay precise
        # arbitrarily far out. Differences of Φ are exactly 0 in float32 from about 6σ on.
        tail_low, tail_high = (_tail(edge, sigma_l, sigma_r, form, tail) for edge in (low, high))
        return torch.where(low * high < 0, 1 - tail_low - tail_high, (tail_low - tail_high).abs())


def _tail(edge: Tensor, sigma_l: Tensor, sigma_r: Tensor, form: str, wide: float) -> Tensor:
    left = edge < 0
    sigma = torch.where(left, sigma_l, sigma_r)
    distance = edge.abs() / (sigma * math.sqrt(2))
    tail = 0.5 * torch.erfc(distance)
    if wide:
        tail = (1 - wide) * tail + 0.5 * wide * torch.erfc(distance / TAIL_RATIO)
    return tail * (2 * sigma / (sigma_l + sigma_r)) if form == "two_piece" else tail

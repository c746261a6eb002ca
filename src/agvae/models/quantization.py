"""Quantisers: rounding, and what replaces it in training."""

import torch
from torch import Tensor


def round_ste(x: Tensor) -> Tensor:
    """Rounding to the nearest integer with the gradient of the identity."""
    return x + (x.round() - x).detach()


def add_noise(x: Tensor) -> Tensor:
    """x + u, u uniform in [−½, ½) and independent per element (Ballé et al. 2017)."""
    return x + torch.rand_like(x) - 0.5


def add_dither(x: Tensor) -> Tensor:
    """round(x + u) − u with the gradient of the identity, one u in [−½, ½) per picture (Choi et al. 2019)."""
    u = torch.rand(x.shape[0], *[1] * (x.dim() - 1), device=x.device, dtype=x.dtype) - 0.5
    return round_ste(x + u) - u


QUANTIZERS = ("universal", "noise", "mixed")


def quantize_for_rate(x: Tensor, name: str) -> Tensor:
    """The values of `x` that the rate sees in training with the quantiser `name`: dithered for `universal`, noisy
    otherwise."""
    return add_dither(x) if name == "universal" else add_noise(x)


def quantize_for_distortion(x: Tensor, for_rate: Tensor, name: str, offset: Tensor) -> Tensor:
    """The values that the distortion sees, given `for_rate`, the values that the rate sees.

    For `mixed`, x is rounded to `offset` + integers, with the gradient of the identity (Minnen & Singh 2020). For
    `universal` and `noise`, both halves of the loss see the same values."""
    return round_ste(x - offset) + offset if name == "mixed" else for_rate

"""Quantisers: what stands in for rounding while training, and rounding itself."""

from typing import NamedTuple

import torch
from torch import Tensor


class Quantized(NamedTuple):
    """A latent as the two halves of the loss see it in training, both of the latent's shape."""

    rate: Tensor
    distortion: Tensor


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


def quantize_training(x: Tensor, name: str, offset: Tensor | float = 0.0) -> Quantized:
    """`x` quantised for training by the quantiser `name`.

    `universal` and `noise` give both halves the same values; `mixed` gives the rate noise and the distortion
    rounding to `offset` + integers with the gradient of the identity (Minnen & Singh 2020)."""
    if name == "universal":
        dithered = add_dither(x)
        return Quantized(dithered, dithered)
    noisy = add_noise(x)
    return Quantized(noisy, round_ste(x - offset) + offset if name == "mixed" else noisy)

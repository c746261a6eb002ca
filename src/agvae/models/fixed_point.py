"""Fixed-point numbers: whole units held in floats, and arithmetic on them that every machine rounds alike."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ONE = 2.0**12
"""Units in 1."""

LIMIT = 2.0**23
"""Largest number of units that a value can have. Larger values are clamped."""

WEIGHT_BITS = (10, 24)
"""Smallest and largest number of fractional bits of a weight. The largest is the precision of float32; fewer than the
smallest would cost rate."""

_EXACT = 2.0**53


class InexactError(ValueError):
    """A layer has no exact form, or its weights are too large for exact sums. The message names the layer."""


def is_exact(device: str | torch.device) -> bool:
    """Whether matrix products in float64 on `device` add whole numbers as IEEE 754 defines, including sums just under
    2^53.

    A library can be configured to emulate float64 by something faster that does not."""
    generator = np.random.default_rng(0)
    a, b = (generator.integers(-(2**22), 2**22, shape) for shape in ((67, 500), (500, 61)))
    bias = generator.integers(-(2**50), 2**50, 61)
    on_device = (torch.from_numpy(x).double().to(device) for x in (bias, a, b))
    return np.array_equal(torch.addmm(*on_device).cpu().numpy(), (bias + a @ b).astype(np.float64))


def to_units(x: Tensor) -> Tensor:
    """x as the nearest whole number of units, clamped, in float64."""
    return x.double().mul(ONE).round_().clamp_(-LIMIT, LIMIT)


def finish_(sums: Tensor, slope: float) -> Tensor:
    """LeakyReLU of `slope`, rounding to whole units and clamping, in place."""
    if slope != 1:
        F.leaky_relu_(sums, slope)
    return sums.round_().clamp_(-LIMIT, LIMIT)


def round_weights(name: str, weight: Tensor, bias: Tensor | None, given: float = 0.0) -> tuple[Tensor, Tensor]:
    """weight (…, inputs, outputs) and bias (outputs,), in units, of a layer in fixed point, both float64.

    They are multiples of 2^−s, where s ≤ 24 is the largest number with

        Σ |w| · LIMIT + |b| + given < 2^53 · 2^−s

    for each output. `given` is the largest magnitude, in units, of anything else that is added to the sum. Raises
    InexactError, with `name`, if s would be below 10."""
    fewest, most = WEIGHT_BITS
    bias = weight.new_zeros(weight.shape[-1]) if bias is None else bias
    weight, bias = weight.double(), bias.double() * ONE
    for bits in range(most, fewest - 1, -1):
        # All three terms are whole numbers, and their sums below 2^53 are exact: s is the same on every machine.
        rounded, added = (weight * 2.0**bits).round(), (bias * 2.0**bits).round()
        largest = rounded.abs().flatten(0, -2).sum(0) * LIMIT + added.abs() + given * 2.0**bits
        if largest.max() < _EXACT:
            return rounded * 2.0**-bits, added * 2.0**-bits
    raise InexactError(
        f"{name}: its weights are too large for exact sums (2^{largest.max().log2().item():.1f} of 2^53 units)"
    )


def exp(x: np.ndarray) -> np.ndarray:
    """e^x to some 15 digits, by multiplications and additions alone, because the results of libraries differ in the
    last bit."""
    powers = np.floor(x * 1.4426950408889634 + 0.5)
    rest = x - powers * 0.6931471805599453
    series = np.ones_like(rest)
    for n in range(14, 0, -1):
        series = 1.0 + series * rest / n
    return np.ldexp(series, powers.astype(np.int64))

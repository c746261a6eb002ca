"""Exact forms of layers other than the convolutions of `agvae.models.exact`: activations and depthwise convolutions.

All map whole units (float32) to whole units. LeakyReLU and ReLU are one multiplication. Hardtanh clamps to the whole
units nearest to its bounds. GELU and SiLU are tables with an entry for each unit between ±12. Outside that range they
differ from 0 and from x by less than half a unit, so 0 and x are used.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agvae.models.fixed_point import LIMIT, ONE, exp, finish_, round_weights

TABLE_END = 12
"""The end of the tables of GELU and SiLU. From there on, |f(x) − max(x, 0)| is below 2^−13."""


class ExactSlope(nn.Module):
    """max(x, slope·x), rounded: a LeakyReLU or ReLU that does not follow a convolution."""

    def __init__(self, slope: float):
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        return finish_(x.double(), self.slope).float()


class ExactHardtanh(nn.Module):
    """Clamps to the whole units nearest to the bounds."""

    def __init__(self, layer: nn.Hardtanh):
        super().__init__()
        self.low, self.high = (max(-LIMIT, min(LIMIT, float(round(v * ONE)))) for v in (layer.min_val, layer.max_val))

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(self.low, self.high)


class ExactTable(nn.Module):
    """A function that tends to 0 on the left and to x on the right, as a table of whole units."""

    def __init__(self, values: np.ndarray):
        super().__init__()
        self.end = len(values) // 2
        self.register_buffer("values", torch.from_numpy(values.astype(np.float32)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        inside = self.values[x.clamp(-self.end, self.end).long() + self.end]
        return torch.where(x > self.end, x, inside)


def table_of(layer: nn.GELU | nn.SiLU) -> np.ndarray:
    """The function of a layer at each whole unit between ±TABLE_END, in whole units.

    It is computed with additions, multiplications and divisions alone, so that every machine finds the same table."""
    x = np.arange(-TABLE_END * int(ONE), TABLE_END * int(ONE) + 1) / ONE
    if isinstance(layer, nn.SiLU):
        y = x / (1 + exp(-x))
    elif layer.approximate == "tanh":
        y = x / (1 + exp(-2 * 0.7978845608028654 * (x + 0.044715 * x * x * x)))  # √(2/π); (1 + tanh u)/2 = σ(2u)
    else:
        y = x * _normal_distribution(x)
    return np.rint(y * ONE)


def _normal_distribution(x: np.ndarray) -> np.ndarray:
    """Φ(x) = ½ + φ(x) · Σ x^(2n+1) / (1·3·…·(2n+1)), whose terms all have one sign. From ±8 on, it is 0 and 1."""
    inside = np.clip(x, -8.0, 8.0)
    term, series = inside, inside
    for n in range(1, 160):
        term = term * (inside * inside) / (2 * n + 1)
        series = series + term
    found = 0.5 + 0.3989422804014327 * exp(-0.5 * (inside * inside)) * series  # 1/√(2π)
    return np.where(x >= 8.0, 1.0, np.where(x <= -8.0, 0.0, found))


class ExactDepthwise(nn.Module):
    """A convolution of each channel by itself, from units to units, whose sums of products in float64 never round."""

    def __init__(self, name: str, conv: nn.Conv2d, slope: float = 1.0):
        super().__init__()
        self.kernel, self.slope = conv.kernel_size[0], slope
        weight, bias = round_weights(name, conv.weight.flatten(2).permute(2, 1, 0), conv.bias)
        self.register_buffer("weight", weight[:, 0].contiguous(), persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W), float32."""
        height, width = x.shape[2:]
        padded = F.pad(x.double(), [self.kernel // 2] * 4)
        sums = self.bias[:, None, None].expand(len(x), -1, height, width).clone()
        for tap, (dy, dx) in enumerate(np.ndindex(self.kernel, self.kernel)):
            sums.add_(padded[:, :, dy : dy + height, dx : dx + width] * self.weight[tap][:, None, None])
        return finish_(sums, self.slope).float()

"""3×3 convolutions in exact arithmetic with fewer multiplications: F(2×2, 3×3) (Winograd 1980; Lavin and Gray 2016).

    Y = Aᵀ [ Σ_c U ⊙ Bᵀ X B ] A,     U = G w Gᵀ

Tiles of 2×2 outputs take 16 multiplications instead of 36. G has halves: where weights are multiples of 2^−s, U are
multiples of 2^−(s+2). All sums are exact, and the result is that of the plain convolution to the last bit, while they
stay below 2^53 · 2^−(s+2). That holds for inputs up to `limit`, which depends on the weights.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TILES = 512
"""Approximate number of tiles at once, so that their values stay in the cache."""

_G = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], dtype=torch.float64)
"""Maps the three elements of a kernel to its values at 0, 1, −1 and ∞."""

_READS = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]], dtype=torch.float64)
"""The values that each of a tile's two outputs adds up: |Aᵀ|."""


class FewerProducts(nn.Module):
    """A 3×3 convolution from whole units to sums in float64. weight (9, inputs, outputs) holds multiples of 2^−24."""

    def __init__(self, weight: Tensor, bias: Tensor):
        super().__init__()
        kernel = torch.einsum("ia,jb,abco->ijco", _G, _G, weight.unflatten(0, (3, 3)))
        bits = max(_fractional_bits(weight), _fractional_bits(bias))
        # The largest sum of |U| for each output. A value of an input's tile is a sum of four inputs.
        sums = torch.einsum("ki,lj,ijo->klo", _READS, _READS, kernel.abs().sum(2))
        self.limit = ((2.0 ** (53 - bits - 2) - bias.abs()) / (4 * sums).clamp(min=1e-9)).min().item()
        self.register_buffer("kernel", kernel.flatten(0, 1).contiguous(), persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def usable(self, x: Tensor) -> bool:
        """Whether this kernel may compute the convolution: on a CPU, if all sums over x are exact."""
        return x.device.type == "cpu" and x.abs().max().item() < self.limit

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) → (B, H, W, outputs), padded with zeros."""
        batch, height, width, channels = x.shape
        rows, columns = (height + 1) // 2, (width + 1) // 2
        x = F.pad(x, (0, 0, 1, 1 + width % 2, 1, 1 + height % 2))
        out = x.new_empty(batch, rows, 2, columns, 2, len(self.bias), dtype=torch.float64)
        step = max(1, TILES // columns)
        for image, result in zip(x, out, strict=True):
            for top in range(0, rows, step):
                part = result[top : top + step]
                window = image[2 * top : 2 * (top + len(part)) + 2].double()
                values = window.new_empty(4, 4, len(part), columns, channels)
                for half, value in zip(_to_values(window, 0), values, strict=True):
                    for v, found in zip(value, _to_values(half, 1), strict=True):
                        v.copy_(found)
                products = torch.bmm(values.view(16, -1, channels), self.kernel)
                halves = _from_values(products.view(4, 4, len(part), columns, -1))
                for row, half in enumerate(halves):
                    for column, y in enumerate(_from_values(half)):
                        part[:, row, :, column] = y.add_(self.bias)
        return out.view(batch, 2 * rows, 2 * columns, -1)[:, :height, :width]


def _fractional_bits(x: Tensor) -> int:
    """The smallest s, at most 24, for which x are multiples of 2^−s."""
    return next(s for s in range(25) if s == 24 or torch.equal((x * 2.0**s).round(), x * 2.0**s))


def _to_values(x: Tensor, dim: int) -> tuple[Tensor, ...]:
    """Bᵀ of overlapping runs of four, two apart, along a dimension."""
    pairs = x.unflatten(dim, (-1, 2))
    even, odd = pairs.unbind(dim + 1)
    count = even.shape[dim] - 1
    d0, d2 = even.narrow(dim, 0, count), even.narrow(dim, 1, count)
    d1, d3 = odd.narrow(dim, 0, count), odd.narrow(dim, 1, count)
    return d0 - d2, d1 + d2, d2 - d1, d1 - d3


def _from_values(m: Tensor) -> tuple[Tensor, Tensor]:
    """Aᵀ of four values along the first dimension."""
    return m[0] + m[1] + m[2], m[1] - m[2] - m[3]

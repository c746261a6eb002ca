"""The start of depthwise transforms: an orthonormal block transform and its inverse."""

import torch
from torch import Tensor, nn

from agvae.models.layers import DepthwiseBlock


@torch.no_grad()
def start_as_block_transform(g_a: nn.Sequential, g_s: nn.Sequential) -> None:
    """Start depthwise transforms as an orthonormal transform of 16×16 blocks and its inverse. Without this, training
    spends most of its time on finding a g_s that inverts g_a.

    The transform consists of the N coefficients with most variance of an 8×8 DCT in a luma and two chroma axes, and
    then of the M with most variance of a Haar transform of 2×2 of those. The residual blocks add nothing at the start.
    Channels beyond the 192 and the 4N that exist there start at random, and g_s ignores them."""
    unshuffled, down, last = (module for module in g_a if isinstance(module, nn.Conv2d))
    first, (up, _), (shuffled, _) = (module for module in g_s if not isinstance(module, DepthwiseBlock))
    if unshuffled.weight.is_meta:  # the weights of a model file will replace them
        return
    for block in (module for module in (*g_a, *g_s) if isinstance(module, DepthwiseBlock)):
        for layer in (block.spatial[-1], block.project):
            layer.weight.zero_()
            layer.bias.zero_()
    for layer in (down, last, first, up, shuffled):
        layer.bias.zero_()
    up.weight.zero_()
    shuffled.weight.zero_()

    basis, frequencies = _color_dct(unshuffled.out_channels)
    count = len(basis)
    unshuffled.weight[:count, :, 0, 0] = basis
    unshuffled.bias[:count] = -basis.sum(1) / 2
    shuffled.weight[:, :count, 0, 0] = basis.t()
    shuffled.bias.fill_(0.5)

    haar = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / 2**0.5
    pairs = torch.einsum("ai,bj->abij", haar, haar).flatten(0, 1)
    variances = [_variance(axis, 2 * u + a, 2 * v + b) for axis, u, v in frequencies for a in (0, 1) for b in (0, 1)]
    for m, (n, pair) in enumerate(divmod(i, 4) for i in _largest(variances, down.out_channels)):
        down.weight[m].zero_()
        down.weight[m, n, 1:, 1:] = pairs[pair]
        up.weight[4 * n : 4 * n + 4, m, 0, 0] = pairs[pair].flatten()

    # A step of 1 is then close to optimal for the middle of the MSE ladder: Δ² = 18 / (ln 2 · 255² · λ).
    scale = 4.0
    identity = torch.eye(down.out_channels)[:, :, None, None]
    last.weight.copy_(identity * scale)
    first.weight.copy_(identity / scale)


def _color_dct(count: int) -> tuple[Tensor, list[tuple[int, int, int]]]:
    """The `count` rows, (count, 3·64), of the 8×8 DCT of a luma and two chroma axes that vary most, at most 192, and
    the (axis, vertical, horizontal frequency) of each."""
    axes = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 2.0, -1.0]])
    axes /= axes.norm(dim=1, keepdim=True)
    k = torch.arange(8.0)
    dct = torch.cos(torch.pi / 8 * (k + 0.5) * k[:, None]) / 2
    dct[0] /= 2**0.5
    rows = torch.einsum("ac,ui,vj->auvcij", axes, dct, dct).reshape(192, 192)
    frequencies = [(axis, u, v) for axis in range(3) for u in range(8) for v in range(8)]
    kept = _largest([_variance(axis, 2 * u, 2 * v) for axis, u, v in frequencies], count)
    return rows[kept], [frequencies[i] for i in kept]


def _variance(axis: int, u: int, v: int) -> float:
    """Approximate variance of a coefficient of a 16×16 block in photographs: 1/f^2.4, a twentieth of it in chroma."""
    return (0.05 if axis else 1.0) / (0.5 + u**2 + v**2) ** 1.2


def _largest(values: list[float], count: int) -> list[int]:
    return sorted(range(len(values)), key=lambda i: -values[i])[:count]

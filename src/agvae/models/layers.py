"""The layers of the transforms as plain formulas, and the kernels (agvae.models.kernels) that replace them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agvae.entropy.densities import lower_bound
from agvae.models import kernels
from agvae.models.kernels import depthwise, gdn, phases, winograd


class GDN(nn.Module):
    """Generalised divisive normalisation y_i = x_i / √(β_i + Σ_j γ_ij x_j²), or its inverse (Ballé et al. 2016).

    β and γ are stored as square roots, with CompressAI's names and reparametrisation. In inference on a CPU, the result
    overwrites x, which is always the output of a convolution that nothing else reads."""

    BETA_MIN = 1e-6
    PEDESTAL = 2.0**-36

    def __init__(self, channels: int, inverse: bool = False):
        super().__init__()
        self.inverse = inverse
        self.beta = nn.Parameter(torch.full((channels,), (1 + self.PEDESTAL) ** 0.5))
        self.gamma = nn.Parameter(torch.full((channels, channels), self.PEDESTAL**0.5))
        self.gamma.data.fill_diagonal_((0.1 + self.PEDESTAL) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        beta = lower_bound(self.beta, (self.BETA_MIN + self.PEDESTAL) ** 0.5) ** 2 - self.PEDESTAL
        gamma = lower_bound(self.gamma, self.PEDESTAL**0.5) ** 2 - self.PEDESTAL
        if kernels.usable(x, gamma):
            return gdn.normalise(x, beta, gamma, self.inverse)
        norm = F.conv2d(x**2, gamma[:, :, None, None], beta)
        return x * (norm.sqrt() if self.inverse else norm.rsqrt())


class Down(nn.Conv2d):
    """5×5 convolution that halves height and width."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 5, 2, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, 2H, 2W) → (B, outputs, H, W)."""
        even = x.shape[2] % 2 == x.shape[3] % 2 == 0
        if even and kernels.usable(x, self.weight) and winograd.pays(self.weight, x[:, 0].numel() // 4):
            return winograd.strided(x, self.weight, self.bias)
        return super().forward(x)


class Up(nn.ConvTranspose2d):
    """Transposed 5×5 convolution that doubles height and width."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 5, 2, padding=2, output_padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) → (B, outputs, 2H, 2W)."""
        if kernels.usable(x, self.weight) and winograd.pays(self.weight, x[:, 0].numel()):
            return winograd.transposed(x, self.weight, self.bias)
        return super().forward(x)


class ToPicture(Up):
    """`Up` to few channels."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) → (B, outputs, 2H, 2W)."""
        return phases.transposed(x, self.weight, self.bias)


def conv(inputs: int, outputs: int, kernel: int = 5, stride: int = 2) -> nn.Conv2d:
    """Convolution that divides height and width by `stride`."""
    if kernel == 5 and stride == 2:
        return Down(inputs, outputs)
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2)


def subpixel(inputs: int, outputs: int, kernel: int = 3, factor: int = 2) -> nn.Sequential:
    """Convolution and pixel shuffle that multiply height and width by `factor` (Shi et al. 2016)."""
    return nn.Sequential(nn.Conv2d(inputs, outputs * factor**2, kernel, padding=kernel // 2), nn.PixelShuffle(factor))


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions beside the identity, or beside a 1×1 convolution if the number of channels changes."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.body = nn.Sequential(
            conv(inputs, outputs, 3, 1), nn.LeakyReLU(), conv(outputs, outputs, 3, 1), nn.LeakyReLU()
        )
        self.skip = nn.Identity() if inputs == outputs else conv(inputs, outputs, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.skip(x)


class ResidualDown(nn.Module):
    """Residual block that halves height and width, with GDN."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.body = nn.Sequential(
            conv(inputs, outputs, 3, 2), nn.LeakyReLU(), conv(outputs, outputs, 3, 1), GDN(outputs)
        )
        self.skip = conv(inputs, outputs, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        # Not a strided 1×1 convolution: oneDNN's backward pass of it, channels last, writes outside its memory on CPUs.
        return self.body(x) + self.skip(x[:, :, ::2, ::2])


class ResidualUp(nn.Module):
    """Residual block that doubles height and width by pixel shuffle, with inverse GDN."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.body = nn.Sequential(
            subpixel(inputs, outputs), nn.LeakyReLU(), conv(outputs, outputs, 3, 1), GDN(outputs, inverse=True)
        )
        self.skip = subpixel(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.skip(x)


class Attention(nn.Module):
    """Simplified attention x + a(x) · σ(b(x)); a and b consist of residual bottlenecks (Cheng et al. 2020)."""

    class Unit(nn.Module):
        """1×1, 3×3, 1×1 bottleneck beside the identity."""

        def __init__(self, channels: int):
            super().__init__()
            half = channels // 2
            self.body = nn.Sequential(
                conv(channels, half, 1, 1), nn.ReLU(), conv(half, half, 3, 1), nn.ReLU(), conv(half, channels, 1, 1)
            )

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.body(x) + x)

    def __init__(self, channels: int):
        super().__init__()
        unit = Attention.Unit
        self.trunk = nn.Sequential(*(unit(channels) for _ in range(3)))
        self.mask = nn.Sequential(*(unit(channels) for _ in range(3)), conv(channels, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.trunk(x) * torch.sigmoid(self.mask(x))


STREAM_BOUND = 32.0
"""Largest magnitude of a depthwise network's residual stream after a block. In photographs it stays below 20."""


class DepthwiseBlock(nn.Module):
    """Two residual halves: 1×1, depthwise 3×3 and 1×1 over space; then a gated pair of 1×1 over channels.

    The result is clamped to ±STREAM_BOUND, in training and in coding. The gate multiplies two values of the stream.
    Without the bound, the stream could square from block to block: on one-pixel stripes it reached infinity."""

    def __init__(self, channels: int):
        super().__init__()
        self.spatial = nn.Sequential(
            conv(channels, channels, 1, 1),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
            conv(channels, channels, 1, 1),
        )
        self.expand = conv(channels, channels * 4, 1, 1)
        self.project = conv(channels * 2, channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        if kernels.usable(x, self.expand.weight) and not torch.is_grad_enabled():
            return depthwise.block(x, self.spatial, self.expand, self.project, STREAM_BOUND)
        x = x + self.spatial(x)
        value, gate = self.expand(x).chunk(2, 1)
        return (x + self.project(value * F.silu(gate))).clamp(-STREAM_BOUND, STREAM_BOUND)

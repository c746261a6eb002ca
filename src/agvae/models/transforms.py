"""Analysis and synthesis transforms: g_a, g_s between picture and latent y, h_a, h_s between y and z.

A transforms function takes its widths and the number of channels that h_s must return, and returns a `Transforms`. To
add one here, write such a function, enter it in TRANSFORMS and give it a file in conf/model/transforms/. You can also
keep one in your own package: docs/extending.md. Every layer reads a bounded neighbourhood, so that a picture can be
transformed in tiles.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from agvae.models.block_transform import start_as_block_transform
from agvae.models.layers import (
    GDN,
    Attention,
    DepthwiseBlock,
    ResidualBlock,
    ResidualDown,
    ResidualUp,
    ToPicture,
    Up,
    conv,
    subpixel,
)


class Transforms(NamedTuple):
    """The four networks of a hyperprior model and the channels between them.

    g_a: (B, 3, H, W) → (B, M, H/16, W/16); g_s is its inverse. h_a: (B, M, H/16, W/16) → (B, N, H/64, W/64); h_s: (B,
    N, H/64, W/64) → (B, requested channels, H/16, W/16), made of layers that have an exact form (`agvae.models.exact`).
    """

    g_a: nn.Module
    g_s: nn.Module
    h_a: nn.Module
    h_s: nn.Module
    N: int
    M: int


def minnen2018(N: int, M: int, hyper_channels: int) -> Transforms:
    """Four 5×5 stride-2 convolutions with GDN between them (Minnen et al. 2018)."""
    return Transforms(
        g_a=nn.Sequential(
            conv(3, N), GDN(N),
            conv(N, N), GDN(N),
            conv(N, N), GDN(N),
            conv(N, M),
        ),
        g_s=nn.Sequential(
            Up(M, N), GDN(N, inverse=True),
            Up(N, N), GDN(N, inverse=True),
            Up(N, N), GDN(N, inverse=True),
            ToPicture(N, 3),
        ),
        h_a=nn.Sequential(
            conv(M, N, 3, 1), nn.LeakyReLU(),
            conv(N, N), nn.LeakyReLU(),
            conv(N, N),
        ),
        h_s=nn.Sequential(
            Up(N, M), nn.LeakyReLU(),
            Up(M, M * 3 // 2), nn.LeakyReLU(),
            conv(M * 3 // 2, hyper_channels, 3, 1),
        ),
        N=N,
        M=M,
    )  # fmt: skip


def residual(N: int, M: int, hyper_channels: int) -> Transforms:
    """3×3 residual blocks with attention at 1/4 and 1/16 of the resolution (the AG-VAE paper's, after Cheng et al.)."""
    return Transforms(
        g_a=nn.Sequential(
            ResidualDown(3, N), ResidualBlock(N, N),
            ResidualDown(N, N), Attention(N), ResidualBlock(N, N),
            ResidualDown(N, N), ResidualBlock(N, N),
            conv(N, M, 3, 2), Attention(M),
        ),
        g_s=nn.Sequential(
            Attention(M), ResidualBlock(M, N), ResidualUp(N, N),
            ResidualBlock(N, N), ResidualUp(N, N), Attention(N),
            ResidualBlock(N, N), ResidualUp(N, N),
            ResidualBlock(N, N), subpixel(N, 3),
        ),
        h_a=_hyper_analysis(N, M),
        h_s=_hyper_synthesis(N, M, hyper_channels),
        N=N,
        M=M,
    )  # fmt: skip


def _hyper_analysis(N: int, M: int) -> nn.Sequential:
    return nn.Sequential(
        conv(M, N, 3, 1), nn.LeakyReLU(),
        conv(N, N, 3, 2), nn.LeakyReLU(),
        conv(N, N, 3, 1), nn.LeakyReLU(),
        conv(N, N, 3, 2),
    )  # fmt: skip


def _hyper_synthesis(N: int, M: int, hyper_channels: int, H: int | None = None) -> nn.Sequential:
    inner, outer = (H, H) if H else (M * 3 // 2, M)
    return nn.Sequential(
        conv(N, N, 3, 1), nn.LeakyReLU(),
        subpixel(N, N), nn.LeakyReLU(),
        conv(N, inner, 3, 1), nn.LeakyReLU(),
        subpixel(inner, outer), nn.LeakyReLU(),
        conv(outer, hyper_channels, 3, 1),
    )  # fmt: skip


def depthwise(N: int, M: int, hyper_channels: int, blocks: int, H: int | None = None) -> Transforms:
    """Depthwise-separable blocks at 1/8 and 1/16 of the resolution (after EVC and DCVC-RT).

    H: the width of h_s. Without it, the width grows with M, and h_s takes longer than g_s. Training starts from a block
    transform: see `start_as_block_transform`."""
    g_a = nn.Sequential(
        nn.PixelUnshuffle(8), conv(3 * 64, N, 1, 1),
        *(DepthwiseBlock(N) for _ in range(blocks)),
        conv(N, M, 3, 2), DepthwiseBlock(M), conv(M, M, 1, 1),
    )  # fmt: skip
    g_s = nn.Sequential(
        conv(M, M, 1, 1), DepthwiseBlock(M), subpixel(M, N, 1),
        *(DepthwiseBlock(N) for _ in range(blocks)),
        subpixel(N, 3, 1, factor=8),
    )  # fmt: skip
    start_as_block_transform(g_a, g_s)
    return Transforms(
        g_a=g_a,
        g_s=g_s,
        h_a=_hyper_analysis(N, M),
        h_s=_hyper_synthesis(N, M, hyper_channels, H),
        N=N,
        M=M,
    )


TRANSFORMS: dict[str, Callable[..., Transforms]] = {
    "minnen2018": minnen2018,
    "residual": residual,
    "depthwise": depthwise,
}

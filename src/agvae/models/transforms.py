"""Analysis and synthesis transforms: g_a, g_s between picture and latent y, h_a, h_s between y and z.

A transforms function takes its widths and the channels that h_s must give, and returns a `Transforms`. To add
one, write such a function, enter it in TRANSFORMS and give it a file in conf/model/transforms/.
Every layer reads a bounded neighbourhood, so that a picture can be transformed in tiles.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agvae.entropy.densities import lower_bound
from agvae.models import winograd


class Reach(NamedTuple):
    """How far an element of a network's output sees past its own cell of the coarser side, on each side of it.

    g_a, g_s: in latents (16 pixels); h_s: in hyper-latents (64 pixels). Tiles need halos of this width."""

    g_a: int
    g_s: int
    h_s: int


class Transforms(NamedTuple):
    """The four networks of a hyperprior model and the channels between them.

    g_a: (B, 3, H, W) → (B, M, H/16, W/16); g_s back. h_a: (B, M, H/16, W/16) → (B, N, H/64, W/64);
    h_s: (B, N, H/64, W/64) → (B, channels asked for, H/16, W/16). bytes_per_pixel: what the tensors that live at
    once in g_a or g_s take in inference on a CPU, rounded up, for the choice of tiles."""

    g_a: nn.Module
    g_s: nn.Module
    h_a: nn.Module
    h_s: nn.Module
    N: int
    M: int
    reach: Reach
    bytes_per_pixel: float


class GDN(nn.Module):
    """Generalised divisive normalisation y_i = x_i / √(β_i + Σ_j γ_ij x_j²), or its inverse (Ballé et al. 2016).

    β and γ are stored as square roots, with CompressAI's names and reparametrisation."""

    BETA_MIN = 1e-6
    PEDESTAL = 2.0**-36
    RUN = 1024

    def __init__(self, channels: int, inverse: bool = False):
        super().__init__()
        self.inverse = inverse
        self.beta = nn.Parameter(torch.full((channels,), (1 + self.PEDESTAL) ** 0.5))
        self.gamma = nn.Parameter(torch.full((channels, channels), self.PEDESTAL**0.5))
        self.gamma.data.fill_diagonal_((0.1 + self.PEDESTAL) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        beta = lower_bound(self.beta, (self.BETA_MIN + self.PEDESTAL) ** 0.5) ** 2 - self.PEDESTAL
        gamma = lower_bound(self.gamma, self.PEDESTAL**0.5) ** 2 - self.PEDESTAL
        if not torch.is_grad_enabled() and x.device.type == "cpu":
            return self._in_place(x, beta, gamma.t().contiguous())
        if x.device.type == "cpu" and x.dtype == beta.dtype and not _rewritten():
            return _NormaliseInRuns.apply(x, beta, gamma, self.inverse)
        norm = F.conv2d(x**2, gamma[:, :, None, None], beta)
        return x * (norm.sqrt() if self.inverse else norm.rsqrt())

    def _in_place(self, x: Tensor, beta: Tensor, gamma: Tensor) -> Tensor:
        """The same in the place of x, in runs of positions that stay in the processor's cache: half the time, a third
        of the memory. What comes before is a convolution, whose output nobody else reads."""
        batch, channels, height, width = x.shape
        rows = x.permute(0, 2, 3, 1).reshape(-1, channels)
        for part in rows.split(self.RUN):
            norm = torch.addmm(beta, part * part, gamma).sqrt_()
            part.mul_(norm) if self.inverse else part.div_(norm)
        return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _rewritten() -> bool:
    """Whether autocast or a compiler is to choose how the operations of a module are carried out."""
    return torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()


class _NormaliseInRuns(torch.autograd.Function):
    """GDN in runs of positions that stay in the processor's cache, for training: 0.7 times the time.

    With n = β + γ x² and f = n^(∓½), y = x·f, ∂L/∂n = ∓½ g·x·n^(∓½ − 1) and ∂L/∂x = g·f + 2x·γᵀ ∂L/∂n."""

    @staticmethod
    def forward(ctx, x: Tensor, beta: Tensor, gamma: Tensor, inverse: bool) -> Tensor:
        rows, transposed = _positions(x), gamma.t().contiguous()
        out = torch.empty_like(rows)
        factors = torch.empty_like(rows)
        root = torch.sqrt if inverse else torch.rsqrt
        for run in _runs(rows):
            root(torch.addmm(beta, rows[run].square(), transposed), out=factors[run])
            torch.mul(rows[run], factors[run], out=out[run])
        ctx.save_for_backward(x, gamma, factors)
        ctx.inverse = inverse
        return _picture(out, x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, gamma, factors = ctx.saved_tensors
        rows, grads = _positions(x), _positions(grad)
        grad_x = torch.empty_like(rows)
        grad_beta, grad_gamma = gamma.new_zeros(len(gamma)), torch.zeros_like(gamma)
        sign = 1 if ctx.inverse else -1
        for run in _runs(rows):
            part, factor = rows[run], factors[run]
            direct = grads[run] * factor
            doubled = direct * part  # becomes ±2 ∂L/∂n
            if ctx.inverse:
                doubled.div_(factor).div_(factor)
            else:
                doubled.mul_(factor).mul_(factor)
            grad_beta.add_(doubled.sum(0), alpha=sign / 2)
            grad_gamma.addmm_(doubled.t(), part.square(), alpha=sign / 2)
            torch.addcmul(direct, part, doubled @ gamma, value=sign, out=grad_x[run])
        return _picture(grad_x, x), grad_beta, grad_gamma, None


def _runs(rows: Tensor) -> list[slice]:
    return [slice(start, start + GDN.RUN) for start in range(0, len(rows), GDN.RUN)]


def _positions(x: Tensor) -> Tensor:
    """(B, C, H, W) as (B·H·W, C), without a copy if its channels lie last."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _picture(rows: Tensor, like: Tensor) -> Tensor:
    batch, channels, height, width = like.shape
    return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)


class Down(nn.Conv2d):
    """5×5 convolution that halves height and width."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 5, 2, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, 2H, 2W) → (B, outputs, H, W)."""
        even = x.shape[2] % 2 == x.shape[3] % 2 == 0
        if even and _takes_winograd(self, x, x.shape[2] // 2, x.shape[3] // 2):
            return winograd.strided(x, self.weight, self.bias)
        return super().forward(x)


class Up(nn.ConvTranspose2d):
    """Transposed 5×5 convolution that doubles height and width."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 5, 2, padding=2, output_padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) → (B, outputs, 2H, 2W)."""
        if _takes_winograd(self, x, *x.shape[2:]):
            return winograd.transposed(x, self.weight, self.bias)
        return super().forward(x)


def _takes_winograd(layer: nn.Module, x: Tensor, height: int, width: int) -> bool:
    """Whether `layer` should be carried out so, where it pays: at these sizes and above, as measured."""
    return (
        x.device.type == "cpu"
        and x.dtype == layer.weight.dtype == torch.float32
        and not _rewritten()
        and min(layer.weight.shape[:2]) >= 128
        and len(x) * height * width >= 1536
    )


def conv(inputs: int, outputs: int, kernel: int = 5, stride: int = 2) -> nn.Conv2d:
    """Convolution that divides height and width by `stride`."""
    if kernel == 5 and stride == 2:
        return Down(inputs, outputs)
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2)


class ToPicture(Up):
    """`Up` to few channels, computed as a 3×3 convolution to those of each of the four phases.

    Output 2i + p reads input i + d with the kernel's element 2(1 − d) + p. 0.4 times the time: processors are made for
    convolutions with many outputs."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) → (B, outputs, 2H, 2W)."""
        # (inputs, outputs, 1 − d, p, 1 − d, p) of rows, then of columns.
        phases = F.pad(self.weight, (0, 1, 0, 1)).unflatten(3, (3, 2)).unflatten(2, (3, 2))
        kernel = phases.flip(2, 4).permute(1, 3, 5, 0, 2, 4).flatten(0, 2)
        kernel = kernel.contiguous(memory_format=torch.channels_last)
        return F.pixel_shuffle(F.conv2d(x, kernel, self.bias.repeat_interleave(4), padding=1), 2)


def subpixel(inputs: int, outputs: int, kernel: int = 3, factor: int = 2) -> nn.Sequential:
    """Convolution and pixel shuffle that multiply height and width by `factor` (Shi et al. 2016)."""
    return nn.Sequential(nn.Conv2d(inputs, outputs * factor**2, kernel, padding=kernel // 2), nn.PixelShuffle(factor))


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
        reach=Reach(2, 2, 2),
        bytes_per_pixel=1.5 * N,
    )  # fmt: skip


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions beside the identity, or beside a 1×1 where the channels change."""

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
        # Not a strided 1×1 convolution: the backward pass of oneDNN's, channels last, writes past its memory on CPUs.
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
    """Simplified attention x + a(x) · σ(b(x)), both of residual bottlenecks (Cheng et al. 2020)."""

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
        reach=Reach(7, 11, 4),
        bytes_per_pixel=4 * N,
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


STREAM_BOUND = 32.0
"""Largest magnitude of a depthwise network's residual stream after a block. In photographs it stays under 20."""


class DepthwiseBlock(nn.Module):
    """Two residual halves: 1×1, depthwise 3×3, 1×1 over space; then a gated 1×1 pair over channels.

    The result is clamped to ±STREAM_BOUND, in training and in coding. The gate multiplies two values of the stream, so
    an unbounded stream would square itself from block to block; on pictures of one-pixel stripes it reached infinity."""

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
        x = x + self.spatial(x)
        value, gate = self.expand(x).chunk(2, 1)
        return (x + self.project(value * F.silu(gate))).clamp(-STREAM_BOUND, STREAM_BOUND)


def depthwise(N: int, M: int, hyper_channels: int, blocks: int, H: int | None = None) -> Transforms:
    """Depthwise-separable blocks at 1/8 and 1/16 of the resolution (after EVC and DCVC-RT).

    H: the width of h_s, which grows with M where it is not given, and then takes longer than g_s does.
    Training starts from a block transform: see `_start_as_block_transform`."""
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
    _start_as_block_transform(g_a, g_s)
    return Transforms(
        g_a=g_a,
        g_s=g_s,
        h_a=_hyper_analysis(N, M),
        h_s=_hyper_synthesis(N, M, hyper_channels, H),
        N=N,
        M=M,
        reach=Reach(2 + -(-blocks // 2), 2 + -(-blocks // 2), 4),
        bytes_per_pixel=N + 20,
    )


@torch.no_grad()
def _start_as_block_transform(g_a: nn.Sequential, g_s: nn.Sequential) -> None:
    """Let depthwise transforms begin as an orthonormal transform of 16×16 blocks and its inverse: what training takes
    longest to find is a g_s that undoes g_a.

    First the N coefficients with most variance of an 8×8 DCT in a luma and two chroma axes, then the M with most of a
    Haar transform of 2×2 of those; the residual blocks add nothing yet. Channels beyond the 192 and 4N there are
    start at random, unheard by g_s."""
    unshuffled, down, last = (module for module in g_a if isinstance(module, nn.Conv2d))
    first, (up, _), (shuffled, _) = (module for module in g_s if not isinstance(module, DepthwiseBlock))
    if unshuffled.weight.is_meta:  # a model file's weights will take their place
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

    # A step of 1 is then near the best for the middle of the MSE ladder: Δ² = 18 / (ln 2 · 255² · λ).
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
    """What a coefficient of a 16×16 block varies by in photographs, roughly: 1/f^2.4, a twentieth of it in chroma."""
    return (0.05 if axis else 1.0) / (0.5 + u**2 + v**2) ** 1.2


def _largest(values: list[float], count: int) -> list[int]:
    return sorted(range(len(values)), key=lambda i: -values[i])[:count]


TRANSFORMS: dict[str, Callable[..., Transforms]] = {
    "minnen2018": minnen2018,
    "residual": residual,
    "depthwise": depthwise,
}

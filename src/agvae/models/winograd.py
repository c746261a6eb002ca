"""5×5 convolutions of stride 2, and their transposes, with fewer multiplications (Winograd 1980; Lavin and Gray 2016).

A 5×5 kernel of stride 2 is four kernels of stride 1, of 3×3, 3×2, 2×3 and 2×2 elements, one for each phase (a, b) of its
finer side's rows and columns. Each is evaluated by F(4×4, 3×3): tiles of 4×4 elements of the coarser side are products of
polynomials, found from their values at the six points 0, ±1, ±2, ∞ along each axis. A kernel of two elements is of lower
degree, so that its value at ∞ is zero and needs no product. It takes 121 multiplications for 16 · 25 = 400.

    strided, Y = Σ_ab w_ab ∗ X_ab:      Y = Aᵀ [ Σ_ab U_ab ⊙ Bᵀ X_ab B ] A,     U_ab = G w_ab Gᵀ
    transposed, Y_ab = w_ab ∗ X:        Y_ab = Aᵀ [ U_ab ⊙ Bᵀ X B ] A           with X, Y_ab mirrored in each tile
    gradient of the kernel:             ∂w_ab = Gᵀ [ Σ_tiles Bᵀ X_ab B ⊙ A ∂Y Aᵀ ] G

⊙ is a product of matrices over the channels at each of the 36 points. On a processor, in float32, with the rounding of
float32: the result is not that of the direct sum to the last bit.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch
from numba import njit
from torch import Tensor

TILES = 128
"""Tiles at once: their values at all points stay near the processor."""

_G = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
"""A kernel's three elements to its values at 0, 1, −1, 2, −2 and ∞."""

_PHASES = [(0, 0), (0, 1), (1, 0), (1, 1)]


def _kernel_values() -> Tensor:
    """(121, 25): the elements of a 5×5 kernel to its values at the points (i, j) of each phase, one after another."""
    axis = np.zeros((2, 6, 5))
    axis[0, :, 0::2] = _G
    axis[1, :, 1::2] = _G[:, :2]
    axis[1, 5] = 0
    phases = [np.kron(axis[a, : 6 - a], axis[b, : 6 - b]) for a, b in _PHASES]
    return torch.from_numpy(np.concatenate(phases)).float()


_VALUES = _kernel_values()


def strided(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.conv2d of stride 2 and padding 2: (B, C, 2H, 2W) and (N, C, 5, 5) → (B, N, H, W), channels last."""
    return _Strided.apply(x, weight, bias)


def transposed(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.conv_transpose2d of stride 2: (B, N, H, W) and (N, C, 5, 5) → (B, C, 2H, 2W), channels last."""
    return _Transposed.apply(x, weight, bias)


class _Strided(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _strided(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        needs = ctx.needs_input_grad
        return (
            _transposed(grad, weight, None) if needs[0] else None,
            _weight_gradient(x, grad) if needs[1] else None,
            grad.sum((0, 2, 3)) if needs[2] else None,
        )


class _Transposed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _transposed(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        needs = ctx.needs_input_grad
        return (
            _strided(grad, weight, None) if needs[0] else None,
            _weight_gradient(grad, x) if needs[1] else None,
            grad.sum((0, 2, 3)) if needs[2] else None,
        )


def _strided(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    x = _channels_last(x)
    batch, height, width, channels = x.shape
    out = x.new_empty(batch, height // 2, width // 2, len(weight))
    kernels = _by_phase(_values(weight), *weight.shape[:2])
    tiles = _tiles(out)
    fine, coarse = _planes(tiles, TILES, channels), _planes(tiles, TILES, len(weight))[0]
    for first, count in _blocks(tiles, TILES):
        _share(_read, count, x, 2, first, fine)
        for phase, (plane, kernel) in enumerate(zip(fine, kernels, strict=True)):
            _multiply(plane[:, :, :count], kernel.transpose(2, 3), coarse[:, :, :count], add=phase > 0)
        _share(_write, count, [coarse] * 4, 1, first, _bias(bias, out), out)
    return out.permute(0, 3, 1, 2)


def _transposed(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    x = _channels_last(x)
    batch, height, width, channels = x.shape
    out = x.new_empty(batch, 2 * height, 2 * width, weight.shape[1])
    kernels = _by_phase(_values(weight), *weight.shape[:2])
    tiles = _tiles(x)
    coarse, fine = _planes(tiles, TILES, channels)[0], _planes(tiles, TILES, weight.shape[1])
    for first, count in _blocks(tiles, TILES):
        _share(_read, count, x, 1, first, [coarse] * 4)
        for plane, kernel in zip(fine, kernels, strict=True):
            _multiply(coarse[:, :, :count], kernel, plane[:, :, :count])
        _share(_write, count, fine, 2, first, _bias(bias, out), out)
    return out.permute(0, 3, 1, 2)


def _weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """Of the kernel (N, C, 5, 5) between the finer side x (B, C, 2H, 2W) and the coarser, grad (B, N, H, W)."""
    x, grad = _channels_last(x), _channels_last(grad)
    outputs, inputs = grad.shape[3], x.shape[3]
    values = x.new_zeros(len(_VALUES), outputs * inputs)
    tiles, most = _tiles(grad), 4 * TILES  # more than elsewhere: all are added to the same sums
    fine, coarse = _planes(tiles, most, inputs), _planes(tiles, most, outputs)[0]
    for first, count in _blocks(tiles, most):
        _share(_read, count, x, 2, first, fine)
        _share(_spread, count, grad, first, coarse)
        for plane, total in zip(fine, _by_phase(values, outputs, inputs), strict=True):
            _multiply(coarse[:, :, :count].transpose(2, 3), plane[:, :, :count], total, add=True)
    return (_VALUES.t() @ values).view(5, 5, outputs, inputs).permute(2, 3, 0, 1).contiguous()


def _values(weight: Tensor) -> Tensor:
    """(121, N·C) of a kernel (N, C, 5, 5)."""
    return _VALUES @ weight.reshape(-1, 25).t()


def _by_phase(values: Tensor, outputs: int, inputs: int) -> list[Tensor]:
    """(121, N·C) as (6 − a, 6 − b, N, C) of each phase."""
    parts = values.split([(6 - a) * (6 - b) for a, b in _PHASES])
    return [part.view(6 - a, 6 - b, outputs, inputs) for part, (a, b) in zip(parts, _PHASES, strict=True)]


def _channels_last(x: Tensor) -> Tensor:
    """(B, C, H, W) as contiguous (B, H, W, C)."""
    return x.detach().permute(0, 2, 3, 1).contiguous()


def _tiles(coarse: Tensor) -> int:
    """Tiles of 4×4 that cover the maps (B, H, W, C)."""
    batch, height, width, _ = coarse.shape
    return batch * -(-height // 4) * -(-width // 4)


def _blocks(tiles: int, most: int) -> Iterator[tuple[int, int]]:
    """(first tile, their number) of equal blocks of at most `most` tiles."""
    count = -(-tiles // -(-tiles // most))
    return ((first, min(count, tiles - first)) for first in range(0, tiles, count))


def _planes(tiles: int, most: int, channels: int) -> list[Tensor]:
    """For each phase, the values (6 − a, 6 − b, tiles of a block, channels)."""
    count = next(_blocks(tiles, most))[1]
    return [torch.empty(6 - a, 6 - b, count, channels) for a, b in _PHASES]


def _multiply(left: Tensor, right: Tensor, out: Tensor, add: bool = False) -> None:
    """out = left · right, or added to it, at the points that all three have: (points, points, rows, columns)."""
    points = min(len(left), len(right)), min(left.shape[1], right.shape[1])
    for i in range(points[0]):
        a, b, c = (planes[i, : points[1]] for planes in (left, right, out))
        if add:
            c.baddbmm_(a, b)
        else:
            torch.bmm(a, b, out=c)


def _bias(bias: Tensor | None, out: Tensor) -> Tensor:
    return out.new_zeros(out.shape[3]) if bias is None else bias


def _share(function: Callable, count: int, *arguments) -> None:
    """Call function(start, stop, …) over [0, count), in as many threads as torch has."""
    arrays = [
        tuple(part.numpy() for part in argument) if isinstance(argument, list)
        else argument.detach().numpy() if isinstance(argument, Tensor)
        else argument
        for argument in arguments
    ]  # fmt: skip
    threads = min(torch.get_num_threads(), count)
    if threads == 1:
        function(0, count, *arrays)
        return
    edges = [count * index // threads for index in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(function, *edge, *arrays) for edge in pairwise(edges)]:
            done.result()


_kernel = njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})


@_kernel
def _values_of(d, offset, step, out, i, t, infinity):
    """Values out[i, :, t] of what stands at d[offset], d[offset + step], …, at the points: Bᵀ."""
    for c in range(d.shape[1]):
        d0, d1, d2 = d[offset, c], d[offset + step, c], d[offset + 2 * step, c]
        d3, d4 = d[offset + 3 * step, c], d[offset + 4 * step, c]
        out[i, 0, t, c] = 4 * d0 - 5 * d2 + d4
        out[i, 1, t, c] = (d4 - 4 * d2) + (d3 - 4 * d1)
        out[i, 2, t, c] = (d4 - 4 * d2) - (d3 - 4 * d1)
        out[i, 3, t, c] = (d4 - d2) + 2 * (d3 - d1)
        out[i, 4, t, c] = (d4 - d2) - 2 * (d3 - d1)
    if infinity:
        for c in range(d.shape[1]):
            d1, d3, d5 = d[offset + step, c], d[offset + 3 * step, c], d[offset + 5 * step, c]
            out[i, 5, t, c] = 4 * d1 - 5 * d3 + d5


@_kernel
def _elements_of(values, i, t, infinity, out, k):
    """The four elements out[k, :] that have values[i, :, t] at the points: Aᵀ."""
    for c in range(values.shape[3]):
        m0, m1, m2, m3, m4 = (
            values[i, 0, t, c], values[i, 1, t, c], values[i, 2, t, c], values[i, 3, t, c], values[i, 4, t, c],
        )  # fmt: skip
        out[k, 0, c] = m0 + (m1 + m2) + (m3 + m4)
        out[k, 1, c] = (m1 - m2) + 2 * (m3 - m4)
        out[k, 2, c] = (m1 + m2) + 4 * (m3 + m4)
        out[k, 3, c] = (m1 - m2) + 8 * (m3 - m4)
    if infinity:
        for c in range(values.shape[3]):
            out[k, 3, c] += values[i, 5, t, c]


@_kernel
def _spread_of(d, out, i, t):
    """Values out[i, :, t] of the four elements d, as `_elements_of` weighs them: A."""
    for c in range(d.shape[1]):
        d0, d1, d2, d3 = d[0, c], d[1, c], d[2, c], d[3, c]
        out[i, 0, t, c] = d0
        out[i, 1, t, c] = (d0 + d2) + (d1 + d3)
        out[i, 2, t, c] = (d0 + d2) - (d1 + d3)
        out[i, 3, t, c] = (d0 + 4 * d2) + (2 * d1 + 8 * d3)
        out[i, 4, t, c] = (d0 + 4 * d2) - (2 * d1 + 8 * d3)
        out[i, 5, t, c] = d3


@_kernel
def _tile(index, height, width):
    """(picture, row, column) of a tile of maps of height × width elements."""
    rows, columns = (height + 3) // 4, (width + 3) // 4
    return index // (rows * columns), index % (rows * columns) // columns, index % columns


@_kernel
def _window(x, picture, top, left, flip, window):
    """Copy what of x (B, H, W, C) lies at (top, left) into window (n, n·C), with zeros past its borders."""
    size, channels = len(window), x.shape[3]
    for r in range(size):
        row = top + (size - 1 - r if flip else r)
        for s in range(size):
            column = left + (size - 1 - s if flip else s)
            part = window[r, s * channels : (s + 1) * channels]
            if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                part[:] = x[picture, row, column]
            else:
                part[:] = 0


@_kernel
def _read(start, stop, x, stride, first, planes):
    """Bᵀ X_ab B of tiles from first + start on, of x (B, stride·H, stride·W, C), mirrored if stride is 1."""
    channels = x.shape[3]
    size = 5 * stride + 1
    window = np.empty((size, size * channels), np.float32)
    half = np.empty((1, 6, 1, size * channels), np.float32)
    for t in range(start, stop):
        picture, row, column = _tile(first + t, x.shape[1] // stride, x.shape[2] // stride)
        _window(x, picture, stride * (4 * row - 1), stride * (4 * column - 1), stride == 1, window)
        for a in range(stride):
            _values_of(window, a, stride, half, 0, 0, a == 0)
            for b in range(stride):
                for i in range(6 - a):
                    _values_of(half[0, i, 0].reshape((size, channels)), b, stride, planes[2 * a + b], i, t, b == 0)


@_kernel
def _spread(start, stop, x, first, plane):
    """A X Aᵀ of tiles from first + start on, of x (B, H, W, C)."""
    channels = x.shape[3]
    window = np.empty((4, 4 * channels), np.float32)
    half = np.empty((1, 6, 1, 4 * channels), np.float32)
    for t in range(start, stop):
        picture, row, column = _tile(first + t, x.shape[1], x.shape[2])
        _window(x, picture, 4 * row, 4 * column, False, window)
        _spread_of(window, half, 0, 0)
        for i in range(6):
            _spread_of(half[0, i, 0].reshape((4, channels)), plane, i, t)


@_kernel
def _write(start, stop, planes, stride, first, bias, y):
    """Aᵀ M_ab A and the bias to tiles from first + start on, of y (B, stride·H, stride·W, C), mirrored if stride is 2."""
    channels = y.shape[3]
    half = np.empty((6, 4, channels), np.float32)
    tile = np.empty((1, 4, 4 * channels), np.float32)
    for t in range(start, stop):
        picture, top, left = _tile(first + t, y.shape[1] // stride, y.shape[2] // stride)
        for a in range(stride):
            for b in range(stride):
                for i in range(6 - a):
                    _elements_of(planes[2 * a + b], i, t, b == 0, half, i)
                _elements_of(half.reshape((1, 6, 1, 4 * channels)), 0, 0, a == 0, tile, 0)
                for k in range(4):
                    row = stride * (4 * top + (3 - k if stride == 2 else k)) + a
                    for l in range(4):
                        column = stride * (4 * left + (3 - l if stride == 2 else l)) + b
                        if row < y.shape[1] and column < y.shape[2]:
                            for c in range(channels):
                                y[picture, row, column, c] = tile[0, k, l * channels + c] + bias[c]

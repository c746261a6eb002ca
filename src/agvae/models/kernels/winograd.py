"""5×5 convolutions of stride 2, and their transposes, with fewer multiplications (Winograd 1980; Lavin and Gray 2016).

A 5×5 kernel of stride 2 is four kernels of stride 1, of 3×3, 3×2, 2×3 and 2×2 elements, one for each phase (a, b) of
its finer side's rows and columns. Each is evaluated by F(4×4, 3×3): tiles of 4×4 elements of the coarser side are
products of polynomials, found from their values at the six points 0, ±1, ±2, ∞ along each axis. A kernel of two
elements is of lower degree: its value at ∞ is zero and needs no product. So 121 multiplications replace 16 · 25 = 400.

    strided, Y = Σ_ab w_ab ∗ X_ab:      Y = Aᵀ [ Σ_ab U_ab ⊙ Bᵀ X_ab B ] A,     U_ab = G w_ab Gᵀ
    transposed, Y_ab = w_ab ∗ X:        Y_ab = Aᵀ [ U_ab ⊙ Bᵀ X B ] A           with X, Y_ab mirrored in each tile
    gradient of the kernel:             ∂w_ab = Gᵀ [ Σ_tiles Bᵀ X_ab B ⊙ A ∂Y Aᵀ ] G

⊙ is a product of matrices over the channels at each point (i, j). In float32, on a CPU. Errors are ten to twenty
times those of the plain convolution, at most some 10^−5 of the result's size: far less than pictures of 8 bits show.

Values of a tile lie together, (tiles, slots, channels): of the finer side 121 slots, the four phases of each of the 25
points with i, j < 5, two of each of the 5 with i = ∞, then of the 5 with j = ∞, and the one phase that has both; of the
coarser side the 36 points in the same order.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, product

import numpy as np
import torch
from torch import Tensor

from agvae.machine_code import compiled

TILES = 128
"""Largest number of tiles at once, so that their values stay in the cache."""

_POINTS = (25, 10, 1)
"""Points of a tile whose values lie in four, in two and in one phase."""

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
"""Maps the three elements of a kernel to its values at 0, 1, −1, 2, −2 and ∞."""


def _kernel_to_values() -> Tensor:
    """(121, 25): maps the elements of a 5×5 kernel to its value in each slot."""
    axis = np.zeros((2, 6, 5))
    axis[0, :, 0::2] = _G
    axis[1, :5, 1::2] = _G[:5, :2]
    five, both = range(5), range(2)
    slots = [
        *product(five, five, both, both),
        *product([5], five, [0], both),
        *product(five, [5], both, [0]),
        (5, 5, 0, 0),
    ]
    return torch.from_numpy(np.stack([np.kron(axis[a, i], axis[b, j]) for i, j, a, b in slots])).float()


_KERNEL = _kernel_to_values()


def pays(weight: Tensor, positions: int) -> bool:
    """Whether this is faster, as measured. On small maps, reading the kernel's values takes longer than using them."""
    return min(weight.shape[:2]) >= 128 and positions >= 1536


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
    x, kernel = _channels_last(x), _matrices(_KERNEL @ _elements(weight))
    batch, height, width, channels = x.shape
    y = x.new_empty(batch, height // 2, width // 2, len(weight))
    fine, coarse = _values(y, channels, 121), _values(y, len(weight), 36)
    for first, count in _blocks(y):
        _share(_read, count, x, 2, first, fine)
        for a, b, c in zip(_matrices(fine[:count]), kernel, _matrices(coarse[:count]), strict=True):
            torch.bmm(a, b.transpose(1, 2), out=c)
        _share(_write, count, coarse, 1, first, _bias(bias, y), y)
    return y.permute(0, 3, 1, 2)


def _transposed(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    x, kernel = _channels_last(x), _matrices(_KERNEL @ _elements(weight))
    batch, height, width, channels = x.shape
    y = x.new_empty(batch, 2 * height, 2 * width, weight.shape[1])
    coarse, fine = _values(x, channels, 36), _values(x, y.shape[3], 121)
    for first, count in _blocks(x):
        _share(_read, count, x, 1, first, coarse)
        for a, b, c in zip(_matrices(coarse[:count]), kernel, _matrices(fine[:count]), strict=True):
            torch.bmm(a, b, out=c)
        _share(_write, count, fine, 2, first, _bias(bias, y), y)
    return y.permute(0, 3, 1, 2)


def _weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """Gradient of the kernel (N, C, 5, 5) from the finer side x (B, C, 2H, 2W) and the gradient (B, N, H, W)."""
    x, grad = _channels_last(x), _channels_last(grad)
    inputs, outputs = x.shape[3], grad.shape[3]
    total = x.new_zeros(outputs, 121, inputs)
    fine, coarse = _values(grad, inputs, 121), _values(grad, outputs, 36)
    for first, count in _blocks(grad):
        _share(_read, count, x, 2, first, fine)
        _share(_spread, count, grad, first, coarse)
        for a, b, c in zip(_matrices(coarse[:count]), _matrices(fine[:count]), _matrices(total), strict=True):
            c.baddbmm_(a.transpose(1, 2), b)
    return (_KERNEL.t() @ total).view(outputs, 5, 5, inputs).permute(0, 3, 1, 2)


def _channels_last(x: Tensor) -> Tensor:
    """(B, C, H, W) as contiguous (B, H, W, C)."""
    return x.detach().permute(0, 2, 3, 1).contiguous()


def _elements(weight: Tensor) -> Tensor:
    """(N, C, 5, 5) as (N, 25, C)."""
    return weight.detach().permute(0, 2, 3, 1).reshape(len(weight), 25, -1)


def _matrices(values: Tensor) -> list[Tensor]:
    """(rows, slots, channels) as (points, rows, phases · channels) for each of _POINTS."""
    phases = (4, 2, 1) if values.shape[1] == 121 else (1, 1, 1)
    groups = values.split([points * count for points, count in zip(_POINTS, phases, strict=True)], 1)
    return [group.view(len(values), points, -1).transpose(0, 1) for group, points in zip(groups, _POINTS, strict=True)]


def _blocks(coarse: Tensor) -> Iterator[tuple[int, int]]:
    """(first, number) of the tiles of maps (B, H, W, C), in blocks of equal size."""
    tiles = coarse.shape[0] * -(-coarse.shape[1] // 4) * -(-coarse.shape[2] // 4)
    count = -(-tiles // -(-tiles // TILES))
    return ((first, min(count, tiles - first)) for first in range(0, tiles, count))


def _values(coarse: Tensor, channels: int, slots: int) -> Tensor:
    """Memory for the values of a block."""
    return coarse.new_empty(next(_blocks(coarse))[1], slots, channels)


def _bias(bias: Tensor | None, y: Tensor) -> Tensor:
    return y.new_zeros(y.shape[3]) if bias is None else bias.detach()


def _share(function: Callable, count: int, *arguments) -> None:
    """Call function(start, stop, …) over [0, count), in as many threads as torch has."""
    arrays = [argument.numpy() if isinstance(argument, Tensor) else argument for argument in arguments]
    threads = min(torch.get_num_threads(), count)
    if threads == 1:
        function(0, count, *arrays)
        return
    edges = [count * index // threads for index in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(function, *edge, *arrays) for edge in pairwise(edges)]:
            done.result()


_kernel = compiled(nogil=True, error_model="numpy", fastmath={"contract"})


@_kernel
def _to_values(d, row, step, column, out, t, slot, apart, last):
    """out[t, slot], out[t, slot + apart], … and out[t, last], unless last < 0: Bᵀ of d's rows row, row + step, …"""
    for c in range(out.shape[2]):
        s = column + c
        d0, d1, d2 = d[row, s], d[row + step, s], d[row + 2 * step, s]
        d3, d4 = d[row + 3 * step, s], d[row + 4 * step, s]
        out[t, slot, c] = 4 * d0 - 5 * d2 + d4
        out[t, slot + apart, c] = (d4 - 4 * d2) + (d3 - 4 * d1)
        out[t, slot + 2 * apart, c] = (d4 - 4 * d2) - (d3 - 4 * d1)
        out[t, slot + 3 * apart, c] = (d4 - d2) + 2 * (d3 - d1)
        out[t, slot + 4 * apart, c] = (d4 - d2) - 2 * (d3 - d1)
    if last >= 0:
        for c in range(out.shape[2]):
            s = column + c
            out[t, last, c] = 4 * d[row + step, s] - 5 * d[row + 3 * step, s] + d[row + 5 * step, s]


@_kernel
def _from_values(values, t, slot, apart, last, out):
    """The four rows of out: Aᵀ of values[t, slot], values[t, slot + apart], … and values[t, last], unless last < 0."""
    for c in range(values.shape[2]):
        m0, m1, m2 = values[t, slot, c], values[t, slot + apart, c], values[t, slot + 2 * apart, c]
        m3, m4 = values[t, slot + 3 * apart, c], values[t, slot + 4 * apart, c]
        out[0, c] = m0 + (m1 + m2) + (m3 + m4)
        out[1, c] = (m1 - m2) + 2 * (m3 - m4)
        out[2, c] = (m1 + m2) + 4 * (m3 + m4)
        out[3, c] = (m1 - m2) + 8 * (m3 - m4)
    if last >= 0:
        for c in range(values.shape[2]):
            out[3, c] += values[t, last, c]


@_kernel
def _to_adjoint(d, out, t, slot, apart, last):
    """As `_to_values`, but A of the four rows of d."""
    for c in range(out.shape[2]):
        d0, d1, d2, d3 = d[0, c], d[1, c], d[2, c], d[3, c]
        out[t, slot, c] = d0
        out[t, slot + apart, c] = (d0 + d2) + (d1 + d3)
        out[t, slot + 2 * apart, c] = (d0 + d2) - (d1 + d3)
        out[t, slot + 3 * apart, c] = (d0 + 4 * d2) + (2 * d1 + 8 * d3)
        out[t, slot + 4 * apart, c] = (d0 + 4 * d2) - (2 * d1 + 8 * d3)
    for c in range(out.shape[2]):
        out[t, last, c] = d[3, c]


@_kernel
def _slots(i, a, b, phases):
    """Of phase (a, b) of `phases` × `phases`: the slots of the points (i, 0) and (i, 1), and (i, ∞), or −1."""
    whole = phases * phases
    if i == 5:
        slot, apart, last = 25 * whole + b, phases, 25 * whole + 10 * phases
    else:
        slot, apart, last = 5 * i * whole + a * phases + b, whole, (25 * phases + 5 + i) * phases + a
    return slot, apart, last if b == 0 else -1


@_kernel
def _tile(index, height, width):
    """(picture, row, column) of a tile's first element in maps of height × width."""
    rows, columns = (height + 3) // 4, (width + 3) // 4
    return index // (rows * columns), index % (rows * columns) // columns * 4, index % columns * 4


@_kernel
def _window(x, picture, top, left, window):
    """Copy the part of x (B, H, W, C) at (top, left) into window (n, n·C), with zeros outside its borders."""
    size, channels = len(window), x.shape[3]
    for r in range(size):
        for s in range(size):
            row, column = top + r, left + s
            if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                for c in range(channels):
                    window[r, s * channels + c] = x[picture, row, column, c]
            else:
                for c in range(channels):
                    window[r, s * channels + c] = 0


@_kernel
def _read(start, stop, x, stride, first, values):
    """Bᵀ X_ab B of tiles from first + start on, of x (B, stride·H, stride·W, C), mirrored if stride is 1."""
    batch, height, width, channels = x.shape
    size = 5 * stride + 1
    rows = x.reshape((batch * height, width * channels))
    window = np.empty((size, size * channels), np.float32)
    half = np.empty((1, 6, size * channels), np.float32)
    mirrored, step = stride == 1, stride if stride == 2 else -1
    for t in range(start, stop):
        picture, row, column = _tile(first + t, height // stride, width // stride)
        top, left = stride * (row - 1), stride * (column - 1)
        inside = top >= 0 and left >= 0 and top + size <= height and left + size <= width
        if not inside:
            _window(x, picture, top, left, window)
        for a in range(stride):
            offset = 5 if mirrored else a
            if inside:
                _to_values(rows, picture * height + top + offset, step, left * channels, half, 0, 0, 1, 5 - 6 * a)
            else:
                _to_values(window, offset, step, 0, half, 0, 0, 1, 5 - 6 * a)
            for b in range(stride):
                offset = 5 if mirrored else b
                for i in range(6 - a):
                    slot, apart, last = _slots(i, a, b, stride)
                    _to_values(half[0, i].reshape((size, channels)), offset, step, 0, values, t, slot, apart, last)


@_kernel
def _spread(start, stop, x, first, values):
    """A X Aᵀ of tiles from first + start on, of x (B, H, W, C)."""
    channels = x.shape[3]
    window = np.empty((4, 4 * channels), np.float32)
    half = np.empty((1, 6, 4 * channels), np.float32)
    for t in range(start, stop):
        picture, row, column = _tile(first + t, x.shape[1], x.shape[2])
        _window(x, picture, row, column, window)
        _to_adjoint(window, half, 0, 0, 1, 5)
        for i in range(6):
            slot, apart, last = _slots(i, 0, 0, 1)
            _to_adjoint(half[0, i].reshape((4, channels)), values, t, slot, apart, last)


@_kernel
def _write(start, stop, values, stride, first, bias, y):
    """Aᵀ M_ab A + bias to tiles from first + start on, of y (B, stride·H, stride·W, C); mirrored if stride is 2."""
    height, width, channels = y.shape[1:]
    half = np.empty((6, 4 * channels), np.float32)
    tile = np.empty((4, 4 * channels), np.float32)
    for t in range(start, stop):
        picture, top, left = _tile(first + t, height // stride, width // stride)
        for a in range(stride):
            for b in range(stride):
                for i in range(6 - a):
                    slot, apart, last = _slots(i, a, b, stride)
                    _from_values(values, t, slot, apart, last, half[i].reshape((4, channels)))
                _from_values(half.reshape((1, 6, 4 * channels)), 0, 0, 1, 5 - 6 * a, tile)
                for k in range(4):
                    for s in range(4):
                        row = stride * (top + (3 - k if stride == 2 else k)) + a
                        column = stride * (left + (3 - s if stride == 2 else s)) + b
                        if row < height and column < width:
                            for c in range(channels):
                                y[picture, row, column, c] = tile[k, s * channels + c] + bias[c]

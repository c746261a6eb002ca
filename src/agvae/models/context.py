"""Context models: what the parameters of each latent element may be predicted from, and in which order they are coded.

All are one thing, a *schedule* of passes. A pass holds cells, a cell is a run of channels at some positions, and
the parameters of a cell depend on the hyperprior and on the passes before alone. In training `forward` gives the
parameters of all elements at once from a given ŷ; coding goes through `sequential`, which computes only the
elements of each pass, and which encoder, decoder and evaluation share.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Cell(NamedTuple):
    """Latent elements of one pass that are computed together: `channels` at `positions`, flat indices into H×W.

    Coded position by position, each position's channels in order."""

    channels: slice
    positions: Tensor


CHUNK = 16384
"""Most positions of a cell worked on at once, so that memory does not grow with the picture."""

Schedule = list[list[Cell]]
Code = Callable[[Cell, Tensor], Tensor]
"""Codes a cell of n positions and C channels: (cell, parameters (B, n, K, C)) → ŷ (B, n, C)."""


class ContextModel(nn.Module):
    """Entropy parameters of y, K per element, from the hyperprior's features alone: context `none`, a single pass.

    The base of the others. `hyper_channels` is what h_s must give: here the parameters themselves, K·M."""

    RADIUS = 0

    def __init__(self, M: int, K: int):
        super().__init__()
        self.M, self.K = M, K
        self.hyper_channels = K * M
        # Before each sum: in exact arithmetic (agvae.models.exact) inputs are rounded to fixed point here.
        self.grid: nn.Module = nn.Identity()

    def schedule(self, height: int, width: int) -> Schedule:
        """Passes in coding order over a latent of `height` × `width`; together they hold every element once."""
        return [[Cell(slice(0, self.M), torch.arange(height * width))]]

    def forward(self, psi: Tensor, y_hat: Tensor) -> Tensor:
        """Parameters (B, K·M, H, W) of every element from h_s's features psi and all of ŷ (B, M, H, W)."""
        return psi

    def sequential(self, psi: Tensor, code: Code) -> Tensor:
        """Run the schedule, calling `code` for each cell in order, and return ŷ (B, M, H, W)."""
        batch, _, height, width = psi.shape
        radius, padded = self.RADIUS, width + 2 * self.RADIUS
        # ŷ so far, channels last, with a margin of zeros, so that a neighbourhood is a gather of whole rows.
        y_hat = psi.new_zeros(batch, (height + 2 * radius) * padded, self.M)
        parameters = self._predictor(psi.permute(0, 2, 3, 1).reshape(batch, height * width, -1))
        for index, cells in enumerate(self.schedule(height, width)):
            offsets = self._offsets(index, padded, psi.device)
            coded = []
            for channels, chunk in ((cell.channels, c) for cell in cells for c in cell.positions.split(CHUNK)):
                positions = chunk.to(psi.device)
                inside = (positions // width + radius) * padded + positions % width + radius
                part = Cell(channels, positions)
                neighbours = y_hat[:, inside[:, None] + offsets]
                coded.append((channels, inside, code(part, parameters(index, part, neighbours))))
            # Only now, so that no cell sees another of its own pass.
            for channels, inside, values in coded:
                y_hat[:, inside, channels] = values
        y_hat = y_hat.view(batch, height + 2 * radius, padded, self.M).permute(0, 3, 1, 2)
        return y_hat[:, :, radius : radius + height, radius : radius + width]

    def _taps(self, index: int) -> list[tuple[int, int]]:
        """(dy, dx) of the positions that pass `index` reads."""
        return []

    def _offsets(self, index: int, padded: int, device: torch.device) -> Tensor:
        return torch.tensor([dy * padded + dx for dy, dx in self._taps(index)], dtype=torch.long, device=device)

    def _predictor(self, psi: Tensor) -> Callable[[int, Cell, Tensor], Tensor]:
        """For features psi (B, H·W, C): (pass, cell, neighbours (B, n, T, M)) → parameters (B, n, K, C)."""
        psi = psi.unflatten(-1, (self.K, self.M))
        return lambda index, cell, neighbours: psi[:, cell.positions][..., cell.channels]


class TapConv(nn.Module):
    """A convolution that has weights at some taps of its kernel only: over a map, or on gathered neighbourhoods."""

    def __init__(self, inputs: int, outputs: int, kernel: int, taps: list[tuple[int, int]]):
        super().__init__()
        self.kernel = kernel
        self.rows = [dy + kernel // 2 for dy, _ in taps]
        self.columns = [dx + kernel // 2 for _, dx in taps]
        bound = (inputs * len(taps)) ** -0.5  # as nn.Conv2d starts, for the taps that are there
        self.weight = nn.Parameter(torch.empty(outputs, inputs, len(taps)).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, outputs, H, W)."""
        weight = self.weight.new_zeros(*self.weight.shape[:2], self.kernel, self.kernel)
        weight[:, :, self.rows, self.columns] = self.weight
        return F.conv2d(x, weight, self.bias, padding=self.kernel // 2)

    def matrix(self) -> Tensor:
        """(outputs, taps · inputs): the weights for neighbourhoods gathered in the order of the taps."""
        return self.weight.transpose(1, 2).flatten(1)


class SpatialContext(ContextModel):
    """Base of the contexts that read neighbours: convolutions of ŷ joined with h_s's features in 1×1 layers."""

    def __init__(self, M: int, K: int):
        super().__init__(M, K)
        self.hyper_channels = 2 * M
        hidden = 8 * M // 3
        self.from_hyper = nn.Linear(2 * M, hidden)
        self.from_context = nn.Linear(2 * M, hidden, bias=False)
        self.head = nn.Sequential(nn.LeakyReLU(), nn.Linear(hidden, 2 * M), nn.LeakyReLU(), nn.Linear(2 * M, K * M))

    def _convolutions(self, index: int) -> list[TapConv]:
        """The convolutions of ŷ that pass `index` reads side by side; their taps are prefixes of its own."""
        return []

    def _context(self, index: int, y_hat: Tensor) -> Tensor:
        """Contribution of pass `index`'s context to the first hidden layer, (B, H, W, hidden)."""
        features = torch.cat([convolution(y_hat) for convolution in self._convolutions(index)], 1)
        return self.from_context(features.permute(0, 2, 3, 1))

    def _predictor(self, psi: Tensor) -> Callable[[int, Cell, Tensor], Tensor]:
        *trunk, last = self.head
        weight, bias = last.weight.unflatten(0, (self.K, self.M)), last.bias.unflatten(0, (self.K, self.M))
        matrices = lru_cache(lambda index: [(c.matrix(), c.bias) for c in self._convolutions(index)])

        def parameters(index: int, cell: Cell, neighbours: Tensor) -> Tensor:
            hidden = self.from_hyper(self.grid(psi[:, cell.positions]))
            if matrices(index):
                flat = self.grid(neighbours.flatten(2))
                features = [F.linear(flat[..., : m.shape[1]], m, b) for m, b in matrices(index)]
                hidden = hidden + self.from_context(self.grid(torch.cat(features, -1)))
            for layer in trunk:
                hidden = layer(hidden)
            rows = weight[:, cell.channels].flatten(0, 1)
            out = self.grid(F.linear(hidden, rows, bias[:, cell.channels].flatten()))
            return out.to(psi.dtype).unflatten(-1, (self.K, -1))

        return parameters


def _grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    positions = torch.arange(height * width)
    return positions // width, positions % width


class Checkerboard(SpatialContext):
    """Two passes: the squares of one colour from the hyperprior, then the others from their neighbours too.

    He et al., "Checkerboard context model for efficient learned image compression", CVPR 2021."""

    RADIUS = 2

    def __init__(self, M: int, K: int):
        super().__init__(M, K)
        taps = [(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3) if (dy + dx) % 2]
        self.taps = taps
        self.convolution = TapConv(M, 2 * M, 5, taps)

    def schedule(self, height: int, width: int) -> Schedule:
        row, column = _grid(height, width)
        colour = (row + column) % 2
        return [[Cell(slice(0, self.M), (colour == c).nonzero()[:, 0])] for c in (0, 1)]

    def forward(self, psi: Tensor, y_hat: Tensor) -> Tensor:
        row, column = _grid(*y_hat.shape[2:])
        second = ((row + column) % 2).to(y_hat).view(y_hat.shape[2:])
        # A tap reads only the other colour, so that ŷ needs no mask: only its own squares' context counts.
        hidden = self.from_hyper(psi.permute(0, 2, 3, 1)) + self._context(1, y_hat) * second[..., None]
        return self.head(hidden).permute(0, 3, 1, 2)

    def _convolutions(self, index: int) -> list[TapConv]:
        return [self.convolution] if index else []

    def _taps(self, index: int) -> list[tuple[int, int]]:
        return self.taps if index else []


class Multiscale(SpatialContext):
    """The paper's: causal 3×3, 5×5 and 7×7 masked convolutions side by side, in raster order (Zhou et al. 2019).

    A position (i, j) reads nothing right of (i−1, j+3), so all positions with equal j + 4i can be coded at once:
    W + 4(H−1) wavefronts give what H·W steps in raster order give."""

    RADIUS = 3
    REACH = 4

    def __init__(self, M: int, K: int):
        super().__init__(M, K)
        causal = [(dy, dx) for dy in range(-3, 1) for dx in range(-3, 4) if (dy, dx) < (0, 0)]
        # From the inside out, so that the smaller kernels' taps are a prefix of the larger ones'.
        self.taps = sorted(causal, key=lambda tap: max(abs(tap[0]), abs(tap[1])))
        widths = [2 * M - 2 * (2 * M // 3), 2 * M // 3, 2 * M // 3]
        self.convolutions = nn.ModuleList(
            TapConv(M, width, 2 * r + 1, [t for t in self.taps if max(abs(t[0]), abs(t[1])) <= r])
            for r, width in zip((1, 2, 3), widths, strict=True)
        )

    def schedule(self, height: int, width: int) -> Schedule:
        row, column = _grid(height, width)
        front = column + self.REACH * row
        order = front.argsort(stable=True)
        passes = order.split(front.bincount().tolist())
        return [[Cell(slice(0, self.M), positions)] for positions in passes if len(positions)]

    def forward(self, psi: Tensor, y_hat: Tensor) -> Tensor:
        hidden = self.from_hyper(psi.permute(0, 2, 3, 1)) + self._context(0, y_hat)
        return self.head(hidden).permute(0, 3, 1, 2)

    def _convolutions(self, index: int) -> list[TapConv]:
        return list(self.convolutions)

    def _taps(self, index: int) -> list[tuple[int, int]]:
        return self.taps


class Quadtree(SpatialContext):
    """Four passes, each over every position: quarter g of the channels visits phase g XOR pass of a 2×2 grid.

    After Li et al., "Neural video compression with diverse contexts", CVPR 2023."""

    RADIUS = 1
    PASSES = 4

    def __init__(self, M: int, K: int):
        super().__init__(M, K)
        if M % 4:
            raise ValueError(f"quadtree needs M divisible by 4, not {M}")
        self.taps = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        self.convolutions = nn.ModuleList(TapConv(M, 2 * M, 3, self.taps) for _ in range(self.PASSES - 1))

    def schedule(self, height: int, width: int) -> Schedule:
        row, column = _grid(height, width)
        phase = 2 * (row % 2) + column % 2
        quarter = self.M // 4
        return [
            [
                Cell(slice(g * quarter, (g + 1) * quarter), (phase == g ^ index).nonzero()[:, 0])
                for g in range(4)
                if (phase == g ^ index).any()
            ]
            for index in range(self.PASSES)
        ]

    def forward(self, psi: Tensor, y_hat: Tensor) -> Tensor:
        height, width = y_hat.shape[2:]
        row, column = (v.view(height, width).to(y_hat.device) for v in _grid(height, width))
        group = torch.arange(4, device=y_hat.device).repeat_interleave(self.M // 4)[:, None, None]
        turn = (2 * (row % 2) + column % 2) ^ group  # (M, H, W): the pass in which each element is coded
        from_hyper = self.from_hyper(psi.permute(0, 2, 3, 1))
        parameters: Tensor | None = None
        for index in range(self.PASSES):
            hidden = from_hyper + self._context(index, y_hat * (turn < index)) if index else from_hyper
            now = self.head(hidden).permute(0, 3, 1, 2).unflatten(1, (self.K, self.M))
            parameters = now if parameters is None else torch.where(turn == index, now, parameters)
        return parameters.flatten(1, 2)

    def _convolutions(self, index: int) -> list[TapConv]:
        return [self.convolutions[index - 1]] if index else []

    def _taps(self, index: int) -> list[tuple[int, int]]:
        return self.taps if index else []


CONTEXTS: dict[str, type[ContextModel]] = {
    "none": ContextModel,
    "checkerboard": Checkerboard,
    "multiscale": Multiscale,
    "quadtree": Quadtree,
}

"""The order in which a latent is coded, and the one walk through it that encoder, decoder and evaluation share.

An order is a *schedule* of passes. A pass consists of cells, and a cell is a range of channels at some positions. The
parameters of a cell depend only on the hyperprior and on earlier passes. `CodingOrder.walk` follows the schedule and
computes only the elements of each pass. It calls the networks of agvae.models.context.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

CHUNK = 1024
"""Largest number of positions of a cell that are processed at once, so that memory does not grow with the picture."""

FIRST = 64
"""Positions of the very first chunk. It is small, so that a damaged stream is detected before much is computed."""


class Cell(NamedTuple):
    """Latent elements of one pass that are computed together: `channels` at `positions`, flat indices into H×W.

    They are coded position by position, with the channels of each position in order. `kind` selects the network of the
    context that computes them. No parameters depend on the elements of the `last` pass."""

    channels: slice
    positions: Tensor
    kind: int = 0
    last: bool = False


class Kind(NamedTuple):
    """The property that all cells of one network share.

    For each neighbour at (dy, dx), a cell reads the channels of one group: (dy, dx, group)."""

    channels: slice
    reads: list[tuple[int, int, int]]


Schedule = list[list[Cell]]

Code = Callable[[Cell, Tensor], Tensor]
"""Codes a cell of n positions and C channels: (cell, parameters (B, n, K, C)) → ŷ (B, n, C)."""

Network = Callable[[Tensor, Tensor], Tensor]
"""Computes a cell: (features (B·n, F), the values of ŷ that it reads (B·n, inputs)) → parameters (B·n, K·C)."""


class Features(Protocol):
    """The features of the hyperprior for a latent, (B, F, height, width), in the form that a walk reads."""

    batch: int
    height: int
    width: int

    @property
    def like(self) -> Tensor:
        """A tensor that has their type and device."""
        ...

    def at(self, positions: Tensor) -> Tensor:
        """The features (B, n, F) at flat positions (n,), which lie on the CPU."""
        ...


class WholeFeatures:
    """Features that are complete, given as a map (B, F, H, W)."""

    def __init__(self, psi: Tensor):
        self.batch, _, self.height, self.width = psi.shape
        self.like = psi
        self._rows = psi.permute(0, 2, 3, 1).reshape(self.batch, self.height * self.width, -1)

    def at(self, positions: Tensor) -> Tensor:
        """As `Features.at`."""
        return self._rows.index_select(1, positions.to(self._rows.device))


class CodingOrder:
    """A single pass over all elements: the order of the context `none`, and the base of the others."""

    RADIUS = 0
    """The distance at which a cell reads neighbours in ŷ. At 0, any rows of a latent can be walked separately."""
    GROUPS = 1
    """Number of equal ranges of channels. Each can be read without the others."""
    LAST = 1.0
    """Share of the elements that belong to the last pass, in a large latent."""

    def __init__(self, M: int):
        self.M = M

    @property
    def kinds(self) -> list[Kind]:
        """The kinds of cells. `Cell.kind` is an index into them."""
        return [Kind(slice(0, self.M), [])]

    def schedule(self, height: int, width: int) -> Schedule:
        """Passes in coding order over a latent of `height` × `width`. Together they contain every element once."""
        return [[Cell(slice(0, self.M), torch.arange(height * width))]]

    def walk(self, features: Features, networks: Sequence[Network], code: Code) -> Tensor:
        """Call `code` for each cell in coding order, and return ŷ (B, M, H, W). `networks` has one network for each
        kind."""
        batch, height, width, device = features.batch, features.height, features.width, features.like.device
        radius, padded = self.RADIUS, width + 2 * self.RADIUS
        # ŷ so far, channels last, with a margin of zeros, so that reading a neighbourhood gathers whole rows.
        y_hat = _zeros(features.like, batch, (height + 2 * radius) * padded, self.M)
        groups = y_hat.view(batch, -1, self.M // self.GROUPS)
        rows = torch.arange(y_hat.shape[1], device=device).view(-1, padded)
        rows = rows[radius : radius + height, radius : radius + width].flatten()
        offsets = [
            torch.tensor([(dy * padded + dx) * self.GROUPS + g for dy, dx, g in kind.reads], dtype=torch.long)
            for kind in self.kinds
        ]
        schedule = self.schedule(height, width)
        for cells in schedule:
            coded = []
            for whole, chunk in _chunks(cells, first=cells is schedule[0]):
                own = features.at(chunk)
                cell = whole._replace(positions=chunk.to(device), last=cells is schedule[-1])
                inside = rows[cell.positions]
                gathered = (self.GROUPS * inside[:, None] + offsets[cell.kind].to(device)).flatten()
                gathered = groups.index_select(1, gathered).view(batch * len(inside), -1)
                raw = networks[cell.kind](own.flatten(0, 1), gathered)
                parameters = raw.view(batch, len(inside), -1, cell.channels.stop - cell.channels.start)
                coded.append((inside, cell.channels, code(cell, parameters)))
            # Written only now, so that no cell reads another cell of its own pass.
            for inside, channels, values in coded:
                y_hat[:, inside, channels] = values
        y_hat = y_hat.view(batch, height + 2 * radius, padded, self.M).permute(0, 3, 1, 2)
        return y_hat[:, :, radius : radius + height, radius : radius + width]


class CheckerboardOrder(CodingOrder):
    """Two passes: first the squares of one colour, from the hyperprior; then the others, from their neighbours too."""

    RADIUS = 2
    LAST = 0.5
    TAPS = tuple((dy, dx) for dy in range(-2, 3) for dx in range(-2, 3) if (dy + dx) % 2)

    @property
    def kinds(self) -> list[Kind]:
        everything = slice(0, self.M)
        return [Kind(everything, []), Kind(everything, [(dy, dx, 0) for dy, dx in self.TAPS])]

    def schedule(self, height: int, width: int) -> Schedule:
        row, column = grid(height, width)
        colour = (row + column) % 2
        return [[Cell(slice(0, self.M), (colour == c).nonzero()[:, 0], c)] for c in (0, 1)]


class RasterOrder(CodingOrder):
    """Raster order, position after position, in wavefronts.

    A position (i, j) reads nothing to the right of (i−1, j+3), so all positions with equal j + 4i can be coded at once.
    W + 4(H−1) wavefronts give the same result as H·W steps in raster order."""

    RADIUS = 3
    LAST = 0.0
    REACH = 4
    # From the inside out, so that the taps of the smaller kernels are a prefix of those of the larger ones.
    TAPS = tuple(
        sorted(
            ((dy, dx) for dy in range(-3, 1) for dx in range(-3, 4) if (dy, dx) < (0, 0)),
            key=lambda tap: max(abs(tap[0]), abs(tap[1])),
        )
    )

    @property
    def kinds(self) -> list[Kind]:
        return [Kind(slice(0, self.M), [(dy, dx, 0) for dy, dx in self.TAPS])]

    def schedule(self, height: int, width: int) -> Schedule:
        row, column = grid(height, width)
        front = column + self.REACH * row
        order = front.argsort(stable=True)
        passes = order.split(front.bincount().tolist())
        return [[Cell(slice(0, self.M), positions)] for positions in passes if len(positions)]


class QuadtreeOrder(CodingOrder):
    """Four passes, each over every position: quarter g of the channels visits phase g XOR pass of a 2×2 grid."""

    RADIUS = 1
    GROUPS = 4
    LAST = 0.25
    PASSES = 4
    TAPS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1))

    def __init__(self, M: int):
        super().__init__(M)
        if M % 4:
            raise ValueError(f"context quadtree needs a model.transforms.M that is divisible by 4, not {M}")

    @property
    def kinds(self) -> list[Kind]:
        """Kind 4·pass + g: the cells of quarter g in a pass, which read what earlier passes have coded."""
        return [self._kind(index, g) for index in range(self.PASSES) for g in range(self.GROUPS)]

    def _kind(self, index: int, g: int) -> Kind:
        quarter = self.M // self.GROUPS
        phase = g ^ index
        reads = [
            (dy, dx, group)
            for dy, dx in self.TAPS
            for group in range(self.GROUPS)
            if phase ^ (2 * (dy % 2) + dx % 2) ^ group < index
        ]
        return Kind(slice(g * quarter, (g + 1) * quarter), reads)

    def schedule(self, height: int, width: int) -> Schedule:
        row, column = grid(height, width)
        phase = 2 * (row % 2) + column % 2
        passes = [
            [
                Cell(kind.channels, (phase == g ^ index).nonzero()[:, 0], self.GROUPS * index + g)
                for g, kind in enumerate(self.kinds[: self.GROUPS])
            ]
            for index in range(self.PASSES)
        ]
        return [[cell for cell in cells if len(cell.positions)] for cells in passes]


def grid(height: int, width: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Row and column of each flat position, (H·W,) each."""
    positions = torch.arange(height * width, device=device)
    return positions // width, positions % width


def _chunks(cells: list[Cell], first: bool) -> Iterator[tuple[Cell, Tensor]]:
    """The cells of a pass, each with a part of its positions."""
    for cell in cells:
        for part in cell.positions.tensor_split([FIRST] if first else []):
            yield from ((cell, chunk) for chunk in part.split(CHUNK) if len(chunk))


def _zeros(like: Tensor, *shape: int) -> Tensor:
    """Zeros of that type and device. On a CPU, they take no memory until something is written to them."""
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    return torch.from_numpy(np.zeros(shape, np.float32)).to(like.dtype)

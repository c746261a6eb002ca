"""Context models: what the parameters of each latent element may be predicted from, and in which order they are coded.

All are one thing, a *schedule* of passes. A pass holds cells, a cell is a run of channels at some positions, and
the parameters of a cell depend on the hyperprior and on the passes before alone. In training `forward` gives the
parameters of all elements at once from a given ŷ; coding goes through `sequential`, which computes only the
elements of each pass, and which encoder, decoder and evaluation share.
"""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Cell(NamedTuple):
    """Latent elements of one pass that are computed together: `channels` at `positions`, flat indices into H×W.

    Coded position by position, each position's channels in order. `kind` says which of the context's networks
    computes them; on the elements of the `last` pass no parameters depend."""

    channels: slice
    positions: Tensor
    kind: int = 0
    last: bool = False


CHUNK = 1024
"""Most positions of a cell worked on at once, so that memory does not grow with the picture."""

FIRST = 64
"""Positions of the very first chunk: what is wrong with a stream shows before much is computed."""

Schedule = list[list[Cell]]
Code = Callable[[Cell, Tensor], Tensor]
"""Codes a cell of n positions and C channels: (cell, parameters (B, n, K, C)) → ŷ (B, n, C)."""


class Kind(NamedTuple):
    """What the cells computed by one network have in common.

    Each reads, of the neighbour at (dy, dx), the channels of one group: (dy, dx, group). A convolution reads the
    first of these, those that lie in its kernel; several stand side by side."""

    channels: slice
    reads: list[tuple[int, int, int]]
    convolutions: list["TapConv"]


class ContextModel(nn.Module):
    """Entropy parameters of y, K per element, from the hyperprior's features alone: context `none`, a single pass.

    The base of the others. `hyper_channels` is what h_s must give: here the parameters themselves, K·M, whatever the
    `width`, so that contexts can be swept with it."""

    RADIUS = 0
    GROUPS = 1
    """Equal runs of channels, which can be read one without the others."""
    LAST = 1.0
    """Share of the elements that the last pass has in a large latent."""

    def __init__(self, M: int, K: int, width: int | None = None):
        super().__init__()
        self.M, self.K = M, K
        self.hyper_channels = K * M

    def schedule(self, height: int, width: int) -> Schedule:
        """Passes in coding order over a latent of `height` × `width`; together they hold every element once."""
        return [[Cell(slice(0, self.M), torch.arange(height * width))]]

    def forward(self, psi: Tensor, y_hat: Tensor) -> Tensor:
        """Parameters (B, K·M, H, W) of every element from h_s's features psi and all of ŷ (B, M, H, W)."""
        return psi

    def sequential(self, psi: Tensor, code: Code, need: Callable[[Tensor], None] | None = None) -> Tensor:
        """Run the schedule, calling `code` for each cell in order, and return ŷ (B, M, H, W).

        `need` is called with flat positions before psi is read there, which may still be empty then."""
        batch, _, height, width = psi.shape
        radius, padded = self.RADIUS, width + 2 * self.RADIUS
        # ŷ so far, channels last, with a margin of zeros, so that a neighbourhood is a gather of whole rows.
        y_hat = _zeros(psi, batch, (height + 2 * radius) * padded, self.M)
        groups = y_hat.view(batch, -1, self.M // self.GROUPS)
        rows = torch.arange(y_hat.shape[1], device=psi.device).view(-1, padded)
        rows = rows[radius : radius + height, radius : radius + width].flatten()
        offsets = [
            torch.tensor([(dy * padded + dx) * self.GROUPS + g for dy, dx, g in kind.reads], dtype=torch.long)
            for kind in self.kinds()
        ]
        schedule = self.schedule(height, width)
        parameters = self._predictor(psi.permute(0, 2, 3, 1).reshape(batch, height * width, -1))
        for cells in schedule:
            coded = []
            for whole, chunk in _chunks(cells, first=cells is schedule[0]):
                if need is not None:
                    need(chunk)
                cell = whole._replace(positions=chunk.to(psi.device), last=cells is schedule[-1])
                inside = rows[cell.positions]
                gathered = (self.GROUPS * inside[:, None] + offsets[cell.kind].to(psi.device)).flatten()
                gathered = groups.index_select(1, gathered).view(batch * len(inside), -1)
                coded.append((inside, cell.channels, code(cell, parameters(cell, gathered))))
            # Only now, so that no cell sees another of its own pass.
            for inside, channels, values in coded:
                y_hat[:, inside, channels] = values
        y_hat = y_hat.view(batch, height + 2 * radius, padded, self.M).permute(0, 3, 1, 2)
        return y_hat[:, :, radius : radius + height, radius : radius + width]

    def kinds(self) -> list[Kind]:
        """The kinds of cells, which `Cell.kind` counts."""
        return [Kind(slice(0, self.M), [], [])]

    def _predictor(self, psi: Tensor) -> Callable[[Cell, Tensor], Tensor]:
        """For features psi (B, H·W, C): (cell of n positions, what it reads (B·n, inputs)) → (B, n, K, channels)."""
        psi = psi.unflatten(-1, (self.K, self.M))
        return lambda cell, gathered: psi[:, cell.positions][..., cell.channels]


def _chunks(cells: list[Cell], first: bool) -> Iterator[tuple[Cell, Tensor]]:
    """The cells of a pass, each with some of its positions after another."""
    for cell in cells:
        for part in cell.positions.tensor_split([FIRST] if first else []):
            yield from ((cell, chunk) for chunk in part.split(CHUNK) if len(chunk))


def _zeros(like: Tensor, *shape: int) -> Tensor:
    """Zeros of that type and place; on a CPU they take no memory before something is written there."""
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    return torch.from_numpy(np.zeros(shape, np.float32)).to(like.dtype)


@functools.cache
def _on(device: torch.device, values: tuple[int, ...]) -> Tensor:
    """Whole numbers on a device, sent there once: a step that sends them would wait for a GPU."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device)


class TapConv(nn.Module):
    """A convolution that has weights at some taps of its kernel only: over a map, or on gathered neighbourhoods."""

    def __init__(self, inputs: int, outputs: int, kernel: int, taps: list[tuple[int, int]]):
        super().__init__()
        self.kernel, self.taps = kernel, taps
        self.places = tuple((dy + kernel // 2) * kernel + dx + kernel // 2 for dy, dx in taps)
        bound = (inputs * len(taps)) ** -0.5  # as nn.Conv2d starts, for the taps that are there
        self.weight = nn.Parameter(torch.empty(outputs, inputs, len(taps)).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, outputs, H, W)."""
        weight = self.weight.new_zeros(*self.weight.shape[:2], self.kernel**2)
        weight = weight.index_copy(2, _on(weight.device, self.places), self.weight)
        return F.conv2d(x, weight.unflatten(2, (self.kernel, self.kernel)), self.bias, padding=self.kernel // 2)

    def matrix(self, reads: list[tuple[int, int, int]], groups: int) -> Tensor:
        """(inputs, outputs): the weights for what `reads` (dy, dx, group) gather at this kernel's taps, in order."""
        blocks = self.weight.unflatten(1, (groups, -1)).permute(3, 1, 2, 0)
        inside = [(self.taps.index((dy, dx)), group) for dy, dx, group in reads if (dy, dx) in self.taps]
        taps, read = zip(*inside, strict=True)
        return blocks[list(taps), list(read)].flatten(0, 1)


class Dense(nn.Module):
    """A layer of the coding order: max(h, slope·h) of h = x·W + b, for x (n, inputs or more), W (inputs, outputs)."""

    def __init__(self, weight: Tensor, bias: Tensor | None, slope: float = 1.0):
        super().__init__()
        self.slope = slope
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """(n, outputs); a layer without a bias of its own is given one, (n, outputs)."""
        bias = self.bias if bias is None else bias
        return self.activate(torch.addmm(bias, x[:, : len(self.weight)], self.weight))

    def activate(self, hidden: Tensor) -> Tensor:
        """What follows the sum."""
        return F.leaky_relu(hidden, self.slope)


class CellNetwork(nn.Module):
    """What computes the cells of one kind: convolutions of ŷ side by side, joined with h_s's features, two layers."""

    def __init__(self, convolutions: list[Dense], join: Dense, hidden: Dense, last: Dense):
        super().__init__()
        self.convolutions, self.join, self.hidden, self.last = nn.ModuleList(convolutions), join, hidden, last

    def forward(self, features: Tensor, gathered: Tensor) -> Tensor:
        """Parameters (n, K·C) from h_s's features (n, hidden) and what the cell reads of ŷ (n, inputs)."""
        if self.convolutions:
            context = torch.cat([convolution(gathered) for convolution in self.convolutions], -1)
            hidden = self.join(context, features)
        else:
            hidden = self.join.activate(features)
        return self.last(self.hidden(hidden))


class SpatialContext(ContextModel):
    """Base of the contexts that read neighbours: convolutions of ŷ joined with h_s's features in 1×1 layers.

    `width`, M if not given: half the channels of h_s's features and of the convolutions."""

    def __init__(self, M: int, K: int, width: int | None = None):
        super().__init__(M, K)
        self.width = width or M
        self.hyper_channels = 2 * self.width
        hidden = 8 * self.width // 3
        self.from_hyper = nn.Linear(2 * self.width, hidden)
        self.from_context = nn.Linear(2 * self.width, hidden, bias=False)
        self.head = nn.Sequential(
            nn.LeakyReLU(), nn.Linear(hidden, 2 * self.width), nn.LeakyReLU(), nn.Linear(2 * self.width, K * M)
        )
        self.coding: nn.ModuleList | None = None
        """The networks of each kind where they are fixed: in exact arithmetic (agvae.models.exact)."""

    def networks(self) -> nn.ModuleList:
        """The network of each kind of cell, of the weights as they are now."""
        first, middle, second, final = self.head
        join = Dense(self.from_context.weight.t(), None, first.negative_slope)
        hidden = Dense(middle.weight.t(), middle.bias, second.negative_slope)
        weight, bias = final.weight.unflatten(0, (self.K, self.M)), final.bias.unflatten(0, (self.K, self.M))
        last: dict[int, Dense] = {}
        networks = nn.ModuleList()
        for channels, reads, convolutions in self.kinds():
            if channels.start not in last:
                last[channels.start] = Dense(weight[:, channels].flatten(0, 1).t(), bias[:, channels].flatten())
            mix = [Dense(c.matrix(reads, self.GROUPS), c.bias) for c in convolutions]
            networks.append(CellNetwork(mix, join, hidden, last[channels.start]))
        return networks

    def _context(self, convolutions: list[TapConv], y_hat: Tensor) -> Tensor:
        """Contribution of ŷ to the first hidden layer, (B, H, W, hidden)."""
        features = torch.cat([convolution(y_hat) for convolution in convolutions], 1)
        return self.from_context(features.permute(0, 2, 3, 1))

    def _predictor(self, psi: Tensor) -> Callable[[Cell, Tensor], Tensor]:
        networks = self.networks() if self.coding is None else self.coding
        features = self.from_hyper(psi)

        def parameters(cell: Cell, gathered: Tensor) -> Tensor:
            own = features.index_select(1, cell.positions)
            raw = networks[cell.kind](own.flatten(0, 1), gathered)
            return raw.view(*own.shape[:2], self.K, -1)

        return parameters


def _grid(height: int, width: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    positions = torch.arange(height * width, device=device)
    return positions // width, positions % width


class Checkerboard(SpatialContext):
    """Two passes: the squares of one colour from the hyperprior, then the others from their neighbours too.

    He et al., "Checkerboard context model for efficient learned image compression", CVPR 2021."""

    RADIUS = 2
    LAST = 0.5

    def __init__(self, M: int, K: int, width: int | None = None):
        super().__init__(M, K, width)
        taps = [(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3) if (dy + dx) % 2]
        self.convolution = TapConv(M, 2 * self.width, 5, taps)

    def kinds(self) -> list[Kind]:
        everything = slice(0, self.M)
        reads = [(dy, dx, 0) for dy, dx in self.convolution.taps]
        return [Kind(everything, [], []), Kind(everything, reads, [self.convolution])]

    def schedule(self, height: int, width: int) -> Schedule:
        row, column = _grid(height, width)
        colour = (row + column) % 2
        return [[Cell(slice(0, self.M), (colour == c).nonzero()[:, 0], c)] for c in (0, 1)]

    def forward(self, psi: Tensor, y_hat: Tensor) -> Tensor:
        row, column = _grid(*y_hat.shape[2:], y_hat.device)
        second = ((row + column) % 2).to(y_hat.dtype).view(y_hat.shape[2:])
        # A tap reads only the other colour, so that ŷ needs no mask: only its own squares' context counts.
        hidden = self.from_hyper(psi.permute(0, 2, 3, 1)) + self._context([self.convolution], y_hat) * second[..., None]
        return self.head(hidden).permute(0, 3, 1, 2)


class Multiscale(SpatialContext):
    """The paper's: causal 3×3, 5×5 and 7×7 masked convolutions side by side, in raster order (Zhou et al. 2019).

    A position (i, j) reads nothing right of (i−1, j+3), so all positions with equal j + 4i can be coded at once:
    W + 4(H−1) wavefronts give what H·W steps in raster order give."""

    RADIUS = 3
    LAST = 0.0
    REACH = 4

    def __init__(self, M: int, K: int, width: int | None = None):
        super().__init__(M, K, width)
        causal = [(dy, dx) for dy in range(-3, 1) for dx in range(-3, 4) if (dy, dx) < (0, 0)]
        # From the inside out, so that the smaller kernels' taps are a prefix of the larger ones'.
        taps = sorted(causal, key=lambda tap: max(abs(tap[0]), abs(tap[1])))
        third = 2 * self.width // 3
        widths = [2 * self.width - 2 * third, third, third]
        self.convolutions = nn.ModuleList(
            TapConv(M, width, 2 * r + 1, [t for t in taps if max(abs(t[0]), abs(t[1])) <= r])
            for r, width in zip((1, 2, 3), widths, strict=True)
        )

    def kinds(self) -> list[Kind]:
        reads = [(dy, dx, 0) for dy, dx in self.convolutions[-1].taps]
        return [Kind(slice(0, self.M), reads, list(self.convolutions))]

    def schedule(self, height: int, width: int) -> Schedule:
        row, column = _grid(height, width)
        front = column + self.REACH * row
        order = front.argsort(stable=True)
        passes = order.split(front.bincount().tolist())
        return [[Cell(slice(0, self.M), positions)] for positions in passes if len(positions)]

    def forward(self, psi: Tensor, y_hat: Tensor) -> Tensor:
        hidden = self.from_hyper(psi.permute(0, 2, 3, 1)) + self._context(self.convolutions, y_hat)
        return self.head(hidden).permute(0, 3, 1, 2)


class Quadtree(SpatialContext):
    """Four passes, each over every position: quarter g of the channels visits phase g XOR pass of a 2×2 grid.

    After Li et al., "Neural video compression with diverse contexts", CVPR 2023."""

    RADIUS = 1
    GROUPS = 4
    LAST = 0.25
    PASSES = 4

    def __init__(self, M: int, K: int, width: int | None = None):
        super().__init__(M, K, width)
        if M % 4:
            raise ValueError(f"quadtree needs M divisible by 4, not {M}")
        taps = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        self.convolutions = nn.ModuleList(TapConv(M, 2 * self.width, 3, taps) for _ in range(self.PASSES - 1))

    def kinds(self) -> list[Kind]:
        return [self._kind(index, g) for index in range(self.PASSES) for g in range(self.GROUPS)]

    def _kind(self, index: int, g: int) -> Kind:
        """Of the cells of quarter g in pass `index`: what they read is what the passes before have coded."""
        quarter = self.M // self.GROUPS
        phase = g ^ index
        reads = [
            (dy, dx, group)
            for dy, dx in self.convolutions[0].taps
            for group in range(self.GROUPS)
            if phase ^ (2 * (dy % 2) + dx % 2) ^ group < index
        ]
        convolutions = [self.convolutions[index - 1]] if index else []
        return Kind(slice(g * quarter, (g + 1) * quarter), reads, convolutions)

    def schedule(self, height: int, width: int) -> Schedule:
        row, column = _grid(height, width)
        phase = 2 * (row % 2) + column % 2
        cells = [
            [
                Cell(kind.channels, (phase == g ^ index).nonzero()[:, 0], self.GROUPS * index + g)
                for g, kind in enumerate(self.kinds()[: self.GROUPS])
            ]
            for index in range(self.PASSES)
        ]
        return [[cell for cell in cells if len(cell.positions)] for cells in cells]

    def forward(self, psi: Tensor, y_hat: Tensor) -> Tensor:
        height, width = y_hat.shape[2:]
        row, column = (v.view(height, width) for v in _grid(height, width, y_hat.device))
        group = torch.arange(self.GROUPS, device=y_hat.device).repeat_interleave(self.M // self.GROUPS)[:, None, None]
        turn = (2 * (row % 2) + column % 2) ^ group  # (M, H, W): the pass in which each element is coded
        from_hyper = self.from_hyper(psi.permute(0, 2, 3, 1))
        parameters: Tensor | None = None
        for index in range(self.PASSES):
            hidden = from_hyper
            if index:
                hidden = hidden + self._context([self.convolutions[index - 1]], y_hat * (turn < index))
            now = self.head(hidden).permute(0, 3, 1, 2).unflatten(1, (self.K, self.M))
            parameters = now if parameters is None else torch.where(turn == index, now, parameters)
        return parameters.flatten(1, 2)


CONTEXTS: dict[str, type[ContextModel]] = {
    "none": ContextModel,
    "checkerboard": Checkerboard,
    "multiscale": Multiscale,
    "quadtree": Quadtree,
}

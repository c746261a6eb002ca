"""Context models: the networks that predict the parameters of each latent element from the hyperprior and from ŷ.

In training, `forward` computes the parameters of all elements at once from a given ŷ. Coding uses `walk`, which
computes them cell by cell in the order of the context (agvae.models.coding_order).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agvae.models.coding_order import (
    CheckerboardOrder,
    Code,
    CodingOrder,
    Features,
    Network,
    QuadtreeOrder,
    RasterOrder,
    grid,
)


class CodingContext(nn.Module):
    """The part of a context that coding uses: an order, the features made from the output of h_s, and a network for
    each kind of cell.

    `hyper_channels` is the number of channels that h_s returns, and `feature_channels` the number that a walk reads."""

    def __init__(self, order: CodingOrder, hyper_channels: int, feature_channels: int):
        super().__init__()
        self.order, self.hyper_channels, self.feature_channels = order, hyper_channels, feature_channels

    def project(self, psi: Tensor) -> Tensor:
        """The features (B, feature_channels, H, W) that a walk reads, from the output psi (B, hyper_channels, H, W) of
        h_s.

        The features of a position depend on that position alone."""
        return psi

    def networks(self) -> Sequence[Network]:
        """The network of each kind of cell."""
        raise NotImplementedError

    def walk(self, features: Features, code: Code) -> Tensor:
        """Call `code` for each cell in coding order, and return ŷ (B, M, H, W)."""
        return self.order.walk(features, self.networks(), code)


class ContextModel(CodingContext):
    """Entropy parameters of y, K per element, from the features of the hyperprior alone: context `none`, a single pass.

    It is the base of the others. `hyper_channels` is the number of channels that h_s must return. Here they are the
    parameters themselves, K·M, whatever `width` is, so that contexts can be swept with it."""

    ORDER: type[CodingOrder] = CodingOrder

    def __init__(self, M: int, K: int, width: int | None = None):
        super().__init__(self.ORDER(M), K * M, K * M)
        self.M, self.K = M, K

    def forward(self, psi: Tensor, y_hat: Tensor) -> Tensor:
        """Parameters (B, K·M, H, W) of every element, from the output psi of h_s and all of ŷ (B, M, H, W)."""
        return psi

    def networks(self) -> Sequence[Network]:
        return [lambda features, gathered: features]


class TapConv(nn.Module):
    """A convolution with weights at only some taps of its kernel, over a map or on gathered neighbourhoods."""

    def __init__(self, inputs: int, outputs: int, kernel: int, taps: Sequence[tuple[int, int]]):
        super().__init__()
        self.kernel, self.taps = kernel, taps
        self.places = tuple((dy + kernel // 2) * kernel + dx + kernel // 2 for dy, dx in taps)
        bound = (inputs * len(taps)) ** -0.5  # the start of nn.Conv2d, for the taps that exist
        self.weight = nn.Parameter(torch.empty(outputs, inputs, len(taps)).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, outputs, H, W)."""
        weight = self.weight
        if self.places != tuple(range(self.kernel**2)):
            # Not by an index, which would have to be copied to the device in each step.
            taps, nothing = dict(zip(self.places, weight.unbind(2), strict=True)), weight.new_zeros(weight.shape[:2])
            weight = torch.stack([taps.get(place, nothing) for place in range(self.kernel**2)], 2)
        return F.conv2d(x, weight.unflatten(2, (self.kernel, self.kernel)), self.bias, padding=self.kernel // 2)

    def matrix(self, reads: list[tuple[int, int, int]], groups: int) -> Tensor:
        """(inputs, outputs): the weights for the values that `reads` (dy, dx, group) gather at the taps of this kernel,
        in order."""
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
        """(n, outputs). A layer without a bias of its own gets one as an argument, (n, outputs)."""
        bias = self.bias if bias is None else bias
        return self.activate(torch.addmm(bias, x[:, : len(self.weight)], self.weight))

    def activate(self, hidden: Tensor) -> Tensor:
        """The activation after the sum."""
        return F.leaky_relu(hidden, self.slope)


class CellNetwork(nn.Module):
    """The network of one kind of cell: convolutions of ŷ side by side, joined with the features of h_s, then two
    layers."""

    def __init__(self, convolutions: list[Dense], join: Dense, hidden: Dense, last: Dense):
        super().__init__()
        self.convolutions, self.join, self.hidden, self.last = nn.ModuleList(convolutions), join, hidden, last

    def forward(self, features: Tensor, gathered: Tensor) -> Tensor:
        """Parameters (n, K·C) from the features of h_s (n, hidden) and the cell's view of ŷ (n, inputs)."""
        if self.convolutions:
            context = torch.cat([convolution(gathered) for convolution in self.convolutions], -1)
            hidden = self.join(context, features)
        else:
            hidden = self.join.activate(features)
        return self.last(self.hidden(hidden))


class SpatialContext(ContextModel):
    """Base of the contexts that read neighbours: convolutions of ŷ, joined with the features of h_s in 1×1 layers.

    `width`, M by default, is half the channels of the output of h_s and of the convolutions."""

    def __init__(self, M: int, K: int, width: int | None = None):
        super().__init__(M, K)
        self.width = width or M
        self.hyper_channels, self.feature_channels = 2 * self.width, 8 * self.width // 3
        hidden = self.feature_channels
        self.from_hyper = nn.Linear(2 * self.width, hidden)
        self.from_context = nn.Linear(2 * self.width, hidden, bias=False)
        self.head = nn.Sequential(
            nn.LeakyReLU(), nn.Linear(hidden, 2 * self.width), nn.LeakyReLU(), nn.Linear(2 * self.width, K * M)
        )

    def convolutions_of_kinds(self) -> list[list[TapConv]]:
        """The convolutions of ŷ that stand side by side in the network of each kind of cell."""
        raise NotImplementedError

    def project(self, psi: Tensor) -> Tensor:
        batch, _, height, width = psi.shape
        rows = psi.permute(0, 2, 3, 1).reshape(batch, height * width, -1)
        return self.from_hyper(rows).view(batch, height, width, -1).permute(0, 3, 1, 2)

    def networks(self) -> nn.ModuleList:
        """The network of each kind of cell, with the current weights."""
        first, middle, second, final = self.head
        join = Dense(self.from_context.weight.t(), None, first.negative_slope)
        hidden = Dense(middle.weight.t(), middle.bias, second.negative_slope)
        weight, bias = final.weight.unflatten(0, (self.K, self.M)), final.bias.unflatten(0, (self.K, self.M))
        last: dict[int, Dense] = {}
        networks = nn.ModuleList()
        for (channels, reads), convolutions in zip(self.order.kinds, self.convolutions_of_kinds(), strict=True):
            if channels.start not in last:
                last[channels.start] = Dense(weight[:, channels].flatten(0, 1).t(), bias[:, channels].flatten())
            mix = [Dense(c.matrix(reads, self.order.GROUPS), c.bias) for c in convolutions]
            networks.append(CellNetwork(mix, join, hidden, last[channels.start]))
        return networks

    def _context(self, convolutions: Sequence[TapConv], y_hat: Tensor) -> Tensor:
        """Contribution of ŷ to the first hidden layer, (B, H, W, hidden)."""
        features = torch.cat([convolution(y_hat) for convolution in convolutions], 1)
        return self.from_context(features.permute(0, 2, 3, 1))


class Checkerboard(SpatialContext):
    """Two passes: first the squares of one colour, from the hyperprior; then the others, from their neighbours too.

    He et al., "Checkerboard context model for efficient learned image compression", CVPR 2021."""

    ORDER = CheckerboardOrder

    def __init__(self, M: int, K: int, width: int | None = None):
        super().__init__(M, K, width)
        self.convolution = TapConv(M, 2 * self.width, 5, CheckerboardOrder.TAPS)

    def convolutions_of_kinds(self) -> list[list[TapConv]]:
        return [[], [self.convolution]]

    def forward(self, psi: Tensor, y_hat: Tensor) -> Tensor:
        height, width = y_hat.shape[2:]
        row, column = grid(height, width, y_hat.device)
        second = ((row + column) % 2).to(y_hat.dtype).view(height, width)
        # A tap reads only the other colour, so ŷ needs no mask: only the context of its own squares counts.
        hidden = self.from_hyper(psi.permute(0, 2, 3, 1)) + self._context([self.convolution], y_hat) * second[..., None]
        return self.head(hidden).permute(0, 3, 1, 2)


class Multiscale(SpatialContext):
    """The paper's context: causal 3×3, 5×5 and 7×7 masked convolutions side by side, in raster order (Zhou et al.
    2019)."""

    ORDER = RasterOrder

    def __init__(self, M: int, K: int, width: int | None = None):
        super().__init__(M, K, width)
        third = 2 * self.width // 3
        widths = [2 * self.width - 2 * third, third, third]
        self.convolutions = nn.ModuleList(
            TapConv(M, width, 2 * r + 1, [t for t in RasterOrder.TAPS if max(abs(t[0]), abs(t[1])) <= r])
            for r, width in zip((1, 2, 3), widths, strict=True)
        )

    def convolutions_of_kinds(self) -> list[list[TapConv]]:
        return [list(self.convolutions)]

    def forward(self, psi: Tensor, y_hat: Tensor) -> Tensor:
        hidden = self.from_hyper(psi.permute(0, 2, 3, 1)) + self._context(self.convolutions, y_hat)
        return self.head(hidden).permute(0, 3, 1, 2)


class Quadtree(SpatialContext):
    """Four passes, each over every position: quarter g of the channels visits phase g XOR pass of a 2×2 grid.

    After Li et al., "Neural video compression with diverse contexts", CVPR 2023."""

    ORDER = QuadtreeOrder

    def __init__(self, M: int, K: int, width: int | None = None):
        super().__init__(M, K, width)
        self.convolutions = nn.ModuleList(
            TapConv(M, 2 * self.width, 3, QuadtreeOrder.TAPS) for _ in range(QuadtreeOrder.PASSES - 1)
        )

    def convolutions_of_kinds(self) -> list[list[TapConv]]:
        of_passes = [[], *([convolution] for convolution in self.convolutions)]
        return [convolutions for convolutions in of_passes for _ in range(QuadtreeOrder.GROUPS)]

    def forward(self, psi: Tensor, y_hat: Tensor) -> Tensor:
        height, width = y_hat.shape[2:]
        groups = QuadtreeOrder.GROUPS
        row, column = (v.view(height, width) for v in grid(height, width, y_hat.device))
        group = torch.arange(groups, device=y_hat.device).repeat_interleave(self.M // groups)[:, None, None]
        turn = (2 * (row % 2) + column % 2) ^ group  # (M, H, W): the pass in which each element is coded
        from_hyper = self.from_hyper(psi.permute(0, 2, 3, 1))

        def predict(hidden: Tensor) -> Tensor:
            return self.head(hidden).permute(0, 3, 1, 2).unflatten(1, (self.K, self.M))

        parameters = predict(from_hyper)
        for index, convolution in enumerate(self.convolutions, 1):
            now = predict(from_hyper + self._context([convolution], y_hat * (turn < index)))
            parameters = torch.where(turn == index, now, parameters)
        return parameters.flatten(1, 2)


CONTEXTS: dict[str, type[ContextModel]] = {
    "none": ContextModel,
    "checkerboard": Checkerboard,
    "multiscale": Multiscale,
    "quadtree": Quadtree,
}

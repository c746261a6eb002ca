"""Exact arithmetic for the networks that the parse of a stream depends on.

A decoder must find the encoder's entropy parameters to the last bit, or every symbol after the first difference is
garbage, and the order in which a processor sums a convolution differs from machine to machine. Here h_s, the
context model and the gain of ẑ compute in fixed point:

- between layers values are whole numbers of units, a unit being 2^−12, and at most 2^23 units (2^11) in magnitude,
  which float32 holds exactly;
- a layer's weights are multiples of 2^−s, s the largest for which every sum of products that it can form stays
  below 2^53 · 2^−s units. float64 holds all of these, so a sum is exact in any order, on any machine;
- all else is one IEEE 754 operation at a time (multiply by the slope, round half to even, clamp), whose result is
  defined to the last bit, with nothing fused and no transcendental function.

docs/exactness.md has the reasons, the costs and the proof.
"""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agvae.models.agvae import AGVAE
from agvae.models.coding_order import CHUNK
from agvae.models.context import CellNetwork, CodingContext, Dense, SpatialContext
from agvae.models.gain import GainUnit, interpolate
from agvae.models.kernels.exact import FewerProducts

ONE = 2.0**12
"""Units in 1."""

LIMIT = 2.0**23
"""Most units that a value can have; larger ones are clamped."""

WEIGHT_BITS = (10, 24)
"""Fewest and most fractional bits of a weight: the most is float32's own precision, fewer than the least cost rate."""

_EXACT = 2.0**53


class InexactError(ValueError):
    """A layer's weights are so large that its sums could not be exact; the message names the layer."""


def is_exact(device: str | torch.device) -> bool:
    """Whether matrix products in float64 on `device` add whole numbers as IEEE 754 says, sums just under 2^53 included.

    A library may be told to emulate float64 by something faster, which need not."""
    generator = np.random.default_rng(0)
    a, b = (generator.integers(-(2**22), 2**22, shape) for shape in ((67, 500), (500, 61)))
    bias = generator.integers(-(2**50), 2**50, 61)
    on_device = (torch.from_numpy(x).double().to(device) for x in (bias, a, b))
    return np.array_equal(torch.addmm(*on_device).cpu().numpy(), (bias + a @ b).astype(np.float64))


def to_units(x: Tensor) -> Tensor:
    """x as the nearest whole number of units, clamped, in float64."""
    return x.double().mul(ONE).round_().clamp_(-LIMIT, LIMIT)


def finish_(sums: Tensor, slope: float) -> Tensor:
    """LeakyReLU of `slope`, rounding to whole units and clamping, in place."""
    if slope != 1:
        F.leaky_relu_(sums, slope)
    return sums.round_().clamp_(-LIMIT, LIMIT)


def round_weights(name: str, weight: Tensor, bias: Tensor | None, given: float = 0.0) -> tuple[Tensor, Tensor]:
    """weight (…, inputs, outputs) and bias (outputs,), in units, of a layer in fixed point, both float64.

    They are multiples of 2^−s, s ≤ 24 the largest with

        Σ |w| · LIMIT + |b| + given < 2^53 · 2^−s

    for each output, `given` being the largest magnitude, in units, of what else is added to the sum. Raises
    InexactError, with `name`, where s would be below 10."""
    fewest, most = WEIGHT_BITS
    bias = weight.new_zeros(weight.shape[-1]) if bias is None else bias
    weight, bias = weight.double(), bias.double() * ONE
    for bits in range(most, fewest - 1, -1):
        # All three terms are whole numbers here, and sums of such below 2^53 exact: s is the same on every machine.
        rounded, added = (weight * 2.0**bits).round(), (bias * 2.0**bits).round()
        largest = rounded.abs().flatten(0, -2).sum(0) * LIMIT + added.abs() + given * 2.0**bits
        if largest.max() < _EXACT:
            return rounded * 2.0**-bits, added * 2.0**-bits
    raise InexactError(
        f"{name}: its weights are too large for exact sums (2^{largest.max().log2().item():.1f} of 2^53 units)"
    )


class ToUnits(nn.Module):
    """Real numbers to whole numbers of units, float32."""

    def forward(self, x: Tensor) -> Tensor:
        return to_units(x).float()


class FromUnits(nn.Module):
    """Whole numbers of units to real numbers; exact."""

    def forward(self, x: Tensor) -> Tensor:
        return x / ONE


class ExactConv(nn.Module):
    """A convolution, or a stride-2 transposed one, with the LeakyReLU behind it, from units to units.

    Computed as a sum of matrix products, one for each tap: libraries' convolutions may go through values that are not
    exact (Winograd, FFT). The rows of a tap's matrix are those of the padded map from some row on, margins included,
    so that no tap needs a copy of its input; what comes out at the margins is dropped. On a CPU a 3×3 convolution
    takes fewer products where that is exact too, which gives the same result (agvae.models.kernels.exact)."""

    def __init__(self, name: str, conv: nn.Conv2d | nn.ConvTranspose2d, slope: float = 1.0):
        super().__init__()
        self.transposed = isinstance(conv, nn.ConvTranspose2d)
        self.kernel, self.stride, self.slope = conv.kernel_size[0], conv.stride[0], slope
        supported = (
            conv.kernel_size == (self.kernel, self.kernel)
            and conv.padding == (self.kernel // 2, self.kernel // 2)
            and conv.stride == (self.stride, self.stride)
            and conv.groups == 1
            and conv.dilation == (1, 1)
            and self.stride in ((1, 2) if self.transposed else (1,))
        )
        if not supported:
            raise TypeError(f"no exact form of {conv}")
        # (taps, inputs, outputs)
        weight = conv.weight.permute(2, 3, 0, 1) if self.transposed else conv.weight.permute(2, 3, 1, 0)
        weight, bias = round_weights(name, weight.flatten(0, 1), conv.bias)
        self.register_buffer("weight", weight.contiguous())
        self.register_buffer("bias", bias)
        plain = self.kernel == 3 and self.stride == 1 and not self.transposed
        self.fewer = FewerProducts(weight, bias) if plain else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C′, stride·H, stride·W), float32."""
        if self.fewer is not None and self.fewer.usable(x):
            return finish_(self.fewer(x.permute(0, 2, 3, 1)), self.slope).float().permute(0, 3, 1, 2)
        batch, _, height, width = x.shape
        stride = self.stride
        radius = -(-(self.kernel // 2) // stride)  # how far it reaches in its input
        padded = width + 2 * radius
        x = F.pad(x.permute(0, 2, 3, 1), (0, 0, radius, radius, radius, radius))
        out = x.new_empty(batch, height, stride, width, stride, len(self.bias))
        # As many rows at once as stay in the processor's cache; a GPU is better off with more.
        rows = max(1, (CHUNK if x.device.type == "cpu" else 64 * CHUNK) // padded)
        for image, result in zip(x, out, strict=True):
            for top in range(0, height, rows):
                window = image[top : top + rows + 2 * radius].double().flatten(0, 1)
                count = len(window) - 2 * radius * (
                    padded + 1
                )  # outputs from the first one's row and column to the last
                for phase in np.ndindex(stride, stride):
                    sums = self.bias.expand(count + 2 * radius, -1).clone()
                    for tap, dy, dx in self._taps(*phase):
                        start = (radius + dy) * padded + radius + dx
                        sums[:count].addmm_(window[start : start + count], self.weight[tap])
                    sums = finish_(sums, self.slope).view(-1, padded, len(self.bias))
                    result[top : top + rows, phase[0], :, phase[1]] = sums[:, :width]
        return out.view(batch, height * stride, width * stride, -1).permute(0, 3, 1, 2)

    def _taps(self, row: int, column: int) -> list[tuple[int, int, int]]:
        """(index of the tap, dy, dx) that an output at phase (row, column) reads around its own input."""
        radius, found = self.kernel // 2, []
        for tap, (ky, kx) in enumerate(np.ndindex(self.kernel, self.kernel)):
            if not self.transposed:
                found.append((tap, ky - radius, kx - radius))
                continue
            # Output o reads input i where o = stride·i + k − padding.
            dy, off_y = divmod(row + radius - ky, self.stride)
            dx, off_x = divmod(column + radius - kx, self.stride)
            if not off_y and not off_x:
                found.append((tap, dy, dx))
        return found


class ExactDense(Dense):
    """A layer of a context's networks, from units to units, all float64."""

    def __init__(self, name: str, dense: Dense, given: float):
        weight, bias = round_weights(name, dense.weight, dense.bias, given)
        super().__init__(weight.contiguous(), bias, dense.slope)

    def activate(self, hidden: Tensor) -> Tensor:
        return finish_(hidden, self.slope)


class ExactNetwork(CellNetwork):
    """The network of a kind of cell, whose features come in units and whose parameters leave as real numbers."""

    def forward(self, features: Tensor, gathered: Tensor) -> Tensor:
        # ŷ has whole units already: a symbol and a μ, added in float32, whose steps are coarser where it is large.
        gathered = gathered.double().mul_(ONE).clamp_(-LIMIT, LIMIT)
        return super().forward(features.double(), gathered).div_(ONE).float()


class ExactContext(CodingContext):
    """A context with its networks in fixed point; its first layer of h_s's output is the last one of h_s here."""

    def __init__(self, context: SpatialContext):
        super().__init__(context.order, context.feature_channels, context.feature_channels)
        done: dict[Dense, ExactDense] = {}

        def convert(name: str, dense: Dense, given: float = 0.0) -> ExactDense:
            # Networks share layers.
            if dense not in done:
                done[dense] = ExactDense(f"context.{name}", dense, given)
            return done[dense]

        self._networks = nn.ModuleList(
            ExactNetwork(
                [convert("convolutions", dense) for dense in network.convolutions],
                convert("from_context", network.join, given=LIMIT),
                convert("head.1", network.hidden),
                convert("head.3", network.last),
            )
            for network in context.networks()
        )

    def networks(self) -> nn.ModuleList:
        return self._networks


class ExactGain(nn.Module):
    """A gain unit whose inverse gain is the same on every machine; the gain itself only the encoder needs."""

    def __init__(self, unit: GainUnit):
        super().__init__()
        self.unit = unit
        self.levels = unit.levels

    def gain(self, quality: Tensor | float) -> Tensor:
        """As `GainUnit.gain`."""
        return self.unit.gain(quality)

    def inverse(self, quality: Tensor | float) -> Tensor:
        """`GainUnit.inverse` in fixed point, float64, at a quality that float64 holds exactly."""
        logs = self.unit.log_inverse.double().cpu()
        quality = torch.as_tensor(quality, dtype=torch.float64).cpu().clamp(max=self.levels - 1)
        logs = interpolate(logs, quality, lambda lower, upper, share: lower + share * (upper - lower))
        inverse = torch.from_numpy(_exp(logs.numpy())).mul_(ONE).round_().clamp_(-LIMIT, LIMIT) / ONE
        return inverse.to(self.unit.log_inverse.device)


def _exp(x: np.ndarray) -> np.ndarray:
    """e^x to some 15 digits by multiplications and additions alone: libraries' own differ in the last bit."""
    powers = np.floor(x * 1.4426950408889634 + 0.5)
    rest = x - powers * 0.6931471805599453
    series = np.ones_like(rest)
    for n in range(14, 0, -1):
        series = 1.0 + series * rest / n
    return np.ldexp(series, powers.astype(np.int64))


def exact(model: AGVAE) -> AGVAE:
    """A copy of a trained model whose evaluation pass, parse included, is the same on every machine but for pixels.

    Only g_a, h_a and g_s stay in floating point: they decide which symbols are sent and how pixels look, never how
    a stream is read. Raises InexactError, with the layer's name, if the weights of one are too large."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    layers = _convert("h_s", model.h_s)
    if isinstance(model.context, SpatialContext):
        layers.append(ExactConv("context.from_hyper", _as_convolution(model.context.from_hyper)))
        model.context = ExactContext(model.context)
    else:
        layers.append(FromUnits())
    model.h_s = nn.Sequential(ToUnits(), *layers)
    model.prior.quantiles.data = to_units(model.prior.quantiles).div_(ONE).float()
    if model.hyper_gain is not None:
        model.hyper_gain = ExactGain(model.hyper_gain)
    return model


def _convert(name: str, module: nn.Sequential) -> list[nn.Module]:
    """Exact layers for those of a Sequential, each LeakyReLU joined to the convolution before it."""
    layers: list[nn.Module] = []
    for index, layer in enumerate(module):
        path = f"{name}.{index}"
        if isinstance(layer, nn.Sequential):
            layers += _convert(path, layer)
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layers.append(ExactConv(path, layer))
        elif isinstance(layer, nn.LeakyReLU):
            # Between the two there may be a pixel shuffle, which changes no value.
            next(found for found in reversed(layers) if isinstance(found, ExactConv)).slope = layer.negative_slope
        elif isinstance(layer, nn.PixelShuffle):
            layers.append(layer)
        else:
            raise TypeError(f"no exact form of {layer}")
    return layers


def _as_convolution(linear: nn.Linear) -> nn.Conv2d:
    """The 1×1 convolution that does to each position of a map what `linear` does to a vector."""
    conv = nn.Conv2d(linear.in_features, linear.out_features, 1)
    conv.weight.data, conv.bias.data = linear.weight[:, :, None, None], linear.bias
    return conv

"""Exact arithmetic for the networks that the parse of a stream depends on.

A decoder must find the encoder's entropy parameters to the last bit, or every symbol after the first difference is
garbage, and the order in which a processor sums a convolution differs from machine to machine. Here h_s, the
context model and the gain of ẑ compute on fixed-point numbers held in float64:

- weights are multiples of 2^−s, the inputs of a layer multiples of 2^−12 of at most 2^11 in magnitude, and s is the
  largest for which every sum of products stays below 2^53 of its units: a sum is exact in any order, on any machine;
- everything else is one IEEE 754 operation at a time (multiply, add, floor, compare), whose result is defined to
  the last bit, with nothing fused and no transcendental function.

What comes out are multiples of 2^−12 below 2^11, which float32 holds exactly.
"""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agvae.models.agvae import AGVAE
from agvae.models.context import TapConv
from agvae.models.gain import GainUnit

FRACTION_BITS = 12
LIMIT = 2.0**11
"""Fixed-point numbers are multiples of 2^−FRACTION_BITS in [−LIMIT, LIMIT]."""

WEIGHT_BITS = (10, 24)
"""Fewest and most fractional bits of a weight: the most is float32's own precision, fewer than the least cost rate."""

_EXACT = 2.0**53


class InexactError(ValueError):
    """A layer's weights are so large that its sums could not be exact; the message names the layer."""


def fixed_point(x: Tensor) -> Tensor:
    """x rounded to the nearest fixed-point number (halves up) and clamped, as float64."""
    x = x.double() * 2.0**FRACTION_BITS
    return ((x + 0.5).floor() * 2.0**-FRACTION_BITS).clamp(-LIMIT, LIMIT)


class FixedPoint(nn.Module):
    """`fixed_point` as a layer, which stands before each layer of sums and after the last."""

    def forward(self, x: Tensor) -> Tensor:
        return fixed_point(x)


class ToFloat32(nn.Module):
    """float64 to float32, lossless for fixed-point numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float()


class ExactConv(nn.Module):
    """A convolution, or a stride-2 transposed one, as a sum of matrix products, one for each tap.

    Libraries may choose algorithms (Winograd, FFT) whose inner values are not exact; a matrix product has none, and
    the sum over taps needs no unfolded copy of the input."""

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d):
        super().__init__()
        self.transposed = isinstance(conv, nn.ConvTranspose2d)
        kernel, padding = conv.kernel_size[0], conv.padding[0]
        self.stride = conv.stride[0]
        self.kernel = kernel
        # (taps, inputs, outputs)
        weight = conv.weight.permute(2, 3, 0, 1) if self.transposed else conv.weight.permute(2, 3, 1, 0)
        self.register_buffer("weight", weight.flatten(0, 1).contiguous())
        self.register_buffer("bias", conv.bias)
        supported = (
            padding == kernel // 2
            and conv.groups == 1
            and conv.dilation == (1, 1)
            and self.stride in ((1, 2) if self.transposed else (1,))
        )
        if not supported:
            raise TypeError(f"no exact form of {conv}")

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C′, stride·H, stride·W), both float64."""
        batch, _, height, width = x.shape
        radius = self.kernel // 2
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, radius, radius, radius, radius))
        stride = self.stride
        out = self.bias.expand(batch, height, stride, width, stride, -1).clone()
        for row in range(stride):
            for column in range(stride):
                phase = self.bias.expand(batch * height * width, -1).clone()
                for tap, dy, dx in self._taps(row, column):
                    y, x0 = radius + dy, radius + dx
                    window = padded[:, y : y + height, x0 : x0 + width].reshape(len(phase), -1)
                    torch.addmm(phase, window, self.weight[tap], out=phase)
                out[:, :, row, :, column] = phase.view(batch, height, width, -1)
        return out.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)

    def _taps(self, row: int, column: int) -> list[tuple[int, int, int]]:
        """(index of the tap, dy, dx) that an output at phase (row, column) reads around its own input."""
        radius, found = self.kernel // 2, []
        for tap in range(self.kernel**2):
            ky, kx = divmod(tap, self.kernel)
            if not self.transposed:
                found.append((tap, ky - radius, kx - radius))
                continue
            # Output o reads input i where o = stride·i + k − padding.
            dy, off_y = divmod(row + radius - ky, self.stride)
            dx, off_x = divmod(column + radius - kx, self.stride)
            if not off_y and not off_x:
                found.append((tap, dy, dx))
        return found


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
        logs = self.unit.log_inverse.double().cpu().numpy()
        quality = np.asarray(torch.as_tensor(quality, dtype=torch.float64).cpu())
        lower = np.floor(quality).astype(np.int64)
        upper = np.minimum(lower + 1, self.levels - 1)
        weight = (quality - lower)[..., None]
        logs = logs[lower] + weight * (logs[upper] - logs[lower])
        return fixed_point(torch.from_numpy(_exp(logs))).to(self.unit.log_inverse.device)


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
    for part, module in (("h_s", model.h_s), ("context", model.context)):
        for name, layer in module.named_modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | TapConv):
                _round_weights(f"{part}.{name}", layer)
    model.h_s = nn.Sequential(_convert(model.h_s), FixedPoint(), ToFloat32())
    if hasattr(model.context, "head"):
        model.context.head = _convert(model.context.head)
    model.context.grid = FixedPoint()
    model.prior.quantiles.data = fixed_point(model.prior.quantiles).float()
    if model.hyper_gain is not None:
        model.hyper_gain = ExactGain(model.hyper_gain)
    return model


def _convert(module: nn.Module) -> nn.Module:
    """The layers of a Sequential, each that sums preceded by rounding."""
    layers = []
    for layer in module:
        if isinstance(layer, nn.Sequential):
            layers.append(_convert(layer))
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layers += [FixedPoint(), ExactConv(layer)]
        elif isinstance(layer, nn.Linear):
            layers += [FixedPoint(), layer]
        elif isinstance(layer, nn.LeakyReLU | nn.PixelShuffle):
            layers.append(layer)
        else:
            raise TypeError(f"no exact form of {layer}")
    return nn.Sequential(*layers)


def _round_weights(name: str, layer: nn.Module) -> None:
    """Round a layer's weights and bias to multiples of 2^−s, s the largest that keeps its sums exact."""
    fewest, most = WEIGHT_BITS
    # The bound itself is computed exactly (integers below 2^53), so that s is the same everywhere.
    outputs = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    units = (layer.weight.double() * 2.0**most).round().abs().transpose(0, outputs).flatten(1).sum(1)
    if layer.bias is not None:
        units = units + (layer.bias.double() * 2.0**most / LIMIT).abs().ceil()
    largest = units.max().item() * LIMIT * 2.0**FRACTION_BITS  # in units of 2^−(most + FRACTION_BITS)
    # One bit is kept free for what rounding adds.
    surplus = max(0, int(np.frexp(largest * 2 / _EXACT)[1])) if np.isfinite(largest) else most
    bits = most - surplus
    if bits < fewest:
        raise InexactError(f"{name}: its weights are too large for exact sums ({largest:.3g} of {_EXACT:.3g} units)")
    for parameter in (layer.weight, layer.bias):
        if parameter is not None:
            extra = FRACTION_BITS if parameter is layer.bias else 0
            parameter.data = (parameter.double() * 2.0 ** (bits + extra)).round() * 2.0 ** -(bits + extra)

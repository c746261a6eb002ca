"""Exact arithmetic for the networks that the parse of a stream depends on.

A decoder must reproduce the encoder's entropy parameters to the last bit. After the first difference, every symbol is
garbage. But the order in which a processor sums a convolution differs from machine to machine. Here h_s, the context
model and the gain of ẑ compute in fixed point:

- Between layers, values are whole numbers of units. A unit is 2^−12, and a value has at most 2^23 units (2^11) in
  magnitude, which float32 holds exactly.
- The weights of a layer are multiples of 2^−s. s is the largest number for which every sum of products that can occur
  stays below 2^53 · 2^−s units. float64 holds all of these, so a sum is exact in any order, on any machine.
- Everything else is one IEEE 754 operation at a time (multiply by the slope, round half to even, clamp). Its result is
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
from agvae.models.context import CellNetwork, CodingContext, ContextModel, Dense, SpatialContext
from agvae.models.exact_layers import ExactDepthwise, ExactHardtanh, ExactSlope, ExactTable, table_of
from agvae.models.fixed_point import LIMIT, ONE, InexactError, exp, finish_, round_weights, to_units
from agvae.models.gain import GainUnit, interpolate
from agvae.models.kernels.exact import FewerProducts
from agvae.models.transforms import TRANSFORMS


class ToUnits(nn.Module):
    """Real numbers to whole numbers of units, float32."""

    def forward(self, x: Tensor) -> Tensor:
        return to_units(x).float()


class FromUnits(nn.Module):
    """Whole numbers of units to real numbers; exact."""

    def forward(self, x: Tensor) -> Tensor:
        return x / ONE


class ExactConv(nn.Module):
    """A convolution, or a stride-2 transposed one, with the LeakyReLU that follows it, from units to units.

    It is computed as a sum of matrix products, one for each tap, because the convolutions of libraries may use values
    that are not exact (Winograd, FFT). The rows of a tap's matrix are those of the padded map from some row on, margins
    included, so no tap needs a copy of its input; the results at the margins are dropped. On a CPU, a 3×3 convolution
    takes fewer products if that is exact too, with the same result (agvae.models.kernels.exact)."""

    def __init__(self, name: str, conv: nn.Conv2d | nn.ConvTranspose2d, slope: float = 1.0):
        super().__init__()
        self.transposed = isinstance(conv, nn.ConvTranspose2d)
        self.kernel, self.stride, self.slope = conv.kernel_size[0], conv.stride[0], slope
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
        radius = -(-(self.kernel // 2) // stride)  # its reach in the input
        padded = width + 2 * radius
        x = F.pad(x.permute(0, 2, 3, 1), (0, 0, radius, radius, radius, radius))
        out = x.new_empty(batch, height, stride, width, stride, len(self.bias))
        # As many rows at once as stay in the processor's cache. A GPU is faster with more.
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
    """A layer of a context's networks, from units to units, entirely in float64."""

    def __init__(self, name: str, dense: Dense, given: float):
        weight, bias = round_weights(name, dense.weight, dense.bias, given)
        super().__init__(weight.contiguous(), bias, dense.slope)

    def activate(self, hidden: Tensor) -> Tensor:
        return finish_(hidden, self.slope)


class ExactNetwork(CellNetwork):
    """The network of a kind of cell. Its features are in units, and its parameters are real numbers."""

    def forward(self, features: Tensor, gathered: Tensor) -> Tensor:
        # ŷ is already in whole units: a symbol plus μ in float32, whose steps are coarser for large values.
        gathered = gathered.double().mul_(ONE).clamp_(-LIMIT, LIMIT)
        return super().forward(features.double(), gathered).div_(ONE).float()


class ExactContext(CodingContext):
    """A context with its networks in fixed point. Its first layer after the output of h_s is the last layer of h_s
    here."""

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
    """A gain unit whose inverse gain is the same on every machine. Only the encoder needs the gain itself."""

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
        inverse = torch.from_numpy(exp(logs.numpy())).mul_(ONE).round_().clamp_(-LIMIT, LIMIT) / ONE
        return inverse.to(self.unit.log_inverse.device)


def exact(model: AGVAE) -> AGVAE:
    """A copy of a trained model whose evaluation pass, including the parse, is the same on every machine except for
    pixels.

    Only g_a, h_a and g_s stay in floating point. They decide which symbols are sent and how pixels look, but never how
    a stream is read. Raises InexactError, with the name of the layer, if a layer has no exact form or its weights are
    too large."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    if model.config["transforms"]["name"] not in TRANSFORMS:
        model.reach  # noqa: B018, kept from here on: it cannot be measured on tables
    layers = _convert("h_s", model.h_s)
    if isinstance(model.context, SpatialContext):
        layers.append(ExactConv("context.from_hyper", _as_convolution(model.context.from_hyper)))
        model.context = ExactContext(model.context)
    elif type(model.context) is ContextModel:
        layers.append(FromUnits())
    else:
        raise InexactError(f"context {type(model.context).__name__} has no exact form: derive it from SpatialContext")
    model.h_s = nn.Sequential(ToUnits(), *layers)
    model.prior.quantiles.data = to_units(model.prior.quantiles).div_(ONE).float()
    if model.hyper_gain is not None:
        model.hyper_gain = ExactGain(model.hyper_gain)
    return model


POSSIBLE = (
    "h_s may be made of Sequential, PixelShuffle, Identity, LeakyReLU, ReLU, GELU, SiLU, Hardtanh, Conv2d of stride 1 "
    "and ConvTranspose2d of stride 1 or 2, with square kernels of odd size, padding of half of it, and groups=1, or "
    "for a Conv2d groups=channels"
)
"""The layers that have an exact form, as the end of an error message."""


def _convert(name: str, module: nn.Module) -> list[nn.Module]:
    """Exact layers for those of h_s. Each LeakyReLU or ReLU is joined to the convolution before it.

    Raises InexactError if a layer has no exact form."""
    layers: list[nn.Module] = []
    if not isinstance(module, nn.Sequential):
        raise InexactError(f"{name} must be a Sequential, not {type(module).__name__}: {POSSIBLE}")
    for index, layer in enumerate(module):
        path = f"{name}.{index}"
        if isinstance(layer, nn.Sequential):
            layers += _convert(path, layer)
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layers.append(_exact_convolution(path, layer))
        elif isinstance(layer, nn.LeakyReLU | nn.ReLU):
            slope = getattr(layer, "negative_slope", 0.0)
            # Between the two there may be a pixel shuffle, which changes no value.
            before = next((found for found in reversed(layers) if not isinstance(found, nn.PixelShuffle)), None)
            if isinstance(before, ExactConv | ExactDepthwise) and before.slope == 1:
                before.slope = slope
            else:
                layers.append(ExactSlope(slope))
        elif isinstance(layer, nn.GELU | nn.SiLU):
            layers.append(ExactTable(table_of(layer)))
        elif isinstance(layer, nn.Hardtanh):
            layers.append(ExactHardtanh(layer))
        elif isinstance(layer, nn.PixelShuffle):
            layers.append(layer)
        elif not isinstance(layer, nn.Identity):
            raise InexactError(f"{path} has no exact form, {layer}: {POSSIBLE}")
    return layers


def _exact_convolution(path: str, conv: nn.Conv2d | nn.ConvTranspose2d) -> ExactConv | ExactDepthwise:
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    transposed = isinstance(conv, nn.ConvTranspose2d)
    depthwise = not transposed and conv.groups == conv.in_channels == conv.out_channels
    supported = (
        conv.kernel_size == (kernel, kernel)
        and kernel % 2 == 1
        and conv.padding == (kernel // 2, kernel // 2)
        and conv.stride == (stride, stride)
        and conv.dilation == (1, 1)
        and (conv.groups == 1 or depthwise)
        and conv.padding_mode == "zeros"
        and conv.output_padding == (stride - 1, stride - 1)
        and stride in ((1, 2) if transposed else (1,))
    )
    if not supported:
        raise InexactError(f"{path} has no exact form, {conv}: {POSSIBLE}")
    return ExactDepthwise(path, conv) if depthwise and conv.groups > 1 else ExactConv(path, conv)


def _as_convolution(linear: nn.Linear) -> nn.Conv2d:
    """The 1×1 convolution that applies `linear` at each position of a map."""
    conv = nn.Conv2d(linear.in_features, linear.out_features, 1)
    conv.weight.data, conv.bias.data = linear.weight[:, :, None, None], linear.bias
    return conv

"""g_a and g_s of the transforms `depthwise` for training on a GPU: few passes over memory, which limits their speed.

Positions lie first and channels last. A 1×1 convolution is a matrix product. The depthwise 3×3 is a sum of nine shifted
products, which torch.compile fuses with the operations around it. Every block of one width and size is one call of the
same function, so it is compiled once.

Under autocast, matrix products inside a block and larger convolutions have its type. The residual stream and the 1×1
convolutions at the ends of the networks stay in float32, because rounding there would add to the error of every pixel.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agvae.models.layers import STREAM_BOUND, DepthwiseBlock

Block = Callable[..., Tensor]
"""`block`, or its compiled form."""


def block(x: Tensor, dtype: torch.dtype, *layers: Tensor) -> Tensor:
    """`DepthwiseBlock.forward` of a stream x (B, H, W, C) in float32, with matrix products in `dtype`.

    `layers` are the weight and bias of each convolution of the block, in order."""

    def product(x: Tensor, index: int) -> Tensor:
        weight, bias = layers[2 * index : 2 * index + 2]
        return F.linear(x.to(dtype), weight.flatten(1).to(dtype), bias.to(dtype))

    hidden = F.silu(product(x, 0).float())
    hidden = _depthwise(hidden.to(dtype), *layers[2:4])
    x = x + product(hidden, 2)
    value, gate = product(x, 3).chunk(2, -1)
    return (x + product(value.float() * F.silu(gate.float()), 4)).clamp(-STREAM_BOUND, STREAM_BOUND)


def _depthwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The depthwise 3×3 convolution of x (B, H, W, C) with a weight (C, 1, 3, 3), in float32."""
    height, width = x.shape[1:3]
    padded = F.pad(x, (0, 0, 1, 1, 1, 1))
    total = bias
    for dy in range(3):
        for dx in range(3):
            total = total + padded[:, dy : dy + height, dx : dx + width].float() * weight[:, 0, dy, dx]
    return total


def supports(network: nn.Module) -> bool:
    """Whether `run` has a form for each layer of a network."""
    if not isinstance(network, nn.Sequential):
        return False
    known = (DepthwiseBlock, nn.Conv2d, nn.PixelUnshuffle)
    return any(isinstance(layer, DepthwiseBlock) for layer in network) and all(
        isinstance(layer, known) or _is_subpixel(layer) for layer in network
    )


def _is_subpixel(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Sequential) and [type(part) for part in layer] == [nn.Conv2d, nn.PixelShuffle]


def run(network: nn.Sequential, block: Block, x: Tensor) -> Tensor:
    """`network(x)` of a supported network, (B, C, H, W) with channels last in memory, in float32."""
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
    with torch.autocast(device, enabled=False):
        x = x.permute(0, 2, 3, 1)
        for layer in network:
            x = _layer(layer, block, x, dtype)
        return x.permute(0, 3, 1, 2)


def _layer(layer: nn.Module, block: Block, x: Tensor, dtype: torch.dtype) -> Tensor:
    """A layer of (B, H, W, C)."""
    if isinstance(layer, DepthwiseBlock):
        convolutions = (*layer.spatial[::2], layer.spatial[3], layer.expand, layer.project)
        return block(x, dtype, *(value for conv in convolutions for value in (conv.weight, conv.bias)))
    if isinstance(layer, nn.PixelUnshuffle):
        return F.pixel_unshuffle(x.permute(0, 3, 1, 2), layer.downscale_factor).permute(0, 2, 3, 1).contiguous()
    if isinstance(layer, nn.Sequential):  # subpixel
        conv, shuffle = layer
        return _shuffled(_convolution(conv, x, dtype), shuffle.upscale_factor)
    return _convolution(layer, x, dtype)


def _convolution(conv: nn.Conv2d, x: Tensor, dtype: torch.dtype) -> Tensor:
    if conv.kernel_size == conv.stride == (1, 1):
        return F.linear(x, conv.weight.flatten(1), conv.bias)
    x, weight, bias = (v.to(dtype) for v in (x.permute(0, 3, 1, 2), conv.weight, conv.bias))
    return F.conv2d(x, weight, bias, conv.stride, conv.padding).permute(0, 2, 3, 1).float()


def _shuffled(x: Tensor, factor: int) -> Tensor:
    """F.pixel_shuffle of (B, H, W, C·factor²) to (B, H·factor, W·factor, C)."""
    parts = x.unflatten(3, (-1, factor, factor)).permute(0, 1, 4, 2, 5, 3)
    return parts.flatten(3, 4).flatten(1, 2)

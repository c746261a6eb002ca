"""The depthwise block in runs of positions, for inference.

Its 1×1 convolutions are matrix products over runs of positions. The pointwise operations follow each product at once,
while the run is in the processor's cache. Of the expanded channels, only one run exists at a time.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agvae.models.kernels import maps, positions

RUN = 1024
"""Positions in a run. Shorter runs need more calls, and more waiting if several threads share each."""


def block(x: Tensor, spatial: nn.Sequential, expand: nn.Conv2d, project: nn.Conv2d, bound: float) -> Tensor:
    """`DepthwiseBlock.forward` with its layers, (B, C, H, W) → (B, C, H, W), channels last. x is not changed."""
    first, _, depthwise, last = spatial
    rows = positions(x)
    hidden = torch.empty_like(rows)
    for part, out in zip(rows.split(RUN), hidden.split(RUN), strict=True):
        F.silu(torch.addmm(first.bias, part, _matrix(first), out=out), inplace=True)
    # Each run of the result overwrites its input.
    result = positions(depthwise(maps(hidden, x)))
    values, gates = _matrix(expand).chunk(2, 1)
    value_bias, gate_bias = expand.bias.chunk(2)
    for part, out in zip(rows.split(RUN), result.split(RUN), strict=True):
        stream = torch.addmm(last.bias, out, _matrix(last)).add_(part)
        gate = F.silu(torch.addmm(gate_bias, stream, gates), inplace=True)
        gate.mul_(torch.addmm(value_bias, stream, values))
        torch.addmm(project.bias, gate, _matrix(project), out=out).add_(stream).clamp_(-bound, bound)
    return maps(result, x)


def _matrix(layer: nn.Conv2d) -> Tensor:
    """(inputs, outputs): the weights of a 1×1 convolution."""
    return layer.weight.flatten(1).t()

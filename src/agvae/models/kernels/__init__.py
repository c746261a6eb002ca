"""Layers written for speed. Each computes the plain formula that its layer in agvae.models.layers shows.

On a CPU, a layer uses the kernel if `usable` allows it. Otherwise (a GPU, autocast, torch.compile, other types) it runs
the formula. `depthwise_training` is for GPUs, and agvae.training.compilation puts it in place.
"""

import torch
from torch import Tensor


def usable(x: Tensor, weight: Tensor) -> bool:
    """Whether kernels may replace a layer: in float32 on a CPU, without autocast and without a compiler."""
    return (
        x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def positions(x: Tensor) -> Tensor:
    """(B, C, H, W) as (B·H·W, C), without a copy if its channels lie last."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def maps(rows: Tensor, like: Tensor) -> Tensor:
    """(B·H·W, C) as (B, C, H, W), of the batch, height and width of `like`, channels last."""
    batch, _, height, width = like.shape
    return rows.view(batch, height, width, -1).permute(0, 3, 1, 2)

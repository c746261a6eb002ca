"""The loss of a training step as a pure function of tensors, so that a GPU can record it as one graph.

It logs nothing, and neither it nor its gradient waits for the device.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from agvae.metrics import mse_of_batch, psnr_of_mse
from agvae.strides import STRIDE_Y


class StepLoss(NamedTuple):
    """The loss of a batch of B pictures, and the values that are logged of it.

    total (): what is differentiated, NaN with all its gradients if it is not finite. loss (): w·(R + λ·D), the mean of
    `losses` (B,). aux_loss (): that of the quantiles. bpp (B,): R. psnr (B,): in dB, NaN if nothing was decoded."""

    total: Tensor
    loss: Tensor
    losses: Tensor
    aux_loss: Tensor
    bpp: Tensor
    psnr: Tensor

    def detached(self) -> "StepLoss":
        """A copy without gradients, in memory of its own."""
        return StepLoss(*(value.detach().clone() for value in self))


Objective = Callable[[Tensor, Tensor], StepLoss]
"""(pictures (B, 3, H, W) uint8 or latents (B, M, H/16, W/16), levels (B,)) -> the loss."""


def rate_distortion(module: Any, image: Tensor, level: Tensor) -> StepLoss:
    """mean_i w_i·(R_i + λ_i·D_i) of pictures, plus the loss of the prior's quantiles; `module` is an AGVAEModule."""
    x = module.pixels(image)
    out = module.model(x, level.float())
    bpp = out.bits / (x.shape[2] * x.shape[3])
    cost = bpp + module.level_lambda[level] * module.distortion(out.x_hat, x)
    decoded = mse_of_batch(out.x_hat.detach().clamp(0, 1), x)
    return _step_loss(module, level, bpp, cost, psnr_of_mse(decoded))


def rate(module: Any, latent: Tensor, level: Tensor) -> StepLoss:
    """The same without D, of y = g_a(x): where it has no gradient (`AGVAEModule.rate_only`)."""
    bpp = module.model.code_for_training(latent, level.float()).bits / pixels_of(latent)
    return _step_loss(module, level, bpp, bpp, torch.full_like(bpp, torch.nan))


def pixels_of(y: Tensor) -> int:
    """The pixels of each picture whose latent y (B, M, H/16, W/16) is."""
    return y.shape[2] * y.shape[3] * STRIDE_Y**2


def _step_loss(module: Any, level: Tensor, bpp: Tensor, cost: Tensor, psnr: Tensor) -> StepLoss:
    losses = module.level_weight[level] * cost
    loss, aux_loss = losses.mean(), module.model.aux_loss()
    total = loss + aux_loss
    return StepLoss(total * torch.where(total.isfinite(), 1.0, torch.nan), loss, losses, aux_loss, bpp, psnr)

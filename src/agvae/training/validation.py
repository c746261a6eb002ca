"""What a validation measures of pictures, at each quality of the RD curve."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from agvae.evaluation.validation import Measured
from agvae.metrics import MS_SSIM_SMALLEST_SIDE, ms_ssim_of_batch, mse_of_batch, psnr_of_mse
from agvae.models import AGVAE
from agvae.training.losses import ms_ssim_distortion
from agvae.training.objective import pixels_of


def measure(module: Any, image: Tensor) -> Iterator[tuple[Measured, Tensor]]:
    """Rate and metrics of pictures (B, 3, H, W) uint8 at each of `module.qualities`, and their loss (B,).

    Between levels the loss is NaN. g_a runs once for all qualities."""
    x = module.pixels(image)
    pixels = x.shape[2] * x.shape[3]
    defined = min(x.shape[-2:]) >= MS_SSIM_SMALLEST_SIDE
    y = module.model.latent(x) if isinstance(module.model, AGVAE) else None
    for quality in module.qualities:
        out = module.model(x, quality) if y is None else module.model.from_latent(y, quality)
        bpp = out.bits / pixels
        decoded_8bit = (out.x_hat.float().clamp(0, 1) * 255).round()
        decoded = decoded_8bit / 255
        similarity = ms_ssim_of_batch(decoded, x) if defined else torch.full_like(bpp, torch.nan)
        loss = torch.full_like(bpp, torch.nan)
        if quality == int(quality) and (defined or module.distortion is not ms_ssim_distortion):
            s = int(quality)
            loss = module.level_weight[s] * (bpp + module.level_lambda[s] * module.distortion(out.x_hat, x))
        db = psnr_of_mse(mse_of_batch(decoded, x))
        channel_bpp = -out.y_likelihoods.log2().sum((2, 3)) / pixels
        yield Measured(quality, bpp, db, similarity, channel_bpp, decoded_8bit.byte()), loss


def measure_rate(module: Any, image: Tensor) -> Iterator[tuple[Measured, Tensor]]:
    """The rate alone, rounded in coding order, at each of `module.qualities`, and the loss (B,), NaN between levels."""
    y = module.latent(image)
    pixels = pixels_of(y)
    for quality in module.qualities:
        coded = module.model.code(y, quality)
        bpp = coded.bits / pixels
        undefined = torch.full_like(bpp, torch.nan)
        loss = module.level_weight[int(quality)] * bpp if quality == int(quality) else undefined
        channel_bpp = coded.y_bits.sum((2, 3)) / pixels
        yield Measured(quality, bpp, undefined, undefined, channel_bpp, None), loss

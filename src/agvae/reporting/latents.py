"""What a model does to the latent of a picture: the distributions that it codes it with."""

import torch
from torch import Tensor

from agvae.models import AGVAE
from agvae.models.agvae import Parameters
from agvae.models.context import Cell


@torch.no_grad()
def entropy_parameters(model: AGVAE, x: Tensor, quality: float) -> tuple[Tensor, Parameters]:
    """The symbols of y and the (μ, σ_l, σ_r) that code them, each (B, M, H/16, W/16), as in evaluation mode.

    `x` is (B, 3, H, W) in [0, 1], H and W multiples of the model's stride."""
    y_bar = model.analyze(x, quality)
    z_bar = model.hyper_analyze(y_bar, quality)
    z_hat = (z_bar - model.prior.medians).round() + model.prior.medians
    symbols, mu, sigma_l, sigma_r = (torch.empty(y_bar.shape, device=x.device) for _ in range(4))

    def record(cell: Cell, coded: Tensor, parameters: Parameters) -> None:
        for whole, part in zip((symbols, mu, sigma_l, sigma_r), (coded, *parameters), strict=True):
            whole.flatten(2).transpose(1, 2)[:, cell.positions, cell.channels] = part

    model.encode(y_bar, model.hyper_synthesize(z_hat, quality), record)
    return symbols, Parameters(mu, sigma_l, sigma_r)

"""Checks that a model file could hold these networks, while their weights are still random."""

import torch

from agvae.models.agvae import AGVAE
from agvae.models.exact import exact
from agvae.strides import STRIDE_Y, STRIDE_Z


@torch.no_grad()
def check_exportable(model: AGVAE) -> None:
    """Raise ValueError, with one sentence that says what is possible, unless the model can be exported and code
    pictures.

    The networks must have the strides of the format and see a bounded neighbourhood. Those that the parse depends on
    must have an exact form, whose sums fit at least the weights with which training begins."""
    rows, columns = 2, 3  # of z, and different, so that no network can swap them unnoticed
    device = next(model.parameters()).device
    x = torch.zeros(1, 3, rows * STRIDE_Z, columns * STRIDE_Z, device=device)
    y_size = rows * STRIDE_Z // STRIDE_Y, columns * STRIDE_Z // STRIDE_Y
    y = torch.zeros(1, model.M, *y_size, device=device)
    z = torch.zeros(1, model.N, rows, columns, device=device)
    training = model.training
    model.eval()
    for name, given, channels, size in (
        ("g_a", x, model.M, y_size),
        ("g_s", y, 3, tuple(x.shape[2:])),
        ("h_a", y, model.N, (rows, columns)),
        ("h_s", z, model.context.hyper_channels, y_size),
    ):
        try:
            found = tuple(getattr(model, name)(given).shape)
        except RuntimeError as error:
            raise ValueError(
                f"{name} must accept an input of {tuple(given.shape)}: {str(error).splitlines()[0]}"
            ) from error
        if found != (1, channels, *size):
            raise ValueError(f"{name} must turn {tuple(given.shape)} into {(1, channels, *size)}, not {found}")
    exact(model)
    model.train(training)

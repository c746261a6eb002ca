"""Everything that a file of a model needs of its networks, checked while they are still at random."""

import torch

from agvae.models.agvae import AGVAE
from agvae.models.exact import exact
from agvae.strides import STRIDE_Y, STRIDE_Z


@torch.no_grad()
def check_exportable(model: AGVAE) -> None:
    """Raise ValueError unless the model can be exported and code pictures, saying in one sentence what is possible.

    The networks must have the strides of the format, see a bounded neighbourhood, and those that the parse depends on
    an exact form, whose sums fit at least the weights that training begins with."""
    rows, columns = 2, 3  # of z: no network may mix them up
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
            raise ValueError(f"{name} must take {tuple(given.shape)}: {str(error).splitlines()[0]}") from error
        if found != (1, channels, *size):
            raise ValueError(f"{name} must make {(1, channels, *size)} of {tuple(given.shape)}, not {found}")
    exact(model)
    model.train(training)

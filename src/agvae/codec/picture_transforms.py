"""Pictures to latents and back: g_a and g_s in tiles, so that memory does not grow with the picture."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from agvae.codec.tiling import Tile, run_in_tiles, tile_side, tiles
from agvae.models.agvae import AGVAE
from agvae.strides import STRIDE_Y, STRIDE_Z

SMALL = 32 * 32
"""The latents of a picture of 512², which is never worth dividing into tiles."""

Progress = Callable[[float], None]
"""Called with the share done."""


def padded(*sides: int) -> tuple[int, ...]:
    """Sides in pixels, rounded up to a size that the model accepts."""
    return tuple(side + -side % STRIDE_Z for side in sides)


def analyze(model: AGVAE, pixels: np.ndarray, device: torch.device, progress: Progress | None = None) -> Tensor:
    """y = g_a(x), (1, M, H/16, W/16), of a picture (h, w, 3) uint8 whose last pixels are repeated up to H × W."""
    height, width = (side // STRIDE_Y for side in padded(*pixels.shape[:2]))
    y = torch.empty(1, model.M, height, width, device=device)

    def read(rows: slice, columns: slice) -> Tensor:
        down, right = (
            np.minimum(np.arange(part.start * STRIDE_Y, part.stop * STRIDE_Y), side - 1)
            for part, side in ((rows, pixels.shape[0]), (columns, pixels.shape[1]))
        )
        x = torch.from_numpy(pixels[down[:, None], right]).to(device)
        # As it lies in memory, channels last.
        return x.permute(2, 0, 1)[None].float() / 255

    def write(tile: Tile, part: Tensor) -> None:
        y[:, :, tile.top : tile.bottom, tile.left : tile.right] = part

    layout = _layout(model, "g_a", height, width, device)
    run_in_tiles(model.g_a, read, write, layout, 1, progress)
    return y


def synthesize(
    model: AGVAE, y_hat: Tensor, quality: float, height: int, width: int, progress: Progress | None = None
) -> np.ndarray:
    """The decoded picture, (height, width, 3) uint8, of ŷ (1, M, H/16, W/16)."""
    pixels = np.empty((height, width, 3), dtype=np.uint8)

    def read(rows: slice, columns: slice) -> Tensor:
        return y_hat[:, :, rows, columns].contiguous(memory_format=torch.channels_last)

    def write(tile: Tile, part: Tensor) -> None:
        # A hostile stream can drive g_s to values that are not finite; NaN becomes black.
        part = part[0].clamp(0, 1).nan_to_num_().mul(255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        target = pixels[tile.top * STRIDE_Y :, tile.left * STRIDE_Y :][: part.shape[0], : part.shape[1]]
        target[:] = part[: target.shape[0], : target.shape[1]]

    layout = _layout(model, "g_s", y_hat.shape[2], y_hat.shape[3], y_hat.device)
    run_in_tiles(lambda y: model.synthesize(y, quality), read, write, layout, STRIDE_Y, progress)
    return pixels


def _layout(model: AGVAE, network: str, height: int, width: int, device: torch.device) -> list[Tile]:
    """Tiles for a latent of height × width. A small latent is one tile, and the network is not measured for it."""
    if height * width <= SMALL:
        return tiles(height, width, max(height, width), 0)
    halo = getattr(model.reach, network)
    return tiles(height, width, tile_side(model.bytes_per_pixel * STRIDE_Y**2, halo, device), halo)

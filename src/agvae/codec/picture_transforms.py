"""Pictures to latents and back: g_a and g_s in tiles, so that memory does not grow with the picture."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from agvae.codec.tiling import Tile, run_in_tiles, tile_side, tiles
from agvae.models.agvae import AGVAE
from agvae.strides import STRIDE_Y, STRIDE_Z

Progress = Callable[[float], None]
"""Is called with the share done."""


def padded(*sides: int) -> tuple[int, ...]:
    """Sides in pixels, rounded up to what the model takes."""
    return tuple(side + -side % STRIDE_Z for side in sides)


def analyze(model: AGVAE, pixels: np.ndarray, device: torch.device, progress: Progress | None = None) -> Tensor:
    """y = g_a(x), (1, M, H/16, W/16), of a picture (h, w, 3) uint8, continued by its last pixels to H × W."""
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

    halo = model.reach.g_a
    run_in_tiles(model.g_a, read, write, tiles(height, width, _side(model, halo, device), halo), 1, progress)
    return y


def synthesize(
    model: AGVAE, y_hat: Tensor, quality: float, height: int, width: int, progress: Progress | None = None
) -> np.ndarray:
    """The decoded picture, (height, width, 3) uint8, of ŷ (1, M, H/16, W/16)."""
    pixels = np.empty((height, width, 3), dtype=np.uint8)

    def read(rows: slice, columns: slice) -> Tensor:
        return y_hat[:, :, rows, columns].contiguous(memory_format=torch.channels_last)

    def write(tile: Tile, part: Tensor) -> None:
        part = part[0].clamp(0, 1).nan_to_num_(0.0).mul(255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        target = pixels[tile.top * STRIDE_Y :, tile.left * STRIDE_Y :][: part.shape[0], : part.shape[1]]
        target[:] = part[: target.shape[0], : target.shape[1]]

    halo = model.reach.g_s
    layout = tiles(y_hat.shape[2], y_hat.shape[3], _side(model, halo, y_hat.device), halo)
    run_in_tiles(lambda y: model.synthesize(y, quality), read, write, layout, STRIDE_Y, progress)
    return pixels


def _side(model: AGVAE, halo: int, device: torch.device) -> int:
    return tile_side(model.bytes_per_pixel * STRIDE_Y**2, halo, device)

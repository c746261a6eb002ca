"""Features of h_s for a picture, computed in tiles when they are first read.

A stream that ends too early is therefore detected before all features are computed. Exact arithmetic gives the same
features for any division into tiles.
"""

import math
from collections.abc import Iterator
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from agvae.codec.tiling import Tile, run_in_tiles, tile_side, tiles
from agvae.models.agvae import AGVAE
from agvae.strides import Y_PER_Z

_TENSORS = 5
"""Number of float64 tensors of the last layer's size that exist at once while a tile is computed, approximately."""


class Band:
    """The features (B, F, height, width) of some complete rows of y, `rows`, which can be read at any position."""

    def __init__(self, model: AGVAE, z_hat: Tensor, quality: Tensor | float, run: list[Tile]):
        """`run` lists the tiles, in hyper-latents, that make up the rows."""
        self._model, self._z_hat, self._quality = model, z_hat, quality
        self._missing = dict(enumerate(run))
        self._top, bottom = run[0].top, run[-1].bottom
        self.rows = slice(self._top * Y_PER_Z, bottom * Y_PER_Z)
        self.batch, self.height, self.width = len(z_hat), self.rows.stop - self.rows.start, z_hat.shape[3] * Y_PER_Z
        channels = model.context.feature_channels
        self._map = torch.empty(self.batch, self.height, self.width, channels, device=z_hat.device)
        self._tile_of = np.empty((bottom - self._top, z_hat.shape[3]), dtype=np.int32)
        for index, tile in enumerate(run):
            self._tile_of[tile.top - self._top : tile.bottom - self._top, tile.left : tile.right] = index

    @property
    def like(self) -> Tensor:
        """As `Features.like`."""
        return self._map

    def at(self, positions: Tensor) -> Tensor:
        """The features (B, n, F) at flat positions (n,) of these rows. The positions lie on the CPU."""
        if self._missing:
            row, column = np.divmod(positions.numpy(), self.width)
            read = np.unique(self._tile_of[row // Y_PER_Z, column // Y_PER_Z]).tolist()
            self._compute([self._missing.pop(index) for index in read if index in self._missing])
        return self._map.flatten(1, 2).index_select(1, positions.to(self._map.device))

    def _compute(self, layout: list[Tile]) -> None:
        def write(tile: Tile, part: Tensor) -> None:
            rows = slice((tile.top - self._top) * Y_PER_Z, (tile.bottom - self._top) * Y_PER_Z)
            columns = slice(tile.left * Y_PER_Z, tile.right * Y_PER_Z)
            self._map[:, rows, columns] = part.permute(0, 2, 3, 1)

        run_in_tiles(
            lambda z_hat: self._model.hyper_features(z_hat, self._quality),
            lambda rows, columns: self._z_hat[:, :, rows, columns],
            write,
            layout,
            Y_PER_Z,
        )


def bands(model: AGVAE, z_symbols: Tensor, quality: Tensor | float, memory: float = math.inf) -> Iterator[Band]:
    """The features for symbols of z (B, N, h, w), as bands of rows of y that are coded one after another.

    Without context, a band is a row of tiles, so that memory stays small. The order of a context covers the whole
    picture, which is then one band. A tile takes at most about `memory` bytes, or as much as the smallest tile needs.
    """
    z_hat = z_symbols + model.prior.medians
    batch, _, height, width = z_hat.shape
    halo = model.reach.h_s
    bytes_per_unit = batch * Y_PER_Z**2 * model.context.hyper_channels * 8 * _TENSORS
    layout = tiles(height, width, tile_side(bytes_per_unit, halo, z_hat.device, memory), halo)
    reads_neighbours = model.context.order.RADIUS > 0
    for run in [layout] if reads_neighbours else [list(run) for _, run in groupby(layout, lambda tile: tile.top)]:
        yield Band(model, z_hat, quality, run)

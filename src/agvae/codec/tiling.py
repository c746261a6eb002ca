"""Running a network in tiles whose results join to the result for the whole.

A tile is run with a halo as wide as the network's reach, so the part of its output that is kept has read every input
that one run would have read. At the borders of the picture the network pads with zeros, in tiles as in one run.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

CPU_WORKSPACE = 400 * 2**20
"""Bytes that the tensors of one tile may take on a CPU."""


class Tile(NamedTuple):
    """A tile, and the part of the map that its run reads. Both are half-open, in units of the coarser side."""

    top: int
    left: int
    bottom: int
    right: int
    read: tuple[slice, slice]

    def crop(self, output: Tensor, scale: int) -> Tensor:
        """The tile's own part of the output of a run, whose resolution is `scale` per unit."""
        rows, columns = self.read
        return output[
            ...,
            (self.top - rows.start) * scale : (self.bottom - rows.start) * scale,
            (self.left - columns.start) * scale : (self.right - columns.start) * scale,
        ]


def tiles(height: int, width: int, side: int, halo: int) -> list[Tile]:
    """Tiles of at most `side`² units that cover a map of height × width units, in raster order.

    If the whole map takes no more than a tile with its halos, it is one tile."""
    if height * width <= (side + 2 * halo) ** 2:
        side = max(height, width)
    return [
        Tile(
            top,
            left,
            bottom,
            right,
            (
                slice(max(0, top - halo), min(height, bottom + halo)),
                slice(max(0, left - halo), min(width, right + halo)),
            ),
        )
        for top, bottom in _split(height, side)
        for left, right in _split(width, side)
    ]


def tile_side(bytes_per_unit: float, halo: int, device: torch.device, memory: float = math.inf) -> int:
    """Side of a tile, in units, whose run fits into the available memory, but at least as wide as its halos.

    It takes no more than `memory` bytes if such a tile allows it."""
    workspace = CPU_WORKSPACE
    if device.type == "cuda":
        # Kernels there take about four times as much, because their normalisations do not work in place.
        # Memory that PyTorch holds back is free as well. Beyond 4 GiB, maps reach 2³¹ elements, at which cuDNN is slow.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        workspace = min((torch.cuda.mem_get_info(device)[0] + kept) // 8, 4 * 2**30)
    return max(2 * halo, int((min(workspace, memory) / bytes_per_unit) ** 0.5) - 2 * halo, 4)


def run_in_tiles(
    network: Callable[[Tensor], Tensor],
    read: Callable[[slice, slice], Tensor],
    write: Callable[[Tile, Tensor], None],
    layout: list[Tile],
    out_scale: int,
    progress: Callable[[float], None] | None = None,
) -> None:
    """For each tile, pass the result of `read` for its rows and columns to `network`, and its part of the output to
    `write`.

    The output has `out_scale` elements per unit and side. `progress` gets the share done after each tile."""
    for done, tile in enumerate(layout, 1):
        write(tile, tile.crop(network(read(*tile.read)), out_scale))
        if progress is not None:
            progress(done / len(layout))


def _split(length: int, side: int) -> list[tuple[int, int]]:
    """[0, length) in the fewest equal parts of at most `side`."""
    count = -(-length // side)
    edges = [length * i // count for i in range(count + 1)]
    return list(pairwise(edges))

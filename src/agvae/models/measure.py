"""Facts that tiles need, measured on the network itself: how far it sees, and how much memory it takes."""

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

from agvae.strides import STRIDE_Y, Y_PER_Z

_LENGTHS = (8, 16, 32, 64)
"""Lengths, in cells, of the strips on which a reach is sought. The first one longer than the reach is used."""

_SIDES = (64, 128)
"""Sides of the two pictures whose difference in memory gives the bytes per pixel, without constant costs."""


class Reach(NamedTuple):
    """How far an element of a network's output sees beyond its own cell of the coarser side, on each side of it.

    g_a, g_s: in latents (16 pixels); h_s: in hyper-latents (64 pixels). Tiles need halos of this width."""

    g_a: int
    g_s: int
    h_s: int


class UnboundedError(ValueError):
    """A network sees the whole picture, so it cannot be run in tiles. The message names it."""


def reach_of(g_a: nn.Module, g_s: nn.Module, h_s: nn.Module, M: int, N: int) -> Reach:
    """The reach of each network. Raises UnboundedError if a network sees 64 cells or more."""
    return Reach(
        _reach("g_a", g_a, 3, STRIDE_Y, 1), _reach("g_s", g_s, M, 1, STRIDE_Y), _reach("h_s", h_s, N, 1, Y_PER_Z)
    )


@torch.no_grad()
def _reach(name: str, network: nn.Module, channels: int, cell: int, out_cell: int) -> int:
    """The distance, in cells, at which an output still depends on an input.

    NaN passes through every sum, whatever the weights are. In float64, no kernel mixes neighbours that the formula does
    not."""
    network = copy.deepcopy(network).eval().double()
    device = next(network.parameters()).device
    for length in _LENGTHS:
        found = 0
        for transposed in (False, True):
            x = torch.zeros(2, channels, cell, length * cell, dtype=torch.float64, device=device)
            x[0, ..., :cell] = x[1, ..., -cell:] = torch.nan
            out = network(x.transpose(2, 3).contiguous() if transposed else x)
            out = out.transpose(2, 3) if transposed else out
            cells = out.isnan().unflatten(3, (length, out_cell)).any(dim=4).any(dim=2).any(dim=1)
            found = max(found, int(cells[0].nonzero().max()), length - 1 - int(cells[1].nonzero().min()))
        if found < length - 1:
            return found
    raise UnboundedError(
        f"{name} must read a bounded neighbourhood, so that pictures can be coded in tiles: an output of it depends on "
        f"inputs {length - 1} cells away or more"
    )


class _Live(TorchFunctionMode):
    """Counts the bytes of the tensors that exist at once."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    def __torch_function__(self, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunction():
            for tensor in out if isinstance(out, tuple | list) else (out,):
                if isinstance(tensor, Tensor):
                    storage = tensor.untyped_storage()
                    self.live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
            self.live = {key: kept for key, kept in self.live.items() if not kept[0].expired()}
            self.most = max(self.most, sum(size for _, size in self.live.values()))
        return out


@torch.inference_mode()
def bytes_per_pixel(g_a: nn.Module, g_s: nn.Module, M: int) -> float:
    """The memory that the tensors of g_a or g_s take at once in inference, in bytes per pixel."""
    weight = next(g_a.parameters())

    def most(network: nn.Module, channels: int, scale: int, side: int) -> int:
        x = weight.new_zeros(1, channels, side // scale, side // scale).contiguous(memory_format=torch.channels_last)
        with _Live() as counted:
            network(x)
        return counted.most + x.nbytes

    small, large = _SIDES
    pixels = large**2 - small**2
    return max(
        (most(network, channels, scale, large) - most(network, channels, scale, small)) / pixels
        for network, channels, scale in ((g_a, 3, 1), (g_s, M, STRIDE_Y))
    )

"""What a search for a rate looks at: the latent before any coding, a sample of it, and symbols that can be spared."""

import math

import numpy as np
import torch
from torch import Tensor

from agvae.entropy.coder import Encoder, savings_y
from agvae.entropy.tables import Tables, scale_index
from agvae.models.agvae import AGVAE
from agvae.models.transforms import STRIDE_Y, STRIDE_Z
from agvae.quality import QUALITY_STEPS, half_levels, quality_from_fixed

_CELLS = STRIDE_Z // STRIDE_Y

_EXCESS = 0.8
"""Logarithm of a file's size over that of the guess from y alone, about."""

_SAMPLED = 1024
"""Positions of a sample of a large latent; a smaller latent is coded whole."""

BORDERS = 0.06
"""Logarithm of what a sample's size gains, about, since none of its parts has its own neighbours."""

_SPARE = 0.05
"""Share of the bits of a context's last pass that trimming may take. To lower the symbols that save most bits for their
distortion costs no more quality than to code all at a lower rate as long as they are few."""


def spare(model: AGVAE) -> float:
    """Share of its size that a file can lose by trimming."""
    return _SPARE * model.context.LAST


def sample(y: Tensor) -> Tensor | None:
    """Some thousand positions of y (1, M, h, w), at most a ninth, as a latent of its own; None if y has fewer.

    They are the places of single hyper-latents in rows and columns at regular distances."""
    height, width = y.shape[2:]
    if height * width < _SAMPLED:
        return None
    distance = max(3, math.isqrt(height * width // _SAMPLED))

    def kept(length: int) -> Tensor:
        block = torch.arange(length) // _CELLS
        return (block % distance == min(distance // 2, block[-1])).nonzero()[:, 0]

    return y[:, :, kept(height)][:, :, :, kept(width)]


class Trimmer:
    """Symbols of a coding that can move a step towards zero with no effect on the others, and what each step saves."""

    def __init__(self, tables: Tables):
        self._tables = tables
        self._offers: list[tuple[int, np.ndarray, np.ndarray, np.ndarray]] = []

    def offer(self, number: int, symbols: np.ndarray, left: np.ndarray, right: np.ndarray, rests: np.ndarray) -> None:
        """Take in a pass of y that an encoder knows by `number`; `symbols`, their scale indices `left` and `right`,
        and `rests`, what rounding took off them, are (n,) in coding order."""
        # What a step adds to the squared error of v = s + r is (v − s ± 1)² − (v − s)² = 1 + 2·r·sign(s); in 64ths, so
        # that a float's last bits do not decide.
        added = np.rint(64 + 128 * rests * np.sign(symbols))
        where = np.flatnonzero((symbols != 0) & (added < 64))
        added = np.maximum(added[where], 1).astype(np.int8)
        saved = savings_y(self._tables, symbols[where], left[where], right[where]).astype(np.float32)
        useful = saved > 0
        self._offers.append((number, where[useful].astype(np.uint32), saved[useful], added[useful]))

    def lower(self, encoder: Encoder, bits: float) -> None:
        """Lower, of what was offered, the symbols that save most for the error they add, until `bits` are saved."""
        saved, added = (np.concatenate([offer[i] for offer in self._offers]) for i in (2, 3))
        order = np.argsort(-saved / added, kind="stable")
        taken = np.zeros(len(order), dtype=bool)
        taken[order[: np.searchsorted(saved[order].cumsum(dtype=np.float64), bits) + 1]] = True
        start = 0
        for number, where, *_ in self._offers:
            encoder.lower(number, where[taken[start : start + len(where)]])
            start += len(where)


class ScaleCensus:
    """How often each scale was used in each channel of one coding, and what sizes at other qualities follow from it.

    Between qualities the scales of a channel change, very nearly, by the ratio of its gains; so do the entropies."""

    def __init__(self, tables: Tables, model: AGVAE):
        self._model, self._scales = model, tables.scales
        self._step = math.log(tables.scales[1] / tables.scales[0])
        self._counts = np.zeros((model.M, len(tables.scales)), dtype=np.int64)
        half = torch.arange(0, 8 * tables.scales[-1], dtype=torch.float64)[None] + 0.5
        sigma = torch.from_numpy(tables.scales)[:, None]
        # Of a Gaussian's integer bins: the central one, and the others in pairs.
        edges = torch.special.erfc(half / sigma / math.sqrt(2))
        self._entropy = (torch.special.entr(1 - edges[:, 0]) + 2 * torch.special.entr(-edges.diff() / 2).sum(1)).numpy()

    def count(self, channels: slice, *indices: np.ndarray) -> None:
        """Add a cell's scale indices, flat, each position's channels in order."""
        part = self._counts[channels]
        offsets = np.arange(len(part)) * part.shape[1]
        for side in indices:
            flat = (side.reshape(-1, len(part)) + offsets).ravel()
            part += np.bincount(flat, minlength=part.size).reshape(part.shape)

    def guess(self, y: Tensor) -> np.ndarray:
        """Logarithm of the size in bytes at all levels and half-way, from y (1, M, h, w) before its gain alone.

        As if each element's distance from its channel's mean were its scale. Right but for a factor, which depends more
        on the model than on the picture."""
        step = max(1, math.isqrt(y.shape[2] * y.shape[3] // 4096))
        part = y[0, :, ::step, ::step].flatten(1)
        fixed = (self._model.levels - 1) * QUALITY_STEPS // 2
        distance = ((part - part.mean(1, keepdim=True)) * self._gain(quality_from_fixed(fixed))[:, None]).abs()
        self.count(slice(None), scale_index(distance.T.contiguous(), self._scales).flatten().cpu().numpy())
        return self.curve(fixed) + _EXCESS + math.log(y.numel() / part.numel() / 8)

    def curve(self, fixed: int) -> np.ndarray:
        """Logarithm of the size, right but for a factor, at all levels and half-way, and forget the counts.

        `fixed` is the quality at which they were taken."""
        index = np.arange(self._counts.shape[1])
        qualities = torch.tensor(half_levels(self._model.levels))
        gains = self._gain(qualities) / self._gain(quality_from_fixed(fixed))
        shifts = gains.double().log().cpu().numpy() / self._step
        entropies = np.interp(index + shifts[..., None], index, self._entropy)
        curve = np.log((entropies * self._counts).sum((1, 2)) + 1)
        self._counts[:] = 0
        return curve

    def _gain(self, quality: Tensor | float) -> Tensor:
        if self._model.gain is None:
            return torch.ones(*torch.as_tensor(quality).shape, self._model.M, device=self._model.prior.medians.device)
        return self._model.gain.gain(quality)

"""Latents to streams and back: the symbols of a picture in coding order, without its pixels and its header."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from agvae.codec.features import bands
from agvae.entropy.coder import Decoder, Encoder
from agvae.entropy.tables import TOTAL, Tables, scale_index
from agvae.models.agvae import AGVAE
from agvae.models.coding_order import Cell
from agvae.models.outputs import Parameters
from agvae.strides import Y_PER_Z

_BYTES_PER_BYTE = 2**14
"""Bytes that a tile of h_s may take per byte of the stream when decoding. It allows whole tiles at common rates."""


class CodedCell(NamedTuple):
    """A cell of n positions and C channels after coding, as flat arrays of n·C in coding order.

    `segment` is the number of the cell in the encoder. `rounding`, (1, n, C), is the part that rounding removed: ȳ − μ
    − symbol."""

    segment: int
    cell: Cell
    symbols: np.ndarray
    left: np.ndarray
    right: np.ndarray
    rounding: Tensor


class Coding(NamedTuple):
    """A latent after coding: the encoder, which makes the stream, the symbols of z, and ŷ."""

    encoder: Encoder
    z_symbols: Tensor
    y_hat: Tensor


class LatentCodec:
    """Codes latents with a model in exact arithmetic and its integer tables.

    `quality` is always one that a stream can store (agvae.quality)."""

    def __init__(self, model: AGVAE, tables: Tables):
        self.model, self.tables = model, tables

    def encode(
        self,
        y_bar: Tensor,
        quality: float,
        z_symbols: Tensor | None = None,
        checksum: int = 0,
        observe: Callable[[CodedCell], None] | None = None,
    ) -> Coding:
        """Code ȳ (1, M, H/16, W/16), with the given symbols of z or else those of h_a.

        ŷ overwrites ȳ in `y_bar`, so that a large picture needs one latent less. `checksum` covers everything before
        the stream. `observe` is called with each cell."""
        encoder = Encoder(self.tables, checksum)
        if z_symbols is None:
            z_symbols = self._z_symbols(y_bar, quality)
        encoder.push_z(_integers(z_symbols).reshape(z_symbols.shape[1], -1))

        def push(cell: Cell, residuals: Tensor, parameters: Parameters) -> Tensor:
            symbols = residuals.round()
            coded, left, right = _integers(symbols), *self.scale_indices(parameters)
            segment = encoder.push_y(coded, left, right)
            if observe is not None:
                observe(CodedCell(segment, cell, coded, left, right, residuals - symbols))
            return symbols

        y_hat = y_bar  # each row of ȳ is read only once
        for band in bands(self.model, z_symbols, quality):
            y_hat[:, :, band.rows] = self.model.encode(y_bar[:, :, band.rows], band, push)
        return Coding(encoder, z_symbols, y_hat)

    def decode(self, stream: bytes, quality: float, height: int, width: int, checksum: int = 0) -> Tensor:
        """ŷ (1, M, 4·height, 4·width) from a stream, given the size of z. Raises CodingError."""
        decoder = Decoder(self.tables, stream, checksum)
        z_symbols = self._tensor(decoder.pop_z(height * width)).view(1, -1, height, width)

        def pop(cell: Cell, parameters: Parameters) -> Tensor:
            return self._tensor(decoder.pop_y(*self.scale_indices(parameters))).view_as(parameters.mu)

        y_hat = torch.empty(1, self.model.M, height * Y_PER_Z, width * Y_PER_Z, device=z_symbols.device)
        for band in bands(self.model, z_symbols, quality, _BYTES_PER_BYTE * len(stream)):
            y_hat[:, :, band.rows] = self.model.decode(band, pop)
        decoder.finish()
        return y_hat

    def bits(self, y_bar: Tensor, quality: float, z_symbols: Tensor | None = None) -> Tensor:
        """The model's own rate for each of ȳ (B, M, H/16, W/16), in bits, (B,) float64."""
        if z_symbols is None:
            z_symbols = self._z_symbols(y_bar, quality)
        bits = _bits(self.model.prior(z_symbols + self.model.prior.medians))

        def add(cell: Cell, residuals: Tensor, parameters: Parameters) -> Tensor:
            symbols = residuals.round()
            bits.add_(_bits(self.model.likelihood(symbols + parameters.mu, parameters)))
            return symbols

        for band in bands(self.model, z_symbols, quality):
            self.model.encode(y_bar[:, :, band.rows], band, add)
        return bits

    def least_bits(self, height: int, width: int) -> float:
        """The smallest number of bits for the symbols of a z of `height` × `width` and of its y.

        Even symbols that are nearly certain cost a little."""
        tables = self.tables
        frequencies = np.diff(np.pad(tables.sign, ((0, 0), (1, 1)), constant_values=(0, TOTAL)), axis=1)
        y = -math.log2(frequencies.max() / TOTAL) * self.model.M * Y_PER_Z**2
        rows = zip(tables.z_start[:-1], tables.z_start[1:], strict=True)
        z = -sum(math.log2(np.diff(tables.z[start:stop]).max() / TOTAL) for start, stop in rows)
        return (y + z) * height * width

    def scale_indices(self, parameters: Parameters) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the coding tables for the scales left and right of μ, flat uint8, in coding order."""
        left = scale_index(parameters.sigma_l, self.tables.scales).flatten().cpu().numpy()
        if parameters.sigma_r is parameters.sigma_l:
            return left, left
        return left, scale_index(parameters.sigma_r, self.tables.scales).flatten().cpu().numpy()

    def _z_symbols(self, y_bar: Tensor, quality: float) -> Tensor:
        return self.model.hyper_symbols(self.model.hyper_analyze(y_bar, quality))

    def _tensor(self, symbols: np.ndarray) -> Tensor:
        return torch.from_numpy(symbols).to(self.model.prior.medians.device, torch.float32)


def _integers(symbols: Tensor) -> np.ndarray:
    return symbols.to(torch.int32).flatten().cpu().numpy()


def _bits(likelihoods: Tensor) -> Tensor:
    return -likelihoods.log2().flatten(1).sum(1, dtype=torch.float64)

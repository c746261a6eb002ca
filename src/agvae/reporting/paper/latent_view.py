"""The subject of figure 2: a picture as one model codes it, and the channel of its latent that takes most bits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agvae.codec import Codec
from agvae.codec.bitstream import quality_of
from agvae.metrics import bits_per_pixel, psnr
from agvae.models.outputs import CodedLatent, Parameters
from agvae.reporting.latents import expected_histogram
from agvae.reporting.paper.figures import Histogram, LatentRow, ModelCurve
from agvae.reporting.paper.files import compressed

Density = tuple[str, float]
"""Form and tail of an entropy model."""


@dataclass(frozen=True)
class LatentView:
    """A picture as one model codes it, and the channel of y that takes most bits."""

    codec: Codec
    picture: str
    bpp: float
    psnr: float
    coded: CodedLatent

    @classmethod
    def at(cls, codec: Codec, image: np.ndarray, picture: str, **target: float) -> "LatentView":
        """Code a picture at a target of `Codec.compress`. Raises DataError if the model cannot meet it."""
        latent = codec.analyze(image)
        data = compressed(codec, latent, picture, **target)
        coded = codec.model.code(latent.y, quality_of(data))
        bpp = bits_per_pixel(len(data), image.shape[1], image.shape[0])
        return cls(codec, picture, bpp, psnr(image, codec.decompress(data)), coded)

    @property
    def channel(self) -> int:
        """The index of the channel."""
        return int(self.coded.y_bits[0].sum((1, 2)).argmax())

    def of_channel(self, values: Tensor) -> Tensor:
        """The elements of the channel, flat and on the CPU, of (1, M, H/16, W/16)."""
        return values[0, self.channel].flatten().cpu()

    def entry(self, model: str, y_bits: Tensor) -> dict[str, Any]:
        """The row of the table for `model`. `y_bits` are its bits, (1, M, H/16, W/16)."""
        return {
            "model": model,
            "channel": self.channel,
            "channel_bits": self.of_channel(y_bits).sum().item(),
            "y_bits": y_bits.sum().item(),
            "bpp": self.bpp,
            "psnr": self.psnr,
        }

    def row(self, models: Sequence[tuple[str, Parameters, Density, float]]) -> LatentRow:
        """The row of figure 2: histograms, and over them each of `models`.

        A model is (name, parameters (1, M, H/16, W/16), (form, tail), bits)."""
        _, sigma_l, sigma_r = (self.of_channel(p) for p in self.coded.parameters)
        about = [
            (f"{name}: {bits:,.0f} bits", Parameters(own.mu - self.coded.parameters.mu, *own[1:]), density)
            for name, own, density, bits in models
        ]
        histograms = (
            self._histogram("gained latent ȳ", self.of_channel(self.coded.y_bar), [m[:3] for m in models]),
            self._histogram("coded symbol, round(ȳ − μ)", self.of_channel(self.coded.symbols), about),
        )
        title = (
            f"{self.codec.name}, {self.picture} at {self.bpp:.3f} bpp and {self.psnr:.2f} dB: "
            f"channel {self.channel} of {self.codec.model.M}, the one that takes most bits"
        )
        right = None if self.codec.model.symmetric else (sigma_r**2).numpy()
        return LatentRow(title, histograms, (sigma_l**2).numpy(), right)

    def _histogram(self, label: str, values: Tensor, models: Sequence[tuple[str, Parameters, Density]]) -> Histogram:
        x = torch.arange(values.min().floor().item() - 2, values.max().ceil().item() + 2, 1 / 8)
        curves = []
        for name, parameters, density in models:
            shares = expected_histogram(x, Parameters(*(self.of_channel(p) for p in parameters)), *density)
            symmetric = parameters.sigma_l is parameters.sigma_r
            curves.append(ModelCurve(name, symmetric, x.numpy(), shares.numpy()))
        return Histogram(label, values.numpy(), curves)

"""An encoder that searches: gradient descent on the latents of one picture, for a smaller file of the same quality.

The latents that g_a and h_a produce in one pass are not the best ones for the decoder. A refiner minimises

    J = R + λ(q) · pixels · D

over ȳ and z̄ of the one picture, with R in bits, and D and λ those of the model's training loss. Rounding is softened
by stochastic Gumbel annealing (Yang, Bamler and Mandt, "Improving inference for neural image compression", NeurIPS
2020). It follows the coding order of the context, so that R is the rate of the symbols as the decoder will predict
them. The networks are the float32 networks of training. The format and the decoder are not affected. docs/recipe.md has
the measurements behind the constants.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from agvae.codec.tiling import CPU_WORKSPACE, Tile, tile_side, tiles
from agvae.errors import ConfigError
from agvae.metrics import MS_SSIM_SMALLEST_SIDE, ms_ssim_of_batch, mse_of_batch, psnr
from agvae.models.agvae import AGVAE
from agvae.models.coding_order import Cell, WholeFeatures
from agvae.models.outputs import Parameters
from agvae.strides import STRIDE_Z, Y_PER_Z

LADDERS = {"mse": (0.0003, 0.001, 0.003, 0.007, 0.03, 0.05), "msssim": (0.0006, 0.001, 0.003, 0.007, 0.03, 0.07)}
"""λ from the lowest level to the highest if a model file does not state it: the paper's, by the name of the loss."""

_RATE_Y, _RATE_Z, _EPSILON = 0.06, 0.08, 0.5
"""Adam's learning rates, in quantiser steps, which fall linearly to zero, and its ε, in bits per quantiser step.

Most elements are certain to be zero and have almost no gradient. A small ε would move them as far as all others."""

_TEMPERATURES = (0.5, 0.2)
"""First and last temperature of the annealing, which is geometric. A colder end undoes part of the gain."""

_HOPELESS = 7.0
"""A symbol that is e^7 times less likely than its neighbour is never drawn. There are so many of these that a few would
be drawn at each step, and would cost more bits than the picture has."""

_LOOKS = 6
"""How often the true coding is evaluated, at regular distances in the second half. The best one is kept."""

_HALO = 2
"""Width of the fixed surroundings of a tile, in hyper-latents. More distant latents hardly change the optimum."""

_EDGE = 1e-6
"""Smallest distance from a whole number, and of a random number from 0 and 1, so that logarithms stay finite."""

_MEMORY = 4 * CPU_WORKSPACE
"""Bytes that the tensors of one tile may take on a CPU. A backward pass needs all tensors of the forward pass."""

_PER_PIXEL = 18
"""Multiple of `AGVAE.bytes_per_pixel` that forward and backward pass of g_s and the context take. Measured: 17."""

Saved = Callable[[float, float], None]
"""Called with the share done, and with the bits saved so far at equal distortion as λ weighs it."""

_Soften = Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]
"""Quantises values, given the probability of each whole number they could become."""


class Latents(NamedTuple):
    """The values that an encoder rounds: ȳ (1, M, H/16, W/16), and the symbols of z (1, N, H/64, W/64)."""

    y_bar: Tensor
    z_symbols: Tensor


class Refiner:
    """Searches for better latents of a picture, with a model in its training form.

    `info` comes from the model file. Its `loss` names the distortion and the λ of each level. Raises ConfigError if it
    names none, or one that is neither mse nor msssim."""

    def __init__(self, model: AGVAE, info: dict[str, Any]):
        loss = info.get("loss") or {}
        if loss.get("name") not in LADDERS:
            raise ConfigError(
                f"effort must be 0 for this model: its file must name its loss as {' or '.join(LADDERS)}, "
                f"not {loss.get('name')}"
            )
        self.model = model.requires_grad_(False)
        self.networks = model.context.networks()  # built once, not at each step
        self.distortion_of_batch = mse_of_batch if loss["name"] == "mse" else _msssim
        self._log_lambdas = np.log(loss.get("lambdas") or loss.get("ladder") or LADDERS[loss["name"]])

    def lagrangian(self, quality: float) -> float:
        """λ at `quality`: that of the levels, log-linear between them, and multiplied by 4 for each level past the
        last.

        λ grows with the square of the gain, which doubles there."""
        last = self.model.levels - 1
        levels = np.linspace(0, last, len(self._log_lambdas))
        return math.exp(np.interp(quality, levels, self._log_lambdas)) * 4 ** max(0.0, quality - last)

    def distortion(self, pixels: np.ndarray, decoded: np.ndarray) -> float:
        """D between two pictures, (H, W, 3) uint8."""
        if self.distortion_of_batch is mse_of_batch:
            return 255**2 / 10 ** (psnr(pixels, decoded) / 10)
        x, x_hat = (torch.tensor(picture).permute(2, 0, 1)[None].float() / 255 for picture in (pixels, decoded))
        return self.distortion_of_batch(x_hat, x).item()

    def refine(
        self, pixels: np.ndarray, latents: Latents, quality: float, steps: int, progress: Saved | None = None
    ) -> Latents:
        """Latents with a smaller J than `latents` after `steps` steps for each part of the picture, or `latents`
        themselves.

        `pixels` is (H, W, 3) uint8. Large pictures are divided into tiles, each with fixed surroundings. The same input
        gives the same result on one machine."""
        # The caller may be in inference mode, whose tensors have no gradient.
        with torch.inference_mode(False), torch.enable_grad():
            latents = Latents(*(v.clone() for v in latents))
            if steps == 0:
                return latents
            height, width = latents.z_symbols.shape[2:]
            per_unit = _PER_PIXEL * self.model.bytes_per_pixel * STRIDE_Z**2
            if latents.y_bar.device.type == "cpu":
                per_unit *= CPU_WORKSPACE / _MEMORY
            layout = tiles(height, width, tile_side(per_unit, _HALO, latents.y_bar.device), _HALO)
            saved = 0.0
            for done, tile in enumerate(layout):
                report = progress and _part(progress, done, len(layout), saved)
                saved += self._refine_tile(pixels, latents, tile, quality, steps, report)
            return latents

    def _refine_tile(
        self, pixels: np.ndarray, latents: Latents, tile: Tile, quality: float, steps: int, progress: Saved | None
    ) -> float:
        """Store better latents in the place of the tile, and return the bits that they save."""
        region = _Region(self, pixels, latents, tile, quality)
        y, z = region.start
        medians = self.model.prior.medians
        y, z = y.clone().requires_grad_(), (z + medians).requires_grad_()
        groups = [{"params": [y], "lr": _RATE_Y}, {"params": [z], "lr": _RATE_Z}]
        # Adam's second moment covers about as many steps as there are. A longer one would keep noise of the hot start.
        optimizer = torch.optim.Adam(groups, betas=(0.9, 1 - 1 / max(steps, 10)), eps=_EPSILON)
        decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1 / steps, total_iters=steps - 1)
        generator = torch.Generator(y.device).manual_seed(0)
        first = least = region.true_cost(y, z)
        looks = {steps - 1 - i * max(1, steps // (2 * _LOOKS)) for i in range(_LOOKS)}
        best = region.start
        for step in range(steps):
            share = step / max(1, steps - 1)
            temperature = _TEMPERATURES[0] * (_TEMPERATURES[1] / _TEMPERATURES[0]) ** share
            optimizer.zero_grad()
            region.cost(y, z, _annealed(temperature, generator)).backward()
            y.grad.mul_(region.own_y)
            z.grad.mul_(region.own_z)
            optimizer.step()
            decay.step()
            if step in looks and (now := region.true_cost(y, z)) < least:
                least, best = now, Latents(y.detach().clone(), (z.detach() - medians).round())
            if progress is not None:
                progress((step + 1) / steps, first - least)
        region.write(best, latents)
        return first - least


class _Region:
    """A tile and its surroundings, which a step reads, and J of them.

    `own_y` and `own_z` are 1 at the tile's own latents, and 0 around them."""

    def __init__(self, refiner: "Refiner", pixels: np.ndarray, latents: Latents, tile: Tile, quality: float):
        self._refiner, self._model, self._quality = refiner, refiner.model, quality
        rows, columns = tile.read
        self._z_place, self._y_place = (
            (..., *(slice(part.start * scale, part.stop * scale) for part in (rows, columns))) for scale in (1, Y_PER_Z)
        )
        self.start = Latents(latents.y_bar[self._y_place].clone(), latents.z_symbols[self._z_place].clone())
        # Outside its borders the picture is padding, which does not count.
        part = pixels[rows.start * STRIDE_Z : rows.stop * STRIDE_Z, columns.start * STRIDE_Z : columns.stop * STRIDE_Z]
        x = torch.from_numpy(np.ascontiguousarray(part)).to(latents.y_bar.device)
        self._x = x.permute(2, 0, 1)[None].float() / 255
        self._weight = refiner.lagrangian(quality) * x[..., 0].numel()
        self.own_z = torch.zeros_like(self.start.z_symbols[:1, :1])
        self.own_z[
            ...,
            tile.top - rows.start : tile.bottom - rows.start,
            tile.left - columns.start : tile.right - columns.start,
        ] = 1
        self.own_y = F.interpolate(self.own_z, scale_factor=Y_PER_Z)

    def cost(self, y_bar: Tensor, z_bar: Tensor, soften: _Soften, rounded: bool = False) -> Tensor:
        """J, in bits, of latents quantised by `soften`. With `rounded`, of the picture in 8 bits."""
        model, medians = self._model, self._model.prior.medians
        z_hat = soften(z_bar - medians, lambda symbols: model.prior(symbols + medians)) + medians
        bits = [_bits(model.prior(z_hat))]
        y_bar = y_bar.flatten(2).transpose(1, 2)

        def code(cell: Cell, raw: Tensor) -> Tensor:
            parameters = model.split(raw, dim=2)
            centred = Parameters(torch.zeros_like(parameters.mu), *(v.detach() for v in parameters[1:]))
            residuals = y_bar[:, cell.positions, cell.channels] - parameters.mu
            y_hat = soften(residuals, lambda symbols: model.likelihood(symbols, centred)) + parameters.mu
            bits.append(_bits(model.likelihood(y_hat, parameters)))
            return y_hat

        features = WholeFeatures(model.hyper_features(z_hat, self._quality))
        y_hat = model.context.order.walk(features, self._refiner.networks, code)
        x_hat = model.synthesize(y_hat, self._quality)[..., : self._x.shape[2], : self._x.shape[3]]
        if rounded:
            x_hat = x_hat.clamp(0, 1).mul(255).round() / 255
        return sum(bits) + self._weight * self._refiner.distortion_of_batch(x_hat, self._x).sum()

    @torch.no_grad()
    def true_cost(self, y_bar: Tensor, z_bar: Tensor) -> float:
        """J of the hard symbols, as the file will have it."""
        return self.cost(y_bar, z_bar, lambda values, _: values.round(), rounded=True).item()

    def write(self, best: Latents, latents: Latents) -> None:
        """Copy the tile's own part of `best` to its place in `latents`."""
        for place, own, source, target in (
            (self._y_place, self.own_y, best.y_bar, latents.y_bar),
            (self._z_place, self.own_z, best.z_symbols, latents.z_symbols),
        ):
            target[place] = torch.where(own > 0, source, target[place])


def _annealed(temperature: float, generator: torch.Generator) -> _Soften:
    """Relaxed stochastic rounding down or up. The colder it is, the closer the result is to whole numbers and to the
    nearest one.

    At the distance d from the lower number, up has the logit ℓ = (artanh(d) − artanh(1 − d)) / temperature. The result
    is the lower number plus σ((ℓ + logistic noise) / temperature)."""

    def soften(values: Tensor, probability: Callable[[Tensor], Tensor]) -> Tensor:
        lower = values.detach().floor()
        distance = (values - lower).clamp(_EDGE, 1 - _EDGE)
        logit = (distance.atanh() - (1 - distance).atanh()) / temperature
        noise = torch.rand(values.shape, generator=generator, device=values.device).clamp_(_EDGE, 1 - _EDGE).logit_()
        relaxed = lower + torch.sigmoid((logit + noise) / temperature)
        with torch.no_grad():
            up = distance >= 0.5
            odds = (probability(lower + 1) / probability(lower)).log()
            hopeless = torch.where(up, odds, -odds) > _HOPELESS
        return torch.where(hopeless, lower + up, relaxed)

    return soften


def _part(progress: Saved, done: int, count: int, saved: float) -> Saved:
    """Progress of the next of `count` tiles, after `done` that have saved so many bits."""
    return lambda share, bits: progress((done + share) / count, saved + bits)


def _bits(likelihoods: Tensor) -> Tensor:
    return -likelihoods.log2().sum()


def _msssim(x_hat: Tensor, x: Tensor) -> Tensor:
    """1000·(1 − MS-SSIM) of each picture, (B,). One too small for five scales is extended by its last pixels."""
    short = [max(0, MS_SSIM_SMALLEST_SIDE - side) for side in x.shape[2:]]
    if any(short):
        x_hat, x = (F.pad(v, (0, short[1], 0, short[0]), mode="replicate") for v in (x_hat, x))
    return 1000 * (1 - ms_ssim_of_batch(x_hat, x))

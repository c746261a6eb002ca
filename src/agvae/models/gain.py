"""Gain units: per-channel scaling of the latent that turns one model into every rate (AG-VAE §3)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from agvae.quality import EXTRA_LEVELS, check_quality


class GainUnit(nn.Module):
    """A gain matrix m and a separately trained inverse gain matrix m′, n levels of c positive gains each.

    The parameters are their logarithms, so that the paper's exponential interpolation between the levels around a
    quality q = s + l, m_s^(1−l) · m_{s+1}^l, is linear. Cost: 2·c·n parameters.

    Past the last level n − 1, m grows and m′ falls by the factor `growth` a level, for two levels. These qualities are
    not trained. With a growth of 2, which is that of √λ along the paper's ladder, they reach higher rates than the last
    level does."""

    def __init__(self, channels: int, levels: int, growth: float = 2.0):
        super().__init__()
        self.channels, self.levels, self.growth = channels, levels, growth
        self.log_gain = nn.Parameter(torch.zeros(levels, channels))
        self.log_inverse = nn.Parameter(torch.zeros(levels, channels))

    def gain(self, quality: Tensor | float) -> Tensor:
        """m at `quality` (any shape, in [0, levels + 1]): (…, channels).

        Raises ValueError for a float out of range. A tensor is clamped."""
        return self._at(self.log_gain, quality, math.log(self.growth))

    def inverse(self, quality: Tensor | float) -> Tensor:
        """m′ at `quality` (any shape, in [0, levels + 1]): (…, channels).

        Raises ValueError for a float out of range. A tensor is clamped."""
        return self._at(self.log_inverse, quality, -math.log(self.growth))

    @torch.no_grad()
    def initialise(self, lambdas: list[float]) -> None:
        """Set m_s ∝ √λ_s and m′_s = 1/m_s, with a geometric mean of 1 over the levels.

        At high rate, the distortion of a uniform quantiser is Δ²/12 and its rate falls by log2 Δ, so the best step for
        λ is Δ ∝ 1/√λ."""
        if len(lambdas) != self.levels:
            raise ValueError(f"the number of λ must be that of the gain levels, {self.levels}, not {len(lambdas)}")
        logs = 0.5 * torch.tensor(lambdas, dtype=torch.float64).log()
        logs = (logs - logs.mean()).to(self.log_gain)[:, None]
        self.log_gain.copy_(logs.expand_as(self.log_gain))
        self.log_inverse.copy_(-self.log_gain)

    def _at(self, logs: Tensor, quality: Tensor | float, slope: float) -> Tensor:
        last = self.levels - 1
        if not isinstance(quality, Tensor):
            check_quality(quality, last + EXTRA_LEVELS)
        beyond = isinstance(quality, Tensor) or quality > last  # reading a tensor's value would wait for a GPU
        quality = torch.as_tensor(quality, dtype=logs.dtype, device=logs.device)
        trained = quality.clamp(0, last)
        logs = interpolate(logs, trained, torch.lerp)
        if beyond and slope:
            past = quality.clamp(0, last + EXTRA_LEVELS) - trained
            logs = torch.add(logs, past.unsqueeze(-1), alpha=slope)
        return logs.exp()


def interpolate(logs: Tensor, quality: Tensor, blend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """The rows of `logs` (levels, channels) at `quality` = s + l, any shape: (…, channels).

    `blend` computes (1 − l)·row s + l·row s+1 from (row s, row s+1, l), in the arithmetic of the caller."""
    lower = quality.floor().long()
    upper = (lower + 1).clamp(max=len(logs) - 1)
    return blend(logs[lower], logs[upper], (quality - lower).unsqueeze(-1))

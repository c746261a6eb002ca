"""The fully factorised prior of the hyper-latent z (Ballé et al. 2018, appendix 6.1)."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agvae.entropy.densities import LIKELIHOOD_MIN, lower_bound


class FactorizedPrior(nn.Module):
    """A learned univariate density per channel, given by its cumulative: a small monotone network.

    Parameters have the names and shapes of CompressAI's `EntropyBottleneck`, whose weights load unchanged. Unlike it,
    this class has no coding tables, and so no buffer that changes shape. Tables are built from `pmf` when a model is
    exported. It computes in float32 under autocast."""

    FILTERS = (1, 3, 3, 3, 3, 1)
    INIT_SCALE = 10.0
    TAIL_MASS = 1e-9

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        scale = self.INIT_SCALE ** (1 / (len(self.FILTERS) - 1))
        self.matrices, self.biases, self.factors = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        for i, (fan_in, fan_out) in enumerate(zip(self.FILTERS[:-1], self.FILTERS[1:], strict=True)):
            init = math.log(math.expm1(1 / scale / fan_out))
            self.matrices.append(nn.Parameter(torch.full((channels, fan_out, fan_in), init)))
            self.biases.append(nn.Parameter(torch.empty(channels, fan_out, 1).uniform_(-0.5, 0.5)))
            if i < len(self.FILTERS) - 2:
                self.factors.append(nn.Parameter(torch.zeros(channels, fan_out, 1)))
        # Lower tail, median, upper tail of each channel.
        self.quantiles = nn.Parameter(torch.zeros(channels, 1, 3))
        self.quantiles.data[:, :, 0].fill_(-self.INIT_SCALE)
        self.quantiles.data[:, :, 2].fill_(self.INIT_SCALE)

    @property
    def medians(self) -> Tensor:
        """(1, C, 1, 1): the centre of z, which is subtracted before rounding."""
        return self.quantiles[:, 0, 1].detach()[None, :, None, None]

    def forward(self, z: Tensor) -> Tensor:
        """Probability of the unit bin around each element of z (B, C, H, W), float32, at least LIKELIHOOD_MIN."""
        with torch.autocast(z.device.type, enabled=False):
            values = z.float().transpose(0, 1).reshape(self.channels, 1, -1)
            lower, upper = self._logits(values - 0.5), self._logits(values + 0.5)
            # Computed on the side where both are small, so that the difference stays precise.
            sign = -(lower + upper).sign().detach()
            p = (torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower)).abs()
            p = lower_bound(p, LIKELIHOOD_MIN)
            return p.reshape(self.channels, z.shape[0], *z.shape[2:]).transpose(0, 1)

    def aux_loss(self) -> Tensor:
        """Distance of the quantiles from those of the density. The density's own parameters get no gradient from it."""
        target = math.log(2 / self.TAIL_MASS - 1)
        with torch.autocast(self.quantiles.device.type, enabled=False):
            low, middle, high = self._logits(self.quantiles, detach=True).unbind(-1)
            return sum(off.abs().sum() for off in (low + target, middle, high - target))

    @torch.no_grad()
    def support(self, tail_mass: float, limit: int = 4096) -> tuple[Tensor, Tensor]:
        """First and last symbol (z minus the median, an integer) of each channel, (C, 1, 1). Less than `tail_mass` lies
        beyond each of them, within one symbol. Both are at most `limit` from the median, which lies between them."""
        logit = math.log(1 / tail_mass - 1)
        with torch.autocast(self.quantiles.device.type, enabled=False):
            return self._last_below(-logit, limit).clamp(max=0), self._last_below(logit, limit).clamp(min=0)

    def _last_below(self, logit: float, limit: int) -> Tensor:
        """The last symbol of each channel for whose lower edge the logit of the cumulative is below `logit`."""
        medians = self.quantiles[:, :, 1:2]
        low = torch.full_like(medians, -limit)
        high = -low
        while limit:  # bisection without reading values, which would wait for a GPU
            middle = ((low + high) / 2).floor()
            below = self._logits(middle - 0.5 + medians) < logit
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
            limit //= 2
        return low

    @torch.no_grad()
    def pmf(self, tail_mass: float = 2**-20, limit: int = 4096) -> tuple[list[np.ndarray], np.ndarray]:
        """For each channel, the probabilities of z's symbols (z minus the median, an integer) and the first symbol.

        The symbols of a channel end where less than `tail_mass` lies beyond, at most `limit` away."""
        symbols = torch.arange(-limit, limit + 2, dtype=torch.float64) - 0.5
        prior = type(self)(self.channels).double()
        prior.load_state_dict({k: v.double().cpu() for k, v in self.state_dict().items()})
        logits = prior._logits(symbols + prior.quantiles[:, :, 1:2])[:, 0]
        below, above = torch.sigmoid(logits), torch.sigmoid(-logits)
        pmfs, offsets = [], []
        for cdf, survival in zip(below, above, strict=True):
            start = min(int((cdf < tail_mass).sum().clamp(min=1)) - 1, limit)
            stop = max(int((survival > tail_mass).sum()), limit + 1)
            stop = min(stop, 2 * limit + 1)
            edges = torch.where(cdf[start : stop + 1] < 0.5, cdf[start : stop + 1], 1 - survival[start : stop + 1])
            pmfs.append(edges.diff().clamp(min=0).numpy())
            offsets.append(start - limit)
        return pmfs, np.array(offsets, dtype=np.int32)

    def _logits(self, values: Tensor, detach: bool = False) -> Tensor:
        """Logit of the cumulative at `values` (C, 1, n)."""
        stop = (lambda t: t.detach()) if detach else (lambda t: t)
        for i, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            values = _product(F.softplus(stop(matrix)), values) + stop(bias)
            if i < len(self.factors):
                values = values + torch.tanh(stop(self.factors[i])) * torch.tanh(values)
        return values


def _product(matrices: Tensor, values: Tensor) -> Tensor:
    """(C, m, n) times (C, n, k), in full precision.

    On a GPU, matrix products may be computed in TF32. Sums of so few products are not slower."""
    if values.is_cuda:
        return (matrices[..., None] * values[:, None]).sum(2)
    return torch.matmul(matrices, values)

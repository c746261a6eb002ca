"""The AG-VAE model: asymmetric gained deep image compression (Cui et al., CVPR 2021).

x ─► g_a ─► y ─►×m(q)─► ȳ ─┬─► round(ȳ−μ) ─► symbols ─► bits        ŷ = symbols + μ ─►×m′(q)─► g_s ─► x̂
                           │        ▲ μ, σ_l, σ_r
                           │        └── entropy parameters ◄── h_s ◄─×h′(q)─ ẑ ◄─ round ◄─×h(q)─ z
                           └─► h_a ─► z            ▲ context(ŷ already decoded)
"""

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from agvae import extensions
from agvae.entropy.densities import ASYMMETRIC_FORMS, LIKELIHOOD_MIN, likelihood, lower_bound, scale_min
from agvae.entropy.factorized import FactorizedPrior
from agvae.models import measure
from agvae.models.coding_order import Cell, Features, WholeFeatures
from agvae.models.context import CONTEXTS, CodingContext
from agvae.models.gain import GainUnit
from agvae.models.outputs import CodedLatent, Output, Parameters, TrainedLatent
from agvae.models.quantization import QUANTIZERS, quantize_for_distortion, quantize_for_rate
from agvae.models.transforms import TRANSFORMS
from agvae.quality import EXTRA_LEVELS
from agvae.strides import STRIDE_Z

_Z_UNUSED = 2.0**-10
"""Mass of the prior, on each side, whose symbols of z an encoder does not use."""


Quantise = Callable[[Cell, Tensor, Parameters], Tensor]
"""Chooses the symbols of a cell, (B, n, C), from the cell, its residuals ȳ − μ (B, n, C) and its parameters."""

Read = Callable[[Cell, Parameters], Tensor]
"""Reads the symbols of a cell, (B, n, C), given its parameters."""


class AGVAE(nn.Module):
    """One model for every rate: gained transforms, a gained hyperprior, a context and an asymmetric Gaussian.

    `config` names the choice for each part: transforms, gain, entropy, context, quantizer, as in conf/model."""

    def __init__(
        self,
        transforms: dict[str, Any],
        gain: dict[str, Any],
        entropy: dict[str, Any],
        context: dict[str, Any],
        quantizer: dict[str, Any],
    ):
        super().__init__()
        self.levels = _levels(gain)
        self.symmetric = _choice(entropy["name"], "entropy", ("symmetric", "asymmetric")) == "symmetric"
        # With σ_l = σ_r both forms are the Gaussian. Naming one avoids a special case elsewhere.
        self.form = "half_mass" if self.symmetric else _choice(entropy["form"], "entropy form", ASYMMETRIC_FORMS)
        self.tail = float(entropy.get("tail", 0.0))
        if not 0 <= self.tail < 1:
            raise ValueError(f"entropy.tail must be at least 0 and less than 1, not {self.tail}")
        self.quantizer = _choice(quantizer["name"], "quantizer", QUANTIZERS)

        parts, context_parts = dict(transforms), dict(context)
        build = extensions.find("transforms", parts.pop("name"), TRANSFORMS)
        context_class = extensions.find("context", context_parts.pop("name"), CONTEXTS)
        if transforms["name"] in TRANSFORMS:
            _check_widths("transforms", parts)
        if context["name"] in CONTEXTS:
            _check_widths("context", context_parts)
        self.context: CodingContext = context_class(parts["M"], 2 if self.symmetric else 3, **context_parts)
        built = build(**parts, hyper_channels=self.context.hyper_channels)
        self.g_a, self.g_s, self.h_a, self.h_s, self.N, self.M = built
        self.prior = FactorizedPrior(self.N)
        self.gain = GainUnit(self.M, self.levels) if gain["name"] != "none" else None
        # Past the last level the gains of z stay constant: h_a sees a larger ȳ there, and h_s must convey that.
        self.hyper_gain = GainUnit(self.N, self.levels, growth=1.0) if gain["name"] == "hcvr" else None
        self.config = copy.deepcopy(
            {
                "transforms": transforms,
                "gain": gain,
                "entropy": entropy,
                "context": context,
                "quantizer": quantizer,
            }
        )

    own_lambdas: Mapping[str, list[float]] = {}
    """The model has no λ of its own. The ladder of the loss gives them (`agvae.models.trainable`)."""

    stride = STRIDE_Z
    """Height and width of a picture must be multiples of this."""

    @functools.cached_property
    def reach(self) -> measure.Reach:
        """The reach of the networks, which is the width of a tile's halo. Raises UnboundedError, as `measure.reach_of`
        does."""
        parts = dict(self.config["transforms"])
        if parts.pop("name") not in TRANSFORMS:
            return measure.reach_of(self.g_a, self.g_s, self.h_s, self.M, self.N)
        # The width of a built-in part does not change its reach, and a narrow one is measured quickly.
        narrow = {key: 8 if key in ("N", "M", "H") else value for key, value in parts.items()}
        with torch.random.fork_rng(devices=[]):
            networks = TRANSFORMS[self.config["transforms"]["name"]](**narrow, hyper_channels=8)
        return measure.reach_of(networks.g_a, networks.g_s, networks.h_s, 8, 8)

    @functools.cached_property
    def bytes_per_pixel(self) -> float:
        """The memory that g_a or g_s takes in inference. See `measure.bytes_per_pixel`."""
        return measure.bytes_per_pixel(self.g_a, self.g_s, self.M)

    @property
    def last_quality(self) -> int:
        """The highest quality: two levels past the last trained one, if the model has gains."""
        return self.levels - 1 + (0 if self.gain is None else EXTRA_LEVELS)

    @property
    def table_form(self) -> str:
        """The form of the coding tables: symmetric, half_mass or two_piece."""
        return "symmetric" if self.symmetric else self.form

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "AGVAE":
        """Build the model that `config` describes. Raises ValueError if it names a part that does not exist."""
        return cls(**config)

    def initialise_gains(self, lambdas: list[float]) -> None:
        """Start the gains of y at √λ of each level (high-rate theory). The gains of z stay at 1."""
        if self.gain is not None:
            self.gain.initialise(lambdas)

    def forward(self, x: Tensor, quality: Tensor | float) -> Output:
        """Code x (B, 3, H, W), in [0, 1], at `quality` in [0, last_quality], one for all pictures or one for each.

        In training mode, the model's training quantiser is used. In evaluation mode, the model rounds in the coding
        order of the context, and returns exactly what the decoder of the codec returns."""
        if x.shape[2] % self.stride or x.shape[3] % self.stride:
            raise ValueError(f"height and width must be multiples of {self.stride}, not {tuple(x.shape[2:])}")
        return self.from_latent(self.latent(x), quality)

    def from_latent(self, y: Tensor, quality: Tensor | float) -> Output:
        """What `forward` returns for pictures whose latent is y = g_a(x), (B, M, H/16, W/16)."""
        coded = self.code_for_training(y, quality) if self.training else self.code(y, quality)
        return Output(self.synthesize(coded.y_hat, quality), coded.y_likelihoods, coded.z_likelihoods)

    def code_for_training(self, y: Tensor, quality: Tensor | float) -> TrainedLatent:
        """Quantise y = g_a(x), (B, M, H/16, W/16), with the training quantiser; the gradient passes through."""
        y_bar = self.scale(y, quality)
        z_bar = self.hyper_analyze(y_bar, quality)
        z_rate = quantize_for_rate(z_bar, self.quantizer)
        z_hat = quantize_for_distortion(z_bar, z_rate, self.quantizer, self.prior.medians)
        y_rate = quantize_for_rate(y_bar, self.quantizer)
        raw = self.context(self.hyper_synthesize(z_hat, quality), y_rate)
        parameters = self.split(raw.unflatten(1, (-1, self.M)), dim=1)
        y_hat = quantize_for_distortion(y_bar, y_rate, self.quantizer, parameters.mu)
        return TrainedLatent(y_hat, self.likelihood(y_rate, parameters), self.prior(z_rate))

    @torch.no_grad()
    def code(self, y: Tensor, quality: Tensor | float) -> CodedLatent:
        """Code y = g_a(x), (B, M, H/16, W/16), in coding order, without bytes and without gradients.

        With a codec's model, these are the symbols of its file at that quality, and their bits add up to its
        `estimate`."""
        y_bar = self.scale(y, quality)
        z_symbols = self.hyper_symbols(self.hyper_analyze(y_bar, quality))
        z_hat = z_symbols + self.prior.medians
        mu, sigma_l, sigma_r, likelihoods = (torch.empty(y_bar.shape, device=y_bar.device) for _ in range(4))

        def record(cell: Cell, residuals: Tensor, parameters: Parameters) -> Tensor:
            symbols = residuals.round()
            parts = (*parameters, self.likelihood(symbols + parameters.mu, parameters))
            for whole, part in zip((mu, sigma_l, sigma_r, likelihoods), parts, strict=True):
                _rows(whole)[:, cell.positions, cell.channels] = part
            return symbols

        y_hat = self.encode(y_bar, WholeFeatures(self.hyper_features(z_hat, quality)), record)
        parameters = Parameters(mu, sigma_l, sigma_l if self.symmetric else sigma_r)
        return CodedLatent(y_bar, y_hat, parameters, likelihoods, z_symbols, self.prior(z_hat))

    def analyze(self, x: Tensor, quality: Tensor | float) -> Tensor:
        """ȳ = g_a(x) · m(q), (B, M, H/16, W/16)."""
        return self.scale(self.latent(x), quality)

    def latent(self, x: Tensor) -> Tensor:
        """y = g_a(x), (B, M, H/16, W/16), in float32, because bfloat16 would round values before they are quantised."""
        return self.g_a(x).float()

    def scale(self, y: Tensor, quality: Tensor | float) -> Tensor:
        """ȳ = y · m(q)."""
        return y if self.gain is None else y * _map(self.gain.gain(quality))

    def hyper_analyze(self, y_bar: Tensor, quality: Tensor | float) -> Tensor:
        """z̄ = h_a(ȳ) · h(q), (B, N, H/64, W/64)."""
        z = self.h_a(y_bar).float()
        return z if self.hyper_gain is None else z * _map(self.hyper_gain.gain(quality))

    def hyper_symbols(self, z_bar: Tensor) -> Tensor:
        """Symbols of z: whole numbers around the median, limited to the range that holds all but 2 · 2^−10 of the
        prior's mass.

        Training saw almost nothing outside that range, where h_s may return anything. On rare pictures, a few such
        symbols made whole files useless. A decoder accepts any symbols."""
        return torch.clamp((z_bar - self.prior.medians).round(), *self.prior.support(_Z_UNUSED))

    def hyper_synthesize(self, z_hat: Tensor, quality: Tensor | float) -> Tensor:
        """ψ = h_s(ẑ · h′(q)), from which the context model computes the entropy parameters."""
        return self.h_s(z_hat if self.hyper_gain is None else z_hat * _map(self.hyper_gain.inverse(quality)))

    def hyper_features(self, z_hat: Tensor, quality: Tensor | float) -> Tensor:
        """The features (B, context.feature_channels, H/16, W/16) that `encode` and `decode` read."""
        return self.context.project(self.hyper_synthesize(z_hat, quality))

    def synthesize(self, y_hat: Tensor, quality: Tensor | float) -> Tensor:
        """x̂ = g_s(ŷ · m′(q)), (B, 3, H, W)."""
        return self.g_s(y_hat if self.gain is None else y_hat * _map(self.gain.inverse(quality)))

    def encode(self, y_bar: Tensor, features: Features, quantise: Quantise) -> Tensor:
        """ŷ, as the decoder will have it, from ȳ (B, M, H/16, W/16): symbol + μ, cell by cell in coding order."""
        y_bar = _rows(y_bar)

        def code(cell: Cell, raw: Tensor) -> Tensor:
            parameters = self.split(raw, dim=2)
            residuals = y_bar[:, cell.positions, cell.channels] - parameters.mu
            return quantise(cell, residuals, parameters) + parameters.mu

        return self.context.walk(features, code)

    def decode(self, features: Features, read: Read) -> Tensor:
        """ŷ (B, M, H/16, W/16) from the symbols that `read` returns: symbol + μ, cell by cell in coding order."""

        def code(cell: Cell, raw: Tensor) -> Tensor:
            parameters = self.split(raw, dim=2)
            return read(cell, parameters) + parameters.mu

        return self.context.walk(features, code)

    def split(self, raw: Tensor, dim: int) -> Parameters:
        """Entropy parameters from the networks' K outputs along `dim`: scales first, the mean last."""
        *scales, mu = raw.unbind(dim)
        scales = [lower_bound(sigma, scale_min(self.tail)) for sigma in scales]
        return Parameters(mu, scales[0], scales[-1])

    def likelihood(self, y_hat: Tensor, parameters: Parameters) -> Tensor:
        """Probability of the bin around each ŷ, float32, at least 1e-9."""
        p = likelihood(y_hat, *parameters, form=self.form, tail=self.tail)
        return lower_bound(p, LIKELIHOOD_MIN)

    def aux_loss(self) -> Tensor:
        """Loss of the quantiles of the factorised prior. Its gradient reaches only the quantiles."""
        return self.prior.aux_loss()

    def quantile_parameters(self) -> list[nn.Parameter]:
        """The parameters that `aux_loss` trains; none if the prior is frozen."""
        return [p for p in [self.prior.quantiles] if p.requires_grad]

    def network_parameters(self) -> list[nn.Parameter]:
        """All other parameters that are not frozen."""
        return [p for p in self.parameters() if p is not self.prior.quantiles and p.requires_grad]


def _levels(gain: dict[str, Any]) -> int:
    name, levels = _choice(gain["name"], "gain", ("none", "cvr", "hcvr")), gain["levels"]
    if levels < 1 or (name == "none" and levels != 1):
        raise ValueError(f"gain.levels={levels} does not fit gain.name={name}")
    return levels


def _check_widths(part: str, values: dict[str, Any]) -> None:
    if wrong := [key for key, value in values.items() if not (isinstance(value, int) and value > 0)]:
        raise ValueError(f"{part}.{wrong[0]} must be a positive integer, not {values[wrong[0]]}")


def _choice(name: str, part: str, known) -> str:
    if name not in known:
        raise ValueError(f"{part} must be one of {', '.join(known)}, not {name!r}")
    return name


def _map(gain: Tensor) -> Tensor:
    """Gains (C,) or (B, C), shaped to multiply maps (B, C, H, W)."""
    return gain[..., None, None]


def _rows(x: Tensor) -> Tensor:
    """(B, C, H, W) viewed as (B, H·W, C), with shared memory."""
    return x.flatten(2).transpose(1, 2)

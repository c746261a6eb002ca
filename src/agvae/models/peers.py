"""CompressAI's image models behind the interface of training, `agvae.models.trainable` (extra `compressai`)."""

import re
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from agvae.errors import ConfigError
from agvae.models.outputs import Output

LAMBDAS = {
    "mse": [0.0018, 0.0035, 0.0067, 0.0130, 0.0250, 0.0483, 0.0932, 0.1800],
    "msssim": [0.00240, 0.00458, 0.00873, 0.01664, 0.03173, 0.06050, 0.11537, 0.22000],
}
"""The λ with which CompressAI trained its qualities 1 to 8, by `loss.name`. CompressAI's multiplies 1 − MS-SSIM, ours
multiplies 1000·(1 − MS-SSIM)."""

VARIABLE = "-vbr"
"""The end of the name of a variable-rate architecture."""


def library() -> ModuleType:
    """The package compressai. Raises ConfigError, which names the extra, if it is not installed."""
    try:
        import compressai.zoo
    except ImportError as error:
        raise ConfigError("CompressAI's models need compressai: pip install -e '.[compressai]'") from error
    return compressai


def widths_by_quality(architecture: str) -> dict[int, tuple[int, ...]]:
    """CompressAI's widths (N, M), or (N,), by quality. A variable-rate model has one set of widths, under 0.

    Raises ConfigError if the installed version does not have the architecture."""
    zoo = library().zoo
    variable = {name: {0: widths} for name, widths in zoo.image_vbr.cfgs.items()}
    known: dict[str, dict[int, tuple[int, ...]]] = {**zoo.image.cfgs, **variable}
    if architecture not in known:
        raise ConfigError(f"CompressAI's architecture must be one of {', '.join(sorted(known))}, not {architecture}")
    return known[architecture]


def check_quality(architecture: str, quality: float | None) -> int:
    """`quality` as a whole number. Raises ConfigError if the architecture has no such quality."""
    qualities = widths_by_quality(architecture)
    if quality not in qualities:
        raise ConfigError(f"the quality of {architecture} must be {min(qualities)} to {max(qualities)}, not {quality}")
    return int(quality)


class PeerModel(nn.Module):
    """A model of CompressAI as `net`, trained and evaluated like AG-VAE.

    A fixed-rate model has one level. A variable-rate model (`…-vbr`) has eight, with a scale of the latent for each. It
    is trained in its variable-rate stage, with one scale per picture. Between levels, the scale is interpolated like
    the gains of AG-VAE, linearly in its logarithm."""

    def __init__(self, architecture: str, quality: int | None = None, N: int | None = None, M: int | None = None):
        """`quality`, 1 to 8 (6 for cheng2020), sets the widths and λ of a fixed-rate model. N and M set other widths.

        Raises ConfigError for a choice that does not exist."""
        super().__init__()
        self.config: dict[str, Any] = {"architecture": architecture, "quality": quality, "N": N, "M": M}
        self.variable = architecture.endswith(VARIABLE)
        self.quality = check_quality(architecture, 0 if self.variable else quality)
        own = widths_by_quality(architecture)[self.quality]
        chosen = [width if given is None else given for given, width in zip((N, M), own, strict=False)]
        if M is not None and len(own) == 1:
            raise ConfigError(f"model.M must be null for {architecture}, whose only width is N, not {M}")
        if wrong := [width for width in chosen if not (isinstance(width, int) and width > 0)]:
            raise ConfigError(f"model.N and model.M must be positive integers or null, not {wrong[0]}")
        self.net = _in_float32(library().registry.MODELS[architecture](*chosen))
        self.levels = len(self.net.Gain) if self.variable else 1
        if self.variable:
            self.net.Gain.requires_grad_(False)  # CompressAI's forward detaches it

    @classmethod
    def pretrained(cls, architecture: str, quality: int | None) -> "PeerModel":
        """The model with CompressAI's own weights for MSE, from its loader, which downloads them and keeps them.

        Raises OSError or RuntimeError if they are not available."""
        model = cls(architecture, quality)
        model.net = library().zoo.image_models[architecture](model.quality, "mse", pretrained=True, progress=False)
        return model.eval()

    @property
    def has_hyper_latent(self) -> bool:
        """Whether the model has a z, whose bytes are a second string."""
        return hasattr(self.net, "h_a")

    @property
    def own_lambdas(self) -> dict[str, list[float]]:
        """The λ of each level, by `loss.name`, with which the model is trained unless loss.lambdas is set."""
        if self.variable:
            return LAMBDAS
        return {name: [lambdas[self.quality - 1]] for name, lambdas in LAMBDAS.items()}

    def initialise_gains(self, lambdas: list[float]) -> None:
        """Set the scales of a variable-rate model to √(λ/λ_max). For CompressAI's λ, these are CompressAI's scales."""
        if self.variable:
            scales = (torch.tensor(lambdas) / max(lambdas)).sqrt()
            self.net.Gain.data.copy_(scales)

    def forward(self, x: Tensor, quality: Tensor | float) -> Output:
        """Code x (B, 3, H, W), in [0, 1], at a quality in [0, levels − 1], one for all pictures or one for each.

        In training mode, CompressAI's noise stands in for rounding; in evaluation mode, the model rounds. Training uses
        whole qualities."""
        if not self.variable:
            return _output(self.net(x))
        qualities = torch.as_tensor(quality, device=x.device).expand(len(x))
        rows = {q: (qualities == q).nonzero()[:, 0] for q in qualities.unique().tolist()}
        outputs = [_output(self.net(x[some], **self.scaled(q))) for q, some in rows.items()]
        order = torch.cat(list(rows.values())).argsort()
        return Output(*(torch.cat(parts)[order] for parts in zip(*outputs, strict=True)))

    def scaled(self, quality: float) -> dict[str, Any]:
        """The arguments with which `net` works at a quality. Empty for a fixed-rate model.

        In training, its forward reads the level `s`; otherwise it reads the scale."""
        if not self.variable:
            return {}
        log_scales, level = self.net.Gain.detach().abs().log(), min(int(quality), self.levels - 2)
        scale = log_scales[level].lerp(log_scales[level + 1], quality - level).exp()
        return {"s": int(quality), "inputscale": scale}

    def aux_loss(self) -> Tensor:
        """Loss of the quantiles of the factorised prior, in float32; its gradient is theirs alone."""
        with torch.autocast(self.net.entropy_bottleneck.quantiles.device.type, enabled=False):
            return self.net.aux_loss()

    def quantile_parameters(self) -> list[nn.Parameter]:
        """The parameters that `aux_loss` trains."""
        return [p for name, p in self.named_parameters() if _is_quantile(name)]

    def network_parameters(self) -> list[nn.Parameter]:
        """All other parameters that are trained."""
        return [p for name, p in self.named_parameters() if not _is_quantile(name) and p.requires_grad]

    def start_from(self, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
        """Load weights of the same architecture or, for a variable-rate model, those of its fixed-rate twin.

        Raises ConfigError for any other."""
        wanted, found = self.config["architecture"], config.get("architecture")
        if found not in (wanted, wanted.removesuffix(VARIABLE)):
            raise ConfigError(f"it must be a checkpoint of {wanted.removesuffix(VARIABLE)}, not of {found or 'AG-VAE'}")
        expected = self.state_dict()
        allowed = found != wanted
        unfit = [n for n in expected.keys() | weights.keys() if not _fits(expected.get(n), weights.get(n), allowed)]
        if unfit:
            name = min(unfit)
            raise ConfigError(f"its widths must be those of this model: {name} differs; set model.N and model.M")
        self.load_state_dict(weights, strict=not allowed)


def _fits(expected: Tensor | None, found: Tensor | None, may_lack: bool) -> bool:
    if expected is None or found is None:
        return expected is not None and may_lack
    return expected.shape == found.shape


def _is_quantile(name: str) -> bool:
    return name.endswith(".quantiles")


def _output(out: dict[str, Any]) -> Output:
    """Converts CompressAI's dictionary into ours. A model without hyper-latent has an empty z."""
    y = out["likelihoods"]["y"]
    return Output(out["x_hat"], y, out["likelihoods"].get("z", y.new_ones(len(y), 0)))


def _in_float32(net: nn.Module) -> nn.Module:
    """Restrict autocast to the transforms. Latents and likelihoods stay float32, as those of AG-VAE do."""
    for name, module in net.named_children():
        if re.fullmatch("[gh]_[as]", name):
            module.register_forward_hook(lambda module, inputs, output: output.float())
        elif name in ("entropy_bottleneck", "gaussian_conditional"):
            module.forward = _without_autocast(module.forward)
    return net


def _without_autocast(forward: Any) -> Any:
    def exact(x: Tensor, *others: Any, **named: Any) -> Any:
        with torch.autocast(x.device.type, enabled=False):
            return forward(x.float(), *_floats(others), **dict(zip(named, _floats(named.values()), strict=True)))

    return exact


def _floats(values: Iterable[Any]) -> list[Any]:
    return [value.float() if isinstance(value, Tensor) else value for value in values]

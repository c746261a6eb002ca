"""What the model makes of pictures: their latents, the parameters of their entropy model, and their rates."""

from typing import NamedTuple

from torch import Tensor


class Output(NamedTuple):
    """The result of the model for a batch: x_hat (B, 3, H, W), not clamped, and the probabilities of its symbols.

    y_likelihoods (B, M, H/16, W/16) and z_likelihoods (B, N, H/64, W/64) are float32 in [1e-9, 1]."""

    x_hat: Tensor
    y_likelihoods: Tensor
    z_likelihoods: Tensor

    @property
    def bits(self) -> Tensor:
        """(B,): the rate of each picture, in bits."""
        return _bits(self.y_likelihoods, self.z_likelihoods)


class TrainedLatent(NamedTuple):
    """Latents of pictures as training sees them, with its quantiser in the place of rounding.

    y_hat (B, M, H/16, W/16) is what the distortion sees. The likelihoods are as in `Output`."""

    y_hat: Tensor
    y_likelihoods: Tensor
    z_likelihoods: Tensor

    @property
    def bits(self) -> Tensor:
        """(B,): the rate of each picture, in bits."""
        return _bits(self.y_likelihoods, self.z_likelihoods)


class Parameters(NamedTuple):
    """Entropy parameters of latent elements: mean and the scales left and right of it (one tensor if symmetric)."""

    mu: Tensor
    sigma_l: Tensor
    sigma_r: Tensor


class CodedLatent(NamedTuple):
    """Latents of pictures coded at one quality. Each map is (B, M, H/16, W/16), except those of z.

    y_bar is ȳ, the gained latent. y_hat is ŷ, which the decoder has too. `parameters` are the model's prediction of ȳ.
    z_symbols and z_likelihoods are (B, N, H/64, W/64). The likelihoods are float32 in [1e-9, 1]."""

    y_bar: Tensor
    y_hat: Tensor
    parameters: Parameters
    y_likelihoods: Tensor
    z_symbols: Tensor
    z_likelihoods: Tensor

    @property
    def bits(self) -> Tensor:
        """(B,): the rate of each picture, in bits."""
        return _bits(self.y_likelihoods, self.z_likelihoods)

    @property
    def symbols(self) -> Tensor:
        """The integers that are coded for y: round(ȳ − μ)."""
        return (self.y_hat - self.parameters.mu).round()

    @property
    def y_bits(self) -> Tensor:
        """The model's own rate of each element of y."""
        return -self.y_likelihoods.log2()

    @property
    def z_bits(self) -> Tensor:
        """The model's own rate of each element of z."""
        return -self.z_likelihoods.log2()


def _bits(*likelihoods: Tensor) -> Tensor:
    """(B,): the bits of symbols with these probabilities, maps of B pictures."""
    return sum(-p.log2().flatten(1).sum(1) for p in likelihoods)

"""Rate + λ·distortion, with one λ per level of the model (AG-VAE §3.3, equation 7)."""

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from agvae import extensions
from agvae.errors import ConfigError, numbers
from agvae.metrics import ms_ssim_of_batch, mse_of_batch


def ms_ssim_distortion(x_hat: Tensor, x: Tensor) -> Tensor:
    """1000·(1 − MS-SSIM) of each image: (B, 3, H, W) in [0, 1] twice -> (B,)."""
    return 1000 * (1 - ms_ssim_of_batch(x_hat, x))


DISTORTIONS = {"mse": mse_of_batch, "msssim": ms_ssim_distortion}
"""Maps `loss.name` to the distortion of each image, (B,), on the scale of its λ ladder."""


FORMULAS = {"mse": "MSE on [0, 255]", "msssim": "1000·(1 − MS-SSIM)"}
"""Maps `loss.name` to its distortion as a formula, which model files store."""


def distortion(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The distortion called `loss.name`: (x_hat, x), (B, 3, H, W) in [0, 1] twice -> (B,).

    Raises ConfigError if there is none of that name."""
    try:
        return extensions.find("loss", name, DISTORTIONS)
    except ValueError as error:
        raise ConfigError(f"loss.name: {error}") from error


def formula(name: str) -> str:
    """The distortion called `loss.name` as a formula. For a user's own loss, its name."""
    return FORMULAS.get(name, name)


def lambda_ladder(ladder: Sequence[float], levels: int) -> list[float]:
    """λ of each level, low to high rate: `ladder` itself or, for another number of levels, λ log-spaced between its
    ends.

    >>> [round(x, 4) for x in lambda_ladder([0.01, 0.02, 1.0], 5)]
    [0.01, 0.0316, 0.1, 0.3162, 1.0]

    Raises ConfigError for one level, because only the wanted rate determines its λ."""
    if levels == len(ladder):
        return list(ladder)
    if levels == 1:
        raise ConfigError("a model with one level needs one λ: set loss.lambdas=[λ]")
    low, high = math.log(ladder[0]), math.log(ladder[-1])
    return [math.exp(low + (high - low) * s / (levels - 1)) for s in range(levels)]


def level_lambdas(loss: dict, levels: int) -> list[float]:
    """The λ that a `loss` configuration defines for a model of `levels` levels: `lambdas`, or its `ladder` spread over
    them.

    A single number is a list of one. Raises ConfigError for a list of another length, or one that is not positive and
    rising, because quality rises with rate."""
    if loss["lambdas"] is None:
        return lambda_ladder(loss["ladder"], levels)
    lambdas = numbers("loss.lambdas", loss["lambdas"])
    if len(lambdas) != levels:
        raise ConfigError(f"loss.lambdas must have one value for each level of the model, {levels}, not {len(lambdas)}")
    if min(lambdas) <= 0 or sorted(set(lambdas)) != lambdas:
        raise ConfigError(f"loss.lambdas must be positive and rise with the level, low rate first, not {lambdas}")
    return lambdas


def trained_levels(loss: dict, levels: int) -> list[int]:
    """The levels that a `loss` configuration trains: all of the model's, or only its `levels`.

    >>> trained_levels({"levels": None}, 3), trained_levels({"levels": [2, 0]}, 3)
    ([0, 1, 2], [0, 2])

    Raises ConfigError for an empty list, and for levels that the model does not have."""
    if loss.get("levels") is None:  # older checkpoints do not have this key
        return list(range(levels))
    chosen = {*numbers("loss.levels", loss["levels"])}
    if not chosen or not chosen <= {*range(levels)}:
        raise ConfigError(
            f"loss.levels must be among the levels of this model, 0 to {levels - 1}, not {loss['levels']}"
        )
    return sorted(map(int, chosen))


def level_weights(lambdas: Sequence[float], power: float) -> list[float]:
    """w_s ∝ λ_s^(−power), of mean 1 over the levels.

    Power 0 is the paper's loss, in which the high rates have nearly all of the gradient; 1 gives all levels'
    distortions equal weight, and 0.5 measured better than 0.

    >>> [round(w, 3) for w in level_weights([0.01, 0.04], power=0.5)]
    [1.333, 0.667]
    """
    weights = [value**-power for value in lambdas]
    mean = sum(weights) / len(weights)
    return [weight / mean for weight in weights]


def resolved(loss: dict, levels: int) -> dict:
    """A `loss` configuration for a model of `levels` levels with the facts of it: see `agvae.facts`.

    An untrained level has weight 0. Raises ConfigError as `level_lambdas` and `trained_levels` do."""
    lambdas, trained = level_lambdas(loss, levels), trained_levels(loss, levels)
    weights = dict(zip(trained, level_weights([lambdas[s] for s in trained], loss["level_weight_power"]), strict=True))
    level_weight = [weights.get(level, 0.0) for level in range(levels)]
    return {**loss, "lambdas": lambdas, "level_weights": level_weight, "distortion": formula(loss["name"])}

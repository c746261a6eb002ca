"""Optimisers and learning-rate schedules by name, as conf/optimizer and conf/scheduler define them."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from agvae.errors import ConfigError

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def build_optimizer(
    config: dict[str, Any], network: list[nn.Parameter], quantiles: list[nn.Parameter], fused: bool
) -> torch.optim.Optimizer:
    """One optimiser: group 0 is the network, group 1 the prior's quantiles with their own learning rate."""
    groups = [
        {"params": network, "lr": config["lr"], "weight_decay": config["weight_decay"]},
        {"params": quantiles, "lr": config["quantile_lr"], "weight_decay": 0.0},
    ]
    return _choose(OPTIMIZERS, "optimizer", config["name"])(groups, betas=tuple(config["betas"]), fused=fused)


def build_scheduler(
    config: dict[str, Any], optimizer: torch.optim.Optimizer, run_length: Callable[[], int]
) -> LRScheduler | ReduceLROnPlateau:
    """The schedule of the network's learning rate; the quantiles' stays.

    `run_length()` is the number of steps of the run, asked for only when `total_steps` is null and needed."""
    if config["name"] == "plateau":
        network, quantiles = (group["lr"] for group in optimizer.param_groups)
        return ReduceLROnPlateau(
            optimizer,
            factor=config["factor"],
            patience=config["patience"],
            min_lr=[network * config["final_factor"], quantiles],
        )
    factor = _choose(FACTORS, "scheduler", config["name"])(config, run_length)
    return LambdaLR(optimizer, [factor, lambda step: 1.0])


def constant(config: dict[str, Any], run_length: Callable[[], int]) -> Callable[[int], float]:
    """Linear warm-up over `warmup_steps`, then 1."""
    warmup = config["warmup_steps"]
    return lambda step: min(1.0, (step + 1) / (warmup + 1))


def cosine(config: dict[str, Any], run_length: Callable[[], int]) -> Callable[[int], float]:
    """Warm-up, then half a cosine from 1 to `final_factor` at `total_steps`."""
    warmup, total, final = config["warmup_steps"], config["total_steps"] or run_length(), config["final_factor"]

    def factor(step: int) -> float:
        progress = min(1.0, max(0, step - warmup) / max(1, total - warmup))
        return min((step + 1) / (warmup + 1), final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2)

    return factor


def wsd(config: dict[str, Any], run_length: Callable[[], int]) -> Callable[[int], float]:
    """Warm-up, stable, decay: 1 until the last `decay_share` of `total_steps`, then linearly to `final_factor`."""
    warmup, total, final = config["warmup_steps"], config["total_steps"] or run_length(), config["final_factor"]
    decay = max(1, round(total * config["decay_share"]))

    def factor(step: int) -> float:
        remaining = min(1.0, max(0, total - step) / decay)
        return min((step + 1) / (warmup + 1), final + (1 - final) * remaining)

    return factor


def multistep(config: dict[str, Any], run_length: Callable[[], int]) -> Callable[[int], float]:
    """Warm-up, then times `factor` at each of the `milestones`, shares of `total_steps`."""
    total = config["total_steps"] or run_length()
    milestones = [share * total for share in config["milestones"]]
    warmup = constant(config, run_length)
    return lambda step: warmup(step) * config["factor"] ** sum(step >= milestone for milestone in milestones)


FACTORS = {"constant": constant, "cosine": cosine, "wsd": wsd, "multistep": multistep}


def _choose(known: dict[str, Any], group: str, name: str) -> Any:
    if name not in known:
        raise ConfigError(f"{group}.name must be one of {', '.join(known)}, not {name!r}")
    return known[name]

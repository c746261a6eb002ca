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
    config: dict[str, Any],
    optimizer: torch.optim.Optimizer,
    run_length: Callable[[], float],
    time_share: Callable[[], float] = lambda: 0.0,
) -> LRScheduler | ReduceLROnPlateau:
    """The schedule of the network's learning rate. That of the quantiles stays constant.

    `run_length()` is the number of steps of the run, infinite if only time ends it. It is called if `total_steps` is
    null and the schedule needs it. `time_share()` is the share of the run's time that has been used. A schedule follows
    steps or time, whichever is further. With `total_steps`, it follows steps alone."""
    if config["name"] == "plateau":
        network, quantiles = (group["lr"] for group in optimizer.param_groups)
        return ReduceLROnPlateau(
            optimizer,
            factor=config["factor"],
            patience=config["patience"],
            min_lr=[network * config["final_factor"], quantiles],
        )
    factor = _choose(FACTORS, "scheduler", config["name"])(config, run_length)
    by_time = config.get("total_steps") is None
    return LambdaLR(optimizer, [lambda step: factor(step, time_share() if by_time else 0.0), lambda step: 1.0])


def multiply_rate(optimizer: torch.optim.Optimizer, scheduler: LRScheduler | ReduceLROnPlateau, factor: float) -> None:
    """Multiply the network's learning rate in the next step and in the rest of the schedule."""
    optimizer.param_groups[0]["lr"] *= factor
    rates = scheduler.min_lrs if isinstance(scheduler, ReduceLROnPlateau) else scheduler.base_lrs
    rates[0] *= factor


def lay_over(checkpoint: dict[str, Any], config: dict[str, Any]) -> None:
    """Put the optimiser's new options into a checkpoint, because Lightning restores the options in it.

    A new learning rate is used as given, even if the run had multiplied its own after a divergence."""
    saved = checkpoint["hyper_parameters"]["optimizer"]
    if saved == config or "optimizer_states" not in checkpoint:
        return
    (state,), (schedule,) = checkpoint["optimizer_states"], checkpoint["lr_schedulers"]
    state["param_groups"][0]["weight_decay"] = config["weight_decay"]
    for i, key in enumerate(("lr", "quantile_lr")):
        group = state["param_groups"][i]
        group["betas"] = tuple(config["betas"])
        if "decoupled_weight_decay" in group:
            group["decoupled_weight_decay"] = config["name"] == "adamw"
        if config[key] == saved[key]:
            continue
        before = schedule["base_lrs"][i] if "base_lrs" in schedule else saved[key]
        group["lr"] = group["lr"] / before * config[key] if before else config[key]
        if "base_lrs" in schedule:
            schedule["base_lrs"][i] = group["initial_lr"] = config[key]
        else:
            schedule["min_lrs"][i] *= config[key] / saved[key] if saved[key] else 1.0


def constant(config: dict[str, Any], run_length: Callable[[], float]) -> Callable[[int, float], float]:
    """Linear warm-up over `warmup_steps`, then 1."""
    warmup = config["warmup_steps"]
    return lambda step, share: min(1.0, (step + 1) / (warmup + 1))


def cosine(config: dict[str, Any], run_length: Callable[[], float]) -> Callable[[int, float], float]:
    """Warm-up, then half a cosine from 1 to `final_factor` at `total_steps` or at the end of the time."""
    warmup, total, final = config["warmup_steps"], config["total_steps"] or run_length(), config["final_factor"]

    def factor(step: int, share: float) -> float:
        progress = min(1.0, max(share, max(0, step - warmup) / max(1, total - warmup)))
        return min((step + 1) / (warmup + 1), final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2)

    return factor


def wsd(config: dict[str, Any], run_length: Callable[[], float]) -> Callable[[int, float], float]:
    """Warm-up, stable, decay: 1 until the last `decay_share` of the run, then linearly to `final_factor`."""
    warmup, total, final = config["warmup_steps"], config["total_steps"] or run_length(), config["final_factor"]
    decay_share = config["decay_share"]
    decay = max(1, round(total * decay_share)) if total < math.inf else 1

    def factor(step: int, share: float) -> float:
        in_time = (1 - share) / decay_share if decay_share else float(share < 1)
        remaining = min(1.0, max(0, total - step) / decay, in_time)
        return min((step + 1) / (warmup + 1), final + (1 - final) * remaining)

    return factor


def multistep(config: dict[str, Any], run_length: Callable[[], float]) -> Callable[[int, float], float]:
    """Warm-up, then 1. Each of the `milestones`, which are shares of the run, multiplies it by `factor`."""
    total = config["total_steps"] or run_length()
    milestones = config["milestones"]
    warmup = constant(config, run_length)

    def factor(step: int, share: float) -> float:
        passed = sum(step >= milestone * total or share >= milestone for milestone in milestones)
        return warmup(step, share) * config["factor"] ** passed

    return factor


FACTORS = {"constant": constant, "cosine": cosine, "wsd": wsd, "multistep": multistep}


def _choose(known: dict[str, Any], group: str, name: str) -> Any:
    if name not in known:
        raise ConfigError(f"{group}.name must be one of {', '.join(known)}, not {name!r}")
    return known[name]

"""Lightning's trainer for a run, with its callbacks and loggers."""

from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from agvae.configuration.values import seconds
from agvae.errors import ConfigError
from agvae.models.trainable import is_peer
from agvae.training import acceleration, launch
from agvae.training.budget import Budget
from agvae.training.callbacks import EMA
from agvae.training.checkpoints import AtomicCheckpointIO
from agvae.training.fast_steps import FastSteps
from agvae.training.loggers import never_fails
from agvae.training.pace import Pace


def build_trainer(config: dict[str, Any], run_dir: Path, checkpoint: dict[str, Any]) -> Trainer:
    """The trainer of a resolved configuration. A resumed `checkpoint` (otherwise empty) may decide its precision.

    The options in force, such as the chosen precision, become config["trainer"]. Raises ConfigError for a choice that
    cannot work."""
    options = dict(config["trainer"])
    interval, steps = options["val_check_interval"], options["max_steps"]
    if isinstance(interval, int) and isinstance(steps, int) and 0 < steps < interval:
        options["val_check_interval"] = steps  # so that a short run also ends with an RD curve
    callbacks, loggers = _callbacks(config), _loggers(config)
    if options["precision"] == "auto":
        options["precision"] = acceleration.choose_precision(options, config["model"], checkpoint.get("precision"))
    try:
        trainer = Trainer(
            **{**options, "max_time": None},  # a Budget in its place
            default_root_dir=run_dir,
            callbacks=callbacks,
            logger=loggers,
            plugins=[AtomicCheckpointIO()],
        )
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise ConfigError(f"trainer: {' '.join(str(error).split())}") from error
    config["trainer"] = {**options, "val_check_interval": interval}  # a resumed run may be longer
    if trainer.strategy.root_device.type == "cpu":
        acceleration.keep_freed_memory()
    return trainer


def _callbacks(config: dict[str, Any]) -> list[Callback]:
    decay, max_time = config["ema"]["decay"], config["trainer"]["max_time"]
    callbacks: list[Callback] = [launch.Quiet(), Pace()]
    if max_time is not None:
        callbacks.append(Budget(seconds(max_time)))
    if decay is not None:
        callbacks.append(EMA(decay))
    compiles, peer = config["compile"], is_peer(config["model"])
    if compiles is True and peer:
        raise ConfigError("compile must be false for model=compressai, not true: only AG-VAE's networks compile")
    if compiles and not peer and config["latents"]["crops"] is None:
        callbacks.append(FastSteps(compiles))
    return callbacks + [
        _instantiated(f"callbacks.{name}", callback) for name, callback in config["callbacks"].items() if callback
    ]


def _loggers(config: dict[str, Any]) -> list[Logger]:
    return [never_fails(_instantiated(f"logger.{name}", logger)) for name, logger in config["logger"].items() if logger]


def _instantiated(key: str, node: dict[str, Any]) -> Any:
    try:
        return instantiate(node)
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, ConfigError):
            raise cause from None
        reason = " ".join(str(cause).split())
        raise ConfigError(f"{key} cannot be made from these arguments: {type(cause).__name__}: {reason}") from error

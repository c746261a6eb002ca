"""The parts of Lightning that are private, or that change between its versions. After an upgrade, look here.

Written for Lightning 2.5 and 2.6. Nothing here depends on the model. One more such part, `batches_done`, is in
`agvae.data.datamodule`, because data must not depend on training.
"""

import os
import subprocess
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

SET_BY_LIGHTNING = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")
"""Environment variables that Lightning sets for the processes of a run and does not remove."""

WARNINGS_TO_SILENCE = (
    ".*does not have many workers.*",  # patches come from memory
    ".*Checkpoint directory .* exists and is not empty.*",  # a resumed run continues in its own
    ".*LeafSpec.*is deprecated.*",  # Lightning's own use of torch
    ".*sync_dist=True.*",  # the RD curve is gathered over ranks before it is logged
    ".*smaller than the logging interval.*",  # steps are counted across epochs
    ".*litlogger.*",
)
"""Patterns of Lightning's messages about itself, and about choices that we made."""


# --- the loop


def is_accumulating(trainer: Trainer) -> bool:
    """Whether the last batch only added to the gradients, so that the optimiser's step is still to come."""
    return trainer.fit_loop._should_accumulate()


def validates_next(trainer: Trainer) -> bool:
    """Whether Lightning validates after the batch that was just trained on."""
    return trainer.fit_loop.epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher)


def validate_now(trainer: Trainer) -> None:
    """Run the validation loop at the start of training, where Lightning would continue with the next step."""
    loop = trainer.fit_loop.epoch_loop.val_loop
    loop.restarting, trainer.validating = False, True
    loop.run()
    trainer.training = True


# --- checkpoints and signals


def save_without_barrier(trainer: Trainer, path: Path) -> None:
    """`Trainer.save_checkpoint` without its barrier, at which a rank that fails alone would wait for ever."""
    checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
    trainer.strategy.save_checkpoint(checkpoint, path)


def restore_progress(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Set the trainer's counts of batches and steps to those of a checkpoint."""
    trainer.fit_loop.load_state_dict(checkpoint["loops"]["fit_loop"])


def take_sigterm(trainer: Trainer) -> bool:
    """Whether Lightning has caught a SIGTERM, after which it would exit with status 0. Resets that state."""
    received, trainer._signal_connector.received_sigterm = trainer.received_sigterm, False
    return received


# --- processes


def is_sharded(trainer: Trainer | None) -> bool:
    """Whether each process holds only a share of each weight and gradient."""
    return isinstance(getattr(trainer, "strategy", None), FSDPStrategy)


def trainer_of(module: LightningModule) -> Trainer | None:
    """The trainer of a module. None before it has one, when `module.trainer` raises."""
    return module._trainer


def runs_in_spawned_processes(trainer: Trainer) -> bool:
    """Whether all ranks are processes that `trainer.fit` spawned, so that this one only waits for them."""
    return isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)


def started_processes(trainer: Trainer) -> list[subprocess.Popen]:
    """The processes of the other ranks, if Lightning started them as commands."""
    processes = getattr(trainer.strategy.launcher, "procs", [])
    return [process for process in processes if isinstance(process, subprocess.Popen)]


def forget_processes(trainer: Trainer) -> None:
    """Stop Lightning's observer of the processes that it started."""
    trainer.strategy.launcher.procs.clear()


def environment_of_lightning() -> dict[str, str | None]:
    """The current values of `SET_BY_LIGHTNING`."""
    return {name: os.environ.get(name) for name in SET_BY_LIGHTNING}


# --- W&B's logger


def wandb_options(logger: WandbLogger) -> dict[str, Any]:
    """The options of `wandb.init` with which the logger will start its run. Changing them changes the start."""
    return logger._wandb_init


def started_wandb_run(logger: WandbLogger) -> Any | None:
    """The logger's W&B run. None if nothing has started one."""
    return logger._experiment

"""One run on the many processes that Lightning starts: one configuration, a clean end, and each message only once."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from agvae.errors import ConfigError
from agvae.training import lightning_internals


def quiet() -> None:
    """Silence Lightning's messages about itself and about choices that we made, so that its other messages are
    noticed."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in lightning_internals.WARNINGS_TO_SILENCE:
        warnings.filterwarnings("ignore", message)


class Quiet(Callback):
    """`quiet` in each process, including spawned ones."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        quiet()


@contextmanager
def launched(trainer: Trainer, last: Path) -> Iterator[None]:
    """While this is open, processes that Lightning starts join this run. Afterwards they have ended.

    Nothing of them remains that a later run in this process could mistake for its own. `last` is the last checkpoint of
    the run, from which this process learns how far spawned processes came."""
    kept = lightning_internals.environment_of_lightning()
    try:
        yield
        if lightning_internals.runs_in_spawned_processes(trainer) and last.is_file():
            lightning_internals.restore_progress(trainer, torch.load(last, map_location="cpu", weights_only=True))
    except SystemExit:
        raise  # all ranks leave together
    except BaseException:
        for process in lightning_internals.started_processes(trainer):
            process.kill()  # it may be waiting for this one in a collective
        raise
    finally:
        _wait_for_others(trainer)
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _wait_for_others(trainer: Trainer) -> None:
    started = lightning_internals.started_processes(trainer)
    for process in started:
        process.wait()
    if started:
        lightning_internals.forget_processes(trainer)
        if torch.distributed.is_initialized():  # by this run, for processes that have ended
            torch.distributed.destroy_process_group()


def check_sharding(strategy: object, precision: str, decay: float | None, compiled: bool) -> None:
    """Raise ConfigError for choices that FSDP would silently handle wrongly."""
    if not str(strategy).startswith("fsdp"):
        return
    if precision not in ("32-true", "auto"):
        raise ConfigError(
            f"trainer.precision must be 32-true under FSDP, not {precision}, which would round λ and the parameters of "
            "likelihoods too; or use trainer=ddp"
        )
    if decay is not None:
        raise ConfigError(
            "ema.decay must be null under FSDP, whose processes do not hold whole weights; or use trainer=ddp"
        )
    if compiled:
        raise ConfigError(
            "compile must be false under FSDP, whose processes do not hold whole weights; or use trainer=ddp"
        )

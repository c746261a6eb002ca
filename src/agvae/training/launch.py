"""One run on the many processes that Lightning starts: one configuration, a clean end, and nothing said twice."""

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
    """Silence what Lightning says about itself and about choices that are ours, so that what it says can be heard."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in lightning_internals.WARNINGS_TO_SILENCE:
        warnings.filterwarnings("ignore", message)


class Quiet(Callback):
    """`quiet` in each process, those that were spawned included."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        quiet()


@contextmanager
def launched(trainer: Trainer, last: Path) -> Iterator[None]:
    """While this is open, processes that Lightning starts join this very run; afterwards they have ended.

    Nothing of them is left that a later run of this process would take for its own. `last` is the run's last
    checkpoint, from which this process learns how far processes came that were spawned."""
    kept = lightning_internals.environment_of_lightning()
    try:
        yield
        if lightning_internals.runs_in_spawned_processes(trainer) and last.is_file():
            lightning_internals.restore_progress(trainer, torch.load(last, map_location="cpu", weights_only=True))
    except SystemExit:
        raise  # all ranks leave together
    except BaseException:
        for process in lightning_internals.started_processes(trainer):
            process.kill()  # it may wait for this one in a collective
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
        if torch.distributed.is_initialized():  # by this run, for processes that are no more
            torch.distributed.destroy_process_group()


def check_sharding(strategy: object, precision: str, decay: float | None, compiled: bool) -> None:
    """Raise ConfigError for what FSDP would do wrong without a word."""
    if not str(strategy).startswith("fsdp"):
        return
    if precision not in ("32-true", "auto"):
        raise ConfigError(
            f"trainer.precision={precision} under FSDP would round λ and the likelihoods' parameters too: "
            "use trainer.precision=32-true, or trainer=ddp"
        )
    if decay is not None:
        raise ConfigError("ema.decay averages whole weights, which FSDP's processes do not hold: use trainer=ddp")
    if compiled:
        raise ConfigError(
            "compile=true tries networks out on whole weights, which FSDP's processes do not hold: use trainer=ddp"
        )

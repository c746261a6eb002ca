"""One run on the many processes that Lightning starts: one configuration, a clean end, and nothing said twice."""

import logging
import os
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

from agvae.errors import ConfigError

_SET_BY_LIGHTNING = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")


def quiet() -> None:
    """Silence what Lightning says about itself and about choices that are ours, so that what it says can be heard."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # patches come from memory
        ".*Checkpoint directory .* exists and is not empty.*",  # a resumed run goes on in its own
        ".*LeafSpec.*is deprecated.*",  # Lightning's own use of torch
        ".*sync_dist=True.*",  # the RD curve is gathered over ranks before it is logged
        ".*smaller than the logging interval.*",  # steps are counted over the ends of epochs
        ".*litlogger.*",
    ):
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
    kept = {name: os.environ.get(name) for name in _SET_BY_LIGHTNING}
    try:
        yield
        if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher) and last.is_file():
            trainer.fit_loop.load_state_dict(
                torch.load(last, map_location="cpu", weights_only=True)["loops"]["fit_loop"]
            )
    except SystemExit:
        raise  # all ranks leave together
    except BaseException:
        for process in _started_by(trainer):
            process.kill()  # it may wait for this one in a collective
        raise
    finally:
        _wait_for_others(trainer)
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _started_by(trainer: Trainer) -> list[subprocess.Popen]:
    processes = getattr(trainer.strategy.launcher, "procs", [])
    return [process for process in processes if isinstance(process, subprocess.Popen)]


def _wait_for_others(trainer: Trainer) -> None:
    started = _started_by(trainer)
    for process in started:
        process.wait()
    if started:
        trainer.strategy.launcher.procs.clear()  # Lightning's observer of them then ends too
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

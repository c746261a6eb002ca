"""When values are logged, and the W&B logger, which works without an account, a network or a prompt."""

import functools
import logging
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from agvae.errors import Forgiving
from agvae.files import write_atomically
from agvae.training.lightning_internals import started_wandb_run, wandb_options
from agvae.wandb_account import address, logged_in, reachable

log = logging.getLogger(__name__)

FINISH_TIMEOUT = 600
"""Seconds for which a finished run waits for its uploads. The rest is on disk, for `wandb sync`."""


def logs_after(trainer: Trainer, step: int) -> bool:
    """Whether values are logged after optimiser step `step`. With trainer.log_every_n_steps=0 they never are."""
    return trainer.log_every_n_steps > 0 and step % trainer.log_every_n_steps == 0


class ForgivingWandbLogger(WandbLogger):
    """A WandbLogger that never ends a run. The first failure of W&B is a warning, and the run continues.

    A run that cannot start online starts offline. It is finished at the end of training, so that the next run in the
    same process gets its own."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        del wandb_options(self)["anonymous"]  # which W&B has deprecated, and warns about even if it is None
        # W&B raises almost anything, for causes from a full disk to a service that has died.
        self.forgiving = Forgiving("W&B failed, and the run continues without it")

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, started when it is first needed."""
        for fallback in ("offline", "disabled"):
            try:
                return super().experiment
            except Exception as error:
                log.warning("W&B could not start %s and is now %s: %s", wandb_options(self)["mode"], fallback, error)
                wandb_options(self)["mode"] = fallback
        return super().experiment

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        with self.forgiving:
            super().log_hyperparams(params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with self.forgiving:
            super().log_metrics(metrics, step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        with self.forgiving:
            super().finalize(status)
            if (run := started_wandb_run(self)) is not None:
                run.finish(exit_code=0 if status == "success" else 1)


def wandb_logger(run_dir: str, **options: Any) -> ForgivingWandbLogger:
    """A W&B run with its files in `run_dir`/wandb. It is online only if the user is logged in and W&B answers.

    If WANDB_MODE is set, it decides, but it cannot make a run prompt for a key. A resumed run continues its W&B run,
    whose id is stored in `run_dir`. The agent of a sweep sets the ids of its runs. `options` are those of
    `wandb.init`."""
    import wandb

    if wandb.run is not None:  # of the previous job of a sweep, into which this one would log
        wandb.finish()
    mode = os.environ.get("WANDB_MODE", "online")
    if mode in ("online", "run") and not logged_in():
        mode = "offline"
    # The other ranks write nothing. W&B itself would try for a minute and a half and then stop the run.
    if mode in ("online", "run") and rank_zero_only.rank == 0 and not reachable():
        log.warning("W&B does not answer at %s: this run is logged offline", address())
        mode = "offline"
    id_file = Path(run_dir) / "wandb_id.txt"
    run_id = id_file.read_text().strip() if id_file.exists() else ""
    if not run_id:
        run_id = os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
        if rank_zero_only.rank == 0:
            write_atomically(id_file, f"{run_id}\n".encode())
    settings = wandb.Settings(console="off", quiet=True, finish_timeout=FINISH_TIMEOUT)
    return ForgivingWandbLogger(save_dir=run_dir, id=run_id, mode=mode, settings=settings, **options)


def never_fails(logger: Logger) -> Logger:
    """The same logger, whose failures, such as a full disk, never end a run. The first failure is a warning."""
    forgiving = Forgiving(f"{type(logger).__name__} failed, and the run continues without it")
    for name in ("log_metrics", "log_hyperparams", "save", "finalize", "after_save_checkpoint"):
        # By name, so that it can be sent to spawned processes.
        setattr(logger, name, functools.partial(_forgive, forgiving, logger, name))
    return logger


def _forgive(forgiving: Forgiving, logger: Logger, name: str, *args: Any, **kwargs: Any) -> None:
    with forgiving:
        getattr(type(logger), name)(logger, *args, **kwargs)

"""What happens around the training step: averaged weights, the last checkpoint, the RD curve on disk."""

import csv
import os
import signal
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint
from torch import Tensor

from agvae.errors import ConfigError


class EMA(Callback):
    """An exponential moving average of the weights, float32, used in validation and preferred by export.

    It is saved in a checkpoint as `ema`, {name in the model: tensor}; the trained weights stay in `state_dict`.
    """

    def __init__(self, decay: float):
        """Raises ConfigError for a decay outside (0, 1)."""
        if not 0 < decay < 1:
            raise ConfigError(f"ema.decay={decay} is not between 0 and 1")
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self.step = 0
        self.swapped = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A resumed run has its average by now; a checkpoint from a run without EMA starts one from its weights.
        weights = pl_module.model.state_dict()
        self.average = {
            name: self.average.get(name, value).detach().to(value.device, _averaged(value.dtype), copy=True)
            for name, value in weights.items()
        }
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step:
            return
        self.step = trainer.global_step
        # Early weights are far from useful: the average forgets them at the rate at which steps come in.
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        for name, value in pl_module.model.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value.to(self.average[name].dtype), 1 - decay)
            else:
                self.average[name].copy_(value)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self.swapped:
            self._swap(pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["ema"] = dict(self.average)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.average = checkpoint.get("ema", {})

    @torch.no_grad()
    def _swap(self, pl_module: LightningModule) -> None:
        for name, value in pl_module.model.state_dict().items():
            kept = value.clone()
            value.copy_(self.average[name])
            self.average[name].copy_(kept)
        self.swapped = not self.swapped


def _averaged(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32) if dtype.is_floating_point else dtype


class Interrupted(SystemExit):
    """Training was stopped by a signal, between two steps and with its checkpoint written.

    The exit status is 128 + signal on rank zero and 0 on the others."""


class LastCheckpoint(Checkpoint):
    """Keeps `path` a checkpoint of the last step, however training ends, and of every `every_n_steps` before.

    Ctrl-C (or SIGTERM) lets the step under way finish, saves, and leaves with `Interrupted`; a second Ctrl-C leaves
    at once. A checkpoint is written aside and renamed, so the one before is whole until the new one is.
    """

    def __init__(self, path: str | Path, every_n_steps: int):
        self.path = Path(path)
        self.every_n_steps = every_n_steps
        self.saved_step = 0
        self.training = False
        self.signal: int | None = None
        self.handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.training = True
        self.saved_step = trainer.global_step
        for number in (signal.SIGINT, signal.SIGTERM):
            self.handlers[number] = signal.signal(number, self._note_signal)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        step = trainer.global_step
        stopped = self.signal is not None
        if trainer.world_size > 1:  # all ranks leave after the same step, whichever was told
            stopped = trainer.strategy.reduce_boolean_decision(stopped, all=False)
        # Saved here rather than at the end of training, the position in the epoch is still that of the step.
        if stopped or trainer.should_stop or step == trainer.max_steps or step % self.every_n_steps == 0:
            self._save(trainer)
        if stopped:
            trainer.strategy.barrier()  # the launcher kills rank zero, writing or not, once another rank has failed
            raise Interrupted(128 + (self.signal or signal.SIGINT) if trainer.is_global_zero else 0)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self.training:
            self._save(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}
        self.training = False

    def _note_signal(self, number: int, frame: Any) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number

    def _save(self, trainer: Trainer) -> None:
        if self.saved_step == trainer.global_step:
            return
        self.saved_step = trainer.global_step
        aside = self.path.with_suffix(".part")
        # Trainer.save_checkpoint without its barrier, at which a rank that fails alone would wait for ever.
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        trainer.strategy.save_checkpoint(checkpoint, aside)
        if trainer.is_global_zero:
            os.replace(aside, self.path)


class RDCurveWriter(Callback):
    """Appends each validation's RD curve to a CSV file.

    Columns: step, quality, bpp, psnr (dB), ms_ssim.
    """

    COLUMNS = ("step", "quality", "bpp", "psnr", "ms_ssim")

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        rows = [[trainer.global_step, *(p[key] for key in self.COLUMNS[1:])] for p in pl_module.rd_points]
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(self.COLUMNS)
            writer.writerows([f"{value:.6g}" if isinstance(value, float) else value for value in row] for row in rows)

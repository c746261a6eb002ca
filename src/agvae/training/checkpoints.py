"""Checkpoints: one of the last step, however training ends. Each is on disk completely or not at all."""

import io
import logging
import signal
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from agvae.errors import ConfigError, DataError
from agvae.files import write_atomically
from agvae.training.lightning_internals import (
    is_accumulating,
    is_sharded,
    save_without_barrier,
    take_sigterm,
    validate_now,
    validates_next,
)

log = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes each checkpoint under another name, syncs it and renames it, so that the old one stays whole until the new
    one is.

    A checkpoint that cannot be written (a full disk, a quota) does not stop training. The failure is logged, `failure`
    holds the reason until a later checkpoint has been written, and the previous checkpoint is kept."""

    def __init__(self) -> None:
        self.failure: OSError | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Replace `path`. A failure is logged and remembered, not raised."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content.getbuffer())
        except OSError as error:
            self.failure = error
            kept = "; the one before stays" if path.exists() else ""
            log.error("the checkpoint of step %d was not saved: %s%s", checkpoint["global_step"], error, kept)
        else:
            self.failure = None


class Interrupted(SystemExit):
    """A signal has stopped training, between two steps and after its checkpoint was written.

    The exit status is 128 + signal on rank zero and 0 on the others."""


class LastCheckpoint(Checkpoint):
    """Keeps `path` a checkpoint of the last step, however training ends, and writes it every `every_n_steps` before.

    It is also written before and after each validation. After, so that state which depends on the validation (the best
    score so far, a plateau's schedule) is resumed. Before, so that a run which ends during a validation repeats it when
    it is resumed. After Ctrl-C (or SIGTERM), the current step, or the current picture of a validation, finishes; then
    it saves, and leaves with `Interrupted`. A second Ctrl-C leaves at once. If the disk is full, training continues and
    the previous checkpoint is kept. If the last checkpoint of all cannot be written either, DataError is raised at the
    end."""

    def __init__(self, path: str | Path, every_n_steps: int):
        """Raises ConfigError if every_n_steps is less than one."""
        self.path = Path(path)
        if every_n_steps < 1:
            raise ConfigError(f"callbacks.last.every_n_steps must be at least 1, not {every_n_steps}")
        self.every_n_steps = every_n_steps
        self.saved_step = 0
        self.validation_due = False
        self.training = False
        self.signal: int | None = None
        self.handlers: dict[int, Any] = {}

    def state_dict(self) -> dict[str, bool]:
        return {"validation_due": self.validation_due}

    def load_state_dict(self, state: dict[str, bool]) -> None:
        self.validation_due = state["validation_due"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.training = True
        self.saved_step = trainer.global_step
        for number in (signal.SIGINT, signal.SIGTERM):
            self.handlers[number] = signal.signal(number, self._note_signal)
        if take_sigterm(trainer):  # in the sanity check
            self.signal = signal.SIGTERM
        if self.validation_due:
            validate_now(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if is_accumulating(trainer):
            return  # a checkpoint does not hold gradients
        self.validation_due = validates_next(trainer)
        step, stopped = trainer.global_step, self._stopped(trainer)
        # Saved here and not at the end of training, when the position in the epoch is no longer that of the step.
        due = self.validation_due or step == trainer.max_steps or step % self.every_n_steps == 0
        if stopped or trainer.should_stop or due:
            self._save(trainer)
        if stopped:
            self._leave(trainer)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self.training and not is_accumulating(trainer) and self._stopped(trainer):
            self._leave(trainer)  # it is saved

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validation_due = self.validation_due and not self.training

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.training and not is_accumulating(trainer):
            self._save(trainer, again=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)
        if failure := getattr(trainer.strategy.checkpoint_io, "failure", None):
            raise DataError(
                f"the last checkpoint could not be saved: {failure}; free some space, and resume from the one before "
                "with ckpt_path=last"
            )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # FSDP gathers weights to save them, so a rank that fails alone would wait for the others for ever.
        if self.training and not is_sharded(trainer):
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

    def _stopped(self, trainer: Trainer) -> bool:
        """Whether a signal has come on any rank. All ranks leave at the same place."""
        stopped = self.signal is not None
        return trainer.strategy.reduce_boolean_decision(stopped, all=False) if trainer.world_size > 1 else stopped

    def _leave(self, trainer: Trainer) -> None:
        trainer.strategy.barrier()  # once another rank has failed, the launcher kills rank zero, even while it writes
        raise Interrupted(128 + (self.signal or signal.SIGINT) if trainer.is_global_zero else 0)

    def _save(self, trainer: Trainer, again: bool = False) -> None:
        if self.saved_step == trainer.global_step and not again:
            return
        self.saved_step = trainer.global_step
        save_without_barrier(trainer, self.path)

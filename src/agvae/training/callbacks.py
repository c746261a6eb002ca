"""Callbacks around the training step: averaged weights, skipped steps, waiting for data, the RD curve on disk."""

import csv
import logging
import time
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from agvae.data import Batch
from agvae.errors import ConfigError
from agvae.training.lightning_internals import is_accumulating
from agvae.training.loggers import logs_after

log = logging.getLogger(__name__)


class EMA(Callback):
    """An exponential moving average of the weights in float32. Validation uses it, and export prefers it.

    A checkpoint stores it as `ema`, {name in the model: tensor}. The trained weights stay in `state_dict`."""

    def __init__(self, decay: float):
        """Raises ConfigError if the decay is outside (0, 1)."""
        if not 0 < decay < 1:
            raise ConfigError(f"ema.decay must be above 0 and below 1, not {decay}")
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self.step = 0
        self.swapped = False
        self.pairs: list[tuple[Tensor, Tensor]] | None = None  # averages and weights, which only change in place

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A resumed run has its average by now. From a checkpoint without EMA, the average starts with the weights.
        weights = pl_module.model.state_dict()
        self.average = {
            name: self.average.get(name, value).detach().to(value.device, _averaged(value.dtype), copy=True)
            for name, value in weights.items()
        }
        self.step = trainer.global_step
        self.pairs = None

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step:
            return
        self.step = trainer.global_step
        # Early weights are far from useful, so at first the average forgets them faster.
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        if self.pairs is None:
            self.pairs = [(self.average[name], value) for name, value in pl_module.model.state_dict().items()]
        for average, value in self.pairs:
            if not value.is_floating_point():
                average.copy_(value)
        averages = [average for average, value in self.pairs if value.is_floating_point()]
        values = [value.to(average.dtype) for average, value in self.pairs if value.is_floating_point()]
        get_ema_multi_avg_fn(decay)(averages, values, None)

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


class SkippedSteps(Callback):
    """Counts steps skipped for a loss or gradient that is not finite, as `train/skipped_steps`, and names their files.

    A GPU is asked about a step while it computes the next one, so that it never waits."""

    class Asked(NamedTuple):
        """A step whose outcome is still being copied from the device."""

        step: int
        paths: list[str]
        skipped: Tensor
        arrived: torch.cuda.Event | None

    def __init__(self) -> None:
        self.total = 0
        self.paths: list[str] = []
        self.asked: deque[SkippedSteps.Asked] = deque()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.paths.extend(batch.path)
        if is_accumulating(trainer):
            return
        skipped, arrived = pl_module.step_skipped, None
        if skipped.is_cuda:
            on_host = torch.empty_like(skipped, device="cpu", pin_memory=True)
            skipped, arrived = on_host.copy_(skipped, non_blocking=True), torch.cuda.Event()
            arrived.record()
        self.asked.append(self.Asked(trainer.global_step, self.paths, skipped, arrived))
        self.paths = []
        while len(self.asked) > (arrived is not None):
            self._count(self.asked.popleft())
        if logs_after(trainer, trainer.global_step):
            pl_module.log("train/skipped_steps", float(self.total))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        while self.asked:
            self._count(self.asked.popleft())

    def state_dict(self) -> dict[str, int]:
        return {"total": self.total}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.total = state["total"]

    def _count(self, asked: Asked) -> None:
        if asked.arrived is not None:
            asked.arrived.synchronize()
        if asked.skipped.item():
            self.total += 1
            files = ", ".join(asked.paths)
            log.warning("step %d skipped: a loss or gradient is not finite (%s)", asked.step, files)


class DataWait(Callback):
    """Logs `train/data_wait`: since the last time it was logged, the share of the time that the loop waited for its
    loader.

    Validation does not count. The loader reports the seconds in `waited`. If a loader does not, nothing is logged."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.since, self.waited = time.perf_counter(), getattr(trainer.train_dataloader, "waited", None)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.paused = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.since += time.perf_counter() - self.paused

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self.waited is not None and logs_after(trainer, trainer.global_step):
            now, waited = time.perf_counter(), trainer.train_dataloader.waited
            pl_module.log("train/data_wait", (waited - self.waited) / (now - self.since))
            self.since, self.waited = now, waited


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
        try:
            self._append(rows)
        except OSError as error:
            log.error("the RD curve of step %d was not written: %s", trainer.global_step, error)

    def _append(self, rows: list[list[float]]) -> None:
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(self.COLUMNS)
            writer.writerows([f"{value:.6g}" if isinstance(value, float) else value for value in row] for row in rows)

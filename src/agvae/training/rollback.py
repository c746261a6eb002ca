"""A way back from divergence: the run returns to its last good weights and goes on at a lower learning rate."""

import json
import logging
import math
import statistics
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from agvae.data import Batch
from agvae.errors import DataError
from agvae.training.callbacks import EMA
from agvae.training.lightning_internals import is_accumulating, is_sharded
from agvae.training.loggers import logs_after
from agvae.training.optimization import multiply_rate

log = logging.getLogger(__name__)

WINDOW = 200
"""Steps over which the loss is averaged, and the fewest between two copies of the weights."""

START = 20
"""Steps from the start of a run whose loss is the first to compare with; a warm-up has hardly begun by then."""

OUTLIER = 4.0
"""A single loss counts at most as this many medians of the window: one batch raises the mean by 1.5 % at most."""

ERRORS = 3.0
"""Standard errors of the mean that are granted to the loss and to its best each, so that noise is no divergence.

In a simulation of steady runs with one of six levels a batch, where a level has 1.7 times the loss of the one below and
varies by a factor of 1.6, the loss less its errors stayed below 1.4 times its best with its errors for 200,000 steps.
"""

SANE = 1.25
"""Weights are kept while the loss is at most this many times its best."""


class DivergenceError(DataError):
    """A run diverged although it had gone back as often as `limit` allows."""


class Mean(NamedTuple):
    """The mean of losses, and `ERRORS` of its standard errors."""

    value: float
    error: float

    @property
    def lower(self) -> float:
        return self.value - self.error if self.value < math.inf else math.inf

    @property
    def upper(self) -> float:
        return self.value + self.error


class Verdict(NamedTuple):
    """The first rank's judgement: why the run has diverged, if so, its best loss, and whether to keep the weights."""

    reason: str | None
    best: float
    sane: bool


class Rollback(Callback):
    """Goes back to the last good weights when a run diverges, and multiplies the learning rate by `factor`.

    A run has diverged when `in_a_row` steps in a row had a loss or gradient that is not finite, or when the smoothed
    loss of the last `WINDOW` steps is clearly over `growth` times its best. The callback keeps a copy of the weights
    and of their average on the device, first of the run's start and then of steps at which the loss is near its best.
    Going back also sets the optimiser's moments to zero. Steps, data and schedule go on; no batch comes twice. Once a
    run has gone back `limit` times without a new best loss, the next divergence puts the good weights back and raises
    `DivergenceError`.

    Losses stay on the device and are read every `every_n_steps`. The first rank judges by its own losses, and all
    ranks follow it. A checkpoint holds all of this as `rollback`, so that a resumed run equals the uninterrupted one.
    Under FSDP a checkpoint cannot hold the copy, and a resumed run starts with a new one.
    """

    def __init__(self, every_n_steps: int, in_a_row: int, growth: float, factor: float, limit: int):
        self.every_n_steps = every_n_steps
        self.in_a_row = in_a_row
        self.growth = growth
        self.factor = factor
        self.limit = limit
        self.waiting: list[Tensor] = []  # losses since the last look, NaN for a skipped step
        self.recent: list[float] = []  # the last of those before
        self.best = math.inf
        self.total = 0
        self.in_vain = 0  # since the loss was last at its best
        self.kept: dict[str, Tensor] = {}
        self.kept_step = 0
        self.measured_on = ""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        measured_on = _measured_on(trainer, pl_module)
        if self.measured_on != measured_on:
            self.waiting, self.recent, self.best, self.kept = [], [], math.inf, {}
        self.measured_on = measured_on
        current = _weights(trainer, pl_module)
        if self.kept.keys() == current.keys():
            self.kept = {name: value.to(current[name].device, copy=True) for name, value in self.kept.items()}
        else:
            self.kept = {}
            self._keep(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if is_accumulating(trainer):
            return
        self.waiting.append(torch.where(pl_module.step_skipped, torch.nan, pl_module.step_loss))
        due = trainer.global_step % self.every_n_steps == 0
        if due or trainer.global_step == trainer.max_steps or trainer.should_stop:
            self._look(trainer, pl_module, due)
        if logs_after(trainer, trainer.global_step):
            pl_module.log("train/rollbacks", float(self.total))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["rollback"] = {
            "waiting": _values(self.waiting),
            "recent": self.recent,
            "best": self.best,
            "total": self.total,
            "in_vain": self.in_vain,
            "kept": {} if is_sharded(trainer) else self.kept,
            "kept_step": self.kept_step,
            "measured_on": self.measured_on,
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        state = checkpoint.get("rollback")
        if state is None:  # of a run without this callback
            return
        self.waiting = [torch.tensor(loss) for loss in state["waiting"]]
        self.recent, self.best = state["recent"], state["best"]
        self.total, self.in_vain = state["total"], state["in_vain"]
        self.kept, self.kept_step = state["kept"], state["kept_step"]
        self.measured_on = state["measured_on"]

    def _look(self, trainer: Trainer, pl_module: LightningModule, due: bool) -> None:
        newest = _values(self.waiting)
        verdict: Verdict = trainer.strategy.broadcast(self._judge(newest))
        if verdict.reason is not None:
            self.best = verdict.best
            self._go_back(trainer, pl_module, verdict.reason)
        elif due:  # not at the end of a run, which may be prolonged and must then equal a longer one
            self.waiting, self.recent = [], [*self.recent, *newest][-WINDOW:]
            self.in_vain = 0 if verdict.best < self.best else self.in_vain
            self.best = verdict.best
            if verdict.sane and trainer.global_step - self.kept_step >= WINDOW:
                self._keep(trainer, pl_module)

    def _judge(self, newest: list[float]) -> Verdict:
        losses = [*self.recent, *newest][-WINDOW:]
        best = smoothed(newest[:START]).upper if self.best == math.inf else self.best
        row = next((i for i, loss in enumerate(reversed(losses)) if math.isfinite(loss)), len(losses))
        if row >= self.in_a_row:
            return Verdict(f"{row} steps in a row had a loss or gradient that is not finite", best, False)
        now = smoothed(losses)
        if now.lower > self.growth * best:
            return Verdict(f"the smoothed loss has risen from {best:.3g} to {now.value:.3g}", best, False)
        best = min(best, now.upper)
        return Verdict(None, best, max(now.value, smoothed(newest).value) <= SANE * best)

    def _go_back(self, trainer: Trainer, pl_module: LightningModule, reason: str) -> None:
        step = trainer.global_step
        with torch.no_grad():
            for name, value in _weights(trainer, pl_module).items():
                value.copy_(self.kept[name])
            for state in trainer.optimizers[0].state.values():
                for value in state.values():
                    value.zero_()
        self.waiting, self.recent = [], []
        back = f"step {step}: {reason}; the run goes back to the weights of step {self.kept_step}"
        if self.in_vain >= self.limit:
            tries, self.in_vain = self.in_vain, 0  # a run that goes on from here counts anew
            if not trainer.is_global_zero:
                raise SystemExit(0)  # at a failure the launcher would kill rank zero before it has saved and said why
            raise DivergenceError(
                f"{back} and ends, since it has gone back {tries} times without a new best loss; continue it with "
                "ckpt_path=last and a lower optimizer.lr"
            )
        self.total += 1
        self.in_vain += 1
        multiply_rate(trainer.optimizers[0], trainer.lr_scheduler_configs[0].scheduler, self.factor)
        if trainer.is_global_zero:
            log.warning("%s and continues with %g times the learning rate", back, self.factor)

    @torch.no_grad()
    def _keep(self, trainer: Trainer, pl_module: LightningModule) -> None:
        current = _weights(trainer, pl_module)
        if not self.kept:
            self.kept = {name: value.detach().clone() for name, value in current.items()}
        for name, value in current.items():
            self.kept[name].copy_(value)
        self.kept_step = trainer.global_step


def smoothed(losses: Sequence[float]) -> Mean:
    """The mean of losses after clipping each at `OUTLIER` medians; losses that are not finite count as the largest.

    Infinite if at least half of them are not finite. The error of a single loss is infinite."""
    finite = [loss if math.isfinite(loss) else math.inf for loss in losses]
    most = OUTLIER * statistics.median_high(finite)
    if most == math.inf:
        return Mean(math.inf, math.inf)
    clipped = [min(loss, most) for loss in finite]
    error = ERRORS * statistics.stdev(clipped) / math.sqrt(len(clipped)) if len(clipped) > 1 else math.inf
    return Mean(statistics.fmean(clipped), error)


def _values(losses: list[Tensor]) -> list[float]:
    return torch.stack(losses).tolist() if losses else []


def _weights(trainer: Trainer, pl_module: LightningModule) -> dict[str, Tensor]:
    """The model's parameters and buffers, and their average where a run has one; under FSDP, this rank's share."""
    model = pl_module.model
    weights = {f"model.{name}": value for name, value in chain(model.named_parameters(), model.named_buffers())}
    for callback in trainer.callbacks:
        if isinstance(callback, EMA):
            weights |= {f"ema.{name}": value for name, value in callback.average.items()}
    return weights


def _measured_on(trainer: Trainer, pl_module: LightningModule) -> str:
    """The settings that a loss depends on. Losses of a resumed run with other settings cannot be compared."""
    data = trainer.datamodule.config
    facts = {
        "loss": pl_module.hparams.loss,
        "quantizer": pl_module.hparams.model.get("quantizer"),
        "data": [str(data.layout), str(data.root), data.batch_size, data.patch_size, data.drawn],
    }
    return json.dumps(facts, sort_keys=True)

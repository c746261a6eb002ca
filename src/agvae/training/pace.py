"""The pace of a run, and how long it will take."""

import time
from datetime import timedelta
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from tqdm import tqdm

from agvae.training.budget import budget_of
from agvae.training.lightning_internals import is_accumulating

LONG = 3600.0
"""If a run on a CPU takes at least this many seconds, it is told of the experiments that are meant for a CPU."""


class Pace(Callback):
    """Measures the rate of optimiser steps, and says once, after some of them, how long the run will take."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.first: tuple[int, float] | None = None  # the first step takes longer, and does not count
        self.steps, self.seconds, self.said = 0, 0.0, False

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self.said or is_accumulating(trainer):
            return
        now = time.perf_counter()
        if self.first is None:
            self.first = trainer.global_step, now
            return
        self.steps, self.seconds = trainer.global_step - self.first[0], now - self.first[1]
        if self.steps >= 20 or (self.steps >= 3 and self.seconds >= 10):
            self.said = True
            self._say(trainer)

    @rank_zero_only
    def _say(self, trainer: Trainer) -> None:
        rate = self.steps / self.seconds
        left = steps_left(trainer, 1 / rate)
        if left is None:
            tqdm.write(f"pace:       {rate:.3g} steps a second")
            return
        line = f"pace:       {rate:.3g} steps a second, {left:,} steps to go: {duration(left / rate)}"
        on_cpu = trainer.strategy.root_device.type == "cpu"
        if on_cpu and left / rate > LONG and budget_of(trainer) is None:
            line += "; experiment=quickstart (minutes) and experiment=small (hours) are meant for a CPU"
        tqdm.write(line)


class StepProgressBar(TQDMProgressBar):
    """Lightning's progress bar of an epoch, with the step of the whole run and the time to its end beside it.

    Losses wait for the device, so they are read at most once a second."""

    read: tuple[float, dict[str, Any]] | None = None
    """When values were last read, and these values."""

    began: tuple[int, float] | None = None
    """The step and the time at which training began; None before, while a first validation runs."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self.began = trainer.global_step, time.perf_counter()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Values to show beside the bar."""
        now = time.perf_counter()
        if self.read is None or now - self.read[0] >= 1 or not trainer.training:
            self.read = now, super().get_metrics(trainer, pl_module)
        shown = {**self.read[1]}
        shown.pop("v_num", None)
        done = trainer.global_step - self.began[0] if self.began else 0
        a_step = (time.perf_counter() - self.began[1]) / done if self.began and done else None
        left = steps_left(trainer, a_step)
        if left is None:
            return {"step": str(trainer.global_step), **shown}
        step = f"{trainer.global_step}/{trainer.global_step + left}"
        if a_step is None:
            return {"step": step, **shown}
        return {"step": step, "to_go": str(timedelta(seconds=round(left * a_step))), **shown}


def steps_left(trainer: Trainer, a_step: float | None) -> int | None:
    """Optimiser steps up to the end of the run, which take `a_step` seconds each; None if nothing ends it.

    Time ends it only if it is known how long a step takes."""
    total, budget = trainer.estimated_stepping_batches, budget_of(trainer)
    left = [] if total == float("inf") else [max(0, int(total) - trainer.global_step)]
    if budget is not None and a_step is not None:
        left.append(int(budget.left / a_step))
    return min(left, default=None)


def duration(seconds: float) -> str:
    """A duration in its two largest units.

    >>> duration(59), duration(3660), duration(200000)
    ('59 s', '1 h 1 min', '2 days 7 h')
    """
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if minutes < 1:
        return f"{seconds:.0f} s"
    if hours < 1:
        return f"{minutes:.0f} min"
    if days < 1:
        return f"{int(hours)} h {int(minutes) % 60} min"
    return f"{int(days)} day{'s' * (int(days) > 1)} {int(hours) % 24} h"
